"""Who carries which host of a cluster, and bringing hosts back by hand; `./pds list` and `repair`.

The steps are the takeover's own (`components/takeover`), with the operator's DigitalOcean token instead of the
servers'.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from cli.cluster.endpoint import ServersAddress
from cli.errors import CommandError
from cli.lib.stack import Stack, digitalocean_token
from components.clients.cluster.hosts import once, passes_of
from components.clients.errors import PendingError, ServiceError
from components.settings.sections import ClusterOptions
from components.settings.sections.settings import Settings
from components.takeover.decide import DETACH_SECONDS, HostView, Rules, spares_of
from components.takeover.interfaces import UPGRADE, ClusterHost
from components.takeover.passes import Passes
from components.takeover.program import pause
from components.takeover.services import Refused, Unavailable

_NEEDED = ("worker_tag", "nomad_address", "nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem")
_ASKED = ("ask", "foreign", "refused")
_READY_SECONDS = 900.0
_START_SECONDS = 180.0
"""Time after the attach of a host's volume in which its node may still start."""


class ClusterError(CommandError):
    """The cluster cannot be inspected, or the host cannot be moved; the text says what to do."""


class _NoAnswerError(ClusterError):
    """DigitalOcean or Nomad gives no answer now, and may give one later."""


@dataclass(frozen=True)
class Cluster:
    """A cluster's outputs, and the token for its account."""

    stack: str
    outputs: Mapping[str, Any]
    token: str

    @classmethod
    def of(cls, stack: Stack) -> "Cluster":
        """Read it from the stack. Raises ClusterError and StackError."""
        outputs = stack.required_outputs(*_NEEDED, "nomad_management_token")
        token = digitalocean_token(stack)
        if not token:
            raise ClusterError("There is no DigitalOcean token. Set DIGITALOCEAN_TOKEN.")
        return cls(stack.name, outputs, token)

    def passes(self) -> Passes:
        """Passes that place what no droplet has."""
        outputs = self.outputs
        nomad = {
            "address": outputs["nomad_address"],
            "ca_pem": outputs["nomad_ca_pem"],
            "cert_pem": outputs["nomad_client_cert_pem"],
            "key_pem": outputs["nomad_client_key_pem"],
            "token": outputs["nomad_management_token"],
        }
        holder = f"{socket.gethostname()}:{os.getpid()}"
        rules = Rules(may_detach=False)
        passes = passes_of(nomad, outputs["hosts"], outputs["worker_tag"], self.token, rules, holder)
        passes.seizes = True
        return passes

    @property
    def servers_address(self) -> ServersAddress:
        """The address that leads to one of the servers."""
        return ServersAddress(self.stack, self.outputs, self.passes().cloud, self.token)

    def worker(self, droplet: int | None) -> str:
        """How a droplet is shown: with its number among the workers."""
        workers = [str(item) for item in self.outputs.get("workers") or []]
        known = f"worker {workers.index(str(droplet)) + 1}, " if str(droplet) in workers else ""
        return f"{known}droplet {droplet}"

    def clubs_on(self, host: str) -> str:
        """The clubs that the last `up` placed on a host."""
        clubs = self.outputs.get("clubs") or {}
        names = sorted(name for name, terms in clubs.items() if terms["datacenter"] == host)
        return f"clubs {', '.join(names)}" if names else "no club"


def require_cluster(stack: str, settings: Settings) -> ClusterOptions:
    """The section `cluster` of a stack file. Raises ClusterError if it has none."""
    if settings.cluster is None:
        raise ClusterError(f"{stack} is not a cluster: Pulumi.{stack}.yaml has no 'cluster'.")
    return settings.cluster


def views(passes: Passes) -> dict[str, HostView]:
    """All hosts as they are. Raises ClusterError."""
    return answered(lambda: {place.name: passes.view(place) for place in passes.places})


def looks(passes: Passes) -> tuple[dict[str, HostView], dict[str, str]]:
    """The hosts as they are, and why of others nothing is known. Raises ClusterError if nothing is known of any."""
    found: dict[str, HostView] = {}
    unknown: dict[str, ClusterError] = {}
    for place in passes.places:
        try:
            found[place.name] = view_of(passes, place)
        except ClusterError as error:
            unknown[place.name] = error
    if unknown and not found:
        raise min(unknown.values(), key=lambda error: not isinstance(error, _NoAnswerError))
    return found, {name: str(error) for name, error in unknown.items()}


def lines(cluster: Cluster) -> list[str]:
    """The hosts, spares and servers, a line each. Raises ClusterError."""
    passes, servers = cluster.passes(), cluster.servers_address
    if lost := answered(servers.lost):
        raise ClusterError(f"{lost} `./pds repair {cluster.stack}` assigns it to one of these, as a takeover does.")
    found, unknown = looks(passes)
    droplets = answered(lambda: passes.cloud.workers(passes.tag))
    retired = answered(passes.retired)
    text = []
    for host in found.values():
        where = f"on {cluster.worker(host.carrier)}" if host.carrier else "on no droplet"
        state = "ready" if host.is_serving else "NOT READY"
        address = "" if host.address_at == host.carrier else ", its address is elsewhere"
        text.append(f"host {host.name} ({host.address}) {where}: {state}{address}; {cluster.clubs_on(host.name)}")
    text += [f"host {name}: UNKNOWN. {reason}" for name, reason in unknown.items()]
    spares = spares_of(droplets, retired)
    text.append(f"spares: {', '.join(map(cluster.worker, spares)) or 'none'}")
    for number in sorted(set(retired) & set(droplets)):
        if droplets[number].volumes:
            continue
        why = "is to be rebuilt" if retired[number] == UPGRADE else f"lost host {retired[number]}"
        off = f" (if it hangs, first `doctl compute droplet-action power-off {number} --wait`)"
        hint = off if droplets[number].is_active else ""
        text.append(f"{cluster.worker(number)} {why}: raise its generation to make it a spare{hint}")
    leads = f"; {answered(servers.leads_to)}" if servers.is_movable else ""
    text.append(f"servers: {', '.join(map(str, cluster.outputs.get('servers') or []))}{leads}")
    return text


def repair(stack: Stack, *, yes: bool) -> int:
    """Assign the servers' address to a server that answers, bring hosts that are down back on spares, and assign each
    address to the droplet that has the host's volume.
    Returns 0 if all is well in the end, 1 if something is left to do."""
    cluster = Cluster.of(stack)
    if not answered(lambda: cluster.servers_address.repair(yes=yes)):
        return 1
    for line in lines(cluster):
        print(line)
    passes = cluster.passes()
    found, unknown = looks(passes)
    down = sorted(name for name, host in found.items() if not host.is_serving)
    astray = sorted(name for name, host in found.items() if host.is_serving and host.address_at != host.carrier)
    if not down and not astray and unknown:
        failed = " ".join(f"Host {name} could not be inspected (reason above)." for name in unknown)
        print(f"\n{failed} The other hosts are ready.")
        return 1
    if not down and not astray:
        _remove_notes(cluster, passes, found)
        print("\nNothing to repair: the node of every host is ready, and its address leads to it.")
        return 0
    # A takeover may have attached it a moment ago. To move it again would need one more spare.
    starting = {name for name in down if passes.now() - found[name].attached_at < _START_SECONDS}
    before = {name: None if name in starting else found[name].carrier for name in down}
    before |= dict.fromkeys(astray)  # they stay on their droplets
    print()
    if astray:
        print(f"Address elsewhere: {', '.join(astray)}. Each is assigned to the droplet that has the host's volume.")
    if starting:
        print(f"Attached less than three minutes ago: {', '.join(sorted(starting))}. Waiting for the nodes.")
    if others := sorted(set(down) - starting):
        print(f"Down: {', '.join(others)}. Their volumes are detached from the droplets that have them, and attached")
        print("to spares. Their addresses follow. What still runs on the old droplets gets I/O errors.")
    placed = {name for name, carrier in before.items() if carrier is not None}
    spares = answered(lambda: spares_of(passes.cloud.workers(passes.tag), passes.retired()))
    if len(spares) < len(others):
        print(f"Spares: {len(spares)}. Without one a volume stays on its droplet, so not all of these hosts are moved.")
    if placed and not yes and not click.confirm("Move them?"):
        return 1
    return move(cluster, before, only_down=True)


def _remove_notes(cluster: Cluster, passes: Passes, found: Mapping[str, HostView]) -> None:
    """Remove the notes that droplets lose hosts that are well. A `drain` that was cut short leaves one, and no other
    host gets the spare of that move. Raises ClusterError."""
    noted = {host.carrier for host in found.values()} & set(answered(passes.retired))
    if not noted:
        return
    if answered(passes.is_held):
        print("\nA takeover or another command is at work, so the note that a droplet loses its host stays.")
        print("Repeat this command in a minute.")
        return
    try:
        _steps(passes)
    finally:
        with contextlib.suppress(Unavailable, Refused):  # it ends by itself soon
            passes.give_back()
    for number in sorted(noted - set(answered(passes.retired)), key=str):
        print(f"\n{cluster.worker(number)} keeps its host. The note that it loses it was removed.")


def move(cluster: Cluster, before: Mapping[str, int | None], *, only_down: bool = False) -> int:
    """Passes until each host of `before` is ready on another droplet than the one there; with `only_down` also on that
    one: a host that came back stays there. Returns 1 if a person has to act. A service that does not answer is waited
    for, because the hosts are away meanwhile. Raises ClusterError."""
    try:
        return _passes_until_back(cluster, before, only_down)
    finally:
        with contextlib.suppress(Unavailable, Refused):  # it ends by itself soon
            cluster.passes().give_back()


def _passes_until_back(cluster: Cluster, before: Mapping[str, int | None], only_down: bool) -> int:
    shown: set[str] = set()
    requested: dict[str, float] = {}
    waiting, reason, waits = set(before), "", ""
    end = time.monotonic() + _READY_SECONDS
    passes = cluster.passes()  # one for all: it counts the attaches that were refused
    while time.monotonic() < end:
        try:
            found, unknown = looks(replace(passes, places=tuple(p for p in passes.places if p.name in waiting)))
            stayed = {name for name, host in found.items() if only_down and host.is_serving}
            back = {name for name, host in found.items() if _is_back(host, before, name in stayed)}
            for name in sorted(back):
                if found[name].carrier == before[name]:
                    print(f"host {name} is back on the droplet that it was on, and stays there")
            waiting -= back
            if not waiting:
                _steps(passes)  # a host that stayed: its droplet is no longer retired
                print(f"\n{', '.join(sorted(before))}: ready.")
                return 0
            leave = _still_there(cluster, found, before, requested, passes.now()) - stayed
            steps = _steps(replace(passes, rules=replace(passes.rules, leave=leave)))
            reason = " ".join(unknown.values())
            pairs = [(place.name, step) for place, step in zip(passes.places, steps, strict=False)]
            waits = " ".join(f"{step.text}." for name, step in pairs if step.kind == "wait" and name in waiting)
            for name, step in pairs:
                if step.kind == "detach":
                    requested.setdefault(name, passes.now())
        except _NoAnswerError as error:
            steps, reason = [], str(error)
        for text in [step.text for step in steps if step.kind not in ("fine", "wait")] or [reason]:
            if text and text not in shown:
                shown.add(text)
                print(text, flush=True)
        # One host's question is no reason to leave another one half moved.
        asked = {place.name for place, step in zip(passes.places, steps, strict=False) if step.kind in _ASKED}
        if steps and waiting <= asked:
            return _stuck(cluster, before)
        # A pass asks about each host; the view above asks about those that wait once more.
        time.sleep(pause(len(passes.places) + len(waiting), moving=True))
    print(f"{', '.join(sorted(waiting))}: not ready after {_READY_SECONDS:.0f} s. {reason or waits}".rstrip())
    print(f"Look at its droplet's console. `./pds repair {cluster.stack}` continues.")
    return 1


def _still_there(
    cluster: Cluster,
    found: Mapping[str, HostView],
    before: Mapping[str, int | None],
    requested: Mapping[str, float],
    now: float,
) -> frozenset[str]:
    """The hosts whose old droplet still has the volume: a request to move a host ends with the detach. `requested` is
    when this command first requested it. An earlier request that failed does not count. Raises ClusterError if a detach
    takes too long."""
    there = frozenset(name for name, host in found.items() if host.carrier and host.carrier == before[name])
    for host in map(found.__getitem__, sorted(there)):
        since = requested.get(host.name, host.detaching_since)
        if since is not None and now - since > DETACH_SECONDS:
            raise ClusterError(
                f"The volume of host {host.name} is still not detached from droplet {host.carrier}. Delete that "
                f"droplet, which always detaches the volume: `doctl compute droplet delete {host.carrier}`. Then run "
                f"`./pds repair {cluster.stack}`. `pulumi up --stack {cluster.stack} --refresh` makes a new worker."
            )
    return there


def view_of(passes: Passes, place: ClusterHost) -> HostView:
    return answered(lambda: passes.view(place))


def _is_back(host: HostView, before: Mapping[str, int | None], may_stay: bool) -> bool:
    moved = may_stay or host.carrier != before[host.name]
    return host.is_serving and moved and host.address_at == host.carrier


def _stuck(cluster: Cluster, before: Mapping[str, int | None]) -> int:
    for name, droplet in before.items():
        if droplet is not None:
            print(f"  host {name} was on {cluster.worker(droplet)}, which may be off now")
    print(f"Once the above is done, `./pds repair {cluster.stack}` continues.")
    return 1


def _steps(passes: Passes) -> list[Any]:
    try:
        return once(passes)
    except PendingError as error:
        raise _NoAnswerError(str(error)) from None
    except ServiceError as error:
        raise ClusterError(str(error)) from None


T = TypeVar("T")


def answered(ask: Callable[[], T]) -> T:
    """The answer of DigitalOcean or Nomad. Raises ClusterError if there is none."""
    try:
        return ask()
    except Unavailable as error:
        raise _NoAnswerError(f"{error}.") from None
    except Refused as error:
        raise ClusterError(f"{error}.") from None
