"""Engines killed with SIGKILL at any step, and hosts lost without the engine's knowledge: `pytest
tests/e2e/scenarios/e2e_kill.py -x`, as root.

One e2e_env, one scenario, in this order. Invariants: no data exists twice, no secret is lost, and the output of `./pds
orphans` and `./pds repair` is enough for the operator.
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

from components.settings.checks.pds_env import read_env_file
from tests.e2e.digitalocean.world import Json, Limits
from tests.e2e.environment.environment import PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.killing import Strike, agent, engine, held, interrupted, program, reported
from tests.e2e.environment.owner import Found, follow, orphans, put_away
from tests.e2e.environment.tools import E2eError, missing

CREATING_CALLS = (
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
"""Every generated secret that was ever in the state, by its resource's name."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2eEnvironment]:
    lines = missing(*PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with e2e_env(tmp_path_factory.mktemp("bench"), cache) as made:
        yield made


def no_secret_is_lost(running: E2eEnvironment) -> None:
    """Assert that every secret that was ever in the state is still in it, unchanged."""
    state = json.loads(running.pulumi("stack", "export", "--show-secrets").output)["deployment"]
    now: dict[str, str] = {}
    for item in state.get("resources", []):
        for kind, key in (("RandomPassword", "result"), ("PrivateKey", "privateKeyPem")):
            if item["type"].endswith(f":{kind}"):
                now[item["urn"].rpartition("::")[2]] = json.dumps(item["outputs"][key])
    assert {name: now.get(name) for name in _KEYS} == _KEYS
    _KEYS.update(now)


def one_of_each(running: E2eEnvironment) -> None:
    """Assert that the server answers, nothing exists twice or is pending, and the identity file has the stack's key."""
    assert running.health()[0] == 200
    account = running.api.dump()
    for kind in ("droplets", "volumes", "reserved_ips", "firewalls", "domains", "tags"):
        assert len(account[kind]) == 1, kind
    assert orphans(running) == {"orphans": [], "missing": [], "gaps": [], "empty": False}
    no_secret_is_lost(running)
    [machine] = running.machines.machines()
    environment = read_env_file(running.outputs()["pds_env"])
    public = ec.derive_private_key(int(environment[ROTATION_KEY], 16), ec.SECP256K1()).public_key()
    identity = json.loads((machine.volume / "pds/.pds-identity.json").read_text())
    assert identity["rotation_public_key"] == public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()
    running.pulumi("preview", "--expect-no-changes")


def settled(running: E2eEnvironment) -> None:
    """Wait until no droplet is busy: actions continue after their caller died."""
    end = time.monotonic() + 300
    while any(item["status"] == "in-progress" for item in running.api.dump()["actions"].values()):
        assert time.monotonic() < end, "an action of the account does not end"
        time.sleep(0.2)


def nomad_is_back(running: E2eEnvironment) -> None:
    """Wait until its service has restarted Nomad; until then an `up` correctly reports that it does not answer."""
    end = time.monotonic() + 120
    while True:
        with suppress(httpx.HTTPError, E2eError):
            running.health()
            return
        assert time.monotonic() < end, "Nomad does not come back"
        time.sleep(1)


def left_over(item: Found) -> bool:
    """Whether an orphan is not the tag, which the next `up` adopts by itself."""
    return bool(item["kind"] != "tag")


def repaired(running: E2eEnvironment) -> None:
    """Repair as the operator does: `./pds repair`, and if it names an obstacle, `./pds orphans` and again."""
    settled(running)
    done = running.pds("repair", "--yes", check=False)
    if done.code:
        assert "Nothing was run. First:" in done.output, done.output[-6000:]
        put_away(running, left_over)
        done = running.pds("repair", "--yes")
    print(f"`./pds repair` took {done.seconds:.0f} s")
    put_away(running, left_over)


def test_first_up_recovers_from_an_engine_killed_at_any_step(running: E2eEnvironment) -> None:
    """During each creating call, and during each step after the droplet."""
    for step, when, strike in [
        *((" and ".join(paths), partial(held, running, "POST", *paths), engine) for paths in CREATING_CALLS),
        *((name, partial(reported, name, "creating"), strike) for name, strike in STEPS),
    ]:
        done = interrupted(running, when(), strike, *UP)
        print(f"{strike.__name__} killed at {step} after {done.seconds:.0f} s")
        assert done.code != 0
        settled(running)
        for empty in [file for file in (running.folder / "state").rglob("*.attrs") if not file.stat().st_size]:
            print(f"  the engine died as it wrote {empty.name}")
            empty.unlink()
        running.pulumi("cancel", "--yes")
        no_secret_is_lost(running)
        print(f"  put away: {put_away(running, left_over) or 'nothing'}")
    repaired(running)
    one_of_each(running)


def rebuilt(running: E2eEnvironment, before: Json) -> None:
    """Assert that the droplet was rebuilt and permanent resources were kept."""
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
    ids=["deleting the droplet", "creating the droplet", "assigning the address"],
)
def test_rebuild_recovers_from_a_killed_engine(
    running: E2eEnvironment, generation: int, method: str, path: str
) -> None:
    before = running.api.dump()
    running.configure(host={"generation": generation})
    interrupted(running, held(running, method, path), engine, *UP)
    repaired(running)
    rebuilt(running, before)


def test_rebuild_that_gets_no_new_droplet_can_be_repaired(running: E2eEnvironment) -> None:
    """DigitalOcean refuses the new droplet after the old one was deleted. `./pds repair` repairs the stack, even if the
    next `up` fails."""
    before = running.api.dump()
    running.configure(host={"generation": 5})
    usual = running.world.limits
    running.world.limits = Limits(droplets=0)
    try:
        refused = running.pulumi(*UP, check=False)
    finally:
        running.world.limits = usual
    assert refused.code
    assert "exceed your droplet limit" in refused.output, "the operator must see the API's error"
    print(f"the next `up` ends with {running.pulumi(*UP, check=False).code}")
    running.pds("repair", "--yes")
    rebuilt(running, before)


def test_up_recovers_from_a_nomad_restart_during_a_registration(running: E2eEnvironment) -> None:
    running.configure(pds={"memory_mib": 600})
    done = interrupted(running, reported("pds-server-job", "updating"), agent(running), *UP)
    print(f"`up` ended with {done.code} after {done.seconds:.0f} s")
    if done.code:
        assert "pds-server-job" in done.output, "the output must name what failed"
        nomad_is_back(running)
        running.pulumi(*UP)
    one_of_each(running)


def test_repair_reports_that_there_is_nothing_to_repair(running: E2eEnvironment) -> None:
    assert "Nothing to repair" in running.pds("repair").output
    one_of_each(running)


def test_deleted_droplet_and_wiped_volume_are_repaired(running: E2eEnvironment) -> None:
    """The volume check refuses the empty volume; the operator allows a new PDS, which has the old keys."""
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
    assert "set 'pds.new' to true in the stack file" in done.output
    no_secret_is_lost(running)
    running.configure(pds={"new": True})
    running.pulumi(*UP)
    one_of_each(running)


def test_deleted_droplet_and_deleted_volume_are_repaired(running: E2eEnvironment) -> None:
    running.configure(pds={"new": False}, volume={"adopt": None})
    running.pulumi(*UP)
    [number] = running.api.dump()["droplets"]
    [volume] = running.api.dump()["volumes"]
    running.delete(f"/v2/droplets/{number}")
    running.delete(f"/v2/volumes/{volume}")
    before = len(running.api.requests())
    refused = running.pds("repair", "--yes", check=False)
    assert refused.code == 1
    assert "members' data are gone" in refused.output
    assert {item["method"] for item in running.api.requests()[before:]} == {"GET"}, (
        "nothing may be created without a warning"
    )
    running.configure(pds={"new": True})
    running.pds("repair", "--yes")
    one_of_each(running)
    assert list(running.api.dump()["volumes"]) != [volume]


def test_stack_without_its_droplet_can_be_destroyed(running: E2eEnvironment) -> None:
    """Nothing on the droplet gets a delete request. Retained resources are listed with the commands to remove them."""
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
