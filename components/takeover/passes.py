"""One pass over the hosts: look, decide, do one step for each. `program.py` repeats it; `pulumi up` and `./pds` too."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.takeover import addresses
from components.takeover.decide import (
    DETACH_SECONDS,
    Heard,
    HostView,
    Node,
    Rules,
    Step,
    decide,
    failed_attaches,
    no_spare,
    spares_of,
)
from components.takeover.endpoint import ENDPOINT, Endpoint
from components.takeover.interfaces import UPGRADE, Cloud, ClusterHost, Servers
from components.takeover.services import Limited, Refused, Unavailable
from components.takeover.spares import Attaching, OtherHosts
from components.takeover.watch import Watch

LEASE_SECONDS = 60.0
LONGEST_LEASE_SECONDS = 2 * LEASE_SECONDS
"""A lease that ends later was written by a clock that is ahead, and holds no other program."""
AWAY_SECONDS = 600.0
"""A lease that ended longer ago shows that Nomad was away, or that its state is that of an older snapshot."""
RATE = "(rate)"
"""In place of a host's name: the rate of requests that DigitalOcean takes, which is one for all hosts."""
SILENT = "(silent)"
"""In place of a host's name: the hosts about which a service does not answer, if there are more than `_FEW_SILENT`."""
_FEW_SILENT = 3
_TRIES = 5
_CALM, _CALM_BESIDE_URGENT = 30, 6
"""Healthy hosts that are checked in a minute, with four requests each: if no other host is urgent, and otherwise."""
_STALE_SECONDS, _STALE_OF_EACH = 300.0, 20.0
"""Time after which a look at a host is too old, at least, and for each host."""
MOVING = frozenset({"retire", "detach", "attach", "assign"})
"""Steps of a host that is moved."""
SETTLED = frozenset({"fine", "foreign", "refused"})
"""Steps of a host with which nothing is under way."""


@dataclass
class Passes:
    """Passes over the hosts of one cluster. `now` is Unix time in seconds."""

    cloud: Cloud
    servers: Servers
    places: tuple[ClusterHost, ...]
    tag: str
    rules: Rules
    holder: str
    """The name under which this program takes the lease; '' for a caller that needs none, because it never detaches."""
    now: Callable[[], float] = time.time
    seizes: bool = False
    """Whether it takes the lease of another program: a person has decided."""
    tell: Callable[[str, Step], None] = lambda _host, _step: None
    """Told each step once it is done, with its host; '' and RATE are for what concerns all hosts."""
    calm_seconds: float = 0.0
    """Time in which Nomad alone is asked about a host that is well. DigitalOcean is asked again after it."""
    limited_seconds: float = 0.0
    """After a pass that was cut short: the time until DigitalOcean takes the next request."""
    endpoint: Endpoint | None = None
    """The address of the servers; None if it is not moved."""
    watch: Watch | None = None
    """Looks at the other servers and the spares; None if a person does."""
    notes: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda _items: {}
    """Further items that are written with the lease, by those that there are; one that is '' is removed."""
    is_complete: bool = False
    """Whether the last pass knew everything that it acts upon: each host was looked at lately, and each service
    answered."""
    _unknown: dict[str, float] = field(default_factory=dict)
    """Hosts without a node, and since when this program sees none."""
    _refused: dict[str, int] = field(default_factory=dict)
    """How many attaches of a host DigitalOcean refused, which leaves no action. The next one is to another spare."""
    _leased_until: float = 0.0
    """The end of the lease that this program wrote last."""
    _back_since: float = 0.0
    """See `HostView`."""
    _last: dict[str, tuple[Step, float]] = field(default_factory=dict)
    """The last step of each host, and when it was."""

    def once(self) -> list[Step]:
        """The steps of one pass, already done. A host about which a service does not answer stays as it is, and the
        other hosts continue. Once DigitalOcean takes no more requests, the pass is cut short. Raises Unavailable if
        nothing is known of any host, and Refused if the token lacks a right. An error about the servers' address is
        raised after the hosts."""
        self.limited_seconds, self.is_complete = 0.0, False
        if self.holder and not self.take_lease():
            held = Step("wait", "another takeover holds the lease")
            self.tell("", held)
            return [held]
        nodes = {place.name: self.servers.node(place.name) for place in self.places}
        heard = Heard.of(nodes.values())
        self.tell("", Step("fine"))
        lost = self._keep_endpoint()
        if isinstance(lost, Limited):
            return self._cut_short(lost)
        silent: dict[str, Unavailable] = {}
        for place in self._urgent_first(nodes):
            try:
                step = self._one(place, heard)
            except Limited as error:
                return self._cut_short(error)
            except Unavailable as error:
                silent[place.name] = error
                self._last[place.name] = Step("wait", f"host {place.name}: {error}"), self.now()
                continue
            except Refused as error:
                if error.status in (401, 403):
                    raise
                step = Step("refused", f"host {place.name}: {error}")
            except Exception:
                # It is not the first one in the next pass, or the others would get none.
                self._last[place.name] = Step("wait", f"host {place.name}: not looked at"), self.now()
                raise
            self._last[place.name] = step, self.now()
            self.tell(place.name, step)
        self.tell(RATE, Step("fine"))
        self._tell_silent(silent)
        if lost:
            raise lost
        if silent and len(silent) == len(self.places):
            raise list(silent.values())[-1]
        self.is_complete = self._watch() and not silent and self._is_recent()
        unseen = Step("wait", "not checked yet")
        return [self._last.get(place.name, (unseen, 0.0))[0] for place in self.places]

    def _keep_endpoint(self) -> Exception | None:
        """Check the address of the servers; return the error, for a host that its node has joined needs no answer to
        this. `Endpoint.hold` keeps the others where they are."""
        if self.endpoint:
            try:
                step = self.endpoint.once(self.now(), self.rules.after_seconds, self._back_since)
            except Exception as error:
                return error
            self.tell(ENDPOINT, step)
        return None

    def _tell_silent(self, hosts: Iterable[str]) -> None:
        """Tell of the hosts about which a service does not answer. Of many at once, only their number is for a person:
        a message for each would say the same."""
        many = len(silent := list(hosts)) > _FEW_SILENT
        for name in silent:
            step = self._last[name][0]
            self.tell(name, Step("silent", step.text) if many else step)
        text = f"more than {_FEW_SILENT} hosts cannot be looked at, because a service does not answer. The log has why"
        self.tell(SILENT, Step("wait", text) if many else Step("fine"))

    def _is_recent(self) -> bool:
        """Whether the address of the servers and each host were looked at lately. Of many hosts that are well, a pass
        looks at some."""
        if self.endpoint and self.endpoint.is_silent:
            return False
        oldest = self.now() - max(_STALE_SECONDS, 2 * self.calm_seconds, _STALE_OF_EACH * len(self.places))
        return all(place.name in self._last and self._last[place.name][1] >= oldest for place in self.places)

    def _watch(self) -> bool:
        """Look at the other servers and the spares; whether the services answered. A host that is moved comes first."""
        if self.watch is None:
            return True
        if any(step.kind in MOVING for step in self.last_steps()):
            return not self.watch.is_silent
        try:
            steps = self.watch.once(self.now(), self.retired)
        except Unavailable:
            return False
        for name, step in steps:
            self.tell(name, step)
        return not self.watch.is_silent

    def last_steps(self) -> list[Step]:
        """The last step of each host that was checked."""
        return [step for step, _at in self._last.values()]

    def _urgent_first(self, nodes: Mapping[str, Node | None]) -> list[ClusterHost]:
        """The hosts to check, in the order in which they get the requests that DigitalOcean takes: those that are
        away or in the middle of a move, then those that were checked longest ago. A program with many hosts does not
        check all healthy ones at once: DigitalOcean's limit of a minute would be used up for other programs, too."""
        never = (Step("fine"), float("-inf"))

        def is_urgent(place: ClusterHost) -> bool:
            kind, node = self._last.get(place.name, never)[0].kind, nodes[place.name]
            is_away = node is None or not node.is_ready or place.name in self.rules.leave
            return kind not in SETTLED or (kind == "fine" and is_away)

        def looked_at(place: ClusterHost) -> float:
            return self._last.get(place.name, never)[1]

        by_age = sorted(self.places, key=looked_at)
        urgent = [place for place in by_age if is_urgent(place)]
        calm = [place for place in by_age if not is_urgent(place)]
        due = [place for place in calm if looked_at(place) <= self.now() - self.calm_seconds]
        if self.calm_seconds:
            recent = sum(looked_at(place) > self.now() - 60 for place in calm)
            due = due[: max((_CALM_BESIDE_URGENT if urgent else _CALM) - recent, 0)]
        return urgent + due

    def _cut_short(self, error: Limited) -> list[Step]:
        """End a pass in which DigitalOcean takes no more requests. The next one begins with what is urgent, and then
        takes the hosts that this one did not reach."""
        self.limited_seconds = error.seconds
        wait = Step("wait", f"{error}, perhaps because another program uses it")
        self.tell(RATE, wait)
        return [self._last.get(place.name, (wait, 0.0))[0] for place in self.places]

    def view(self, place: ClusterHost) -> HostView:
        """What is known of a host now. The carrier is asked for before the actions: if a detach that is in progress
        hides the carrier already, the action shows it."""
        node = self.servers.node(place.name)
        carrier = self.cloud.carrier(place.volume)
        actions = self.cloud.actions(place.volume)
        address_at = self.cloud.address_at(place.address)
        if node is not None:
            self._unknown.pop(place.name, None)
        since = 0.0 if node else self._unknown.setdefault(place.name, self.now())
        return HostView(
            place.name,
            place.volume,
            place.address,
            carrier,
            address_at,
            actions,
            node,
            cluster_of(self.tag),
            since,
            self._back_since,
        )

    def retired(self) -> dict[int, str]:
        """Droplets that lost a host, and which one."""
        return _retired(self.servers.state()[0])

    def spare_for(self, place: ClusterHost) -> int | None:
        """The spare that this host may get, beside those that other hosts need. Raises Unavailable."""
        droplets, retired = self.cloud.workers(self.tag), self.retired()
        spares = sorted(spares_of(droplets, retired))
        return spares[0] if len(spares) > len(self._beside(place).promised(droplets, retired)) else None

    def retire(self, droplet: int, host: str | None = UPGRADE) -> None:
        """Let a worker get no host any more, because it is about to be rebuilt, or to lose `host`; with None it may get
        one again. Raises Unavailable."""
        for _ in range(_TRIES):
            items, index = self.servers.state()
            retired = _retired(items)
            if retired.get(droplet) == host:
                return
            retired = {number: name for number, name in retired.items() if number != droplet}
            retired |= {droplet: host} if host else {}
            items["retired"] = json.dumps({str(number): name for number, name in sorted(retired.items())})
            if self.servers.write(items, index):
                return
        raise Unavailable("Another program keeps changing the Nomad variable takeover/state")

    def _readmit(self, droplet: int, place: ClusterHost) -> None:
        """A host that is well does not leave its droplet. Another one may."""
        if self.retired().get(droplet) in (place.name, UPGRADE):
            self.retire(droplet, None)

    def take_lease(self) -> bool:
        """Whether this program may act now. Only for order: each step is safe with two programs at once. Raises
        Unavailable."""
        items, index = self.servers.state()
        lease: dict[str, Any] = json.loads(items.get("lease", "{}"))
        now = self.now()
        if not self.seizes and self._is_another_s(lease):
            return False
        # The job renews the lease in each pass. In a snapshot the lease is as old as the snapshot.
        renewed = lease.get("renewed", lease.get("until"))
        if self.seizes:
            # The clock of a person's machine decides nothing about other hosts: the job's last time stays.
            kept = {"renewed": renewed}
        else:
            kept = {}
            if renewed is not None and float(renewed) < (self._leased_until or now) - AWAY_SECONDS:
                items["back_since"] = json.dumps(now)
        items = {name: text for name, text in {**items, **self.notes(items)}.items() if text}
        items["lease"] = json.dumps({"holder": self.holder, "until": now + LEASE_SECONDS, **kept})
        if not self.servers.write(items, index):
            return False
        self._leased_until = now + LEASE_SECONDS
        self._back_since = float(json.loads(items.get("back_since", "0")))
        return True

    def is_held(self) -> bool:
        """Whether another program has the lease. Raises Unavailable."""
        return self._is_another_s(json.loads(self.servers.state()[0].get("lease", "{}")))

    def _is_another_s(self, lease: Mapping[str, Any]) -> bool:
        left = float(lease.get("until", 0)) - self.now()
        return lease.get("holder") != self.holder and 0 < left <= LONGEST_LEASE_SECONDS

    def give_back(self) -> None:
        """End this program's lease, so that another one acts at once. Raises Unavailable and Refused."""
        items, index = self.servers.state()
        lease = json.loads(items.get("lease", "{}"))
        if lease.get("holder") == self.holder:
            items["lease"] = json.dumps(lease | {"until": self.now()})
            self.servers.write(items, index)

    def _one(self, place: ClusterHost, heard: Heard) -> Step:
        host, step = self._decided(place, heard)
        if step.kind == "attach":
            # A droplet shows a volume only when its attach is over, so the spare is chosen again after this question.
            # An attach that does not end, or of which DigitalOcean does not tell, has a spare: skip it.
            attaching = self._beside(place).attaching(self.cloud.workers(self.tag))
            for name, since in attaching.since.items():
                if self.now() - since <= DETACH_SECONDS:
                    return Step("wait", f"host {place.name}: waits for the attach of host {name}")
            host, step = self._decided(place, heard, attaching)
        try:
            step = self._do(step, place)
        except Refused as error:
            if error.status in (401, 403):
                raise  # the token lacks a right, and will lack it the next time
            # Another program was faster, or the droplet has a pending event: the next pass sees what is true.
            if step.kind == "attach":
                self._refused[place.name] = self._refused.get(place.name, 0) + 1
            return Step("wait", f"{step.text}: refused ({error})")
        if host.carrier is not None:
            self._refused.pop(place.name, None)
        if step.kind == "fine" and host.carrier is not None:
            self._readmit(host.carrier, place)
        return step

    def _decided(self, place: ClusterHost, heard: Heard, attaching: Attaching | None = None) -> tuple[HostView, Step]:
        """With `attaching`, those hosts' spares are no choice. After a failed attach it is the next spare's turn."""
        host, droplets, retired = self.view(place), dict(self.cloud.workers(self.tag)), self.retired()
        if attaching:
            spares = spares_of(droplets, retired)
            free = sorted(set(spares) - attaching.droplets)
            for name in attaching.since:
                free = self._without_turn(free, name, attaching.failed.get(name, 0))
            chosen = set(free) - set(self._without_turn(free, place.name, failed_attaches(host.actions)))
            for number in set(spares) - {*chosen, host.carrier}:
                del droplets[number]
        step = decide(host, droplets, retired, self.now(), self.rules, heard)
        if self.endpoint and place.name not in self.rules.leave:
            step = self.endpoint.hold(host, step, self.now())
        if step.kind in ("retire", "detach"):
            before = self.places if step.kind == "retire" else self.places[: self.places.index(place)]
            promised = self._beside(place).promised(droplets, retired, before)
            if len(spares_of(droplets, retired)) <= len(promised):
                besides = f" besides that for {', '.join(promised)}"
                step = Step("ask", f"host {place.name} is down, and {no_spare(host.cluster, besides)}")
        return host, step

    def _without_turn(self, free: list[int], host: str, failed: int) -> list[int]:
        """The spares without the one whose turn it is for a host of which so many attaches failed."""
        turn = (failed + self._refused.get(host, 0)) % max(len(free), 1)
        return free[:turn] + free[turn + 1 :]

    def _beside(self, place: ClusterHost) -> OtherHosts:
        return OtherHosts(self.cloud, self.servers, self.places, place)

    def _do(self, step: Step, place: ClusterHost) -> Step:
        """The step that was done."""
        if step.kind == "retire":
            self.retire(step.droplet, place.name)
        elif step.kind == "detach":
            self.cloud.detach(place.volume, step.droplet)
        elif step.kind == "attach":
            self.cloud.attach(place.volume, step.droplet)
        elif step.kind == "assign":
            return addresses.assign(self.cloud, self.places, place, step)
        return step


def _retired(items: Mapping[str, str]) -> dict[int, str]:
    return {int(number): name for number, name in json.loads(items.get("retired", "{}")).items()}


def cluster_of(tag: str) -> str:
    """The stack of the cluster whose workers have this tag (`worker_tag`, components/render/cluster/user_data.py)."""
    return tag.removeprefix("pds-").removesuffix("-worker")


def places_of(hosts: Mapping[str, Mapping[str, str]]) -> tuple[ClusterHost, ...]:
    """The hosts of a map of `volume_id` and `address` by name."""
    return tuple(ClusterHost(name, host["volume_id"], host["address"]) for name, host in sorted(hosts.items()))


def is_placed(steps: Iterable[Step]) -> bool:
    """Whether nothing is left to attach or to assign."""
    return all(step.kind == "fine" or step.text.endswith("its node is not ready") for step in steps)
