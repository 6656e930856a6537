"""`./pds move CLUB --to HOST`: moves a club's PDS to another stack's host, with everything it ever acknowledged.

In this order: everything is checked; the PDS is paused; a backup of the stopped PDS is made; the new host is written
into the club's file, and one `up` removes jobs and secrets from the old host, creates them on the new one and changes
the DNS records; the backup is restored there; the PDS starts; once it serves, the old host removes the club. There are
never two servers: the old one is stopped before the new one is known, and its job is deleted before the new one's is
created. The members' data stay on the old host until its owner removes them.

The club's file has the progress as `move:note`, so that a move continues wherever it was interrupted, from any machine
with the same files. To go back before the new server has run: `--to` the old host, whose data are unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from components.probes import NomadApi, ProbeError, until
from components.settings.settings import Settings
from tools import runs
from tools.clubs import destination as places
from tools.clubs.destination import Destination, MoveError, destination
from tools.clubs.engine import Engine, Workspace
from tools.gate.digest import read as read_digest
from tools.pause import change, pause, up
from tools.restore import Wish, back_up, last_backup_is_restorable, put_back, run_again, step, with_backup
from tools.stack import Stack, StackError
from tools.stackfile import read_settings, read_text

_NOTE = "move:note"
"""The key of the move's progress in the club's stack file; not one of the program's options, so it changes nothing."""

_IDLE = 3600  # seconds; a drill or a backup that has begun comes to its end
_NOBODYS_DOING = {"pds-unlisted"}
"""Resources that change without an owner's action: people sign up."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """The progress of a move. `snapshot` is the backup's id, once it is made of the paused PDS; `opened` whether the
    new server may have run."""

    source: str
    to: str
    snapshot: str = ""
    opened: bool = False


def move(club: Stack, to: str, *, yes: bool, without: Sequence[str] = ()) -> int:
    """Move `club` to the host of stack `to`, if need be without the accounts `without`; return the exit code.

    Raises StackError, StackFileError, ProbeError.
    """
    settings = _a_club_with_backup(club)
    note = _note(club)
    if note and note.to != to:
        if note.source != to:
            raise MoveError(
                f"{club.name} is on its way from {note.source} to {note.to}. Go on with './pds move {club.name} --to "
                f"{note.to}', or go back with '--to {note.source}'."
            )
        if not note.opened:
            return _back(club, note, yes=yes)
        note = None  # the new server has run: back is a normal move
    if note is None:
        note = _begin(club, settings, to, without)
    if not note.opened:
        place = _leave(club, note, yes=yes) if _host(club) == note.source else destination(club, to)
        if not _arrive(club, place, yes=yes):
            return 1
    return _end(club, yes=yes)


def _begin(club: Stack, settings: Settings, to: str, without: Sequence[str]) -> Note:
    """Check everything that can be known before, then write the note."""
    source = _host(club)
    if source == to:
        raise MoveError(f"{club.name} is on the host of {to} already.")
    step(1, f"Can {club.name} go from {source} to {to}?")
    has = read_settings(source, club.root).clubs.get(club.name)
    place = destination(club, to, has)
    places.refuse_what_is_there(place, club.name)
    outputs = places.opened(club)
    for stack in (club, Stack(source, club.root)):
        _refuse_changes(stack)
    gets = read_settings(to, club.root).clubs[club.name]
    print(places.how_it_fits(club, outputs, has, gets, to))
    print(f"{to} has its room, its Nomad answers, and {club.name} and {source} have nothing left to do.")
    if settings.dns.provider == "manual":
        print("Its DNS records are made by hand: after step 3 they have to name the new address.")
    _refuse_losses(club, without)
    note = Note(source=source, to=to)
    _write(club, note)
    return note


def _refuse_losses(club: Stack, without: Sequence[str]) -> None:
    """Losses of a backup have to be known while the server runs."""
    print("A backup of the running PDS is made, and checked account by account.", flush=True)
    api = runs.api_of(club)
    if back_up(api) is None:
        raise MoveError("The backup failed: see above. Nothing was changed.")
    if not last_backup_is_restorable(api, without):
        raise MoveError(
            "Accounts could not come along: see above. Nothing was changed. Bring them back first, or leave them "
            "behind by '--without DID'."
        )


def _leave(club: Stack, note: Note, *, yes: bool) -> Destination:
    """Stop the server, and make a backup of the stopped PDS."""
    place = destination(club, note.to)
    step(
        2, f"The PDS is paused on {note.source}. What was acknowledged is on its disk; from now on no client can write."
    )
    if read_settings(club.name, club.root).pds.new:
        change(club, "pds:pds.new", "false")  # otherwise a start on the empty volume there would be no fault
    pause(club, yes=yes)
    api = runs.api_of(club)
    _wait(api)
    snapshot = back_up(api)
    if snapshot is None:
        raise StackError(
            f"The backup failed, and the PDS is paused. Fix the fault above and run the same again, or let it "
            f"run where it is: './pds move {club.name} --to {note.source}'."
        )
    _write(club, replace(note, snapshot=snapshot))
    return place


def _say_where(club: Stack, place: Destination) -> None:
    for key, value in place.options.items():
        change(club, key, value)


def _arrive(club: Stack, place: Destination, *, yes: bool) -> bool:
    """Create jobs, secrets and records, then restore the data; return whether that succeeded."""
    note = _note(club)
    assert note
    _say_where(club, place)
    settings = read_settings(club.name, club.root)
    step(3, f"Jobs and secrets go from {note.source} to {note.to}, and the records to {place.ipv4}.")
    print(
        f"Clients with a cached record may use the old address for {settings.dns.ttl} s more, which no longer "
        "serves it."
    )
    pause(club, yes=yes)
    step(4, f"Backup {note.snapshot} is put in place on {note.to}.")
    api = runs.api_of(club)
    _wait(api)
    # It has the old server's last event, so no relay has to report its cursor.
    if not put_back(club, settings, Wish(snapshot=note.snapshot, sequence=1), api):
        print(
            f"\nThe PDS is paused, and its data are on {note.source} as they were. Put right what is said above and "
            f"run the same again; or './pds move {club.name} --to {note.source}' lets it run there."
        )
        return False
    _write(club, replace(note, opened=True))
    return True


def _end(club: Stack, *, yes: bool) -> int:
    """Start the new server; the old host removes the club once it serves."""
    note = _note(club)
    assert note
    step(5, f"The PDS runs on {note.to}.")
    run_again(club, read_settings(club.name, club.root), yes=yes)
    outputs = club.outputs()
    if outputs["state"] != "serving":
        print(f"\nNot finished: it is {outputs['state']}. {outputs['resolves']}\nThe records are:")
        for record in outputs["records"]:
            print(f"  {record['name']} {record['type']} {record['value']}  (zone {record['zone']})")
        print(
            f"\nWhen the name leads to {outputs['ipv4']}, run the same again: {note.source} keeps its room until then."
        )
        return 1
    step(6, f"{note.source} removes the club; the data there are renamed, and kept.")
    _give_up_room(club, Stack(note.source, club.root), yes=yes)
    _forget(club)
    address = places.opened(Stack(note.source, club.root))["ipv4"]
    print(
        f"\nMoved. The data as they were are on {note.source}: `ssh root@{address} ls /srv/nomad/.trash` lists them, "
        f"and only you remove them. `./pds check {club.name}` looks at everything; `./pds escrow {club.name}` writes "
        "down where it is now."
    )
    return 0


def _give_up_room(club: Stack, source: Stack, *, yes: bool) -> None:
    access = (source.outputs().get("club_access") or {}).get(club.name)
    if club.name in read_settings(source.name, source.root).clubs:
        if access:
            _wait(places.api_of(access))
        if source.run("config", "rm", "--path", f"pds:clubs.{club.name}").code:
            raise StackError(
                f"Pulumi.{source.name}.yaml could not be changed. Take {club.name} out of its 'clubs' yourself, and "
                "run the same again."
            )
    up(source, yes=yes)


def _back(club: Stack, note: Note, *, yes: bool) -> int:
    """Start it on the old host again, whose data are whole and have not changed since."""
    step(1, f"{club.name} goes back to {note.source}: the server on {note.to} has never run.")
    if _host(club) != note.source:
        room = read_settings(note.source, club.root).clubs.get(club.name)
        place = destination(club, note.source, room)
        try:
            _wait(runs.api_of(club))
        except ProbeError as error:
            print(f"note: what runs on {note.to} cannot be asked: {error}")
        _say_where(club, place)
    run_again(club, read_settings(club.name, club.root), yes=yes)
    _forget(club)
    print(f"\n{club.name} is on {note.source}, as before. Its room on {note.to} is as it was.")
    return 0


def _a_club_with_backup(club: Stack) -> Settings:
    settings = read_settings(club.name, club.root)
    if settings.on is None:
        raise MoveError(
            f"{club.name} has a droplet of its own. What moves is a club: a stack with 'on: HOST'. For another droplet "
            "raise 'host.generation'; for another region see docs/operating.md, Moving."
        )
    if settings.on.stack is None:
        raise MoveError(
            f"{club.name} is in the Nomad at {settings.on.nomad_address}, which is not this program's. See "
            "docs/operating.md, Moving."
        )
    return with_backup(club)


def _host(club: Stack) -> str:
    on = read_settings(club.name, club.root).on
    assert on
    assert on.stack
    return on.stack


def _refuse_changes(stack: Stack) -> None:
    """Refuse pending changes: the effects of this command's `up` have to be known."""
    found = read_digest(Workspace(Engine(), stack.root).preview(stack.name), stack.name)
    left = [*found.errors, *sorted({change.name for change in found.changes} - _NOBODYS_DOING)]
    if left:
        raise MoveError(
            f"Stack {stack.name} has something left to do: {', '.join(left)}. Run `pulumi up --stack {stack.name}` to "
            "its end first."
        )


def _wait(api: NomadApi) -> None:
    """Wait until none of the club's other jobs runs: a backup, a drill, a restore of a killed run."""

    def idle() -> str | None:
        busy = runs.under_way(api)
        return f"there runs {', '.join(busy)}" if busy else None

    until(idle, _IDLE, "The club's other jobs")


def _note(club: Stack) -> Note | None:
    found: Mapping[str, Any] | None = yaml.safe_load(read_text(club.name, club.root))["config"].get(_NOTE)
    if not found:
        return None
    return Note(
        source=str(found["from"]),
        to=str(found["to"]),
        snapshot=str(found.get("snapshot") or ""),
        opened=bool(found.get("opened")),
    )


def _write(club: Stack, note: Note) -> None:
    before = _note(club)
    if before and (before.source, before.to) != (note.source, note.to):
        _forget(club)
        before = None
    told, now = _values(before) if before else {}, _values(note)
    for key, value in now.items():
        if told.get(key) != value:
            change(club, f"{_NOTE}.{key}", value)


def _values(note: Note) -> dict[str, str]:
    values = {"from": note.source, "to": note.to, "snapshot": note.snapshot, "opened": "true" if note.opened else ""}
    return {key: value for key, value in values.items() if value}


def _forget(club: Stack) -> None:
    if club.run("config", "rm", _NOTE).code:
        raise StackError(f"Pulumi.{club.name}.yaml could not be changed. Remove '{_NOTE}' from it yourself.")
