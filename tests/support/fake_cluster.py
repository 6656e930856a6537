"""DigitalOcean and Nomad with one clock, as a takeover sees them, and calls that fail or die as a test says.

As strict as the API: a volume is attached to one droplet at most; a detach names the droplet that has the volume; a
second action on a volume or an address is refused while one is in progress (digitalocean/openapi, volume_actions and
reserved_ip_actions; reports of 'Attachment not found' and 'pending event' in digitalocean/doctl#207 and
csi-digitalocean). A droplet has one reserved IP. An action takes some seconds, and shows its result when it is
completed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from components.takeover.decide import Action, Droplet, Node, Rules, Step
from components.takeover.interfaces import ClusterHost
from components.takeover.passes import Passes
from components.takeover.services import Refused, Unavailable

ACTION_SECONDS = 3.0
BOOT_SECONDS = 20.0
"""From an attach to a ready node."""


class KilledError(BaseException):
    """The program died in this call."""


@dataclass
class _Volume:
    carrier: int | None = None
    actions: list[Action] = field(default_factory=list)
    then: int | None = None
    """The carrier once the action in progress is completed."""
    ready_at: float = 0.0
    address_at: int | None = None
    assigning: tuple[int | None, float] | None = None
    """The droplet that the address is being assigned to, None for an unassignment, and since when."""

    @property
    def running(self) -> Action | None:
        """The newest action, if it is in progress: an older one is over, whatever the list shows."""
        newest = self.actions[-1:]
        return newest[0] if newest and newest[0].status == "in-progress" else None


class FakeCluster:
    """Both services: `cloud` and `servers` of `Passes`. `before` and `after` run around each call, with its number."""

    def __init__(self, hosts: Mapping[str, int | None], workers: int, now: float = 1_000_000.0) -> None:
        self.time = now
        self.volumes = {
            name: _Volume(carrier, [Action("attach", "completed", 0.0)] if carrier else [], ready_at=0.0)
            for name, carrier in hosts.items()
        }
        for volume in self.volumes.values():
            volume.address_at = volume.carrier
        self.alive = dict.fromkeys(range(1, workers + 1), True)
        self.down_since: dict[str, float] = {}
        self.forgotten: set[str] = set()
        """Hosts whose node Nomad does not know."""
        self.registered_on: dict[str, int] = {}
        """Droplets that a restored Nomad calls those of the nodes; each node's own, if not given."""
        self.other_addresses: dict[int | None, str] = {}
        """Droplets with a reserved IP that is no host's."""
        self.items: dict[str, str] = {}
        self.index = 0
        self.violations: list[str] = []
        self.calls = 0
        self.before: Callable[[int], None] = lambda _number: None
        self.after: Callable[[int], None] = lambda _number: None
        self.detaches_never_end = False
        self.detaches_fail = False
        self.attaches_never_end: set[str] = set()
        self.attaches_fail: set[int] = set()
        """Droplets to which an attach ends as errored."""
        self.attaches_refused: set[int] = set()
        """Droplets to which an attach is refused, which leaves no action."""
        self.never_starts: set[str] = set()
        """Hosts whose node starts on no droplet that gets the volume from now on."""
        self._nested = False

    @property
    def places(self) -> tuple[ClusterHost, ...]:
        return tuple(ClusterHost(name, name, f"ip-{name}") for name in sorted(self.volumes))

    def now(self) -> float:
        return self.time

    def cut_power(self, droplet: int) -> None:
        """The droplet dies; its hosts' nodes are down from now on."""
        self.alive[droplet] = False
        for name, volume in self.volumes.items():
            if volume.carrier == droplet:
                self.down_since[name] = self.time

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        for name, volume in self.volumes.items():
            if volume.assigning and self.time - volume.assigning[1] >= ACTION_SECONDS:
                volume.address_at, volume.assigning = volume.assigning[0], None
            action = volume.running
            if action is None or self.time - action.started < ACTION_SECONDS:
                continue
            if action.kind == "detach" and self.detaches_never_end:
                continue
            if action.kind == "attach" and name in self.attaches_never_end:
                continue
            failed = self.detaches_fail if action.kind == "detach" else volume.then in self.attaches_fail
            volume.actions[volume.actions.index(action)] = Action(
                action.kind, "errored" if failed else "completed", action.started
            )
            if failed:
                continue
            volume.carrier = volume.then
            if volume.carrier and self.alive[volume.carrier] and name not in self.never_starts:
                volume.ready_at = self.time + BOOT_SECONDS
                self.down_since.pop(name, None)

    def is_serving(self, name: str) -> bool:
        """Whether the host's node is ready on a droplet that has its volume and its address."""
        volume = self.volumes[name]
        alive = volume.carrier is not None and self.alive[volume.carrier]
        return alive and volume.ready_at <= self.time and volume.address_at == volume.carrier

    # Calls of both services.

    def _call(self) -> None:
        self.calls += 1
        if not self._nested:
            self._around(self.before)

    def _around(self, do: Callable[[int], None]) -> None:
        self._nested = True
        try:
            do(self.calls)
        finally:
            self._nested = False

    def _called(self) -> None:
        if not self._nested:
            self._around(self.after)

    def workers(self, _tag: str) -> dict[int, Droplet]:
        self._call()
        return {
            number: Droplet(number, True, frozenset(n for n, v in self.volumes.items() if v.carrier == number))
            for number in self.alive
        }

    def carrier(self, volume: str) -> int | None:
        self._call()
        return self.volumes[volume].carrier

    def actions(self, volume: str) -> tuple[Action, ...]:
        self._call()
        return tuple(self.volumes[volume].actions)

    def address_at(self, address: str) -> int | None:
        self._call()
        return self.volumes[address.removeprefix("ip-")].address_at

    def assigned_at(self, address: str) -> float | None:
        self._call()
        raise Refused(404, f"reserved IP {address} does not exist")

    def address_of(self, droplet: int) -> str | None:
        self._call()
        found = {volume.address_at: f"ip-{name}" for name, volume in self.volumes.items()}
        return (self.other_addresses | found).get(droplet)

    def detach(self, volume: str, droplet: int) -> None:
        self._call()
        found = self.volumes[volume]
        if found.carrier != droplet:
            raise Refused(422, "Attachment not found")
        self._begin(found, "detach", None)
        self._called()

    def attach(self, volume: str, droplet: int) -> None:
        self._call()
        found = self.volumes[volume]
        last_detach = max((a for a in found.actions if a.kind == "detach"), key=lambda a: a.started, default=None)
        if last_detach and last_detach.status != "completed":
            self.violations.append(f"an attach of {volume} was requested before its detach was completed")
        if found.carrier is not None:
            raise Refused(422, "Volume is already attached to a Droplet")
        if droplet in self.attaches_refused:
            raise Refused(422, "Droplet already has a pending event.")
        self._begin(found, "attach", droplet)
        self._called()

    def _begin(self, volume: _Volume, kind: str, then: int | None) -> None:
        if volume.running:
            raise Refused(422, "Volume has a pending event")
        volume.actions.append(Action(kind, "in-progress", self.time))
        volume.then = then

    def assign(self, address: str, droplet: int) -> None:
        self._call()
        found = self.volumes[address.removeprefix("ip-")]
        if found.assigning:
            raise Refused(422, "The reserved IP already has a pending event.")
        others = [other for other in self.volumes.values() if other is not found]
        assigned = [other.assigning[0] for other in others if other.assigning]
        if droplet in [*assigned, *(other.address_at for other in others), *self.other_addresses]:
            raise Refused(422, "The Droplet already has a reserved IP.")
        found.assigning = (droplet, self.time)
        self._called()

    def unassign(self, address: str) -> None:
        self._call()
        found = self.volumes[address.removeprefix("ip-")]
        if found.assigning:
            raise Refused(422, "The reserved IP already has a pending event.")
        if found.address_at is None:
            raise Refused(422, "The reserved IP is not assigned to a Droplet.")
        found.assigning = (None, self.time)
        self._called()

    def node(self, datacenter: str) -> Node | None:
        self._call()
        volume = self.volumes[datacenter]
        if datacenter in self.forgotten:
            return None
        if datacenter in self.down_since:
            return Node(False, self.down_since[datacenter])
        if not volume.actions:
            return None
        ready = volume.carrier is not None and volume.ready_at <= self.time
        return Node(ready, volume.ready_at if ready else self.time, droplet=self.registered_on.get(datacenter))

    def state(self) -> tuple[dict[str, str], int]:
        self._call()
        return dict(self.items), self.index

    def write(self, items: Mapping[str, str], index: int) -> bool:
        self._call()
        if index != self.index:
            return False
        self.items, self.index = dict(items), self.index + 1
        self._called()
        return True


def dies_at(number: int) -> Callable[[int], None]:
    """For `before` or `after`: the program is killed in this call."""

    def die(at: int) -> None:
        if at == number:
            raise KilledError

    return die


def fails_at(number: int) -> Callable[[int], None]:
    """For `before` or `after`: the call has no answer."""

    def fail(at: int) -> None:
        if at == number:
            raise Unavailable("no answer")

    return fail


def passes_over(cluster: FakeCluster, rules: Rules | None = None) -> Passes:
    """Passes over the hosts of a cluster, by its clock."""
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), "one", cluster.now)


def run_passes(cluster: FakeCluster, passes: Passes, seconds: float) -> list[Step]:
    """Passes until the time is over; the last step of each host."""
    steps: list[Step] = []
    end = cluster.time + seconds
    while cluster.time < end:
        steps = passes.once()
        cluster.pass_time(5)
    return steps
