"""Assigning a host's address. A droplet has one reserved IP, so one that leads to the wrong droplet is in the way."""

from components.takeover.decide import Step
from components.takeover.interfaces import Cloud, ClusterHost
from components.takeover.services import Refused

_REFUSED = 422
"""The status with which DigitalOcean refuses to assign a second reserved IP to a droplet; others have it, too."""


def assign(cloud: Cloud, places: tuple[ClusterHost, ...], place: ClusterHost, step: Step) -> Step:
    """Do `step`, which assigns the address of `place`; returns what was done. If the droplet has the address of another
    host, whose volume it does not have, that one is unassigned: that host gets it back by its own step.

    Raises Refused.
    """
    try:
        cloud.assign(place.address, step.droplet)
    except Refused as error:
        if error.status != _REFUSED or (address := _in_the_way(cloud, place, step.droplet)) is None:
            raise
        other = next((other for other in places if other.address == address), None)
        if other is None:
            return Step("ask", _unknown(place, address, step.droplet))
        if cloud.carrier(other.volume) == step.droplet:
            raise
        cloud.unassign(address)
        return Step("assign", f"host {place.name}: unassign the address of host {other.name} from its droplet")
    return step


def _in_the_way(cloud: Cloud, place: ClusterHost, droplet: int) -> str | None:
    address = cloud.address_of(droplet)
    return None if address == place.address else address


def _unknown(place: ClusterHost, address: str, droplet: int) -> str:
    return (
        f"host {place.name}: {place.address} cannot be assigned to droplet {droplet}, which has the reserved IP "
        f"{address}. No host of this cluster has that one. Run `doctl compute reserved-ip-action unassign {address}`"
    )
