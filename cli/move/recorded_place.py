"""The place of a club in the engine's state, which everyone who updates the stack shares; its file is one of many
copies."""

from cli.lib.apply import written_place
from cli.lib.stack import Stack
from cli.move.destination import MoveError
from cli.move.progress import KEY, MoveProgress, StackHost
from components.settings import stack_identity


def recorded_place(stack: Stack) -> str:
    """The place of the PDS in the state; empty if the state has none, as before the first `up`. Raises StackError."""
    identity = stack.state().named(stack_identity.RESOURCE)
    return str(identity.outputs.get("place") or "") if identity else ""


def older_file(stack: Stack, recorded: str, untouched: str, more: str = "") -> str:
    """The refusal of a stack file that is older than the state. `more` is what else to do with this file."""
    there = stack_identity.described(recorded)
    return (
        f"The state has {stack.name} on {there}, and Pulumi.{stack.name}.yaml has it on "
        f"{stack_identity.described(written_place(stack))}: this file is older than the last `pulumi up`. The newest "
        f"posts are on {there}. {untouched} Get the newer file (`git pull`), and repeat the command. If there is none, "
        f"write {_options(recorded)} into this one{more}. `pulumi preview --stack {stack.name}` names what else "
        "differs."
    )


def refuse_older_file(club: Stack, note: MoveProgress | None, to: StackHost) -> None:
    """Raise MoveError if the state has the PDS at another place than the club's file. Raises StackError.

    Only a command that was killed between the file and the `up` leaves that, with the PDS paused: on the way forth, or
    on the way back to `to`.
    """
    recorded, written = recorded_place(club), written_place(club)
    if recorded in ("", written):
        return
    if note and not note.opened:
        is_forth = _is(recorded, note.source) and _is(written, note.to)
        is_back = _is(recorded, note.to) and _is(written, note.source) and to == note.source
        if (is_forth or is_back) and club.outputs().get("state") == "paused":
            return
    raise MoveError(older_file(club, recorded, "Nothing was changed.", f", and remove '{KEY}' from it"))


def _is(place: str, host: StackHost) -> bool:
    """Whether a place of the state is this host. One that is not of a cluster may have a datacenter, too."""
    known = StackHost.of(place)
    return known.stack == host.stack and host.host in (None, known.host)


def _options(place: str) -> str:
    known = StackHost.of(place)
    if " " in place:
        return "its former options"
    return f"'on: {known.stack}'" + (f" and 'nomad.datacenter: {known.host}'" if known.host else "")
