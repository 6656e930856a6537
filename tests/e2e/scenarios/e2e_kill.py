"""Killed with SIGKILL anywhere, and hosts lost behind the engine's back: `pytest tests/e2e/scenarios/e2e_kill.py -x`,
as root.

One e2e_env, one scenario, in this order. Invariants: no data exist twice, no secret is lost, and the output of `./pds
orphans` and `./pds repair` are enough for the owner.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from components.settings.pds_env import read_env_file
from tests.e2e.digitalocean.world import Json, Limits
from tests.e2e.environment.environment import PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.killing import Strike, agent, engine, held, interrupted, program, said
from tests.e2e.environment.owner import Found, follow, orphans, put_away
from tests.e2e.environment.tools import E2eError, missing

MADE = (
    ("/v2/reserved_ips", "/v2/volumes"),  # created concurrently
    ("/v2/firewalls",),
    ("/v2/droplets",),
    ("/v2/reserved_ips/[^/]+/actions",),
)
STEPS: tuple[tuple[str, Strike], ...] = (
    ("pds-host-nomad-bootstrap", engine),
    ("pds-host-nomad-token", program),
    ("pds-secrets-variable", engine),
    ("pds-server-job", engine),
    ("pds-server-ready", engine),
)
UP = ("up", "--yes", "--skip-preview")
ROTATION_KEY = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
_KEYS: dict[str, str] = {}
"""Every generated secret that the state has ever held, by its resource's name."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2eEnvironment]:
    lines = missing(*PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with e2e_env(tmp_path_factory.mktemp("bench"), cache) as made:
        yield made


def no_secret_is_lost(running: E2eEnvironment) -> None:
    """Every secret that was ever in the state is in it now, unchanged."""
    state = json.loads(running.pulumi("stack", "export", "--show-secrets").output)["deployment"]
    now: dict[str, str] = {}
    for item in state.get("resources", []):
        for kind, key in (("RandomPassword", "result"), ("PrivateKey", "privateKeyPem")):
            if item["type"].endswith(f":{kind}"):
                now[item["urn"].rpartition("::")[2]] = json.dumps(item["outputs"][key])
    assert {name: now.get(name) for name in _KEYS} == _KEYS
    _KEYS.update(now)


def one_of_each(running: E2eEnvironment) -> None:
    """The server answers, nothing exists twice or is left to do, and its data have the mark of its own key."""
    assert running.health()[0] == 200
    account = running.api.dump()
    for kind in ("droplets", "volumes", "reserved_ips", "firewalls", "domains", "tags"):
        assert len(account[kind]) == 1, kind
    assert orphans(running) == {"orphans": [], "missing": [], "empty": False}
    no_secret_is_lost(running)
    [machine] = running.machines.machines()
    environment = read_env_file(running.outputs()["pds_env"])
    public = ec.derive_private_key(int(environment[ROTATION_KEY], 16), ec.SECP256K1()).public_key()
    mark = json.loads((machine.volume / "pds/.pds-identity.json").read_text())
    assert mark["rotation_public_key"] == public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()
    running.pulumi("preview", "--expect-no-changes")


def settled(running: E2eEnvironment) -> None:
    """No droplet is busy: actions continue after their caller is dead."""
    end = time.monotonic() + 300
    while any(item["status"] == "in-progress" for item in running.api.dump()["actions"].values()):
        assert time.monotonic() < end, "an action of the account does not end"
        time.sleep(0.2)


def nomad_is_back(running: E2eEnvironment) -> None:
    """Its service has restarted it; until then an `up` correctly reports that it does not answer."""
    end = time.monotonic() + 120
    while True:
        with suppress(httpx.HTTPError, E2eError):
            running.health()
            return
        assert time.monotonic() < end, "Nomad does not come back"
        time.sleep(1)


def left_over(item: Found) -> bool:
    """Everything but the tag, which the next `up` adopts by itself."""
    return bool(item["kind"] != "tag")


def rescued(running: E2eEnvironment) -> None:
    """The owner's repair: `./pds repair`, and if it names an obstacle, `./pds orphans` and once more."""
    settled(running)
    done = running.pds("repair", "--yes", check=False)
    if done.code:
        assert "Nothing was run. First:" in done.output, done.output[-6000:]
        put_away(running, left_over)
        done = running.pds("repair", "--yes")
    print(f"`./pds repair` took {done.seconds:.0f} s")
    put_away(running, left_over)


def test_an_engine_killed_anywhere_in_the_first_up(running: E2eEnvironment) -> None:
    """In the middle of each creating call, and of each step after the droplet."""
    for where, when, strike in [
        *((" and ".join(paths), partial(held, running, "POST", *paths), engine) for paths in MADE),
        *((name, partial(said, name, "creating"), strike) for name, strike in STEPS),
    ]:
        done = interrupted(running, when(), strike, *UP)
        print(f"{strike.__name__} killed at {where} after {done.seconds:.0f} s")
        assert done.code != 0
        settled(running)
        for empty in [file for file in (running.folder / "state").rglob("*.attrs") if not file.stat().st_size]:
            print(f"  the engine died as it wrote {empty.name}")
            empty.unlink()
        running.pulumi("cancel", "--yes")
        no_secret_is_lost(running)
        print(f"  put away: {put_away(running, left_over) or 'nothing'}")
    rescued(running)
    one_of_each(running)


def rebuilt(running: E2eEnvironment, before: Json) -> None:
    """It was rebuilt anyway, and permanent resources stayed."""
    one_of_each(running)
    after = running.api.dump()
    assert list(after["droplets"]) != list(before["droplets"])
    for kind in ("volumes", "reserved_ips"):
        assert list(after[kind]) == list(before[kind])


@pytest.mark.parametrize(
    ("generation", "method", "path"),
    [
        (2, "DELETE", "/v2/droplets/[0-9]+"),
        (3, "POST", "/v2/droplets"),
        (4, "POST", "/v2/reserved_ips/[^/]+/actions"),
    ],
    ids=["the old one goes", "the new one is made", "it gets the address"],
)
def test_an_engine_killed_while_a_host_is_rebuilt(
    running: E2eEnvironment, generation: int, method: str, path: str
) -> None:
    before = running.api.dump()
    running.configure(host={"generation": generation})
    interrupted(running, held(running, method, path), engine, *UP)
    rescued(running)
    rebuilt(running, before)


def test_a_rebuild_for_which_there_is_no_new_host(running: E2eEnvironment) -> None:
    """DigitalOcean refuses it after the old one is gone. The next `up` depends on the engine; the owner has a
    repair."""
    before = running.api.dump()
    running.configure(host={"generation": 5})
    usual = running.world.limits
    running.world.limits = Limits(droplets=0)
    try:
        refused = running.pulumi(*UP, check=False)
    finally:
        running.world.limits = usual
    assert refused.code
    assert "exceed your droplet limit" in refused.output, "the API's own words reach the owner"
    print(f"the next `up` ends with {running.pulumi(*UP, check=False).code}")
    running.pds("repair", "--yes")
    rebuilt(running, before)


def test_a_nomad_restarted_while_a_job_is_registered(running: E2eEnvironment) -> None:
    running.configure(pds={"memory_mib": 600})
    done = interrupted(running, said("pds-server-job", "updating"), agent(running), *UP)
    print(f"`up` ended with {done.code} after {done.seconds:.0f} s")
    if done.code:
        assert "pds-server-job" in done.output, "it says what failed"
        nomad_is_back(running)
        running.pulumi(*UP)
    one_of_each(running)


def test_with_nothing_to_rescue_it_says_so(running: E2eEnvironment) -> None:
    assert "Nothing to repair" in running.pds("repair").output
    one_of_each(running)


def test_a_deleted_droplet_and_a_wiped_volume(running: E2eEnvironment) -> None:
    """The volume check refuses the empty volume; its owner allows a new PDS, which has its old keys."""
    running.configure(pds={"new": False})
    running.pulumi(*UP)
    [number] = running.api.dump()["droplets"]
    [volume] = running.api.dump()["volumes"]
    running.delete(f"/v2/droplets/{number}")
    for child in running.machines.volume_folder(volume).iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    done = running.pds("repair", "--yes", check=False)
    assert done.code == 1
    assert "REFUSED: the volume is empty" in done.output
    assert "pds: {new: true}" in done.output
    no_secret_is_lost(running)
    running.configure(pds={"new": True})
    running.pulumi(*UP)
    one_of_each(running)


def test_a_deleted_droplet_and_a_deleted_volume(running: E2eEnvironment) -> None:
    running.configure(pds={"new": False}, volume={"adopt": None})
    running.pulumi(*UP)
    [number] = running.api.dump()["droplets"]
    [volume] = running.api.dump()["volumes"]
    running.delete(f"/v2/droplets/{number}")
    running.delete(f"/v2/volumes/{volume}")
    asked = len(running.api.requests())
    refused = running.pds("repair", "--yes", check=False)
    assert refused.code == 1
    assert "members' data are gone" in refused.output
    assert {item["method"] for item in running.api.requests()[asked:]} == {"GET"}, "nothing was made on the quiet"
    running.configure(pds={"new": True})
    running.pds("repair", "--yes")
    one_of_each(running)
    assert list(running.api.dump()["volumes"]) != [volume]


def test_a_stack_whose_droplet_is_gone_is_destroyed(running: E2eEnvironment) -> None:
    """No request to delete goes to anything that ran on it; retained resources are listed with the commands that remove
    them."""
    [number] = running.api.dump()["droplets"]
    running.delete(f"/v2/droplets/{number}")
    [droplet] = [item for item in orphans(running)["missing"] if item["kind"] == "Droplet"]
    running.pulumi("state", "unprotect", "--all", "--yes")
    follow(running, droplet["leave"])
    running.pulumi("destroy", "--yes", "--skip-preview")
    account = running.api.dump()
    assert account["droplets"] == account["firewalls"] == account["tags"] == {}
    for item in orphans(running)["orphans"]:
        for command in item["delete"]:
            follow(running, command)
    account = running.api.dump()
    assert account["volumes"] == account["reserved_ips"] == {}
