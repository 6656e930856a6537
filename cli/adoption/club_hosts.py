"""Whether a stack's PDS is on the host that is adopted or released.

The host's list is not proof: a club that moves is in the lists of two hosts. The club's own file names the
place that it runs in. Nor is that file proof: it may be older than the state, which everyone shares.
"""

from collections.abc import Mapping

from cli.adoption.stack_edits import configured
from cli.errors import CommandError
from cli.lib.stack import Stack
from cli.move import progress
from cli.move.progress import StackHost
from cli.move.recorded_place import older_file, recorded_place
from components.settings import stack_identity
from components.settings.sections.host import NomadOptions
from components.settings.sections.settings import Settings

Placement = tuple[str | None, str | None]
"""A stack with a host, and the host's datacenter; None as the stack is a droplet of its own, None as the datacenter
is any."""


class ClubHostError(CommandError):
    """A stack's PDS is elsewhere, or is moving; the text says what to do."""


def require_clubs_on_host(stacks: Mapping[Stack, tuple[Placement, ...]]) -> None:
    """Require each stack's file and state to name one of its places, and no move. The permission for another place
    (`moved_to`) would also lead a PDS back that has moved away since.

    Raises ClubHostError, StackError and StackFileError.
    """
    for stack, places in stacks.items():
        file = f"Pulumi.{stack.name}.yaml"
        if move := progress.read(stack):
            raise ClubHostError(
                f"{file} has '{progress.KEY}': the PDS of {stack.name} is moving from {move.source} to {move.to}. "
                f"Finish the move with `./pds move {stack.name} {move.to.flags}`, then repeat the command. No stack "
                "file was changed."
            )
        on = configured(stack, "on")
        on = on.get("stack") if isinstance(on, Mapping) else on
        datacenter = configured(stack, "nomad.datacenter")
        if not any(on == place and (host is None or host == datacenter) for place, host in places):
            there = f"on {on}" + (f" (nomad.datacenter: {datacenter})" if datacenter else "")
            there = there if on else "on its own droplet ('on' is missing)"
            wanted = " or ".join(
                f"on {place} (host {host})" if host else f"on {place or 'its own droplet'}" for place, host in places
            )
            raise ClubHostError(
                f"{file} places its PDS {there}. It has to be {wanted}. If it has moved, remove it "
                "from 'clubs' of the host's stack file, and run `pulumi up` there. No stack file was changed."
            )
        recorded = recorded_place(stack)
        if recorded and not any(_is(recorded, place) for place in places):
            raise ClubHostError(older_file(stack, recorded, "No stack file was changed."))


def _is(recorded: str, place: Placement) -> bool:
    """Whether a place of the state is this one. It leaves a datacenter out that has the default name."""
    stack, host = place
    if stack is None:
        return recorded == stack_identity.OWN_DROPLET
    known = StackHost.of(recorded)
    return known.stack == stack and host in (None, known.host or NomadOptions.model_fields["datacenter"].default)


def require_settled(cluster: Stack, host: str, fleet: Settings) -> None:
    """Require that no club moves to the cluster's host or away from it. Raises ClubHostError."""
    for name, club in fleet.clubs.items():
        if club.leaving and host in (club.host, club.leaving.host):
            raise ClubHostError(
                f"pds:clubs.{name}.leaving: Pulumi.{cluster.name}.yaml has two hosts for {name}, which is being "
                "moved. Finish the move with `./pds move`, then repeat the command. No stack file was changed."
            )
