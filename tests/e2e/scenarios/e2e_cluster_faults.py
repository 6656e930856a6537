"""What can go wrong in a takeover: `pytest tests/e2e/scenarios/e2e_cluster_faults.py -x`, as root.

One server, one host, several spares, one club with a PDS, whose member writes throughout. The real engine, providers,
Nomad, Docker, PDS and PLC directory. A volume is an ext4 file system, which a detach shuts down under whatever still
runs on it. One scenario, in this order.

A host is moved at most once in 15 minutes, by the times of DigitalOcean's actions. Before each takeover the scenario
makes the API's past actions so much older, as the passing of that time would.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import pytest

from components.takeover.decide import DETACH_SECONDS, SETTLE_SECONDS, Rules
from components.takeover.passes import Passes, places_of
from components.takeover.services import DigitalOcean, NomadServers, Refused, Unavailable
from tests.contract.club import Club, founded, whole
from tests.e2e.digitalocean.world import Limits
from tests.e2e.environment import takeovers
from tests.e2e.environment.cluster_disks import DiskMachines
from tests.e2e.environment.clusters import AFTER_SECONDS, UP, cluster_env, health, refuse_changes, until
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.machine import Machine
from tests.e2e.environment.takeovers import acknowledged_between, one_writer
from tests.e2e.environment.watching import meanwhile
from tests.e2e.scenarios.e2e_move import written_to
from tools.trial.xrpc import Client

NAME, PORT = "chess", 3151
SPARES = 9
LINGERS = 6.0
"""Seconds in which an old server runs on after its volume was taken away."""
PAUSE = 0.2
"""Seconds between two posts of the member: each is looked for after each takeover."""
_BACK = 900.0


@dataclass
class Scenario:
    """The cluster's stack, its club's stack, and the club's members."""

    cluster: E2eEnvironment
    machines: DiskMachines
    club: E2eEnvironment
    members: list[Club] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    """The cluster's, of the first `up`. It takes seconds to read them."""

    @property
    def host(self) -> Machine:
        return self.machines.hosts()["a"]

    @property
    def volume(self) -> str:
        (found,) = self.cluster.api.dump()["volumes"]
        return str(found)

    @property
    def address(self) -> str:
        return str(self.outputs["hosts"]["a"]["address"])

    def health(self) -> int:
        """Status of the PDS's health; 0 without an answer."""
        return health(f"http://127.0.0.1:{PORT}")

    def carriers(self) -> list[int]:
        """The droplets of the host's volume, by the API."""
        found: list[int] = self.cluster.api.dump()["volumes"][self.volume]["droplet_ids"]
        return found

    def node(self) -> dict[str, Any]:
        """The host's node."""
        own = next(iter(self.machines.servers()))
        headers = {"X-Nomad-Token": self.outputs["nomad_management_token"]}
        with httpx.Client(base_url=self.machines.api_url(own), headers=headers, trust_env=False, timeout=10) as nomad:
            (stub,) = [item for item in nomad.get("/v1/nodes").json() if item["Datacenter"] == "a"]
            found: dict[str, Any] = nomad.get(f"/v1/node/{stub['ID']}").json()
        return found

    def is_down(self) -> bool:
        """Whether the servers call the host's node down."""
        return bool(self.node()["Status"] == "down")

    def whole(self) -> None:
        """Assert that everything acknowledged is there, with its original CID, and that no machine failed."""
        whole(Client(f"http://127.0.0.1:{PORT}", f"{NAME}.test"), self.members[0], time.monotonic())
        assert self.cluster.api.dump()["failures"] == []

    def is_on(self, droplet: int) -> None:
        """Assert that the host is on this droplet: volume, address and node."""
        assert self.carriers() == [droplet]
        until(lambda: self.host.address == self.address, 60, "the address")
        node = self.node()
        assert (node["Status"], node["Meta"]["pds_droplet"]) == ("ready", str(droplet))

    def begun(self, since: int) -> list[str]:
        """The actions on volume and address that the API began, by the request log from line `since`. To assign the
        address again to its droplet changes nothing, and is not counted."""
        found: list[str] = []
        for request in self.cluster.api.requests()[since:]:
            is_ours = request["path"].startswith(("/v2/volumes/", "/v2/reserved_ips/"))
            if request["method"] != "POST" or not is_ours or "error" in request or request.get("fault") == "hang":
                continue
            if [request["body"]["type"]] != found[-1:] or request["body"]["type"] != "assign":
                found.append(request["body"]["type"])
        return found


@contextmanager
def moved(scenario: Scenario, steps: list[str] | None = None) -> Iterator[Machine]:
    """A member writes, and the block makes the host fail. Then it is on another worker, with everything acknowledged.

    `steps` are those that the API may begin: one detach, one attach, one assignment, unless others are given.
    """
    scenario.cluster.api.age(SETTLE_SECONDS)
    old, since = scenario.host, len(scenario.cluster.api.requests())
    began = time.monotonic()
    with one_writer(scenario.cluster.docker_host), written_to(scenario.members[0], PAUSE) as acknowledged:
        until(lambda: len(acknowledged) > 10, 60, "10 posts")
        yield old
        until(lambda: scenario.carriers() not in ([], [old.droplet_id]), _BACK, "another carrier")
        until(lambda: scenario.health() == 200, _BACK, "the club's PDS")
        count = len(acknowledged)
        until(lambda: len(acknowledged) > count + 5, _BACK, "posts after the takeover")
    scenario.whole()
    scenario.is_on(scenario.host.droplet_id)
    assert scenario.begun(since) == (steps or ["detach", "attach", "assign"])
    times = [at for _cid, at in scenario.members[0].journal.records.values() if at > began]
    away = max(after - before for before, after in pairwise(times))
    print(f"\n{len(acknowledged)} posts in {time.monotonic() - began:.0f} s, none for {away:.0f} s of it")


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with cluster_env(kind=DiskMachines) as cluster:
        cluster.stack.world.limits = Limits(droplets=2 * SPARES)
        cluster.configure(
            {
                "servers": {"count": 1},
                "hosts": {"a": {"volume_gib": 20}},
                "workers": {"spares": SPARES},
                "takeover": {},
            },
            clubs={NAME: {"host": "a", "port": PORT, "memory_mib": 256}},
        )
        club = cluster.club(NAME, PORT, on="bench", nomad={"datacenter": "a"})
        assert isinstance(cluster.machines, DiskMachines)
        made = Scenario(cluster.stack, cluster.machines, club)
        try:
            yield made
        finally:
            print(takeovers.said(cluster.machines))


def test_from_nothing_to_a_host_with_a_club(scenario: Scenario) -> None:
    scenario.cluster.pulumi(*UP)
    scenario.outputs.update(scenario.cluster.outputs())
    scenario.club.pulumi(*UP)
    url, name = f"http://127.0.0.1:{PORT}", f"{NAME}.test"
    scenario.members.append(founded(url, name, members=2, posts=3, mail=f"{name}.com"))
    scenario.whole()


def test_a_takeover_that_is_killed_at_each_step_goes_on(scenario: Scenario) -> None:
    api, on_volume = scenario.cluster.api, f"/v2/volumes/{scenario.volume}/actions"
    on_address = f"/v2/reserved_ips/{scenario.address}/actions"
    # `held` is begun and not answered, `hang` is not begun.
    moments = {
        "the worker is retired": (on_volume, "hang", 1),
        "the detach is requested": (on_volume, "held", 2),
        "the volume is detached": (on_volume, "hang", 3),
        "the attach is requested": (on_volume, "held", 4),
        "the volume is attached": (on_address, "hang", 1),
        "the address is assigned": (on_address, "held", 2),
    }
    with moved(scenario) as dead:
        for path, kind, nth in moments.values():
            api.fail("POST", path, kind, nth)
        scenario.machines.cut_power(dead)
        for number, moment in enumerate(moments):
            until(lambda number=number: _struck(scenario)[number], _BACK, moment)
            takeovers.kill(scenario.machines)
        api.clear_faults()
    _comes_not_back(scenario, dead)


def test_a_takeover_waits_while_a_call_fails_in_each_way(scenario: Scenario) -> None:
    api, on_volume = scenario.cluster.api, f"/v2/volumes/{scenario.volume}/actions"
    on_address = f"/v2/reserved_ips/{scenario.address}/actions"
    reads = ("/v2/droplets", on_volume.removesuffix("/actions"), on_volume, on_address.removesuffix("/actions"))
    with moved(scenario) as dead:
        scenario.machines.cut_power(dead)
        until(scenario.is_down, 120, "the node is down")
        # The last one is begun. So the fifth request on the volume is the first one for the attach.
        for nth, kind in enumerate(("500", "429", "hang", "lost"), 1):
            for path, at in ((on_volume, nth), (on_volume, nth + 4), (on_address, nth)):
                api.fail("POST", path, kind, at, seconds=2)
        for kinds, begun in ((("500",), 9), (("429", "hang"), 10), (("lost",), 11)):
            for path in reads:
                for nth, kind in enumerate(kinds, 1):
                    api.fail("GET", path, kind, nth, seconds=2)
            until(lambda begun=begun: _struck(scenario)[begun], _BACK, f"request {begun} on the volume or the address")
        until(lambda: all(_struck(scenario)), _BACK, "every call failed")
        api.clear_faults()


def test_a_takeover_waits_while_the_api_is_away(scenario: Scenario) -> None:
    api, on_volume = scenario.cluster.api, f"/v2/volumes/{scenario.volume}/actions"
    with moved(scenario) as dead:
        api.fail("POST", on_volume, "lost")
        scenario.machines.cut_power(dead)
        until(lambda: _struck(scenario)[0], _BACK, "the detach is requested")
        for nth in range(1, 7):
            api.fail("*", "/v2/.*", "500", nth)
        until(lambda: all(_struck(scenario)), 120, "6 calls that failed")
        api.clear_faults()


def test_a_host_whose_agent_is_frozen_is_fenced_by_the_detach(scenario: Scenario) -> None:
    scenario.machines.lingers = LINGERS
    with moved(scenario) as alive:
        scenario.machines.freeze(alive)
        frozen = time.monotonic()
        _is_fenced(scenario, frozen)
    _comes_not_back(scenario, alive)


def test_a_host_whose_link_is_down_is_fenced_although_the_link_returns(scenario: Scenario) -> None:
    def link_returns(machine: Machine) -> None:
        scenario.machines.mend_link(machine.droplet_id)
        until(lambda: not scenario.is_down(), 120, "the servers hear of the agent whose volume is gone")

    scenario.machines.at_fence = link_returns
    with moved(scenario) as alive:
        scenario.machines.cut_link(alive)
        cut = time.monotonic()
        _is_fenced(scenario, cut)
    scenario.machines.at_fence = lambda _machine: None
    _comes_not_back(scenario, alive)


def test_a_host_that_was_moved_and_flaps_is_not_moved_again(scenario: Scenario) -> None:
    host, since = scenario.host, len(scenario.cluster.api.requests())
    with one_writer(scenario.cluster.docker_host), written_to(scenario.members[0], PAUSE) as acknowledged:
        for _ in range(2):
            scenario.machines.cut_power(host)
            until(scenario.is_down, 120, "the node is down")
            time.sleep(AFTER_SECONDS + 15)
            scenario.machines.start(host.droplet_id)
            until(lambda: not scenario.is_down(), 120, "the node is back")
            count = len(acknowledged)
            until(lambda count=count: len(acknowledged) > count + 5, _BACK, "posts after the reboot")
    assert scenario.begun(since) == []
    scenario.is_on(host.droplet_id)
    scenario.whole()


def test_up_in_the_middle_of_a_takeover_does_no_harm_and_leaves_no_drift(scenario: Scenario) -> None:
    with moved(scenario) as dead:
        scenario.machines.cut_power(dead)
        until(lambda: scenario.carriers() == [], _BACK, "the volume is detached")
        scenario.cluster.configure(cluster={"workers": {"spares": SPARES + 1}})
        scenario.club.configure(pds={"memory_mib": 260})
        scenario.cluster.configure(clubs={NAME: {"host": "a", "port": PORT, "memory_mib": 260}})
        scenario.cluster.pulumi(*UP)
        scenario.club.pulumi(*UP)
    refuse_changes(scenario.cluster, scenario.club)


def test_three_programs_at_once_move_a_host_once(scenario: Scenario) -> None:
    """The job, `./pds repair`, which takes the job's lease, and one that needs no lease."""
    with moved(scenario) as dead, ExitStack() as programs:
        scenario.machines.cut_power(dead)
        until(scenario.is_down, 120, "the node is down")
        with takeovers.repairing(scenario.cluster) as lines:
            programs.enter_context(_another_program(scenario))
    assert "a: ready.\n" in lines, lines


def test_a_detach_that_does_not_end_is_ended_by_deleting_the_droplet(scenario: Scenario) -> None:
    with moved(scenario) as dead:
        scenario.cluster.world.stuck.add(dead.droplet_id)
        scenario.machines.cut_power(dead)
        until(lambda: _is_detaching(scenario), _BACK, "the detach is requested")
        scenario.cluster.api.age(DETACH_SECONDS)
        until(lambda: f"droplet {dead.droplet_id} after" in takeovers.said(scenario.machines), 60, "a message")
        refused = scenario.cluster.pds("repair", "--yes", check=False)
        assert refused.code == 2
        assert f"doctl compute droplet delete {dead.droplet_id}" in refused.output
        assert scenario.carriers() == [dead.droplet_id]
        scenario.cluster.delete(f"/v2/droplets/{dead.droplet_id}")
        scenario.cluster.pds("repair", "--yes")
    scenario.cluster.pulumi(*UP, "--refresh")
    refuse_changes(scenario.cluster, scenario.club)


def test_a_host_comes_back_on_a_rebuilt_worker_after_all_workers_were_off(scenario: Scenario) -> None:
    with moved(scenario) as dead:
        workers = [int(worker) for worker in scenario.cluster.outputs()["workers"]]
        for worker in workers:
            if worker != dead.droplet_id:
                scenario.cluster.act(f"/v2/droplets/{worker}/actions", {"type": "power_off"})
        scenario.machines.cut_power(dead)
        until(lambda: "is down, and there is no spare worker" in takeovers.said(scenario.machines), 200, "a message")
        number = next(at for at, worker in enumerate(workers, 1) if worker != dead.droplet_id)
        spares = {"spares": SPARES + 1, "generations": {str(number): 2}}
        scenario.cluster.configure(cluster={"workers": spares})
        scenario.cluster.pulumi(*UP)
    refuse_changes(scenario.cluster, scenario.club)


def test_a_host_comes_back_after_all_workers_were_deleted(scenario: Scenario) -> None:
    with moved(scenario, steps=["attach", "assign"]) as host:
        # The host's worker is the last one: before, its volume would go to a spare.
        for worker in sorted(map(int, scenario.cluster.outputs()["workers"]), key=host.droplet_id.__eq__):
            scenario.cluster.delete(f"/v2/droplets/{worker}")
        assert scenario.carriers() == []
        scenario.cluster.pulumi(*UP, "--refresh")
    refuse_changes(scenario.cluster, scenario.club)


def _struck(scenario: Scenario) -> list[bool]:
    """Whether each fault has happened, in the order in which they were set."""
    return [rule["struck"] for rule in scenario.cluster.api.fault_rules()]


def _is_detaching(scenario: Scenario) -> bool:
    actions = scenario.cluster.api.dump()["actions"].values()
    return any((action["type"], action["status"]) == ("detach", "in-progress") for action in actions)


def _is_fenced(scenario: Scenario, since: float) -> None:
    """Assert that the member writes until the detach, and that nothing is acknowledged between it and the attach."""
    volume, machines, members = scenario.volume, scenario.machines, scenario.members[0]
    until(lambda: machines.attached[volume] > since, _BACK, "the attach")
    fence = machines.fenced[volume]
    assert machines.attached[volume] > fence > since
    assert acknowledged_between(members, since + 5, fence), "the old server is alive, and writes"
    # A second for an answer that was on its way.
    assert machines.attached[volume] - fence > LINGERS
    assert acknowledged_between(members, fence + 1, machines.attached[volume]) == []


def _comes_not_back(scenario: Scenario, old: Machine) -> None:
    """Assert that a droplet without its volume stays no host when it is rebooted."""
    host = scenario.host.droplet_id
    scenario.cluster.act(f"/v2/droplets/{old.droplet_id}/actions", {"type": "reboot"})
    time.sleep(10)
    scenario.is_on(host)
    assert old.agent is None
    assert scenario.health() == 200


@contextmanager
def _another_program(scenario: Scenario) -> Iterator[None]:
    """A takeover without a lease, which does not wait until a host is down for a stated time."""
    outputs = scenario.outputs
    nomad = scenario.machines.api_url(next(iter(scenario.machines.servers())))
    passes = Passes(
        cloud=DigitalOcean(scenario.cluster.env["DIGITALOCEAN_TOKEN"], scenario.cluster.api.url),
        servers=NomadServers(nomad, outputs["nomad_management_token"]),
        places=places_of(outputs["hosts"]),
        tag=outputs["worker_tag"],
        rules=Rules(after_seconds=0),
        holder="",
    )

    def run(ended: threading.Event) -> None:
        while not ended.wait(1):
            with suppress(Unavailable, Refused):
                passes.once()

    with meanwhile(run):
        yield
