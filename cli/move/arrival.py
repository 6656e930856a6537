"""The restore of a move, on the new host."""

from collections.abc import Sequence
from dataclasses import replace

from cli.backups.restore import DEADLINE, RestoreRequest, dispatch
from cli.lib import nomad_jobs
from cli.lib.stack import Stack
from cli.move import progress, runs
from cli.move.destination import MoveError
from cli.move.progress import MoveProgress
from components.clients.errors import DeadlineError
from components.clients.nomad import NomadApi
from components.settings.sections.settings import Settings

_NEWER_DATA = "REFUSED: NEWER DATA"
"""A server has run on the data of the new host (`components/render/scripts/restore_move.cjs`)."""

_NO_NEWER_DATA = "none that are newer than the backup"
"""The same script has compared them with the backup."""

_LOSSES = "To move without them:"
"""The old host may have accounts that the backup lacks."""


def restore_backup(club: Stack, settings: Settings, note: MoveProgress, api: NomadApi) -> bool:
    """Restore the backup of the stopped PDS; return whether that succeeded. Raises ServiceError, StackFileError."""
    lines: list[str] = []

    def show(line: str) -> None:
        print(line)
        lines.append(line)

    run = _interrupted(note, api) or _begin(club, settings, note, api)
    try:
        succeeded = nomad_jobs.follow(api, run, DEADLINE, show)
    except DeadlineError as error:  # the host went down since it was asked
        succeeded = False
        print(f"\n{error}")
    note = still_moving(club, note)
    if succeeded:
        return True
    _report(club, _compared(club, replace(note, run=run), lines), lines)
    return False


def _compared(club: Stack, note: MoveProgress, lines: Sequence[str]) -> MoveProgress:
    """Record whether the new host has newer data, if the restore came as far as to compare them; return the note."""
    if any(_NEWER_DATA in line for line in lines):
        note = replace(note, newer=True)
    elif any(_NO_NEWER_DATA in line for line in lines):
        note = replace(note, newer=False)
    progress.write(club, note)
    return note


def _report(club: Stack, note: MoveProgress, lines: Sequence[str]) -> None:
    """Print what to do after a restore that failed."""
    if any(_NEWER_DATA in line for line in lines):
        print(
            f"\nThe PDS is paused. A server has run on the data on {note.to}, and those on {note.source} are older. "
            f"First look for a newer file (`git pull`). If the data on {note.to} are the club's present ones, keep "
            f"them: run `pulumi config set --path {progress.KEY}.opened true --stack {club.name}` and './pds move "
            f"{club.name} {note.to.flags}', which ends the move without a restore. Only if those on {note.source} are "
            f"the present ones: {_taking_back(club, note)}, which renames and keeps those on {note.to}. Then move the "
            "club again."
        )
        return
    if note.newer:
        print(
            f"\nThe PDS is paused. An earlier restore found newer data on {note.to}, and this one ended before it "
            "compared them. Fix the fault above and repeat the command. Only if those on "
            f"{note.source} are the present ones: {_taking_back(club, note)}."
        )
        return
    if any(_LOSSES in line for line in lines):
        print(
            f"\nThe PDS is paused. The accounts above are on {note.source} as they were. Start the PDS there with "
            f"'./pds move {club.name} {note.source.flags}', repair them or the backups, and begin again. If a copy in "
            "the backups is the best that there is, leave the accounts behind: repeat this command with '--without' as "
            f"above, then run `./pds restore {club.name} --only DID` for each."
        )
        return
    print(
        f"\nThe PDS is paused, and its data are on {note.source} as they were. Fix the fault above and repeat the "
        f"command, or start it there: './pds move {club.name} {note.source.flags}'."
    )


def _taking_back(club: Stack, note: MoveProgress) -> str:
    return (
        f"run `pulumi config rm --path {progress.KEY}.newer --stack {club.name}`, then go back with `./pds move` and "
        f"'{note.source.flags}'"
    )


def still_moving(club: Stack, note: MoveProgress) -> MoveProgress:
    """Return the club's present note. Raises MoveError if another command has ended the move, or is taking the club
    back, since `note` was read."""
    present = progress.read(club)
    known = (note.source, note.to, note.snapshot)
    if present and (present.source, present.to, present.snapshot) == known and progress.place(club) == note.to:
        return present
    raise MoveError(
        f"Another command has ended the move of {club.name} from {note.source} to {note.to}, or has taken it back, "
        "while this one waited for the restore. This one started no server. Let the other one finish, then run "
        f"`./pds check {club.name}`."
    )


def _interrupted(note: MoveProgress, api: NomadApi) -> str:
    """Return the run that an interrupted command began, unless it has failed: a large club takes hours to arrive."""
    if not note.run:
        return ""
    failed = nomad_jobs.has_failed(api, note.run)
    if failed is None:
        nomad_jobs.stop(api, note.run)
    elif not failed:
        print(f"Continue with {note.run}, which an earlier command began.", flush=True)
        return note.run
    return ""


def _begin(club: Stack, settings: Settings, note: MoveProgress, api: NomadApi) -> str:
    """Begin the restore, and record its run."""
    runs.wait(api, DEADLINE)  # a restore whose command was killed before it recorded the run
    note = still_moving(club, note)
    request = RestoreRequest(
        snapshot=note.snapshot,
        # It has the old server's last event, so no relay has to report its cursor, and no account can be newer or have
        # left since: the directory need not answer for each.
        sequence=1,
        old_data=False,
        without_directory=True,
        whole=True,
        without=note.without,
    )
    run = dispatch(club, settings, request, api)
    progress.write(club, replace(note, run=run))
    return run
