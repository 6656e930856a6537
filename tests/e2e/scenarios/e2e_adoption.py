"""A host with a droplet of its own becomes a host of a cluster, and a host with a droplet of its own again: `pytest
tests/e2e/scenarios/e2e_adoption.py -x`, as root.

The real engine, providers, Nomad, Docker, PDS and PLC directory. One scenario, in this order: the host's own PDS and a
club on it, with members who write; `./pds adopt`, killed in between; `./pds release`. ssh is a stand-in that runs the
host's script on the machine of that address. The hosts share this machine's ports, so there is no ingress.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.lib.subprocesses import child
from components.takeover.decide import SETTLE_SECONDS
from tests.contract.club import PASSWORD, Club, founded, whole
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import UP, cluster_env, health, until, with_ssh
from tests.e2e.environment.environment import DEADLINE, E2eEnvironment
from tests.e2e.environment.machine import Machine
from tests.e2e.environment.tools import run
from tests.e2e.scenarios.e2e_move import written_to
from tools.trial.xrpc import Client

PORTS = {"house": 3141, "chess": 3142}
"""Of the host's own PDS, which listens there once it is a club, and of the club."""
KEYS = ("PDS_JWT_SECRET", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX", "PDS_ADMIN_PASSWORD")


@dataclass
class Scenario:
    """The cluster, the stack with a host of its own, and the club on that."""

    cluster: E2eEnvironment
    machines: ClusterMachines
    stacks: dict[str, E2eEnvironment]
    members: dict[str, Club] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    volume: str = ""
    address: str = ""

    def url(self, stack: str, alone: bool) -> str:
        """The URL of a PDS. Without an ingress, that of the host itself has a port that Nomad chose."""
        if stack == "house" and alone:
            found = httpx.get(f"{self.cluster.nomad}/v1/service/pds", trust_env=False, timeout=10).json()
            return f"http://{found[0]['Address']}:{found[0]['Port']}"
        return f"http://127.0.0.1:{PORTS[stack]}"

    def whole(self, *, alone: bool) -> None:
        """Assert that all that was acknowledged is there, that sessions and keys are as before, and that each PDS runs
        on the volume from the beginning."""
        for name in self.stacks:
            client = Client(self.url(name, alone), f"{name}.test")
            whole(client, self.members[name], time.monotonic())
            client.log_in(self.sessions[name])
            assert client.query("com.atproto.server.getSession", {})["did"] == self.members[name].members[0].did
            assert self.kept(name) == self.keys[name], "keys never change"
        folder = self.machines.volume_folder(self.volume)
        own = "pds" if alone else "clubs/pds-house"
        for data in (own, "clubs/pds-chess"):
            assert (folder / data / "actors").is_dir()
        assert self.data() == {str(folder / own), str(folder / "clubs/pds-chess")}

    def kept(self, stack: str) -> dict[str, str]:
        """The keys of a PDS."""
        secrets = self.stacks[stack].outputs()["escrow"]["secrets"]
        return {key: secrets[key] for key in KEYS}

    def data(self) -> set[str]:
        """The data directories of running servers."""
        ids = run(["docker", "ps", "--quiet"], self.cluster.docker_host).split()
        shown = '{{range .Mounts}}{{if eq .Destination "/pds"}}{{.Source}}{{end}}{{end}}'
        found = [run(["docker", "inspect", "--format", shown, each], self.cluster.docker_host).strip() for each in ids]
        return {str(Path(each).resolve()) for each in found if each}

    def carriers(self) -> list[int]:
        """The droplets that have the volume."""
        found: list[int] = self.cluster.api.dump()["volumes"][self.volume]["droplet_ids"]
        return found

    def host_at(self, address: str) -> Machine:
        """The machine of an address."""
        (found,) = (machine for machine in self.machines.machines() if machine.address == address)
        return found

    def ssh_reaches(self, machine: Machine | None) -> None:
        """Let the stand-in for ssh run commands on this machine, or fail."""
        link = self.cluster.folder / "ssh-root"
        link.unlink(missing_ok=True)
        if machine:
            link.symlink_to(machine.root)

    def unchanged(self) -> None:
        """Assert that no stack has a change, after a refresh."""
        self.cluster.pulumi("preview", "--refresh", "--expect-no-changes")
        for stack in self.stacks.values():
            output = stack.pulumi("preview", "--refresh").output
            # Without an ingress its accounts cannot be listed, so that one resource stays pending.
            assert "UnlistedAccounts: pending" in output
            assert "~ 1 to update" in output, output
            assert not [word for word in ("to create", "to replace", "to delete") if word in output], output


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with cluster_env() as made:
        stack = with_ssh(made.stack, _ssh(made.stack.folder))
        cluster = replace(made, stack=stack)
        cluster.configure({"servers": {"count": 1}, "hosts": {}, "workers": {"spares": 2}, "takeover": {}})
        clubs = {"chess": {"port": PORTS["chess"], "memory_mib": 256}}
        stacks = {
            "house": cluster.club("house", PORTS["house"], operators=cluster.alone["pds:operators"], clubs=clubs),
            "chess": cluster.club("chess", PORTS["chess"], on="house"),
        }
        yield Scenario(stack, cluster.machines, stacks)


def _ssh(folder: Path) -> str:
    """A stand-in for ssh: it runs the last word on the machine that `ssh-root` leads to."""
    return f"""#!/bin/sh
for command; do :; done
root=$(readlink -f {folder}/ssh-root) && [ -d "$root" ] || {{ echo "ssh: no route to host" >&2; exit 255; }}
export PDS_ROOT="$root" PDS_PATH={folder}/shims PATH={folder}/shims:$PATH
exec sh -c "sh $root$command"
"""


def test_a_host_with_its_own_pds_and_a_club_and_a_cluster_without_hosts(scenario: Scenario) -> None:
    scenario.cluster.pulumi(*UP)
    for name, stack in scenario.stacks.items():
        stack.pulumi(*UP)
        url = scenario.url(name, alone=True)
        scenario.members[name] = founded(url, f"{name}.test", members=2, posts=3, mail=f"{name}.test.com")
        body = {"identifier": scenario.members[name].members[0].did, "password": PASSWORD}
        client = Client(url, f"{name}.test")
        scenario.sessions[name] = client.procedure("com.atproto.server.createSession", body)["accessJwt"]
        scenario.keys[name] = scenario.kept(name)
    outputs = scenario.stacks["house"].outputs()
    scenario.address = outputs["ipv4"]
    scenario.volume = outputs["escrow"]["volume_id"]
    scenario.whole(alone=True)


def test_a_host_that_ssh_does_not_reach_is_left_as_it_is(scenario: Scenario) -> None:
    before = {name: (stack.project / f"Pulumi.{name}.yaml").read_text() for name, stack in scenario.stacks.items()}
    scenario.ssh_reaches(None)
    done = scenario.cluster.pds_command("adopt", "bench", "a", "--from", "house", "--yes", check=False)
    assert done.code == 2
    assert "Nothing was changed" in done.output
    assert before == {
        name: (stack.project / f"Pulumi.{name}.yaml").read_text() for name, stack in scenario.stacks.items()
    }
    scenario.whole(alone=True)


def test_a_preview_refuses_a_smaller_volume(scenario: Scenario) -> None:
    file = scenario.cluster.project / "Pulumi.bench.yaml"
    before = file.read_text()
    adopt = {"volume": scenario.volume, "address": scenario.address}
    scenario.cluster.configure(cluster={"hosts": {"a": {"volume_gib": 24, "adopt": adopt}}})
    done = scenario.cluster.pulumi("preview", check=False)
    assert done.code
    assert "can only be expanded and not shrunk" in done.output
    file.write_text(before)


def test_a_host_is_adopted_with_all_its_posts_although_the_command_is_killed(scenario: Scenario) -> None:
    droplet = scenario.host_at(scenario.address).droplet_id
    scenario.ssh_reaches(scenario.host_at(scenario.address))
    with written_to(scenario.members["chess"]) as acknowledged:
        _killed(scenario, "4  Write the stack files", "adopt", "bench", "a", "--from", "house", "--yes")
        before = len(acknowledged)
        assert before
        assert scenario.carriers() == [], "detached, and attached to nothing"
        began = time.monotonic()
        done = scenario.cluster.pds_command("adopt", "bench", "a", "--from", "house", "--yes")
        until(lambda: len(acknowledged) > before, 60, "a post after the adoption")
        print(f"\nthe rest took {time.monotonic() - began:.0f} s\n{done.output[-3000:]}")
    assert scenario.carriers() == [scenario.machines.hosts()["a"].droplet_id]
    assert str(droplet) not in scenario.cluster.api.dump()["droplets"], "the old droplet is deleted at the end"
    scenario.whole(alone=False)
    assert scenario.cluster.outputs()["hosts"]["a"] == {"volume_id": scenario.volume, "address": scenario.address}


def test_an_adopted_host_is_no_change_of_any_stack(scenario: Scenario) -> None:
    scenario.unchanged()
    scenario.cluster.pulumi("config", "rm", "--path", "pds:cluster.hosts.a.adopt")
    scenario.cluster.pulumi("preview", "--expect-no-changes")


def test_an_adopted_host_comes_back_on_a_spare_like_any_other(scenario: Scenario) -> None:
    machine = scenario.machines.hosts()["a"]
    scenario.machines.cut_power(machine)
    # The adoption moved it, and a takeover moves a host once in this time.
    patience = SETTLE_SECONDS + 300
    until(
        lambda: scenario.machines.hosts().get("a", machine).droplet_id != machine.droplet_id, patience, "the takeover"
    )
    for name in scenario.stacks:
        until(lambda name=name: health(scenario.url(name, alone=False)) == 200, 300, f"the PDS of {name}")
    scenario.whole(alone=False)


def test_a_host_of_a_cluster_gets_a_droplet_of_its_own_again(scenario: Scenario) -> None:
    scenario.ssh_reaches(scenario.machines.hosts()["a"])
    with written_to(scenario.members["chess"]) as acknowledged:
        _killed(scenario, "5  Remove the host's Nomad resources", "release", "bench", "a", "--to", "house", "--yes")
        before = len(acknowledged)
        assert before
        began = time.monotonic()
        done = scenario.cluster.pds_command("release", "bench", "a", "--to", "house", "--yes")
        until(lambda: len(acknowledged) > before, 60, "a post after the release")
        print(f"\nthe rest took {time.monotonic() - began:.0f} s\n{done.output[-3000:]}")
    outputs = scenario.stacks["house"].outputs()
    assert outputs["ipv4"] == scenario.address
    assert scenario.carriers() == [scenario.host_at(scenario.address).droplet_id]
    scenario.whole(alone=True)
    scenario.unchanged()
    trash = sorted(
        file.name.partition("-")[2] for file in (scenario.machines.volume_folder(scenario.volume) / ".trash").iterdir()
    )
    assert trash == ["agent-of-bench-a", "agent-of-house"], "the state of the Nomads before, and no data of a PDS"
    known = {item["Name"] for item in _nomad(scenario, "/v1/namespaces")}
    assert known == {"default"}, "the cluster's Nomad knows nothing of the host any more"


def _killed(scenario: Scenario, at: str, *arguments: str) -> None:
    """Run `./pds` and kill it as it prints `at`."""
    with child(
        [sys.executable, "-u", "-m", "cli.app", *arguments],
        DEADLINE,
        cwd=scenario.cluster.project,
        env=dict(scenario.cluster.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if at in line:
                os.kill(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail(f"it ended before it could be killed:\n{''.join(lines)[-6000:]}")


def _nomad(scenario: Scenario, path: str) -> Any:
    outputs = scenario.cluster.outputs()
    headers = {"X-Nomad-Token": outputs["nomad_management_token"]}
    url = scenario.machines.api_url(next(iter(scenario.machines.servers())))
    return httpx.get(f"{url}{path}", headers=headers, trust_env=False, timeout=10).json()
