"""A club of a cluster from the command line: `./pds new`, `assign-hosts`, `list`, `check`, backup, drill, and moves
under writes, some of them killed: `pytest tests/e2e/scenarios/e2e_cluster_clubs.py -x`, as root.

The real engine, providers, Nomad (a server, and a client on each worker), Docker, PDS, PLC directory and restic. One
scenario, in this order. The hosts of process grade share this machine's ports, so the club has no ingress.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
import yaml

from tests.contract.club import Club, founded, whole
from tests.e2e.digitalocean.world import Limits
from tests.e2e.environment.backups import backup_section, give_keys
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import UP, cluster_env, health
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.watching import secrets_of
from tests.e2e.scenarios.e2e_move import killed, written_to
from tools.trial.xrpc import Client

NAME = "chess.test"
PORT = 3131


@dataclass
class Scenario:
    """The cluster's stack, its club's stack, and the club's members."""

    cluster: E2eEnvironment
    machines: ClusterMachines
    club: E2eEnvironment
    server: dict[str, Any]
    """What the test's server needs of `pds` beside what `./pds new` wrote."""
    backup: dict[str, Any]
    single: dict[str, Any]
    """The file of a stack with a host of its own."""
    members: Club | None = None

    def config(self, stack: E2eEnvironment) -> dict[str, Any]:
        """The content of a stack's file."""
        found: dict[str, Any] = yaml.load((stack.project / f"Pulumi.{stack.name}.yaml").read_text(), yaml.CSafeLoader)[
            "config"
        ]
        return found

    def whole(self, at: str) -> None:
        """Assert that everything acknowledged is there, and that the club's data are on this host."""
        assert self.members
        whole(Client(f"http://127.0.0.1:{PORT}", NAME), self.members, time.monotonic())
        assert (self.machines.hosts()[at].volume / "clubs/pds-chess/account.sqlite").exists()
        assert self.config(self.club)["pds:nomad"]["datacenter"] == at
        assert self.config(self.cluster)["pds:clubs"]["chess"]["host"] == at

    def no_changes(self) -> None:
        """Assert that no stack has a change."""
        self.cluster.pulumi("preview", "--expect-no-changes")
        output = self.club.pulumi("preview").output
        # Without an ingress its accounts cannot be listed, so that one resource stays pending.
        assert "~ 1 to update" in output, output
        assert not [word for word in ("to create", "to replace", "to delete") if word in output], output

    def health(self) -> int:
        """Status of the club's health; 0 without an answer."""
        return health(f"http://127.0.0.1:{PORT}")


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with cluster_env("go", "restic") as cluster, ExitStack() as stack:
        # The servers', the two hosts', and that of a host of another stack.
        cluster.stack.world.limits = Limits(reserved_ips=4)
        cluster.configure(
            {
                "servers": {"count": 1},
                "hosts": {"a": {"volume_gib": 20}, "b": {"volume_gib": 30}},
                "workers": {"spares": 0},
                "escrow": "declined",
            }
        )
        server = {key: value for key, value in cluster.server.items() if key != "memory_mib"} | {"port": PORT}
        yield Scenario(
            cluster=cluster.stack,
            machines=cluster.machines,
            club=replace(cluster.stack, name="chess"),
            server=server,
            backup=backup_section(cluster.stack, cluster.stack.cache, stack),
            single={
                **cluster.alone,
                "pds:hostname": "ground.test",
                "pds:dns": {**cluster.alone["pds:dns"], "zone": "ground.test"},
                "pds:host": {"size": "s-2vcpu-4gb"},
                "pds:pds": {**cluster.alone["pds:pds"], "port": 3133},
                "pds:clubs": {"chess": {"port": PORT, "memory_mib": 640}},
            },
        )


def test_new_takes_the_host_with_the_most_room_and_writes_both_files(scenario: Scenario) -> None:
    scenario.cluster.pulumi(*UP)
    done = scenario.cluster.pds_command(
        "new", "chess", "--hostname", NAME, "--on", "bench", "--create-zone", "--memory-mib", "256"
    )
    assert "chess: {port: 3101, host: b, disk_gib: 5, memory_mib: 640}" in done.output, done.output
    assert scenario.config(scenario.club)["pds:nomad"]["datacenter"] == "b"


def test_up_chooses_no_host_and_assign_hosts_writes_one_down(scenario: Scenario) -> None:
    scenario.cluster.configure(clubs={"rooks": {"port": 3132}})
    refused = scenario.cluster.pulumi("preview", check=False)
    assert refused.code
    assert "./pds assign-hosts" in refused.output
    scenario.cluster.pds("assign-hosts")
    clubs = scenario.config(scenario.cluster)["pds:clubs"]
    assert clubs["rooks"] == {"port": 3132, "host": "a"}
    # Not the first ports of clubs, which another environment on this machine may use.
    scenario.cluster.configure(clubs={name: club | {"port": PORT} for name, club in clubs.items() if name == "chess"})
    clubs = {"chess": scenario.config(scenario.cluster)["pds:clubs"]["chess"]}
    scenario.cluster.configure(clubs=None)
    scenario.cluster.configure(clubs=clubs)


def test_the_club_is_created_on_its_host_and_backed_up(scenario: Scenario) -> None:
    dns = {"nameservers": [scenario.cluster.nameserver], "ttl": 60}
    scenario.club.configure(pds=scenario.server, dns=dns, backup=scenario.backup)
    give_keys(scenario.club)
    scenario.cluster.pulumi(*UP)
    scenario.club.pulumi(*UP)
    scenario.members = founded(f"http://127.0.0.1:{PORT}", NAME, members=3, posts=3, mail=f"{NAME}.com")
    scenario.whole("b")
    scenario.no_changes()
    assert "snapshot of chess.test: 3 accounts" in scenario.club.pds("backup").output
    assert "3 repositories served by the server on the copy: 0 faults" in scenario.club.pds("drill").output


def test_another_host_in_the_cluster_s_file_alone_is_refused(scenario: Scenario) -> None:
    clubs = scenario.config(scenario.cluster)["pds:clubs"]
    scenario.cluster.configure(clubs={"chess": clubs["chess"] | {"host": "a"}})
    refused = scenario.cluster.pulumi(*UP, check=False)
    assert "are on host b, and the stack file names a. They were not touched" in refused.output
    scenario.cluster.configure(clubs=clubs)
    scenario.cluster.pulumi(*UP)
    scenario.whole("b")


def test_the_club_moves_to_the_other_host_under_writes(scenario: Scenario) -> None:
    assert scenario.members
    with written_to(scenario.members) as acknowledged:
        done = scenario.club.pds("move", "--to", "bench", "--host", "a", "--yes")
    assert len(acknowledged) > 10
    scenario.whole("a")
    for name, secret in secrets_of(scenario.club).items():
        assert secret not in done.output, name
    (record,) = [record for record in scenario.club.outputs()["records"] if record["name"] == "@"]
    assert record["value"] == scenario.cluster.outputs()["hosts"]["a"]["address"]
    (kept,) = (scenario.machines.hosts()["b"].volume / ".trash").glob("*-pds-chess")
    assert (kept / "account.sqlite").exists(), "the data must be renamed, not deleted"
    assert not (scenario.machines.hosts()["b"].volume / "clubs/pds-chess").exists()
    assert "leaving" not in scenario.config(scenario.cluster)["pds:clubs"]["chess"]
    scenario.no_changes()


def test_a_move_that_was_killed_goes_on(scenario: Scenario) -> None:
    assert scenario.members
    with written_to(scenario.members) as acknowledged:
        killed(scenario.club, ("--to", "bench", "--host", "b"), "4  Restore backup", whole=True)
    assert len(acknowledged) > 10
    assert scenario.health() == 0, "neither host serves in the middle of a move"
    scenario.club.pds("move", "--to", "bench", "--yes")
    scenario.whole("b")
    scenario.no_changes()


def test_a_move_that_was_killed_goes_back(scenario: Scenario) -> None:
    assert scenario.members
    with written_to(scenario.members):
        killed(scenario.club, ("--to", "bench", "--host", "a"), "4  Restore backup", whole=True)
    done = scenario.club.pds("move", "--to", "bench", "--host", "b", "--yes")
    assert "as before" in done.output
    scenario.whole("b")
    scenario.no_changes()


def test_check_finds_nothing_to_do_on_the_cluster_but_the_snapshots(scenario: Scenario) -> None:
    done = scenario.cluster.pds("check", check=False)
    lines = [line.partition(": ")[0] for line in done.output.splitlines() if line.startswith("to do")]
    assert lines == ["to do  snapshots"], done.output
    assert "ok     servers: 1 of 1 are healthy" in done.output
    assert "clubs chess" in done.output


def test_list_shows_where_the_club_is_and_what_is_left(scenario: Scenario) -> None:
    report = json.loads(scenario.cluster.pds_command("list", "--json").output)
    rows = {row["stack"]: row for row in report["stacks"]}
    assert rows["chess"]["host"] == "bench/b"
    assert rows["chess"]["backup"] not in (None, "none yet")
    free = {item["cluster_host"]: item["disk_gib"] for item in report["free_capacity"]}
    assert free == {"a": 15, "b": 20}
    assert any("clubs chess" in note for note in report["notes"]), report["notes"]


def test_the_club_moves_to_a_host_of_its_own_kind_and_back_to_the_cluster(scenario: Scenario) -> None:
    assert scenario.members
    ground = scenario.cluster.beside("ground", scenario.single)
    ground.pulumi(*UP)
    with written_to(scenario.members) as acknowledged:
        scenario.club.pds("move", "--to", "ground", "--yes")
    assert len(acknowledged) > 10
    whole(Client(f"http://127.0.0.1:{PORT}", NAME), scenario.members, time.monotonic())
    address = ground.outputs()["ipv4"]
    (host,) = (machine for machine in scenario.machines.machines() if machine.address == address)
    assert (host.volume / "clubs/pds-chess/account.sqlite").exists()
    assert "chess" not in (scenario.config(scenario.cluster).get("pds:clubs") or {})
    ground.pulumi("preview", "--expect-no-changes")
    scenario.no_changes()

    refused = scenario.club.pds("move", "--to", "bench", "--yes", check=False)
    assert refused.code == 2
    line = "chess: {port: 3101, host: b, disk_gib: 5, memory_mib: 640}"
    assert line in refused.output, "the host with the most room, and a free port there"
    scenario.cluster.configure(clubs={"chess": {"port": PORT, "host": "b", "memory_mib": 640}})
    scenario.cluster.pulumi(*UP)
    with written_to(scenario.members) as acknowledged:
        scenario.club.pds("move", "--to", "bench", "--yes")
    assert len(acknowledged) > 10
    scenario.whole("b")
    ground.pulumi("preview", "--expect-no-changes")
    scenario.no_changes()
