"""The next step of a rolling upgrade, decided from what is observed now: which droplets are left to rebuild.

Servers first, one at a time. The one that the cluster's address leads to comes last, after another one was named. Then
the workers without a host, so that a host is drained to a rebuilt one. Then host by host: drain it, rebuild its worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Droplets:
    """The cluster's droplets, by DigitalOcean's numbers. Servers and workers are in the order of their own numbers."""

    servers: tuple[int, ...]
    workers: tuple[int, ...]
    endpoint: int
    """Number of the server that the cluster's address leads to, from 1."""
    carriers: Mapping[str, int]
    """Each host's droplet."""
    left: frozenset[int]
    """Those that are to be rebuilt."""


@dataclass(frozen=True)
class Task:
    """`kind` is 'name' (another server), 'server' or 'worker' (rebuild it), or 'drain' (a host)."""

    kind: str
    number: int = 0
    """Of the server or worker, from 1."""
    host: str = ""


def next_task(droplets: Droplets) -> Task | None:
    """What to do next; None if all are rebuilt. The only server of a cluster is left alone: it has Nomad's state."""
    if len(droplets.servers) > 1:
        old = [number for number, server in enumerate(droplets.servers, 1) if server in droplets.left]
        others = [number for number in old if number != droplets.endpoint]
        if others:
            return Task("server", others[0])
        if old:
            return Task("name", next(n for n in range(1, len(droplets.servers) + 1) if n != droplets.endpoint))
    carrying = set(droplets.carriers.values())
    for number, worker in enumerate(droplets.workers, 1):
        if worker in droplets.left and worker not in carrying:
            return Task("worker", number)
    for host, worker in sorted(droplets.carriers.items()):
        if worker in droplets.left:
            return Task("drain", host=host)
    return None
