"""Moving a host that is well to a spare; `./pds drain`."""

import contextlib
import time

import click

from cli.cluster.hosts import Cluster, ClusterError, answered, move, view_of
from cli.errors import CommandError
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.stack import Stack
from components.takeover.interfaces import ClusterHost
from components.takeover.passes import Passes
from components.takeover.services import Refused, Unavailable

_PAUSE = 2.0
_SHUTDOWN_SECONDS = 180.0
_TRIES = 5
_SWITCHES_OFF = frozenset({"shutdown", "power_off"})
"""Actions after which a droplet is off."""


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
        try:
            _shut_down(cluster, passes, carrier)
        except BaseException:  # Ctrl-C, too
            _release(cluster, passes, place, carrier)
            raise
        print(f"Droplet {carrier} is off. If this command is cut short, `./pds repair {cluster.stack}` continues.")
    code = move(cluster, {host: carrier})
    print(f"{time.monotonic() - began:.0f} s.")
    return code


def _reserve(passes: Passes, place: ClusterHost, carrier: int) -> None:
    """Note that the droplet loses its host, before it is off: another `drain` then counts the spare as taken. The
    takeover waits meanwhile, because it would take the note away. Raises ClusterError if no spare is left."""
    # False if another program wrote in the same moment.
    if not any(answered(passes.take_lease) for _ in range(_TRIES)):
        raise ClusterError(
            "Other programs keep writing the Nomad variable takeover/state, so the takeover could not be held back. "
            f"Host {place.name} was not moved. Try again."
        )
    answered(lambda: passes.retire(carrier, place.name))
    if answered(lambda: passes.spare_for(place)) is None:
        answered(lambda: passes.retire(carrier, None))
        raise ClusterError(f"The spare was taken by another command meanwhile. Host {place.name} was not moved.")


def _release(cluster: Cluster, passes: Passes, place: ClusterHost, carrier: int) -> None:
    """Remove the note of a droplet that stays on with its host, so that its spare is free again. The note of one that
    is off, goes off or lost the volume stays, and so does one of which nothing is known: `./pds repair` removes it."""
    with contextlib.suppress(CommandError, Unavailable, Refused):
        passes.take_lease()
        view = passes.view(place)
        if view.carrier == carrier and not view.is_busy and _stays_on(cluster, carrier):
            passes.retire(carrier, None)
            passes.give_back()


def _stays_on(cluster: Cluster, droplet: int) -> bool:
    """Whether the droplet is on, and nothing switches it off. Raises DigitalOceanError."""
    with DigitalOceanAccount(cluster.token) as account:
        actions = account.list_all(f"droplets/{droplet}/actions")
        found = account.get(f"droplets/{droplet}")  # after the actions: one that has ended since shows in the status
    ending = any(item["type"] in _SWITCHES_OFF and item["status"] == "in-progress" for item in actions)
    return bool(found and found["status"] == "active" and not ending)


def _shut_down(cluster: Cluster, passes: Passes, droplet: int) -> None:
    """In order: its containers stop, and its file system is unmounted. The lease is renewed meanwhile: a takeover would
    see a host that is down, and detach the volume before that."""
    print(f"shut down droplet {droplet}")
    with DigitalOceanAccount(cluster.token) as account:
        end = time.monotonic() + _SHUTDOWN_SECONDS
        _request_shutdown(account, passes, droplet, end)
        while (status := _status(account, droplet)) != "off":
            if time.monotonic() > end:
                raise ClusterError(
                    f"Droplet {droplet} is not off after {_SHUTDOWN_SECONDS:.0f} s: {status}. Its host was not moved. "
                    f"`doctl compute droplet-action power-off {droplet} --wait`, then `./pds repair {cluster.stack}`."
                )
            _pause(passes)


def _request_shutdown(account: DigitalOceanAccount, passes: Passes, droplet: int, end: float) -> None:
    """Again while another action on the droplet is not over. Raises DigitalOceanError."""
    while True:
        try:
            account.create(f"droplets/{droplet}/actions", {"type": "shutdown"})
        except DigitalOceanError as error:
            if "pending event" not in str(error) or time.monotonic() > end:
                raise
            _pause(passes)
        else:
            return


def _pause(passes: Passes) -> None:
    """A Nomad that does not answer is no reason to stop: the shutdown continues, and the lease lasts for a minute."""
    with contextlib.suppress(Unavailable, Refused):
        passes.take_lease()
    time.sleep(_PAUSE)


def _status(account: DigitalOceanAccount, droplet: int) -> str:
    """The droplet's status, `off` if it is gone, or why it is unknown: the shutdown continues meanwhile."""
    try:
        return str((account.get(f"droplets/{droplet}") or {"status": "off"})["status"])
    except DigitalOceanError as error:
        return str(error).rstrip(".")
