"""What happens to the servers of a cluster: `pytest tests/e2e/scenarios/e2e_cluster_servers.py -x`, as root.

Three servers, one host, one spare, one club with a PDS. The real engine, providers, Nomad, Docker, PDS and PLC
directory. One scenario, in this order. The hosts of process grade share this machine's ports, so the club has no
ingress.
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.club import Club, founded, whole
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import AFTER_SECONDS, UP, cluster_env, health, refuse_changes, until, with_ssh
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.machine import Machine
from tests.e2e.scenarios.e2e_move import written_to
from tests.support.s3 import BUCKET, KEYS, s3_server
from tools.trial.xrpc import Client

PORT = 3131
PAUSE = 1.0
"""Seconds between two posts: a server lets an account write some 1,600 records in an hour, and answers 3,000 requests
in five minutes."""


@dataclass
class Scenario:
    """The cluster's stack, its club's stack, and the club's members."""

    cluster: E2eEnvironment
    machines: ClusterMachines
    chess: E2eEnvironment
    members: list[Club] = field(default_factory=list)

    @property
    def club(self) -> Club:
        return self.members[0]

    def health(self) -> int:
        """Status of the PDS's health; 0 without an answer."""
        return health(f"http://127.0.0.1:{PORT}")

    def whole(self) -> None:
        """Assert that everything acknowledged is there, with its original CID."""
        whole(Client(f"http://127.0.0.1:{PORT}", "chess.test"), self.club, time.monotonic())

    def carriers(self) -> list[int]:
        """The droplets of the host's volume, by the API."""
        (volume,) = self.cluster.api.dump()["volumes"].values()
        found: list[int] = volume["droplet_ids"]
        return found

    def server(self, number: int) -> Machine:
        """The droplet of a server, by the stack's outputs."""
        droplet = int(self.cluster.outputs()["servers"][number - 1])
        return next(machine for machine in self.machines.machines() if machine.droplet_id == droplet)

    def nomad(self, path: str, method: str = "GET") -> Any:
        """Nomad's answer, from the first server that answers; None if none does."""
        token = {"X-Nomad-Token": self.cluster.outputs()["nomad_management_token"]}
        for own, machine in self.machines.servers().items():
            if machine.agent is None or machine.agent.pid is None:
                continue
            try:
                answer = httpx.request(
                    method, f"{self.machines.api_url(own)}{path}", headers=token, trust_env=False, timeout=10
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == httpx.codes.OK:
                return answer.json()
        return None

    def is_healthy(self) -> bool:
        """Whether autopilot calls the cluster of three voters healthy."""
        health = self.nomad("/v1/operator/autopilot/health")
        return bool(health and health["Healthy"] and sum(server["Voter"] for server in health["Servers"]) == 3)

    def lead(self, number: int) -> None:
        """Let a server lead."""
        own = next(own for own, machine in self.machines.servers().items() if machine is self.server(number))
        for peer in self.nomad("/v1/operator/raft/configuration")["Servers"]:
            if peer["Address"].partition(":")[0] == own and not peer["Leader"]:
                self.nomad(f"/v1/operator/raft/transfer-leadership?id={peer['ID']}", "PUT")
        until(lambda: str(self.nomad("/v1/status/leader")).startswith(f"{own}:"), 60, f"server {number} leads")

    def leads_to(self) -> int:
        """The number of the server that the cluster's address leads to, by the API; 0 for none."""
        outputs = self.cluster.outputs()
        droplet = self.cluster.api.dump()["reserved_ips"][outputs["ipv4"]]["droplet_id"]
        servers = [int(server) for server in outputs["servers"]]
        return servers.index(droplet) + 1 if droplet in servers else 0

    def node_is_ready(self) -> bool:
        """Whether the host's node is ready."""
        nodes = self.nomad("/v1/nodes") or []
        return any(node["Datacenter"] == "a" and node["Status"] == "ready" for node in nodes)

    def change(self, **changed: Any) -> None:
        """Change the options of the cluster's servers and workers, and update."""
        self.cluster.configure(cluster=changed)
        self.cluster.pulumi(*UP)


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with cluster_env() as cluster:
        (cluster.stack.folder / "s3").mkdir()
        with s3_server(cluster.stack.folder / "s3", BUCKET) as bucket:
            cluster.configure(
                {
                    "servers": {"count": 3},
                    "hosts": {"a": {"volume_gib": 20}},
                    "workers": {"spares": 1},
                    "takeover": {},
                    "snapshots": {"endpoint": bucket, "bucket": BUCKET, "interval_hours": 24},
                },
                clubs={"chess": {"host": "a", "port": PORT, "memory_mib": 256}},
            )
            cluster.set_secret("snapshots.access_key_id", KEYS["AWS_ACCESS_KEY_ID"])
            cluster.set_secret("snapshots.secret_access_key", KEYS["AWS_SECRET_ACCESS_KEY"])
            chess = cluster.club("chess", PORT, on="bench", nomad={"datacenter": "a"})
            stack = with_ssh(cluster.stack, _ssh(cluster.stack.folder))
            yield Scenario(stack, cluster.machines, chess)


def _ssh(folder: Path) -> str:
    """A stand-in for ssh: it ends the agents of the workers that have a volume, which are then started again, as by
    `systemctl restart nomad.service`. Other commands fail."""
    return f"""#!/bin/sh
for command; do :; done
[ "$command" = "systemctl restart nomad.service" ] || exit 255
cd {folder}/machines
for carried in $(find * -path "*/run/pds/carried.env"); do
  pkill -TERM -f "config=$PWD/${{carried%%/*}}/agent.hcl" || exit 1
done
"""


def test_from_nothing_to_three_healthy_servers_and_a_club(scenario: Scenario) -> None:
    scenario.cluster.pulumi("preview")
    scenario.cluster.pulumi(*UP)
    scenario.chess.pulumi(*UP)
    assert scenario.health() == 200
    scenario.members.append(
        founded(f"http://127.0.0.1:{PORT}", "chess.test", members=2, posts=3, mail="chess.test.com")
    )
    assert scenario.is_healthy()
    refuse_changes(scenario.cluster, scenario.chess)


def test_pdses_serve_while_no_server_answers(scenario: Scenario) -> None:
    host = scenario.carriers()
    servers = list(scenario.machines.servers().values())
    with written_to(scenario.club, PAUSE) as acknowledged:
        for machine in servers:
            scenario.machines.cut_power(machine)
        before = len(acknowledged)
        # Longer than a host has to be down to be moved.
        end = time.monotonic() + 2 * AFTER_SECONDS
        while time.monotonic() < end:
            assert scenario.health() == 200
            time.sleep(1)
        assert len(acknowledged) > before + 20, "a post in one of five seconds, also on a busy machine"
        for machine in servers:
            scenario.machines.start(machine.droplet_id)
        until(scenario.is_healthy, 120, "three healthy servers")
        until(scenario.node_is_ready, 60, "the host's node")
        time.sleep(2 * AFTER_SECONDS)
        assert scenario.health() == 200
    assert scenario.carriers() == host, "a host is not moved because the servers were away"
    scenario.whole()


def test_the_leader_which_is_the_server_of_the_endpoint_and_a_host_lost_together(scenario: Scenario) -> None:
    scenario.lead(1)
    assert scenario.leads_to() == 1
    dead = scenario.machines.hosts()["a"]
    with written_to(scenario.club, PAUSE) as acknowledged:
        until(lambda: len(acknowledged) > 5, 60, "posts")
        scenario.machines.cut_power(scenario.server(1))
        scenario.machines.cut_power(dead)
        cut = time.monotonic()
        before = len(acknowledged)
        until(lambda: scenario.health() == 200, 400, "the club's PDS")
        back = time.monotonic() - cut
        until(lambda: len(acknowledged) > before + 5, 60, "posts after the takeover")
    print(f"\nfirst answer {back:.0f} s after the power cut; {AFTER_SECONDS} s of it without a heartbeat")
    spare = scenario.machines.hosts()["a"]
    assert spare.droplet_id != dead.droplet_id
    assert scenario.carriers() == [spare.droplet_id]
    assert scenario.machines.containers(dead) == [], "one writer"
    assert scenario.leads_to() == 2, "the spare's agent knows only this address"
    assert "endpoint: 2" in scenario.cluster.pds_command("check", "bench", check=False).output
    scenario.cluster.pulumi("preview", "--expect-no-changes")
    scenario.whole()


def test_a_lost_server_and_a_lost_worker_are_rebuilt_by_their_generations(scenario: Scenario) -> None:
    workers = [int(worker) for worker in scenario.cluster.outputs()["workers"]]
    (number,) = (at for at, worker in enumerate(workers, 1) if worker not in scenario.carriers())
    scenario.change(servers={"count": 3, "endpoint": 2})
    refuse_changes(scenario.cluster, scenario.chess)
    assert scenario.leads_to() == 2
    scenario.change(
        servers={"count": 3, "endpoint": 2, "generations": {"1": 2}},
        workers={"spares": 1, "generations": {str(number): 2}},
    )
    until(scenario.is_healthy, 240, "three healthy servers")
    assert scenario.health() == 200
    refuse_changes(scenario.cluster, scenario.chess)


def test_the_server_of_the_endpoint_is_lost_and_the_other_one_is_named(scenario: Scenario) -> None:
    host = scenario.carriers()
    scenario.machines.cut_power(scenario.server(2))
    assert scenario.cluster.pulumi("preview", check=False).code == 0
    until(lambda: scenario.leads_to() == 1, 240, "the address at another server")
    assert scenario.carriers() == host
    scenario.change(servers={"count": 3, "endpoint": 1, "generations": {"1": 2}})
    scenario.change(servers={"count": 3, "endpoint": 1, "generations": {"1": 2, "2": 2}})
    until(scenario.is_healthy, 240, "three healthy servers")
    assert scenario.health() == 200
    refuse_changes(scenario.cluster, scenario.chess)
    scenario.whole()


def test_an_upgrade_rebuilds_every_droplet_one_at_a_time(scenario: Scenario) -> None:
    before = scenario.cluster.outputs()
    with written_to(scenario.club, PAUSE) as acknowledged:
        done = scenario.cluster.pds_command("upgrade", "bench", "--yes", "--settle", "0")
        count = len(acknowledged)
        until(lambda: len(acknowledged) > count + 5, 60, "posts after the upgrade")
    print(f"\n{done.seconds:.0f} s\n{done.output}")
    after = scenario.cluster.outputs()
    assert not {*before["servers"], *before["workers"]} & {*after["servers"], *after["workers"]}
    assert scenario.is_healthy()
    scenario.whole()
    refuse_changes(scenario.cluster, scenario.chess)


def test_the_state_of_servers_that_are_all_lost_is_restored_from_a_snapshot(scenario: Scenario) -> None:
    assert scenario.nomad("/v1/job/pds-nomad-snapshots/periodic/force", "PUT")
    until(lambda: "complete" in _statuses(scenario, "pds-nomad-snapshots"), 120, "a snapshot")
    assert "1 snapshots" in scenario.cluster.pds_command("restore", "bench", "--list").output
    living = scenario.cluster.pds_command("restore", "bench", "--yes", check=False)
    assert (living.code, "and has its state" in living.output) == (2, True)
    host = scenario.machines.hosts()["a"]
    containers = scenario.machines.containers(host)
    with written_to(scenario.club, PAUSE) as acknowledged:
        for droplet in scenario.cluster.outputs()["servers"]:
            # By the API: the command refuses while it calls most of them active.
            scenario.cluster.act(f"/v2/droplets/{droplet}/actions", {"type": "power_off"})
        with socket.create_server((scenario.cluster.outputs()["hosts"]["a"]["address"], 22)):  # ssh is looked for
            done = scenario.cluster.pds_command("restore", "bench", "--yes")
        count = len(acknowledged)
        until(lambda: len(acknowledged) > count + 5, 60, "posts after the restore")
    print(f"\n{done.seconds:.0f} s\n{done.output}")
    until(scenario.is_healthy, 120, "three healthy servers")
    until(scenario.node_is_ready, 120, "the host's node")
    refuse_changes(scenario.cluster, scenario.chess)
    assert scenario.machines.containers(host) == containers, "the club's PDS ran all the time"
    assert scenario.carriers() == [host.droplet_id]
    scenario.whole()


def _statuses(scenario: Scenario, job: str) -> set[str]:
    """Of the allocations of a periodic job's runs."""
    found = scenario.nomad("/v1/allocations") or []
    return {item["ClientStatus"] for item in found if item["JobID"].startswith(f"{job}/")}
