"""A cluster with two hosts and a spare, and clubs on both; a host's power is cut while members write: `pytest
tests/e2e/scenarios/e2e_cluster.py -x`, as root.

The real engine, providers, Nomad (a server, and a client on each worker), Docker, PDS and PLC directory. One scenario,
in this order. The hosts of process grade share this machine's ports, so the clubs have no ingress.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.contract.club import Club, founded, whole
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import AFTER_SECONDS, UP, cluster_env, health, refuse_changes, until
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.scenarios.e2e_move import written_to
from tools.trial.xrpc import Client

PORTS = {"chess": 3121, "rooks": 3122}
ON = {"chess": "a", "rooks": "b"}


@dataclass
class Scenario:
    """The cluster's stack, its clubs' stacks, and their members."""

    cluster: E2eEnvironment
    machines: ClusterMachines
    clubs: dict[str, E2eEnvironment]
    members: dict[str, Club] = field(default_factory=dict)

    def health(self, club: str) -> int:
        """Status of a PDS's health; 0 without an answer."""
        return health(f"http://127.0.0.1:{PORTS[club]}")

    def whole(self, club: str) -> None:
        """Assert that everything acknowledged is there, with its original CID."""
        client = Client(f"http://127.0.0.1:{PORTS[club]}", f"{club}.test")
        whole(client, self.members[club], time.monotonic())

    def carriers(self) -> dict[str, list[int]]:
        """The droplets of each volume, by the API."""
        return {item["name"]: item["droplet_ids"] for item in self.cluster.api.dump()["volumes"].values()}


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with cluster_env() as cluster:
        cluster.configure(
            {
                "servers": {"count": 1},
                "hosts": {"a": {"volume_gib": 20}, "b": {"volume_gib": 20}},
                "workers": {"spares": 1},
                "takeover": {},
            },
            clubs={name: {"host": ON[name], "port": PORTS[name], "memory_mib": 256} for name in PORTS},
        )
        clubs = {name: cluster.club(name, PORTS[name], on="bench", nomad={"datacenter": ON[name]}) for name in PORTS}
        yield Scenario(cluster.stack, cluster.machines, clubs)


def test_from_nothing_to_two_hosts_with_a_club_on_each(scenario: Scenario) -> None:
    scenario.cluster.pulumi("preview")
    scenario.cluster.pulumi(*UP)
    for name, club in scenario.clubs.items():
        club.pulumi(*UP)
        assert scenario.health(name) == 200
        url = f"http://127.0.0.1:{PORTS[name]}"
        scenario.members[name] = founded(url, f"{name}.test", members=2, posts=3, mail=f"{name}.test.com")
    assert sorted(scenario.machines.hosts()) == ["a", "b"]
    assert all(len(droplets) == 1 for droplets in scenario.carriers().values())


def test_preview_after_up_is_empty(scenario: Scenario) -> None:
    refuse_changes(scenario.cluster, *scenario.clubs.values())


def test_a_host_whose_power_is_cut_comes_back_with_every_acknowledged_post(scenario: Scenario) -> None:
    dead = scenario.machines.hosts()["a"]
    with written_to(scenario.members["chess"]) as acknowledged:
        until(lambda: len(acknowledged) > 20, 60, "20 posts")
        scenario.machines.cut_power(dead)
        cut = time.monotonic()
        before = len(acknowledged)
        until(lambda: scenario.health("chess") == 200, 400, "the club's PDS")
        back = time.monotonic() - cut
        until(lambda: len(acknowledged) > before + 5, 60, "posts after the takeover")
    print(f"\nfirst answer {back:.0f} s after the power cut; {AFTER_SECONDS} s of it without a heartbeat")
    assert scenario.health("rooks") == 200
    scenario.whole("chess")
    scenario.whole("rooks")
    spare = scenario.machines.hosts()["a"]
    assert spare.droplet_id != dead.droplet_id
    assert scenario.carriers()["pds-bench-a"] == [spare.droplet_id]
    until(lambda: spare.address is not None, 60, "the address")
    address = scenario.cluster.outputs()["hosts"]["a"]["address"]
    assert spare.address == address, "the address follows the volume"


def test_the_takeover_is_no_change_of_any_stack(scenario: Scenario) -> None:
    refuse_changes(scenario.cluster, *scenario.clubs.values())


def test_the_dead_droplet_does_not_come_back_as_a_second_host(scenario: Scenario) -> None:
    carriers = scenario.carriers()
    (dead,) = (
        machine.droplet_id
        for machine in scenario.machines.machines()
        if (machine.root / "etc/pds/agent.hcl").exists()
        and machine.droplet_id not in [droplet for droplets in carriers.values() for droplet in droplets]
    )
    scenario.machines.start(dead)
    time.sleep(10)
    assert scenario.carriers() == carriers
    assert scenario.health("chess") == 200


def test_a_rebuilt_worker_is_a_spare_to_which_a_host_is_drained(scenario: Scenario) -> None:
    carrying = {droplet for droplets in scenario.carriers().values() for droplet in droplets}
    workers = [int(worker) for worker in scenario.cluster.outputs()["workers"]]
    (number,) = (at for at, worker in enumerate(workers, 1) if worker not in carrying)
    scenario.cluster.configure(cluster={"workers": {"spares": 1, "generations": {str(number): 2}}})
    scenario.cluster.pulumi(*UP)
    assert scenario.health("chess") == scenario.health("rooks") == 200
    before = scenario.machines.hosts()["b"].droplet_id
    with written_to(scenario.members["rooks"]) as acknowledged:
        until(lambda: len(acknowledged) > 10, 60, "10 posts")
        began = time.monotonic()
        drained = scenario.cluster.pds_command("drain", "bench", "b", "--yes")
        until(lambda: scenario.health("rooks") == 200, 200, "the club's PDS")
        print(f"\ndrained, and the club answers, after {time.monotonic() - began:.0f} s\n{drained.output}")
    assert scenario.machines.hosts()["b"].droplet_id != before
    scenario.whole("rooks")
    assert scenario.health("chess") == 200
    listed = scenario.cluster.pds_command("repair", "bench", "--yes")
    assert "Nothing to repair" in listed.output
    refuse_changes(scenario.cluster, *scenario.clubs.values())
