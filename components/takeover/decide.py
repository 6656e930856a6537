"""The next step for a host, decided from what is observed now.

No step is remembered. Which droplet has the volume is DigitalOcean's answer, how long a node is down is Nomad's, and
when a volume was last attached is in the volume's list of actions. So a program that is killed anywhere continues
with the same decision, and two programs at once take the same step.

Two droplets can't have the volume: DigitalOcean attaches a volume to one droplet only, and an attach is requested only
if no droplet has the volume and no action on it is in progress. The detach is the fence: from then on the old droplet
gets I/O errors, whatever still runs there.

The servers can't tell a dead host from one that only they can't reach. If most hosts are down at once, the servers'
own network is the likelier cause, and a person decides. A cluster with one host has nothing to compare it with: its
host is moved. A move of a living host takes its clubs away for about a minute and loses nothing. Without the move a
dead host would wait for a person, which is what a takeover is to prevent.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

SETTLE_SECONDS = 900
"""Time that a host has to become a Nomad node after its volume was attached, and time before it is moved again."""

STARTS = 2
"""Droplets on which a host's node may fail to start before a person is asked: the cause may be the volume, which no
other droplet mends."""

DETACH_SECONDS = 300
"""Time after the first request of a detach at which a person is asked."""


@dataclass(frozen=True)
class Droplet:
    """A worker."""

    number: int
    is_active: bool
    volumes: frozenset[str]
    name: str = ""
    memory_mib: int = 0
    """0 if unknown."""


@dataclass(frozen=True)
class Action:
    """An action on a volume; times are Unix times in seconds."""

    kind: str
    """'attach', 'detach' or another type of the API."""
    status: str
    """'in-progress', 'completed' or 'errored'."""
    started: float


def running_action(actions: Collection[Action]) -> Action | None:
    """The action on a volume that is in progress.

    DigitalOcean refuses an action while another one runs, so one that a later one follows is over, even if it stays
    listed as in progress. A detach is over for certain only after a later attach or detach: until then the old droplet
    may still write, whatever else happened to the volume.
    """

    def is_followed(action: Action) -> bool:
        later = [a.kind for a in actions if a.started > action.started]
        return bool({"attach", "detach"} & set(later) if action.kind == "detach" else later)

    return next((a for a in actions if a.status == "in-progress" and not is_followed(a)), None)


def failed_attaches(actions: Collection[Action]) -> int:
    """How many attaches failed since the last detach."""
    detached = max((a.started for a in actions if a.kind == "detach"), default=0.0)
    return sum((a.kind, a.status) == ("attach", "errored") and a.started >= detached for a in actions)


@dataclass(frozen=True)
class Node:
    """The Nomad node of a host, which keeps its ID on the volume."""

    is_ready: bool
    since: float
    """Unix time of the last change of its status."""
    silent_before: float = 0.0
    """Seconds without a heartbeat until that change, at least."""
    droplet: int | None = None
    """The droplet that registered it; None if unknown."""


@dataclass(frozen=True)
class HostView:
    """What is known of a host at one moment."""

    name: str
    volume: str
    address: str
    carrier: int | None
    """The droplet that has the volume."""
    address_at: int | None
    """The droplet that has the address."""
    actions: tuple[Action, ...]
    node: Node | None
    cluster: str
    """The cluster's stack, for the commands in messages."""
    unknown_since: float = 0.0
    """If there is no node: since when this program sees none. A Nomad that was restored or filled again may not know
    the nodes yet."""
    back_since: float = 0.0
    """When Nomad came back from a longer absence; 0 if it was there all the time. If it was restored from a snapshot,
    a node that was down then is down until its agent is heard of."""

    @property
    def is_serving(self) -> bool:
        """Whether its node is ready, on the droplet that has the volume: an old agent that was cut off may be heard of
        again after its volume was taken away."""
        return bool(self.node and self.node.is_ready and self.node.droplet in (None, self.carrier))

    @property
    def running(self) -> Action | None:
        """The action on the volume that is in progress."""
        return running_action(self.actions)

    @property
    def is_busy(self) -> bool:
        """Whether an action on the volume is in progress."""
        return self.running is not None

    @property
    def attached_at(self) -> float:
        """When the volume was last attached by an action; 0 if never. The last attach is how the carrier got it, even
        if DigitalOcean calls that attach errored."""
        return max((a.started for a in self.actions if a.kind == "attach"), default=0.0)

    @property
    def was_moved(self) -> bool:
        """Whether the last attach followed a detach, so that it was no first placement."""
        return any(a.kind == "detach" and a.started <= self.attached_at for a in self.actions)

    @property
    def failed_starts(self) -> int:
        """How many droplets got the volume since Nomad last heard of its node. If there is no node, older moves may be
        those of another Nomad, in which it started."""
        since = self.node.since if self.node else self.unknown_since - SETTLE_SECONDS
        attaches = [a for a in self.actions if a.kind == "attach" and a.started > since]
        return sum(a.status != "errored" or a.started == self.attached_at for a in attaches)

    @property
    def first_detach(self) -> float | None:
        """When the detach from the present carrier was first requested while its node is down; None if it was not.

        One of an earlier failure, after which the node was ready again, does not count.
        """
        since = self.attached_at
        if self.node and not self.node.is_ready:
            since = max(since, self.node.since)
        return min((a.started for a in self.actions if a.kind == "detach" and a.started > since), default=None)

    @property
    def detaching_since(self) -> float | None:
        """When the detach in progress was requested; None if none is in progress."""
        return self.running.started if self.running and self.running.kind == "detach" else None


@dataclass(frozen=True)
class Step:
    """What to do next: `kind` is 'fine', 'wait', 'ask', 'foreign', 'refused', 'retire', 'detach', 'attach' or 'assign';
    'remind' for what is no host's (`watch.py`); 'silent' for one of many hosts about which a service does not answer.

    'refused' is a service's answer to a query about the host, for example that its volume does not exist.
    """

    kind: str
    text: str = ""
    droplet: int = 0


@dataclass(frozen=True)
class Rules:
    """How a caller decides."""

    after_seconds: float = 60
    """Seconds for which Nomad has to have no heartbeat of a node."""
    may_detach: bool = True
    """False for `pulumi up`, which places hosts that no droplet has and never takes one away."""
    leave: Collection[str] = field(default_factory=frozenset)
    """Hosts that a person moves away, whatever their node's state and however long a detach takes."""


@dataclass(frozen=True)
class Heard:
    """Of how many hosts the servers hear."""

    hosts: int
    """Hosts that were a Nomad node at some time."""
    down: int
    """Those whose node is down now, whatever the cause."""

    @classmethod
    def of(cls, nodes: Iterable[Node | None]) -> "Heard":
        """Count them."""
        known = [node for node in nodes if node]
        return cls(len(known), sum(not node.is_ready for node in known))

    @property
    def is_too_little(self) -> bool:
        """Whether the servers may be the ones that are cut off: more than one host is down, and they are the most."""
        return self.down > 1 and 2 * self.down > self.hosts


def decide(
    host: HostView,
    droplets: Mapping[int, Droplet],
    retired: Collection[int],
    now: float,
    rules: Rules,
    heard: Heard,
) -> Step:
    """The next step for `host`.

    `droplets` are the workers. `retired` are those that lost a host once: they may be dead, or alive with I/O errors,
    and get no host until they are rebuilt. `heard` is about all hosts.
    """
    if host.running:
        return _in_progress(host, host.running, now, rules)
    if host.carrier is None:
        spare = choose_spare(droplets, retired)
        if spare is None:
            return Step("ask", f"host {host.name}: no droplet has its volume, and {no_spare(host.cluster)}")
        return Step("attach", f"host {host.name}: attach its volume to droplet {spare}", spare)
    if host.carrier not in droplets:
        return Step("foreign", _foreign(host), host.carrier)
    leaves = host.name in rules.leave
    if host.is_serving and not leaves:
        return _follow(host) or Step("fine", f"host {host.name} is on droplet {host.carrier}")
    reason = None if leaves else _not_yet(host, now, rules)
    if reason:
        return _follow(host) or Step("wait", f"host {host.name}: {reason}")
    if not leaves and host.node and host.node.is_ready:
        return _follow(host) or Step("ask", _elsewhere(host, host.node))
    if heard.is_too_little and not leaves:
        return _follow(host) or Step("ask", _cut_off(host, heard))
    if host.failed_starts >= STARTS and not leaves:
        return Step("ask", _does_not_start(host))
    if choose_spare(droplets, retired) is None:
        return Step("ask", f"host {host.name} is down, and {no_spare(host.cluster)}")
    if not leaves and host.first_detach is not None and now - host.first_detach > DETACH_SECONDS:
        return Step("ask", _stuck(host, rules))
    if host.carrier not in retired:
        text = f"host {host.name}: droplet {host.carrier} is excluded from taking a host until it is rebuilt"
        return Step("retire", text, host.carrier)
    return Step("detach", f"host {host.name}: detach its volume from droplet {host.carrier}", host.carrier)


def spares_of(droplets: Mapping[int, Droplet], retired: Collection[int]) -> list[int]:
    """The spares: workers that are on, have no volume and never lost a host."""
    return [d.number for d in droplets.values() if d.is_active and not d.volumes and d.number not in retired]


def choose_spare(droplets: Mapping[int, Droplet], retired: Collection[int]) -> int | None:
    """The spare with the lowest number."""
    return min(spares_of(droplets, retired), default=None)


def no_spare(cluster: str, besides: str = "") -> str:
    """That there is no spare, and what to do; `besides` is for whom the others are."""
    return (
        f"there is no spare worker{besides}. Raise 'cluster.workers.spares', or the generation of a worker that lost a "
        f"host, and run `pulumi up --stack {cluster}`"
    )


def _in_progress(host: HostView, running: Action, now: float, rules: Rules) -> Step:
    if running.kind == "detach" and now - running.started > DETACH_SECONDS:
        return Step("ask", _stuck(host, rules))
    if now - running.started > DETACH_SECONDS:
        text = f"host {host.name}: the {running.kind} of its volume is not over after {DETACH_SECONDS} s"
        return Step("ask", f"{text}. Ask DigitalOcean's support to end it: volume {host.volume}")
    return Step("wait", f"host {host.name}: the {running.kind} of its volume is in progress")


def _follow(host: HostView) -> Step | None:
    """The address follows the volume."""
    if host.carrier is None or host.address_at == host.carrier:
        return None
    return Step("assign", f"host {host.name}: assign {host.address} to droplet {host.carrier}", host.carrier)


def _not_yet(host: HostView, now: float, rules: Rules) -> str | None:
    """Why the host is not moved yet; None if it is to be moved."""
    if not rules.may_detach:
        return "its node is not ready"
    if (host.node is None or host.was_moved) and now - host.attached_at < SETTLE_SECONDS:
        return f"its node is not ready, and its volume was attached less than {SETTLE_SECONDS // 60} minutes ago"
    if host.node is None:
        seen = now - host.unknown_since < SETTLE_SECONDS
        return f"Nomad has known no node for it for less than {SETTLE_SECONDS // 60} minutes" if seen else None
    # A time in the future was written by a clock that was ahead.
    if host.node.since < host.back_since and 0 <= now - host.back_since < SETTLE_SECONDS:
        minutes = f"{SETTLE_SECONDS // 60} minutes"
        return f"its node was down already when Nomad came back or was restored, less than {minutes} ago"
    if now - host.node.since + host.node.silent_before < rules.after_seconds:
        return f"Nomad has had no heartbeat of its node for less than {rules.after_seconds:.0f} s"
    return None


def _foreign(host: HostView) -> str:
    return (
        f"host {host.name}: its volume is attached to droplet {host.carrier}, which is not a worker of this cluster. "
        f"Run `doctl compute volume-action detach {host.volume} {host.carrier} --wait`, then "
        f"`./pds repair {host.cluster}`"
    )


def _elsewhere(host: HostView, node: Node) -> str:
    """Nomad was restored from a snapshot of before a move: the host may be well, and its agent has to register."""
    return (
        f"host {host.name}: its node is ready and names droplet {node.droplet}, but its volume is on droplet "
        f"{host.carrier}. Nothing is moved. If its clubs answer, run `./pds ssh {host.cluster} --host {host.name} -- "
        f"systemctl restart nomad.service`, which loses nothing. If not, run `./pds repair {host.cluster}`"
    )


def _does_not_start(host: HostView) -> str:
    return (
        f"host {host.name}: as far as Nomad knows, its node started on none of the last {host.failed_starts} droplets "
        "that got its volume. It is not moved again, because the volume may be the cause, and a check of its file "
        f"system may still run. Read `./pds ssh {host.cluster} --host {host.name} -- journalctl -u 'pds-carry@*' -u "
        f"pds-volume-prepare`. If the droplet is the cause, run `./pds repair {host.cluster}`"
    )


def _cut_off(host: HostView, heard: Heard) -> str:
    return (
        f"host {host.name}: {heard.down} of {heard.hosts} hosts are down. The servers themselves may be cut off, "
        f"so nothing is moved. If the hosts do not answer from elsewhere either, run `./pds repair {host.cluster}`"
    )


def _stuck(host: HostView, rules: Rules) -> str:
    # A caller that detaches nothing of its own accord is `up`, or `./pds repair` itself.
    repair = f"Run `./pds repair {host.cluster}`. " if rules.may_detach else ""
    # While it is in progress, DigitalOcean may hide the droplet.
    droplet = f"droplet {host.carrier}" if host.carrier else "its droplet"
    return (
        f"host {host.name}: its volume is still not detached from {droplet} after {DETACH_SECONDS} s. "
        f"{repair}Deleting that droplet always detaches the volume"
    )
