"""Servers that are down, and spares that are missing: nothing is wrong with a host yet, and the next loss would be.

With three servers and one down, the next loss ends Nomad. Without a spare, the next dead host stays dead. No host shows
either, so both are looked at for themselves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from components.takeover.decide import Droplet, Node, Step, spares_of
from components.takeover.interfaces import UPGRADE

SPARES = "(spares)"
"""In place of a host's name: the spares."""
LOOK_SECONDS = 300.0
"""Seconds between two looks, of one request to DigitalOcean."""
AGAIN_SECONDS = 60.0
"""Seconds to the next look if one got no answer. A request without one takes up to 20 seconds of a pass."""
FAULT_SECONDS = 900.0
"""Seconds for which a fault is seen before a person is told: a reboot or a rebuild is over sooner."""


class Cloud(Protocol):
    """DigitalOcean (`services.py`)."""

    def workers(self, tag: str) -> dict[int, Droplet]: ...


class Servers(Protocol):
    """Nomad (`services.py`)."""

    def server_nodes(self) -> dict[str, Node]: ...


@dataclass
class Watch:
    """Looks at the servers and the spares."""

    cloud: Cloud
    nomad: Servers
    cluster: str
    """The cluster's stack, which begins the servers' names."""
    tag: str
    """The workers' tag."""
    servers: int
    """How many the stack file has. A single one is not looked at: without it, this program does not run."""
    spares: int
    """How many the stack file has."""
    _since: dict[str, float] = field(default_factory=dict)
    """Since when this program sees a fault."""
    is_silent: bool = False
    """Whether the last look got no answer."""
    _next: float = float("-inf")
    """When it looks again."""

    def once(self, now: float, retired: Callable[[], Mapping[int, str]]) -> list[tuple[str, Step]]:
        """Each server, and the spares, with 'fine' or what a person is to be reminded of; empty if it is too early for
        a look, or for a fault. Raises Unavailable and Refused."""
        if now < self._next:
            return []
        self._next, self.is_silent = now + AGAIN_SECONDS, True
        nodes = self.nomad.server_nodes() if self.servers > 1 else {}
        found = dict(self._servers(nodes)) | {SPARES: self._spares(self.cloud.workers(self.tag), retired())}
        self._next, self.is_silent = now + LOOK_SECONDS, False
        steps = []
        for name, fault in found.items():
            if not fault:
                self._since.pop(name, None)
                steps.append((name, Step("fine")))
            elif now - self._since.setdefault(name, now) >= FAULT_SECONDS:
                steps.append((name, Step("remind", fault)))
        return steps

    def _servers(self, nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
        for number in range(1, self.servers + 1 if self.servers > 1 else 1):
            node = nodes.get(f"{self.cluster}-server-{number}")
            if node and node.is_ready:
                yield f"(server {number})", ""
                continue
            state = "is down" if node else "is not known to Nomad"
            yield (
                f"(server {number})",
                f"server {number} {state}. If one more server is lost, Nomad does not answer and no host is moved. "
                f"Look at its console. If it does not come back, raise its generation in 'cluster.servers.generations' "
                f"and run `pulumi up --stack {self.cluster}`",
            )

    def _spares(self, droplets: Mapping[int, Droplet], retired: Mapping[int, str]) -> str:
        ready, up = spares_of(droplets, retired), f"`pulumi up --stack {self.cluster}`"
        if len(ready) >= self.spares:
            return ""
        reasons = []
        for number, droplet in sorted(droplets.items()):
            if droplet.volumes:
                continue
            name = droplet.name.removeprefix(f"pds-{self.cluster}-").replace("-", " ") or f"droplet {number}"
            if retired.get(number) == UPGRADE:
                reasons.append(f"{name} waits for `./pds upgrade {self.cluster}`, which is to rebuild it")
            elif number in retired:
                lost = f"{name} lost host {retired[number]}"
                reasons.append(f"{lost}: raise its generation in 'cluster.workers.generations', then run {up}")
            elif not droplet.is_active:
                reasons.append(f"{name} is off")
        text = f"{len(ready)} of {self.spares} spares are ready, and a host that dies needs one. "
        return f"{text}{'; '.join(reasons) or f'Run {up}'}"
