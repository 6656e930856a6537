"""Three clubs on one host, with the real engine, providers, Nomad, Docker and PDS: `pytest
tests/e2e/scenarios/e2e_clubs.py -x`.

One scenario for each ingress, whose tests build on each other, as root. Every club is a stack of its own in the same
project. A stand-in replaces IO (`images/io`).
"""

import os
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, Run, e2e_env
from tests.e2e.environment.ingresses import INGRESSES, At
from tests.e2e.environment.tools import missing, run
from tests.e2e.environment.watching import Outage, polled, steps
from tests.e2e.images.build import PROGRAMS as BUILD_PROGRAMS

# Not the first ports of clubs, which another e2e_env on this machine may have.
CLUBS = {"chess": 3111, "rooks": 3112, "pawns": 3113}
PORTS = {**CLUBS, "other": 3114}


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host's stack, its clubs' stacks, and the CA of its ingress."""

    kind: str
    stack: E2eEnvironment
    clubs: Mapping[str, E2eEnvironment]
    trust: ssl.SSLContext

    def health(self, hostname: str) -> tuple[int, str]:
        """Status and text of a PDS's health, through the ingress at the reserved IP."""
        (machine,) = self.stack.machines.machines()
        assert machine.address
        transport = At(machine.address, verify=self.trust)
        with httpx.Client(transport=transport, timeout=10) as client:
            answer = client.get(f"https://{hostname}/xrpc/_health")
            return answer.status_code, answer.text

    def nomad(self, club: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Nomad's response, on the host's loopback, to a club's token."""
        token = self.clubs[club].outputs()["nomad_token"]
        return httpx.request(
            method, f"{self.stack.nomad}{path}", headers={"X-Nomad-Token": token}, trust_env=False, timeout=20, **more
        )

    def allocations(self) -> dict[str, str]:
        """Every running server: its namespace, and the id of its container."""
        command = ["docker", "ps", "--no-trunc", "--filter", "name=^pds-", "--format", "{{.ID}}"]
        found = {}
        for container in run(command, self.stack.docker_host).split():
            text = run(
                ["docker", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", container],
                self.stack.docker_host,
            )
            values = dict(item.partition("=")[::2] for item in text.splitlines())
            found[values["NOMAD_NAMESPACE"]] = container
        return found


def hostname(club: str) -> str:
    return f"{club}.test"


@pytest.fixture(scope="module", params=list(INGRESSES))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    lines = missing(*PROGRAMS, *BUILD_PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    kind = str(request.param)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp(kind), cache))
        trust = INGRESSES[kind](made, stack)
        made.configure(host={"size": "s-4vcpu-8gb"})
        clubs = {name: made.beside(name, club_settings(made, kind, name)) for name in CLUBS}
        yield Host(kind=kind, stack=made, clubs=clubs, trust=trust)


def club_settings(made: E2eEnvironment, kind: str, club: str) -> dict[str, Any]:
    """A club's stack file."""
    whole = yaml.safe_load((made.project / f"Pulumi.{made.name}.yaml").read_text())["config"]
    server = {key: whole["pds:pds"][key] for key in ("image", "escrow", "crawlers")}
    return {
        "pds:hostname": hostname(club),
        "pds:on": made.name,
        "pds:dns": {"zone": hostname(club), "create_zone": True, "nameservers": [made.nameserver]},
        "pds:ingress": {"kind": kind},
        "pds:pds": {**server, "new": True, "port": PORTS[club], "memory_mib": 256},
    }


def up(stack: E2eEnvironment, check: bool = True) -> Run:
    """`pulumi up`."""
    return stack.pulumi("up", "--yes", "--skip-preview", check=check)


def room(*clubs: str) -> dict[str, Any]:
    """The entry of these clubs in the host's stack file."""
    return {name: {"port": PORTS[name], "memory_mib": 256} for name in clubs}


def test_a_club_that_the_host_does_not_name_is_told_so_before_anything_is_made(host: Host) -> None:
    up(host.stack)
    refused = up(host.clubs["chess"], check=False)
    assert refused.code != 0
    assert "Stack e2e_env grants chess no place. Write 'clubs: {chess: {port: 3111}}'" in refused.output
    assert "Traceback" not in refused.output
    assert "nomad:index" not in refused.output, "nothing was put into Nomad"


def test_three_clubs_come_up_beside_the_host_s_own_pds(host: Host) -> None:
    host.stack.configure(clubs=room(*PORTS))
    before = host.allocations()
    with polled(lambda: host.health(HOSTNAME)) as seen:
        up(host.stack)
        for name, club in host.clubs.items():
            up(club)
            assert club.outputs()["state"] == "serving"
            assert host.health(hostname(name))[0] == 200
    told(host, f"{len(CLUBS)} clubs are added, one after the other", seen)
    after = host.allocations()
    assert set(after) == {"default", *CLUBS}
    assert after["default"] == before["default"], "the host's own PDS was not touched"


def test_there_is_nothing_left_to_do(host: Host) -> None:
    for stack in (host.stack, *host.clubs.values()):
        stack.pulumi("preview", "--expect-no-changes")
        stack.pulumi("preview", "--refresh", "--expect-no-changes")


def test_a_passphrase_that_is_not_the_host_s_is_said_to_be_wrong(host: Host) -> None:
    other = host.stack.beside("other", club_settings(host.stack, host.kind, "other"), passphrase="quite another one")
    refused = other.pulumi("preview", check=False)
    assert refused.code != 0
    assert "The secrets of stack e2e_env cannot be decrypted" in refused.output
    host.stack.configure(clubs=None)
    host.stack.configure(clubs=room(*CLUBS))
    up(host.stack)


def test_a_club_s_token_reaches_nothing_of_another_s(host: Host) -> None:
    def status(method: str, path: str, **more: Any) -> int:
        return host.nomad("chess", method, path, **more).status_code

    assert status("GET", "/v1/var/nomad/jobs/pds?namespace=chess") == 200, "its own it may read"
    assert status("GET", "/v1/var/nomad/jobs/pds?namespace=rooks") == 403
    assert status("GET", "/v1/var/nomad/jobs/pds") == 403, "the host's own"
    assert status("DELETE", "/v1/job/pds?namespace=rooks") == 403
    files = f"{host.kind}/files"
    assert status("GET", f"/v1/var/{files}/chess") == 200
    for other in ("rooks", "bench"):
        variable = {"Path": f"{files}/{other}", "Items": {"text": "mine now"}}
        assert status("PUT", f"/v1/var/{files}/{other}", json=variable) == 403
    volume = {"Volume": {"Name": "pds-more", "PluginID": "pds-dir", "Namespace": "chess", "Type": "host"}}
    assert status("PUT", "/v1/volume/host/create?namespace=chess", json=volume) == 403, "nor a volume without a quota"
    assert host.health(hostname("rooks"))[0] == 200


def test_a_changed_club_changes_alone(host: Host) -> None:
    before = host.allocations()
    host.clubs["chess"].configure(pds={"log_enabled": False})
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        done = up(host.clubs["chess"])
    assert set(steps(done)) <= {"pds-server-job", "pds-server-ready", "pds"}
    assert seen.failures == []
    after = host.allocations()
    assert {name for name in after if after[name] != before[name]} == {"chess"}


def test_a_failing_club_harms_no_other(host: Host) -> None:
    before = host.allocations()
    (machine,) = host.stack.machines.machines()
    mark = machine.volume / "clubs/pds-pawns/.pds-identity.json"
    ours = mark.read_text()
    mark.write_text(ours.replace(hostname("pawns"), "another-pds.test"))
    host.clubs["pawns"].configure(pds={"log_enabled": False})
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        failed = up(host.clubs["pawns"], check=False)
    assert failed.code != 0, "the volume check refuses"
    assert "this volume belongs to a PDS with hostname" in failed.output
    assert seen.failures == []
    mark.write_text(ours)
    up(host.clubs["pawns"])
    after = host.allocations()
    assert {name for name in after if after[name] != before[name]} == {"pawns"}


def test_a_host_does_not_let_go_of_a_club_that_runs(host: Host) -> None:
    host.stack.configure(clubs=None)
    host.stack.configure(clubs=room("chess", "rooks"))
    refused = up(host.stack, check=False)
    assert refused.code != 0
    assert "The PDS of stack pawns still runs on this host" in refused.output
    assert host.health(hostname("pawns"))[0] == 200
    host.stack.configure(clubs=room(*CLUBS))
    assert set(steps(up(host.stack))) <= {"pds", "pds-server-ready", "pds-host-in-use"}, "the club kept all it had"
    host.clubs["pawns"].pulumi("preview", "--refresh", "--expect-no-changes")


def test_a_club_is_removed_and_its_data_are_kept(host: Host) -> None:
    before = host.allocations()
    club = host.clubs["pawns"]
    club.pulumi("state", "unprotect", "--all", "--yes")
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        club.pulumi("destroy", "--yes", "--skip-preview")
        host.stack.configure(clubs=None)
        host.stack.configure(clubs=room("chess", "rooks"))
        removed = up(host.stack)
    told(host, "a club is removed", seen)
    assert "pds-host-clubs-pawns-namespace" in steps(removed)
    (machine,) = host.stack.machines.machines()
    (kept,) = (machine.volume / ".trash").glob("*-pds-pawns")
    assert (kept / "account.sqlite").exists(), "renamed, not deleted"
    after = host.allocations()
    assert after == {name: container for name, container in before.items() if name != "pawns"}


def test_a_quota_grows_while_the_club_s_server_is_stopped(host: Host) -> None:
    chess = room("chess", "rooks")
    chess["chess"]["disk_gib"] = 7
    host.stack.configure(clubs=chess)
    refused = up(host.stack, check=False)
    assert "lets the quota of stack chess grow while its PDS is stopped" in refused.output
    host.clubs["chess"].configure(pds={"paused": True})
    up(host.clubs["chess"])
    assert "pds-host-clubs-chess-namespace" in steps(up(host.stack))
    host.clubs["chess"].configure(pds={"paused": False})
    up(host.clubs["chess"])
    assert host.health(hostname("chess"))[0] == 200
    chess["chess"]["disk_gib"] = 6
    host.stack.configure(clubs=chess)
    assert "can grow, never shrink. It has 7 GiB" in up(host.stack, check=False).output
    chess["chess"]["disk_gib"] = 7
    host.stack.configure(clubs=chess)
    up(host.stack)


def test_a_rebuilt_host_brings_its_clubs_back(host: Host) -> None:
    host.stack.configure(host={"generation": 2})
    up(host.stack)
    for name in ("chess", "rooks"):
        assert host.health(hostname(name))[0] == 200
        host.clubs[name].pulumi("preview", "--expect-no-changes")


def test_an_emptied_nomad_is_refilled_by_the_host_and_then_by_each_club(host: Host) -> None:
    """Volume kept, the agent's state wiped. A club's volume is found by its name, with all its data."""
    (machine,) = host.stack.machines.machines()
    marks = {name: (machine.volume / f"clubs/pds-{name}/.pds-identity.json").read_text() for name in ("chess", "rooks")}
    host.stack.forget_nomad()
    host.stack.pds("repair", "--yes")
    for name, mark in marks.items():
        up(host.clubs[name])
        assert host.health(hostname(name))[0] == 200
        assert (machine.volume / f"clubs/pds-{name}/.pds-identity.json").read_text() == mark
        host.clubs[name].pulumi("preview", "--refresh", "--expect-no-changes")


def test_two_ups_of_one_stack_at_once_are_not_run_at_once(host: Host) -> None:
    club = host.clubs["chess"]
    club.configure(pds={"log_enabled": True})
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: up(club, check=False), range(2)))
    assert sorted(run.code == 0 for run in both) == [False, True], "one is refused"
    (refused,) = (run for run in both if run.code)
    assert "the stack is currently locked" in refused.output
    club.pulumi("preview", "--expect-no-changes")


def told(host: Host, what: str, seen: Outage) -> None:
    """Print how long others were away, a figure of docs/figures.md."""
    print(f"\n{host.kind}: {what}; others away for {seen.seconds:.1f} s, {len(seen.failures)} of {seen.asked} failed")
