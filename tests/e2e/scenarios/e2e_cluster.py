"""A cluster with two hosts and a spare, and clubs on both; a host's power is cut while members write: `pytest
tests/e2e/scenarios/e2e_cluster.py -x`, as root.

The real engine, providers, Nomad (a server, and a client on each worker), Docker, PDS and PLC directory. One scenario,
in this order. The hosts of process grade share this machine's ports, so the clubs have no ingress.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.contract.club import Club, founded, whole
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.tools import missing
from tests.e2e.scenarios.e2e_move import written_to
from tools.trial.xrpc import Client

UP = ("up", "--yes", "--skip-preview")
PORTS = {"chess": 3121, "rooks": 3122}
ON = {"chess": "a", "rooks": "b"}
AFTER_SECONDS = 30


@dataclass
class Scenario:
    """The cluster's stack, its clubs' stacks, and their members."""

    cluster: E2eEnvironment
    machines: ClusterMachines
    clubs: dict[str, E2eEnvironment]
    members: dict[str, Club] = field(default_factory=dict)

    def health(self, club: str) -> int:
        """Status of a PDS's health; 0 without an answer."""
        try:
            url = f"http://127.0.0.1:{PORTS[club]}/xrpc/_health"
            return httpx.get(url, trust_env=False, timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def whole(self, club: str) -> None:
        """Assert that everything acknowledged is there, with its original CID."""
        client = Client(f"http://127.0.0.1:{PORTS[club]}", f"{club}.test")
        whole(client, self.members[club], time.monotonic())

    def carriers(self) -> dict[str, list[int]]:
        """The droplets of each volume, by the API."""
        return {item["name"]: item["droplet_ids"] for item in self.cluster.api.dump()["volumes"].values()}


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        # Not pytest's folder, which only root may enter: the takeover runs as `daemon`.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pds-cluster-", ignore_cleanup_errors=True))
        Path(folder).chmod(0o711)
        cluster = stack.enter_context(e2e_env(Path(folder), cache, kind=ClusterMachines))
        assert isinstance(cluster.machines, ClusterMachines)
        plc = stack.enter_context(directory(cluster.folder / "plc", cache, cluster.docker_host, cluster.authority))
        first = yaml.safe_load((cluster.project / "Pulumi.bench.yaml").read_text())["config"]
        cluster.configure(hostname=None, dns=None, pds=None, cluster=_cluster(cluster), clubs=_grants())
        token = cluster.takeover_token()
        cluster.pulumi("config", "set", "--secret", "--path", "pds:cluster.takeover.token", token)
        clubs = {
            name: cluster.beside(
                name,
                {
                    "pds:hostname": f"{name}.test",
                    "pds:on": "bench",
                    "pds:dns": {"zone": f"{name}.test", "create_zone": True, "nameservers": [cluster.nameserver]},
                    "pds:nomad": {"datacenter": ON[name]},
                    "pds:ingress": {"kind": "none"},
                    "pds:pds": {
                        **{key: first["pds:pds"][key] for key in ("escrow", "crawlers")},
                        "image": plc.pds_image,
                        "plc_url": plc.url,
                        "new": True,
                        "port": PORTS[name],
                        "memory_mib": 256,
                        "invite_required": False,
                        "open_registration": True,
                    },
                },
            )
            for name in PORTS
        }
        yield Scenario(cluster, cluster.machines, clubs)


def _cluster(running: E2eEnvironment) -> dict[str, Any]:
    return {
        "servers": {"count": 1},
        "hosts": {"a": {"volume_gib": 20}, "b": {"volume_gib": 20}},
        "workers": {"spares": 1},
        "takeover": {"api_url": running.api.url, "after_seconds": AFTER_SECONDS},
    }


def _grants() -> dict[str, Any]:
    return {name: {"host": ON[name], "port": PORTS[name], "memory_mib": 256} for name in PORTS}


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
    _no_changes(scenario)


def test_a_host_whose_power_is_cut_comes_back_with_every_acknowledged_post(scenario: Scenario) -> None:
    dead = scenario.machines.hosts()["a"]
    with written_to(scenario.members["chess"]) as acknowledged:
        _until(lambda: len(acknowledged) > 20, 60, "20 posts")
        scenario.machines.cut_power(dead)
        cut = time.monotonic()
        before = len(acknowledged)
        _until(lambda: scenario.health("chess") == 200, 400, "the club's PDS")
        back = time.monotonic() - cut
        _until(lambda: len(acknowledged) > before + 5, 60, "posts after the takeover")
    print(f"\nfirst answer {back:.0f} s after the power cut; a node has to be down for {AFTER_SECONDS} s of it")
    assert scenario.health("rooks") == 200
    scenario.whole("chess")
    scenario.whole("rooks")
    spare = scenario.machines.hosts()["a"]
    assert spare.droplet_id != dead.droplet_id
    assert scenario.carriers()["pds-bench-a"] == [spare.droplet_id]
    _until(lambda: spare.address is not None, 60, "the address")
    address = scenario.cluster.outputs()["hosts"]["a"]["address"]
    assert spare.address == address, "the address follows the volume"


def test_the_takeover_is_no_change_of_any_stack(scenario: Scenario) -> None:
    _no_changes(scenario)


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
        _until(lambda: len(acknowledged) > 10, 60, "10 posts")
        began = time.monotonic()
        drained = scenario.cluster.pds_command("drain", "bench", "b", "--yes")
        _until(lambda: scenario.health("rooks") == 200, 200, "the club's PDS")
        print(f"\ndrained, and the club answers, after {time.monotonic() - began:.0f} s\n{drained.output}")
    assert scenario.machines.hosts()["b"].droplet_id != before
    scenario.whole("rooks")
    assert scenario.health("chess") == 200
    listed = scenario.cluster.pds_command("repair", "bench", "--yes")
    assert "Nothing to repair" in listed.output
    _no_changes(scenario)


def _no_changes(scenario: Scenario) -> None:
    for refreshed in ([], ["--refresh"]):
        scenario.cluster.pulumi("preview", "--expect-no-changes", *refreshed)
        for club in scenario.clubs.values():
            output = club.pulumi("preview", *refreshed).output
            # Without an ingress its accounts cannot be listed, so that one resource stays pending.
            assert "UnlistedAccounts: pending" in output
            assert "~ 1 to update" in output
            assert not [word for word in ("to create", "to replace", "to delete") if word in output], output


def _until(done: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} after {seconds:.0f} s"
        time.sleep(0.5)
