"""Moving a host that is well to a spare; `./pds drain`."""

import time

import click

from cli.cluster.hosts import Cluster, ClusterError, answered, move, view_of
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.stack import Stack
from components.takeover.interfaces import ClusterHost
from components.takeover.passes import Passes

_PAUSE = 2.0
_SHUTDOWN_SECONDS = 180.0


def drain(stack: Stack, host: str, *, yes: bool) -> int:
    """Move a host that is well: shut its droplet down, then attach its volume to a spare."""
    cluster = Cluster.of(stack)
    if host not in cluster.outputs["hosts"]:
        raise ClusterError(f"Stack {stack.name} has no host {host}: {', '.join(cluster.outputs['hosts'])}.")
    passes = cluster.passes()
    place = next(place for place in passes.places if place.name == host)
    view = view_of(passes, place)
    carrier = view.carrier
    if carrier is not None and carrier not in answered(lambda: passes.cloud.workers(passes.tag)):
        raise ClusterError(
            f"The volume of host {host} is attached to droplet {carrier}, which is not a worker of this cluster. "
            f"Nothing was changed. Run `doctl compute volume-action detach {place.volume} {carrier} --wait`, then "
            f"`./pds repair {stack.name}`."
        )
    if view.is_busy:
        raise ClusterError(f"An action on the volume of host {host} is in progress. Nothing was changed. Try again.")
    spare = answered(lambda: passes.spare_for(place))
    if spare is None:
        raise ClusterError(
            "There is no free spare worker. Nothing was changed. Raise 'cluster.workers.spares', or the generation of "
            f"a worker that lost a host, and run `pulumi up --stack {stack.name}`."
        )
    where = f"is on {cluster.worker(carrier)}" if carrier else "is on no droplet"
    print(f"Host {host} {where}. It moves to {cluster.worker(spare)}. Its clubs are down until then.")
    if not yes and not click.confirm("Move it?"):
        return 1
    began = time.monotonic()
    if carrier is not None:
        _reserve(passes, place, carrier)
        _shut_down(cluster, carrier)
        print(f"Droplet {carrier} is off. If this command is cut short, `./pds repair {cluster.stack}` continues.")
    code = move(cluster, {host: carrier})
    print(f"{time.monotonic() - began:.0f} s.")
    return code


def _reserve(passes: Passes, place: ClusterHost, carrier: int) -> None:
    """Note that the droplet loses its host, before it is off: another `drain` then counts the spare as taken. The
    takeover waits meanwhile, because it would take the note away. Raises ClusterError if no spare is left."""
    answered(passes.take_lease)
    answered(lambda: passes.retire(carrier, place.name))
    if answered(lambda: passes.spare_for(place)) is None:
        answered(lambda: passes.retire(carrier, None))
        raise ClusterError(f"The spare was taken by another command meanwhile. Host {place.name} was not moved.")


def _shut_down(cluster: Cluster, droplet: int) -> None:
    """In order: its containers stop, and its file system is unmounted."""
    print(f"shut down droplet {droplet}")
    with DigitalOceanAccount(cluster.token) as account:
        account.create(f"droplets/{droplet}/actions", {"type": "shutdown"})
        end = time.monotonic() + _SHUTDOWN_SECONDS
        while (status := _status(account, droplet)) != "off":
            if time.monotonic() > end:
                raise ClusterError(
                    f"Droplet {droplet} is not off after {_SHUTDOWN_SECONDS:.0f} s: {status}. Its host was not moved. "
                    f"`doctl compute droplet-action power-off {droplet} --wait`, then `./pds repair {cluster.stack}`."
                )
            time.sleep(_PAUSE)


def _status(account: DigitalOceanAccount, droplet: int) -> str:
    """The droplet's status, `off` if it is gone, or why it is unknown: the shutdown goes on meanwhile."""
    try:
        return str((account.get(f"droplets/{droplet}") or {"status": "off"})["status"])
    except DigitalOceanError as error:
        return str(error).rstrip(".")
