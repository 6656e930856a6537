"""Which spares other hosts need or are about to get. A spare is for one host."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.takeover.decide import Droplet, failed_attaches, running_action
from components.takeover.interfaces import Cloud, ClusterHost, Servers
from components.takeover.services import Refused, Unavailable


@dataclass(frozen=True)
class Attaching:
    """Hosts whose volume is on its way to a droplet."""

    since: Mapping[str, float]
    """Those on their way to an unknown droplet, and since when; since 0 if DigitalOcean does not tell."""
    failed: Mapping[str, int]
    """How many attaches of these failed before."""
    droplets: frozenset[int]
    """Droplets that have a volume which their own list does not show yet."""


@dataclass(frozen=True)
class OtherHosts:
    """The other hosts of a cluster beside `place`."""

    cloud: Cloud
    servers: Servers
    places: tuple[ClusterHost, ...]
    place: ClusterHost

    def promised(
        self,
        droplets: Mapping[int, Droplet],
        retired: Mapping[int, str],
        leaving: Iterable[ClusterHost] | None = None,
    ) -> list[str]:
        """The other hosts that need a spare: no droplet has their volume, or it leaves a retired one.

        `leaving`: of which hosts the latter counts; all, if not given. If two programs have retired the droplets of two
        hosts for one spare, the first host gets it.
        """
        on = {volume: droplet.number for droplet in droplets.values() for volume in droplet.volumes}
        counted = set(self.places if leaving is None else leaving)
        found = []
        for other in self.places:
            if other == self.place:
                continue
            carrier = on.get(other.volume)
            if carrier is None:
                needs = self._is_on_no_other(other, droplets)
            else:
                needs = other in counted and carrier in retired and self._leaves(other, retired[carrier])
            if needs:
                found.append(f"host {other.name}")
        return found

    def _leaves(self, other: ClusterHost, note: str) -> bool:
        """Whether the host leaves its retired droplet. The note may be that of another host, whose volume was on the
        same droplet: a host whose node is ready stays there."""
        if note == other.name:
            return True
        node = self.servers.node(other.name)
        return node is None or not node.is_ready

    def _is_on_no_other(self, other: ClusterHost, droplets: Mapping[int, Droplet]) -> bool:
        """Whether the volume is on no droplet that is not a worker. A worker may have got it a moment ago."""
        try:
            carrier = self.cloud.carrier(other.volume)
        except Refused as error:
            if error.status != 404:
                raise
            return False
        return carrier is None or carrier in droplets

    def attaching(self, droplets: Mapping[int, Droplet]) -> Attaching:
        """Those that are being attached, or were a moment ago."""
        on = {volume for droplet in droplets.values() for volume in droplet.volumes}
        since, failed, carriers = {}, {}, set()
        for other in self.places:
            if other == self.place or other.volume in on:
                continue
            try:
                actions = self.cloud.actions(other.volume)
                carrier = self.cloud.carrier(other.volume)
            except Unavailable:
                since[other.name] = 0.0
                continue
            except Refused as error:
                if error.status != 404:
                    raise
                continue
            if carrier is not None:
                carriers.add(carrier)
            elif (running := running_action(actions)) and running.kind == "attach":
                since[other.name], failed[other.name] = running.started, failed_attaches(actions)
        return Attaching(since, failed, frozenset(carriers))
