"""The address that leads operators and workers to one of several servers, and where it leads if that one is down.

A worker's agent knows this address only. So the node of a host that was moved never becomes ready while the address
leads to a server that is down. An assignment takes nothing away: PDSes and their agents, which know all servers from
Nomad's answers, notice nothing. So the address may move as often as its server is down.

As for hosts, no step is remembered: where the address leads is DigitalOcean's answer, and which server is down is
Nomad's, by its majority. A program that cannot reach that majority gets no answer, and moves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from components.takeover.decide import SETTLE_SECONDS, Droplet, HostView, Node, Step
from components.takeover.services import Limited, Refused, Unavailable

ENDPOINT = "(endpoint)"
"""In place of a host's name: the address of the servers."""
UNKNOWN_SECONDS = 300.0
"""Time for which the address leads to no droplet, or to a server without a node, before it is moved. `pulumi up`
assigns the address within seconds after it rebuilt a server."""
REPEAT_SECONDS = 30.0
"""Time before an assignment is requested again."""
_CALM, _URGENT = 60.0, 5.0
"""Seconds between two queries to DigitalOcean, of two requests each: while the last known server is ready, and
otherwise. With the hosts' requests (`program.py`) that is less than 250 in a minute."""
_LONG = 600.0
"""Seconds after which nothing is urgent any more, for DigitalOcean's limit of an hour."""


class Cloud(Protocol):
    """DigitalOcean (`services.py`)."""

    def workers(self, tag: str) -> dict[int, Droplet]: ...
    def address_at(self, address: str) -> int | None: ...
    def assigned_at(self, address: str) -> float | None: ...
    def assign(self, address: str, droplet: int) -> None: ...


class Servers(Protocol):
    """Nomad (`services.py`)."""

    def server_nodes(self) -> dict[str, Node]: ...


@dataclass(frozen=True)
class EndpointView:
    """What is known of the address and the servers at one moment."""

    address: str
    cluster: str
    """The cluster's stack, which begins the servers' names."""
    at: int | None
    """The droplet that has the address."""
    droplets: Mapping[int, Droplet]
    """The servers."""
    nodes: Mapping[str, Node]
    """Their Nomad nodes, by name."""
    unknown_since: float = 0.0
    """If the address leads to no node: since when this program sees that."""
    back_since: float = 0.0
    """See `HostView`."""
    requests: int = 0
    """Assignments since the address last led to a ready server, whether DigitalOcean took them or refused them."""

    def node(self, droplet: int | None) -> Node | None:
        """The node of a server."""
        found = self.droplets.get(droplet or 0)
        return self.nodes.get(found.name.removeprefix("pds-")) if found else None

    def server(self, droplet: int) -> str:
        """How a server is shown: with its number, if its name has one."""
        name = self.droplets[droplet].name
        number = name.removeprefix(f"pds-{self.cluster}-server-")
        return f"server {number} (droplet {droplet})" if number.isdigit() else f"droplet {droplet}"


def server_tag(cluster: str) -> str:
    """The tag of the servers (`server_tag`, components/render/cluster/user_data.py)."""
    return f"pds-{cluster}-server"


def decide_endpoint(view: EndpointView, now: float, after_seconds: float) -> Step:
    """The next step for the address: 'fine', 'wait', 'ask' or 'assign'."""
    node = view.node(view.at)
    if node and node.is_ready:
        return Step("fine")
    if view.at is not None and view.at not in view.droplets:
        return Step(
            "ask",
            f"the servers' address {view.address} leads to droplet {view.at}, which is no server of this cluster. "
            "Nothing is moved. Run `doctl compute reserved-ip-action assign "
            f"{view.address} ID` with the ID of a server",
        )
    where = "no droplet" if view.at is None else f"{view.server(view.at)}, which is down"
    down = f"the servers' address {view.address} leads to {where}"
    if reason := _not_yet(view, node, now, after_seconds):
        return Step("wait", f"{down}; {reason}")
    target = _target(view)
    if target is None:
        return Step("wait", f"{down}, and no other server is ready")
    return Step("assign", f"{down}. It is assigned to {view.server(target)}. {_what_to_write(view, target)}", target)


def _not_yet(view: EndpointView, node: Node | None, now: float, after_seconds: float) -> str:
    """Why the address is not moved yet; empty if it is to be moved."""
    if node is None:
        waits = now - view.unknown_since < UNKNOWN_SECONDS
        return f"this has been so for less than {UNKNOWN_SECONDS / 60:.0f} minutes" if waits else ""
    if node.since < view.back_since and now - view.back_since < SETTLE_SECONDS:
        return f"it was down already when Nomad came back or was restored, less than {SETTLE_SECONDS // 60} minutes ago"
    if now - node.since + node.silent_before < after_seconds:
        return f"Nomad has had no heartbeat of it for less than {after_seconds:.0f} s"
    return ""


def _target(view: EndpointView) -> int | None:
    """The first server, by name, that is on and whose node is ready. After each request it is the next one's turn:
    DigitalOcean may refuse one server for ever, for example because it has another address."""
    ready = [
        (droplet.name, number)
        for number, droplet in view.droplets.items()
        if number != view.at and droplet.is_active and (node := view.node(number)) and node.is_ready
    ]
    return sorted(ready)[view.requests % len(ready)][1] if ready else None


def _what_to_write(view: EndpointView, target: int) -> str:
    number = view.droplets[target].name.rpartition("-")[2]
    return (
        f"Write 'cluster.servers.endpoint: {number}' into Pulumi.{view.cluster}.yaml and run `pulumi up --stack "
        f"{view.cluster}`, before a refresh and before the lost server is rebuilt"
    )


@dataclass
class Endpoint:
    """Looks at the address of the servers, and moves it."""

    cloud: Cloud
    servers: Servers
    address: str
    cluster: str
    is_silent: bool = False
    """Whether the last look got no answer."""
    is_unclear: bool = False
    """Whether the last call of `once` ended with an error."""
    _view: EndpointView | None = None
    _step: Step = field(default_factory=lambda: Step("fine"))
    _looked_at: float = float("-inf")
    _astray_since: float | None = None
    """Since when the address leads to no ready server; None if it leads to one."""
    _unknown_since: float | None = None
    _requested_at: float = float("-inf")
    _requests: int = 0
    """See `EndpointView`."""
    _back_at: float | None = None
    """When the address last began to lead to a ready server again, after a time in which it was to be moved; None if
    this program does not know."""

    def once(self, now: float, after_seconds: float, back_since: float) -> Step:
        """The present step, already done. Asks DigitalOcean only if its limits leave room. A look without an answer
        changes nothing of what is known. Raises Limited, Unavailable if Nomad does not answer, and Refused if the
        token lacks a right."""
        self.is_unclear = True
        step = self._now_or_kept(now, after_seconds, back_since)
        self.is_unclear = False
        return step

    def _now_or_kept(self, now: float, after_seconds: float, back_since: float) -> Step:
        nodes = self.servers.server_nodes()
        if now - self._looked_at < self._pause(nodes, now):
            return self._step
        before, self._looked_at, self.is_silent = self._looked_at, now, True
        try:
            self._step = self._look(nodes, now, after_seconds, back_since)
        except Refused as error:
            if error.status in (401, 403):
                raise
            self.is_silent = False
            return Step("refused", f"the servers' address: {error}")
        except Limited:
            raise  # the limit is one for all that the pass asks
        except Unavailable as error:
            return Step("wait", f"the servers' address {self.address}: {error}")
        except Exception:
            self._looked_at = before  # so that no pass acts on an older look
            raise
        self.is_silent = False
        if self._step.kind != "fine":
            self._astray_since = now if self._astray_since is None else self._astray_since
        elif self._astray_since is not None:
            if now - self._astray_since >= after_seconds:
                self._back_at = now
            self._astray_since = None
        if self._step.kind == "fine":
            self._requests = 0
        return self._step

    def hold(self, host: HostView, step: Step, now: float) -> Step:
        """`step`, or a wait if the host would be moved although its node could not join: the address led to no ready
        server since its volume was attached, so the next droplet could not join either. Raises Unavailable and
        Refused."""
        has_joined = host.node is not None and host.node.since > host.attached_at
        if step.kind not in ("retire", "detach") or has_joined:
            return step
        if self._view is None:
            return Step("wait", f"host {host.name}: it is not known yet where the servers' address leads")
        if self.is_unclear:
            text = "its node is not ready, and it is not known where the servers' address leads now"
            return Step("wait", f"host {host.name}: {text}")
        if self._step.kind != "fine":
            return Step("wait", f"host {host.name}: its node cannot join, because the servers' address leads to none")
        if now - self._back_since() < SETTLE_SECONDS:
            minutes = f"{SETTLE_SECONDS // 60} minutes"
            text = f"its node is not ready, and the servers' address leads to a ready server for less than {minutes}"
            return Step("wait", f"host {host.name}: {text}")
        return step

    def _back_since(self) -> float:
        """See `_back_at`. A program that has seen no such time since it started asks once for the newest assignment."""
        if self._back_at is None:
            self._back_at = self.cloud.assigned_at(self.address) or float("-inf")
        return self._back_at

    def _pause(self, nodes: Mapping[str, Node], now: float) -> float:
        """Seconds between two looks."""
        if self._view is None:
            return 0.0
        node = replace(self._view, nodes=nodes).node(self._view.at)
        if self._astray_since is None:
            return _CALM if node and node.is_ready else _URGENT
        return _URGENT if now - self._astray_since < _LONG else _CALM

    def _look(self, nodes: Mapping[str, Node], now: float, after_seconds: float, back_since: float) -> Step:
        at = self.cloud.address_at(self.address)
        droplets = self.cloud.workers(server_tag(self.cluster))
        view = EndpointView(
            self.address, self.cluster, at, droplets, nodes, back_since=back_since, requests=self._requests
        )
        if view.node(at):
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        self._view = replace(view, unknown_since=self._unknown_since or 0.0)
        step = decide_endpoint(self._view, now, after_seconds)
        if step.kind != "assign":
            return step
        if now - self._requested_at < REPEAT_SECONDS:
            return Step("wait", f"the assignment of the servers' address {self.address} is in progress")
        try:
            self.cloud.assign(self.address, step.droplet)
        except Refused as error:
            if error.status in (401, 403):
                raise
            # Another program was faster, or the droplet has a pending event: the next look sees what is true.
            self._requests += 1
            return Step("wait", f"{step.text}: refused ({error})")
        self._requested_at, self._requests = now, self._requests + 1
        return step
