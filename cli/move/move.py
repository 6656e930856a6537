"""Moves a club's PDS to another host, of another stack or of its own cluster: `./pds move`, whose help lists the steps.

There are never two servers: the old one is stopped before the new one is known, and its job is deleted before the new
one's is created. The club's file records the progress as `move:note`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from cli.backups.restore import (
    back_up,
    last_backup_is_restorable,
    start_again,
    step,
    with_backup,
)
from cli.lib import nomad_jobs
from cli.lib.apply import change, change_together, moved_to, pause, up
from cli.lib.stack import Stack, StackError
from cli.move import arrival, progress, runs, second_place
from cli.move import destination as places
from cli.move.destination import Destination, MoveError, destination
from cli.move.own_disks import require_backups_in_buckets
from cli.move.progress import MoveProgress, StackHost
from cli.move.recorded_place import refuse_older_file
from cli.stacks.pending_changes import refuse_changes
from components.clients.errors import ServiceError
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings


def move(club: Stack, to: str, *, yes: bool, host: str | None = None, without: Sequence[str] = ()) -> int:
    """Move `club` to the host of stack `to`, or the `host` of that cluster, if need be without the accounts `without`;
    return the exit code.

    Raises StackError, StackFileError, ServiceError.
    """
    settings = _settings_of(club)
    note = progress.read(club)
    if note and to not in (note.to.stack, note.source.stack):
        _refuse_third_place(club, note)
    place = _wanted(club, StackHost(to, host), note)
    if note and place not in (note.to, note.source):
        _refuse_third_place(club, note)
    refuse_older_file(club, note, place)
    if note and not note.opened:
        _refuse_unpaused(club, note)
    if note and note.to != place:
        if note.opened:
            _refuse_way_back(club, note)
        if note.newer:
            _refuse_old_data(club, note)
        return _back(club, note, yes=yes)
    if note is None:
        note = _begin(club, settings, place, without)
    if not note.opened:
        note = _leave_behind(club, note, without)
        if note.within:
            second_place.grant(club, note.source, note.to, yes=yes)
        target = _leave(club, note, yes=yes) if progress.place(club) == note.source else destination(club, note.to)
        if not _arrive(club, target, yes=yes):
            return 1
    return _end(club, yes=yes)


def _leave_behind(club: Stack, note: MoveProgress, without: Sequence[str]) -> MoveProgress:
    """Add the accounts `without` to the note of a move that has begun; return the note."""
    together = tuple(dict.fromkeys([*note.without, *without]))
    if together != note.without:
        note = replace(note, without=together)
        progress.write(club, note)
    return note


def _refuse_third_place(club: Stack, note: MoveProgress) -> NoReturn:
    raise MoveError(
        f"{club.name} is being moved from {note.source} to {note.to}. Continue with "
        f"'./pds move {club.name} {note.to.flags}', or go back with '{note.source.flags}'."
    )


def _refuse_way_back(club: Stack, note: MoveProgress) -> NoReturn:
    """The old place still has its data: a restore onto them would keep accounts that were deleted since."""
    raise MoveError(
        f"{club.name} runs on {note.to} since its move, and {note.source} has old data until the move ends. Nothing "
        f"was changed. Finish it with './pds move {club.name} {note.to.flags}' once the server there serves. "
        f"Then move the club to {note.source} as usual."
    )


def _refuse_old_data(club: Stack, note: MoveProgress) -> NoReturn:
    """The file may be of an older checkout: the club moved to the new host, and has been served there since."""
    raise MoveError(
        f"The data of {club.name} on {note.to} are newer than the backup from {note.source}: a server has run on "
        "them. Nothing was changed. If they are the club's present data, run `pulumi config set --path "
        f"{progress.KEY}.opened true --stack {club.name}` and './pds move {club.name} {note.to.flags}', which ends the "
        f"move without a restore. Only if those on {note.source} are the present ones: run `pulumi config rm --path "
        f"{progress.KEY}.newer --stack {club.name}`, then repeat the command."
    )


def _refuse_unpaused(club: Stack, note: MoveProgress) -> None:
    """Refuse to restore the snapshot, or to start the old data, if the PDS was started on the new host outside a move.

    `note.opened` covers only what this command has started. Members' writes there would be lost.
    """
    if progress.place(club) == note.source:
        return
    paused, state = read_settings(club.name, club.root).pds.paused, club.outputs().get("state", "unknown")
    if paused and state == "paused":
        return
    seen = f"its state is '{state}'" if paused else f"'pds.paused' in Pulumi.{club.name}.yaml is not true"
    raise MoveError(
        f"{club.name} was paused for its move from {note.source} to {note.to}, and {seen}. Its server may have run on "
        f"{note.to}, with writes that backup {note.snapshot} lacks. Nothing was changed. If it has run, keep its data: "
        f"run `pulumi config set --path {progress.KEY}.opened true --stack {club.name}`, and "
        f"'./pds move {club.name} {note.to.flags}', which ends the move without a restore. Only if it has never run "
        f"there: run `pulumi config set --path pds.paused true --stack {club.name}` and "
        f"`pulumi up --stack {club.name}`, then repeat the command."
    )


def _begin(club: Stack, settings: Settings, to: StackHost, without: Sequence[str]) -> MoveProgress:
    """Check everything that can be known before, then write the note."""
    source = progress.place(club)
    if source == to:
        raise MoveError(f"{club.name} is on {to.described} already.")
    require_backups_in_buckets([club])  # the restore would look for the disk on the new host
    step(1, f"Check whether {club.name} can move from {source} to {to}.")
    if source.stack == to.stack:
        print(second_place.check(club, source, to))
    else:
        _check_another_stack(club, source, to)
    for stack in (club, Stack(source.stack, club.root)):
        refuse_changes(stack, MoveError)
    print(f"Stacks {club.name} and {source.stack} have no changes.")
    if settings.dns.provider == "manual":
        print("Its DNS records are created by hand. Change them to the new address after step 3.")
    _refuse_losses(club, without)
    note = MoveProgress(source=source, to=to, without=tuple(without))
    progress.write(club, note)
    return note


def _check_another_stack(club: Stack, source: StackHost, to: StackHost) -> None:
    present = read_settings(source.stack, club.root).clubs.get(club.name)
    target = destination(club, to, present)
    places.refuse_existing_jobs(target, club.name)
    grant = read_settings(to.stack, club.root).clubs[club.name]
    used = places.used_bytes(club, places.host_outputs(club), present)
    print(places.check_disk_quota(club.name, used, grant, to.stack))
    places.check_free_space(club.name, used, to, places.host_outputs(Stack(to.stack, club.root)))
    second_place.refuse_unready(club, to)
    print(f"{to} grants it a place, and the Nomad there answers.")


def _refuse_losses(club: Stack, without: Sequence[str]) -> None:
    """Losses of a backup have to be known while the server runs."""
    print("Make a backup of the running PDS, and check it account by account.", flush=True)
    api = nomad_jobs.stack_nomad_api(club)
    if back_up(api) is None:
        raise MoveError("The backup failed: see above. Nothing was changed.")
    if not last_backup_is_restorable(api, without):
        raise MoveError(
            "Some accounts could not be restored, or only an older copy: see above. Nothing was changed. Repair them "
            "first, or leave each behind with '--without DID'."
        )


def _leave(club: Stack, note: MoveProgress, *, yes: bool) -> Destination:
    """Stop the server, and make a backup of the stopped PDS."""
    target = destination(club, note.to)
    try:
        second_place.refuse_unready(club, note.to)
    except MoveError as error:
        back = f" To start the PDS on its current host: './pds move {club.name} {note.source.flags}'."
        raise MoveError(f"{error}{back}") from None
    api = nomad_jobs.stack_nomad_api(club)
    runs.wait(api)  # before the pause: a drill of a large PDS takes an hour
    step(2, f"Pause the PDS on {note.source}. Acknowledged writes are on its disk. From now on no client can write.")
    if read_settings(club.name, club.root).pds.new:
        change(club, "pds:pds.new", "false")  # otherwise a start on the empty volume there would be no fault
    pause(club, yes=yes)
    runs.wait(api)
    snapshot = back_up(api)
    if not snapshot:
        # The newest backup in the bucket may be of another host, or of a clock that is ahead.
        fault = "The backup failed" if snapshot is None else "A backup was made, but its id could not be read"
        raise StackError(
            f"{fault}, and the PDS is paused. Fix the fault above and repeat the command, or start the PDS on its "
            f"current host: './pds move {club.name} {note.source.flags}'."
        )
    progress.write(club, replace(note, snapshot=snapshot, run=""))
    return target


def _arrive(club: Stack, target: Destination, *, yes: bool) -> bool:
    """Create jobs, secrets and records, then restore the data; return whether that succeeded."""
    note = progress.read(club)
    assert note
    # Together: a port of the one host beside the datacenter of the other fits neither.
    change_together(club, target.options)
    settings = read_settings(club.name, club.root)
    step(3, f"Move jobs and secrets from {note.source} to {note.to}, and the records to {target.ipv4}.")
    print(
        f"Clients with a cached record may use the old address for {settings.dns.ttl} s more, which no longer "
        "serves it."
    )
    pause(club, yes=yes, env=moved_to(club))
    step(4, f"Restore backup {note.snapshot} on {note.to}.")
    if not arrival.restore_backup(club, settings, note, nomad_jobs.stack_nomad_api(club)):
        return False
    progress.write(club, replace(arrival.still_moving(club, note), opened=True))
    return True


def _end(club: Stack, *, yes: bool) -> int:
    """Start the new server; the old host removes the club once it serves."""
    note = progress.read(club)
    assert note
    step(5, f"Start the PDS on {note.to}.")
    start_again(club, read_settings(club.name, club.root), yes=yes)
    outputs = club.outputs()
    if outputs["state"] != "serving":
        print(f"\nNot finished: it is {outputs['state']}. {outputs['resolves']}\nThe records are:")
        for record in outputs["records"]:
            print(f"  {record['name']} {record['type']} {record['value']}  (zone {record['zone']})")
        print(
            f"\nWhen the name resolves to {outputs['ipv4']}, repeat the command. {note.source} keeps the "
            "club's place until then."
        )
        return 1
    step(6, f"Remove the club from {note.source}. Its data there are renamed and kept.")
    if note.without:
        print(f"These data are the last ones of {', '.join(note.without)} from before the move.")
    if note.within:
        second_place.withdraw(club, note.to, yes=yes)
    else:
        _remove_from_host(club, Stack(note.source.stack, club.root), yes=yes)
    progress.forget(club)
    print(
        f"\nMoved. The old data are on {note.source}: {note.source.listing} lists them, "
        f"and only you remove them. Run `./pds check {club.name}`, and `./pds escrow {club.name}` for an escrow with "
        "the new host."
    )
    for did in note.without:
        print(
            f"LEFT BEHIND: {did} is deactivated on {note.to}. Restore its newest whole copy with `./pds restore "
            f"{club.name} --only {did}`, and keep the old data on {note.source} until the member has everything back."
        )
    return 0


def _remove_from_host(club: Stack, source: Stack, *, yes: bool) -> None:
    access = (source.outputs().get("club_access") or {}).get(club.name)
    if club.name in read_settings(source.name, source.root).clubs:
        if access:
            runs.settle(places.club_nomad_api(access))
        if source.run("config", "rm", "--path", f"pds:clubs.{club.name}").code:
            raise StackError(
                f"Pulumi.{source.name}.yaml could not be changed. Remove {club.name} from its 'clubs' by hand, and "
                "repeat the command."
            )
    up(source, yes=yes)


def _back(club: Stack, note: MoveProgress, *, yes: bool) -> int:
    """Start the PDS on the old host again, whose data are complete and unchanged."""
    step(1, f"Move {club.name} back to {note.source}: the server on {note.to} has never run.")
    if progress.place(club) != note.source:
        grant = read_settings(note.source.stack, club.root).clubs.get(club.name)
        target = destination(club, note.source, grant)
        try:
            api = nomad_jobs.stack_nomad_api(club)
            if note.run:
                nomad_jobs.stop(api, note.run)  # it can be killed at any step, and the members wait
            runs.settle(api)
        except ServiceError as error:
            print(f"note: the jobs on {note.to} are unknown: {error}")
        present = progress.read(club)
        if present and present.opened:  # the restore had ended, and the command that followed it starts the server
            _refuse_way_back(club, present)
        change_together(club, target.options)
    start_again(club, read_settings(club.name, club.root), yes=yes, env=moved_to(club))
    if note.within:
        second_place.withdraw(club, note.source, yes=yes)
    elif note.snapshot and not _remove_restored(club, note, yes=yes):
        return 1
    progress.forget(club)
    unchanged = "" if note.within or note.snapshot else f" Its place on {note.to} is unchanged."
    print(f"\n{club.name} is on {note.source}, as before.{unchanged}")
    return 0


def _remove_restored(club: Stack, note: MoveProgress, *, yes: bool) -> bool:
    """Remove the place on the host that the club returns from; return whether that succeeded. Jobs of the next move
    would use the restored data there until its own restore."""
    step(2, f"Remove the club from {note.to}. What was restored there is renamed and kept.")
    host = Stack(note.to.stack, club.root)
    try:
        if club.name in read_settings(host.name, host.root).clubs:
            refuse_changes(host)
        _remove_from_host(club, host, yes=yes)
    except (StackError, ServiceError) as error:
        print(
            f"\n{error}\n{club.name} is on {note.source} as before, and its place on {note.to} is not removed yet. Fix "
            f"the fault and repeat the command. If {note.to} is lost for good, run `pulumi config rm {progress.KEY} "
            f"--stack {club.name}` instead."
        )
        return False
    print(f"To move the club to {note.to} again, first add it to the 'clubs' in Pulumi.{host.name}.yaml again.")
    return True


def _settings_of(club: Stack) -> Settings:
    settings = read_settings(club.name, club.root)
    if settings.on is None:
        raise MoveError(
            f"{club.name} has a droplet of its own. Only a club, a stack with 'on: HOST', can move. For another "
            "droplet raise 'host.generation'; for another region see docs/guide/hosts.md#permanent-properties."
        )
    if settings.on.stack is None:
        raise MoveError(
            f"{club.name} is in the Nomad at {settings.on.nomad_address}, which is not this program's. See "
            "docs/guide/clubs.md#moving-a-club-to-another-host."
        )
    return with_backup(club)


def _wanted(club: Stack, place: StackHost, note: MoveProgress | None) -> StackHost:
    """Fill in the host of a cluster if `--host` was left out: that of a move in progress, or what its file grants."""
    settings = read_settings(place.stack, club.root)
    cluster = settings.cluster
    if cluster is None:
        if place.host:
            raise MoveError(f"{place.stack} is not a cluster: it has one host. Leave '--host' out.")
        return place
    if place.host and place.host not in cluster.hosts:
        raise MoveError(f"Cluster {place.stack} has no host {place.host}. Write one of: {', '.join(cluster.hosts)}.")
    if place.host:
        return place
    for known in (note.to, note.source) if note else ():
        if known.stack == place.stack:
            return known
    here = progress.place(club)
    if here.stack == place.stack:
        others = ", ".join(host for host in cluster.hosts if host != here.host) or "there is none yet"
        raise MoveError(f"{club.name} is on {here.described}. Name another one with '--host': {others}.")
    grant = settings.clubs.get(club.name)
    return StackHost(place.stack, grant.host if grant else None)
