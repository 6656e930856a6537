"""The second place of a club that moves within its cluster: granted before its move, withdrawn after it.

Meanwhile the club has a volume on both hosts, and its own stack file says on which of them its jobs run.
"""

from cli.cluster.hosts import Cluster, views
from cli.lib.apply import change_together, up
from cli.lib.stack import Stack, StackError
from cli.move.destination import MoveError, check_free_space, host_outputs, is_applied, used_bytes
from cli.move.progress import StackHost
from cli.stacks.new_stack import free_port
from components.settings.checks.capacity import host_room
from components.settings.host_contract import terms_for
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings


def check(club: Stack, source: StackHost, to: StackHost) -> str:
    """Raise MoveError if the club has no room on the other host, or that one is down; else return a sentence."""
    settings, wish = _grant_of(club, source)
    assert to.host
    others = {name: other for name, other in settings.clubs.items() if name != club.name}
    room = host_room(settings.model_copy(update={"clubs": others}), to.host)  # it may have a place there already
    if not room.fits(wish):
        raise MoveError(
            f"{to.described} has {max(room.memory_mib, 0)} MiB of memory and {max(room.disk_gib, 0)} GiB of disk left, "
            f"and {club.name} needs {wish.memory_mib} MiB, {wish.disk_gib} GiB and {wish.job_demand.mhz} MHz. Nothing "
            f"was changed. Raise 'cluster.hosts.{to.host}.volume_gib' or 'cluster.workers.size' in "
            f"Pulumi.{to.stack}.yaml, or name another host."
        )
    refuse_unready(club, to)
    used = used_bytes(club, host_outputs(club), wish)
    check_free_space(club.name, used, to, host_outputs(Stack(to.stack, club.root)))
    return f"{to.described} has room for it, and is ready."


def refuse_unready(club: Stack, to: StackHost) -> None:
    """Raise MoveError if the host of a cluster is down: only Nomad's servers answer then; or if no `up` has made it.
    Raises ClusterError."""
    if to.host is None:
        return
    ready = is_ready(Stack(to.stack, club.root), to.host)
    if ready is None:
        raise MoveError(
            f"{to.described} has not been made yet. Run `pulumi up --stack {to.stack}` first. Nothing was changed."
        )
    if not ready:
        raise MoveError(f"{to.described} is not ready. Run `./pds repair {to.stack}` first. Nothing was changed.")


def is_ready(cluster: Stack, host: str) -> bool | None:
    """Return whether the host is on a worker and its node is ready; None if no `up` has made it. Raises
    ClusterError."""
    view = views(Cluster.of(cluster).passes()).get(host)
    return view.is_serving if view else None


def grant(club: Stack, source: StackHost, to: StackHost, *, yes: bool) -> None:
    """Give the club its place on `to`, beside that on `source`. Does nothing if it has it. Raises StackError."""
    settings, grant_ = _grant_of(club, source)
    cluster = Stack(to.stack, club.root)
    if (grant_.host, grant_.leaving.host if grant_.leaving else None) != (to.host, source.host):
        taken = [other.port for name, other in settings.clubs.items() if other.host == to.host and name != club.name]
        port = free_port(settings) if grant_.port in taken else grant_.port
        _write(cluster, club, host=to.host, port=port, **{"leaving.host": source.host, "leaving.port": grant_.port})
        settings, grant_ = _grant_of(club, source)
    applied = (host_outputs(cluster).get("clubs") or {}).get(club.name) or {}
    if not is_applied(terms_for(settings, grant_), applied):
        print(f"Add {to.described} as the second host of {club.name}, in addition to {source.described}.", flush=True)
        up(cluster, yes=yes)


def withdraw(club: Stack, stays: StackHost, *, yes: bool) -> None:
    """Leave the club its place on `stays` only; the data on the other host are renamed and kept. Raises StackError."""
    _settings, grant_ = _grant_of(club, stays)
    cluster = Stack(stays.stack, club.root)
    if grant_.leaving and grant_.leaving.host == stays.host != grant_.host:
        _write(cluster, club, host=stays.host, port=grant_.leaving.port)
    if grant_.leaving and cluster.run("config", "rm", "--path", f"pds:clubs.{club.name}.leaving").code:
        raise StackError(
            f"Pulumi.{cluster.name}.yaml could not be changed. Remove 'leaving' of {club.name} from its 'clubs' by "
            "hand, and repeat the command."
        )
    up(cluster, yes=yes)


def _grant_of(club: Stack, place: StackHost) -> tuple[Settings, ClubOptions]:
    settings = read_settings(place.stack, club.root)
    found = settings.clubs.get(club.name)
    if found is None:
        raise MoveError(
            f"Pulumi.{place.stack}.yaml does not name {club.name} among its 'clubs'. Add it with 'host: {place.host}'."
        )
    return settings, found


def _write(cluster: Stack, club: Stack, **options: str | int | None) -> None:
    """Write the options in one step: a half-written place would be refused."""
    change_together(cluster, {f"pds:clubs.{club.name}.{key}": str(value) for key, value in options.items()})
