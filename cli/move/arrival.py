"""The restore of a move, on the new host."""

from cli.backups.restore import RestoreRequest, restore_data
from cli.lib.stack import Stack
from cli.move.progress import MoveProgress
from components.clients.nomad import NomadApi
from components.settings.sections.settings import Settings

_NEWER_DATA = "REFUSED: NEWER DATA"
"""A server has run on the data of the new host (`components/render/scripts/restore_move.cjs`)."""

_LOSSES = "To move without them:"
"""The old host may have accounts that the backup lacks."""


def restore_backup(club: Stack, settings: Settings, note: MoveProgress, api: NomadApi) -> bool:
    """Restore the backup of the stopped PDS; return whether that succeeded. Raises ServiceError, StackFileError."""
    lines: list[str] = []

    def show(line: str) -> None:
        print(line)
        lines.append(line)

    # It has the old server's last event, so no relay has to report its cursor, and no account can be newer or have left
    # since: the directory need not answer for each.
    request = RestoreRequest(
        snapshot=note.snapshot,
        sequence=1,
        old_data=False,
        without_directory=True,
        whole=True,
        without=note.without,
    )
    if restore_data(club, settings, request, api, show):
        return True
    if any(_NEWER_DATA in line for line in lines):
        print(
            f"\nThe PDS is paused. The data on {note.to} are newer than the backup, so those on {note.source} may be "
            f"old. Do not start the PDS on {note.source} before you know which data are current."
        )
        return False
    if any(_LOSSES in line for line in lines):
        print(
            f"\nThe PDS is paused. The accounts above are on {note.source} as they were. Start the PDS there with "
            f"'./pds move {club.name} {note.source.flags}', repair them or the backups, and begin again. If a copy in "
            "the backups is the best that there is, leave the accounts behind: repeat this command with '--without' as "
            f"above, then run `./pds restore {club.name} --only DID` for each."
        )
        return False
    print(
        f"\nThe PDS is paused, and its data are on {note.source} as they were. Fix the fault above and repeat the "
        f"command, or start it there: './pds move {club.name} {note.source.flags}'."
    )
    return False
