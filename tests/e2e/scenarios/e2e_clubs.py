"""Three clubs on one host, with the real engine, providers, Nomad, Docker and PDS: `pytest
tests/e2e/scenarios/e2e_clubs.py -x`.

One scenario for each ingress, whose tests build on each other, as root. Every club is a separate stack in the same
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
from tests.e2e.environment.tools import BUILD_PROGRAMS, missing, run
from tests.e2e.environment.watching import Outage, polled, steps

# Not the first ports of clubs, which another e2e_env on this machine may use.
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
    whole = yaml.load((made.project / f"Pulumi.{made.name}.yaml").read_text(), yaml.CSafeLoader)["config"]
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


def club_terms(*clubs: str) -> dict[str, Any]:
    """The entry of these clubs in the host's stack file."""
    return {name: {"port": PORTS[name], "memory_mib": 256} for name in clubs}


def test_club_that_the_host_does_not_list_fails_before_anything_is_created(host: Host) -> None:
    up(host.stack)
    refused = up(host.clubs["chess"], check=False)
    assert refused.code != 0
    assert "Stack bench does not list chess as a club. Add 'chess: {port: 3111}'" in refused.output
    assert "Traceback" not in refused.output
    assert "nomad:index" not in refused.output, "nothing may be created in Nomad"


def test_three_clubs_are_created_beside_the_pds_of_the_host(host: Host) -> None:
    host.stack.configure(clubs=club_terms(*PORTS))
    before = host.allocations()
    with polled(lambda: host.health(HOSTNAME)) as seen:
        up(host.stack)
        for name, club in host.clubs.items():
            up(club)
            assert club.outputs()["state"] == "serving"
            assert host.health(hostname(name))[0] == 200
    print_outage(host, f"{len(CLUBS)} clubs are added, one after the other", seen)
    after = host.allocations()
    assert set(after) == {"default", *CLUBS}
    assert after["default"] == before["default"], "the host's own PDS must not be changed"


def test_preview_after_up_is_empty(host: Host) -> None:
    for stack in (host.stack, *host.clubs.values()):
        stack.pulumi("preview", "--expect-no-changes")
        stack.pulumi("preview", "--refresh", "--expect-no-changes")


def test_reports_a_passphrase_that_differs_from_the_host_s(host: Host) -> None:
    other = host.stack.beside("other", club_settings(host.stack, host.kind, "other"), passphrase="quite another one")
    refused = other.pulumi("preview", check=False)
    assert refused.code != 0
    assert "The secrets of stack bench cannot be decrypted" in refused.output
    host.stack.configure(clubs=None)
    host.stack.configure(clubs=club_terms(*CLUBS))
    up(host.stack)


def test_token_of_a_club_gives_no_access_to_another_club(host: Host) -> None:
    def status(method: str, path: str, **more: Any) -> int:
        return host.nomad("chess", method, path, **more).status_code

    assert status("GET", "/v1/var/nomad/jobs/pds?namespace=chess") == 200, "it may read its own variable"
    assert status("GET", "/v1/var/nomad/jobs/pds?namespace=rooks") == 403
    assert status("GET", "/v1/var/nomad/jobs/pds") == 403, "nor the host's variable"
    assert status("DELETE", "/v1/job/pds?namespace=rooks") == 403
    files = f"{host.kind}/files"
    assert status("GET", f"/v1/var/{files}/chess") == 200
    for other in ("rooks", "bench"):
        variable = {"Path": f"{files}/{other}", "Items": {"text": "mine now"}}
        assert status("PUT", f"/v1/var/{files}/{other}", json=variable) == 403
    volume = {"Volume": {"Name": "pds-more", "PluginID": "pds-dir", "Namespace": "chess", "Type": "host"}}
    assert status("PUT", "/v1/volume/host/create?namespace=chess", json=volume) == 403, (
        "it must not create a volume, which could lack a quota"
    )
    assert host.health(hostname("rooks"))[0] == 200


def test_only_the_changed_club_is_updated(host: Host) -> None:
    before = host.allocations()
    host.clubs["chess"].configure(pds={"log_enabled": False})
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        done = up(host.clubs["chess"])
    assert set(steps(done)) <= {"pds-server-job", "pds-server-ready", "pds"}
    assert seen.failures == []
    after = host.allocations()
    assert {name for name in after if after[name] != before[name]} == {"chess"}


def test_failing_club_harms_no_other(host: Host) -> None:
    before = host.allocations()
    (machine,) = host.stack.machines.machines()
    identity = machine.volume / "clubs/pds-pawns/.pds-identity.json"
    content = identity.read_text()
    identity.write_text(content.replace(hostname("pawns"), "another-pds.test"))
    host.clubs["pawns"].configure(pds={"log_enabled": False})
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        failed = up(host.clubs["pawns"], check=False)
    assert failed.code != 0, "the volume check refuses"
    assert "this volume belongs to a PDS with hostname" in failed.output
    assert seen.failures == []
    identity.write_text(content)
    up(host.clubs["pawns"])
    after = host.allocations()
    assert {name for name in after if after[name] != before[name]} == {"pawns"}


def test_host_does_not_remove_a_running_club(host: Host) -> None:
    host.stack.configure(clubs=None)
    host.stack.configure(clubs=club_terms("chess", "rooks"))
    refused = up(host.stack, check=False)
    assert refused.code != 0
    assert "The PDS of stack pawns is still on this host" in refused.output
    assert host.health(hostname("pawns"))[0] == 200
    host.stack.configure(clubs=club_terms(*CLUBS))
    assert set(steps(up(host.stack))) <= {"pds", "pds-server-ready", "pds-host-in-use"}, (
        "the club must keep its resources"
    )
    host.clubs["pawns"].pulumi("preview", "--refresh", "--expect-no-changes")


def test_removed_club_keeps_its_data(host: Host) -> None:
    before = host.allocations()
    club = host.clubs["pawns"]
    club.pulumi("state", "unprotect", "--all", "--yes")
    with polled(lambda: host.health(hostname("rooks"))) as seen:
        club.pulumi("destroy", "--yes", "--skip-preview")
        host.stack.configure(clubs=None)
        host.stack.configure(clubs=club_terms("chess", "rooks"))
        removed = up(host.stack)
    print_outage(host, "a club is removed", seen)
    assert "pds-host-clubs-pawns-namespace" in steps(removed)
    (machine,) = host.stack.machines.machines()
    (kept,) = (machine.volume / ".trash").glob("*-pds-pawns")
    assert (kept / "account.sqlite").exists(), "the data must be renamed, not deleted"
    after = host.allocations()
    assert after == {name: container for name, container in before.items() if name != "pawns"}


def test_quota_grows_while_the_server_of_the_club_is_stopped(host: Host) -> None:
    chess = club_terms("chess", "rooks")
    chess["chess"]["disk_gib"] = 7
    host.stack.configure(clubs=chess)
    refused = up(host.stack, check=False)
    assert "raises the quota of stack chess only while its PDS is stopped" in refused.output
    host.clubs["chess"].configure(pds={"paused": True})
    up(host.clubs["chess"])
    assert "pds-host-clubs-chess-namespace" in steps(up(host.stack))
    host.clubs["chess"].configure(pds={"paused": False})
    up(host.clubs["chess"])
    assert host.health(hostname("chess"))[0] == 200
    chess["chess"]["disk_gib"] = 6
    host.stack.configure(clubs=chess)
    assert "can grow, never shrink. It is 7 GiB" in up(host.stack, check=False).output
    chess["chess"]["disk_gib"] = 7
    host.stack.configure(clubs=chess)
    up(host.stack)


def test_rebuilt_host_restores_its_clubs(host: Host) -> None:
    host.stack.configure(host={"generation": 2})
    up(host.stack)
    for name in ("chess", "rooks"):
        assert host.health(hostname(name))[0] == 200
        host.clubs[name].pulumi("preview", "--expect-no-changes")


def test_emptied_nomad_is_refilled_by_the_host_and_then_by_each_club(host: Host) -> None:
    """The volume is kept, the agent's state is wiped. A club's volume is found by its name, with all its data."""
    (machine,) = host.stack.machines.machines()
    identities = {
        name: (machine.volume / f"clubs/pds-{name}/.pds-identity.json").read_text() for name in ("chess", "rooks")
    }
    host.stack.forget_nomad()
    host.stack.pds("repair", "--yes")
    for name, identity in identities.items():
        up(host.clubs[name])
        assert host.health(hostname(name))[0] == 200
        assert (machine.volume / f"clubs/pds-{name}/.pds-identity.json").read_text() == identity
        host.clubs[name].pulumi("preview", "--refresh", "--expect-no-changes")


def test_refuses_a_second_up_of_a_stack_at_the_same_time(host: Host) -> None:
    club = host.clubs["chess"]
    club.configure(pds={"log_enabled": True})
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: up(club, check=False), range(2)))
    assert sorted(run.code == 0 for run in both) == [False, True], "one must be refused"
    (refused,) = (run for run in both if run.code)
    assert "the stack is currently locked" in refused.output
    club.pulumi("preview", "--expect-no-changes")


def print_outage(host: Host, what: str, seen: Outage) -> None:
    """Print how long the other servers were unavailable, a figure of docs/figures.md."""
    print(f"\n{host.kind}: {what}; others down for {seen.seconds:.1f} s, {len(seen.failures)} of {seen.queries} failed")
