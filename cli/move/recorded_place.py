"""The place of a club in the engine's state, which everyone who updates the stack shares; its file is one of many
copies."""

from cli.lib.apply import written_place
from cli.lib.stack import Stack
from cli.move.destination import MoveError
from cli.move.progress import KEY, MoveProgress, StackHost
from components.settings import stack_identity


def refuse_older_file(club: Stack, note: MoveProgress | None, to: StackHost) -> None:
    """Raise MoveError if the state has the PDS at another place than the club's file. Raises StackError.

    Only a command that was killed between the file and the `up` leaves that, with the PDS paused: on the way forth, or
    on the way back to `to`.
    """
    identity = club.state().named(stack_identity.RESOURCE)
    recorded = str(identity.outputs.get("place") or "") if identity else ""
    written = written_place(club)
    if recorded in ("", written):
        return
    if note and not note.opened:
        is_forth = _is(recorded, note.source) and _is(written, note.to)
        is_back = _is(recorded, note.to) and _is(written, note.source) and to == note.source
        if (is_forth or is_back) and club.outputs().get("state") == "paused":
            return
    there = stack_identity.described(recorded)
    raise MoveError(
        f"The state has {club.name} on {there}, and Pulumi.{club.name}.yaml has it on "
        f"{stack_identity.described(written)}: this file is older than the last `pulumi up`. The newest posts are on "
        f"{there}. Nothing was changed. Get the newer file (`git pull`), and repeat the command. If there is none, "
        f"write {_options(recorded)} into this one, and remove '{KEY}' from it. `pulumi preview --stack {club.name}` "
        "names what else differs."
    )


def _is(place: str, host: StackHost) -> bool:
    """Whether a place of the state is this host. One that is not of a cluster may have a datacenter, too."""
    known = StackHost.of(place)
    return known.stack == host.stack and host.host in (None, known.host)


def _options(place: str) -> str:
    known = StackHost.of(place)
    if " " in place:
        return "its former options"
    return f"'on: {known.stack}'" + (f" and 'nomad.datacenter: {known.host}'" if known.host else "")
