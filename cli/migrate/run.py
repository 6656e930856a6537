"""The order of a migration (atproto.com/guides/account-migration; bluesky-social/pds, ACCOUNT_MIGRATION.md; goat,
`account_migrate.go`).

Log in at the old server, create the deactivated account, copy, list what is missing, change the identity, activate,
write the member into the stack file, deactivate the old account. Each run starts by reading both servers and the
directory, and does what is left. So a killed run continues, and nothing is done twice.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cli.migrate import accounts
from cli.migrate.accounts import Connect
from cli.migrate.copying import copy_blobs, copy_preferences, copy_repository
from cli.migrate.directory import Directory, Identity
from cli.migrate.identity import IdentityChange, activate, identity_change, move_identity
from cli.migrate.report import report
from cli.migrate.servers import NewServer, OldServer
from cli.migrate.state import MigrationError, ProgressFile, did_of_handle, progress_file
from cli.migrate.target import MigrationRequest, Questions, Target
from cli.migrate.xrpc import AccountClient, CallRefusedError, Clock
from components.clients.errors import ServiceError
from offline.stackfile import StackFileError

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One account's move. `connect` returns clients of the old server, `ask` and `say` speak with the member."""

    target: Target
    request: MigrationRequest
    ask: Questions
    connect: Connect
    clock: Clock
    say: Say

    @property
    def directory(self) -> Directory:
        """The directory of identities."""
        return Directory(self.target.plc_url, self.clock)


def migrate(
    target: Target,
    request: MigrationRequest,
    ask: Questions,
    *,
    connect: Connect | None = None,
    clock: Clock = time,
    say: Say = print,
) -> int:
    """Move the account, or finish a move; return the exit code. Raises ServiceError, StackFileError, MigrationError."""
    connect = connect or partial(AccountClient, clock=clock, say=say)
    this = Migration(target=target, request=request, ask=ask, connect=connect, clock=clock, say=say)
    client = connect(accounts.source_url(request.source, target))
    handle = request.handle.lower().removeprefix("@")
    try:
        accounts.refuse_other_methods(_did_of(client, handle))
        session = accounts.log_in(client, handle, ask)
    except (ServiceError, accounts.LoginRefusedError) as error:
        return _finish_alone(this, handle, error)
    did = str(session["did"])
    accounts.refuse_other_methods(did)
    with progress_file(target.root, target.stack, did) as file:
        identity = this.directory.identity(did)
        if identity.server != target.public_url:
            old = accounts.old_server(client, session, identity, target, "", connect)
            return _move(this, client, old, identity, file)
        say(f"{did} has moved: the identity names {target.settings.hostname}. Finishing the remaining steps.")
        new = accounts.new_server(target, None, file, ask, clock, say)

        def find_old() -> OldServer:
            known = file.progress.server or this.directory.earlier_server(did, identity.server)
            return accounts.old_server(client, session, identity, target, known, connect)

        return _finish(this, find_old, new, file)


def _did_of(client: AccountClient, handle: str) -> str:
    """Return the handle's DID, "" if the server does not say. An account that moved away does not resolve there."""
    if handle.startswith("did:"):
        return handle
    try:
        return str(client.query("com.atproto.identity.resolveHandle", handle=handle)["did"])
    except CallRefusedError:
        return ""


def _move(this: Migration, login: AccountClient, old: OldServer, identity: Identity, file: ProgressFile) -> int:
    target, say = this.target, this.say
    accounts.refuse_without_key(identity, old)
    accounts.plan_account(this.request, target, old, file, accounts.handle_domains(login, old.client))
    say(f"{old.session['handle']} ({old.did}) moves from {old.host} to {target.settings.hostname}.")
    new = accounts.new_server(target, old, file, this.ask, this.clock, say)
    if new.status()["activated"]:
        raise MigrationError(
            f"The account is active on {new.host}, and the directory names {identity.server}. Two servers would write "
            f"for one identity. Run `./pds check {target.stack}`. Nothing was changed."
        )
    identity_change(identity, old.credentials(), new.credentials())  # refused before hours of copying
    change = _copied_and_agreed(this, old, new, file, identity)
    if change is None:
        say("Nothing final was done: the old account is as it was. Run the command again to continue.")
        return 1
    move_identity(
        old,
        new,
        this.directory,
        file,
        change,
        before=lambda: _copy_late_writes(this, old, new, file),
        ask=this.ask,
        clock=this.clock,
        say=say,
    )
    return _finish(this, lambda: old, new, file, again=False)


def _copied_and_agreed(
    this: Migration, old: OldServer, new: NewServer, file: ProgressFile, before: Identity
) -> IdentityChange | None:
    """Return the change that the member agrees to, None if they do not. The identity was `before` when it began."""
    copy_repository(old, new, file, this.target.settings, this.say)
    lost = copy_blobs(old, new, this.target.settings, bool(this.target.bypass), this.say)
    preferences = copy_preferences(old, new, this.say)
    identity = this.directory.identity(old.did)  # keys may have been added meanwhile
    if identity.server != before.server:
        raise MigrationError(f"The identity was changed meanwhile: it names {identity.server}. Run the command again.")
    change = identity_change(identity, old.credentials(), new.credentials())
    found = report(old, new, change, file.progress.handle, lost, preferences, file.folder)
    for line in found.lines():
        this.say(line)
    return change if this.ask.agree(f"Move the identity to {new.host} now? {old.host} cannot undo it") else None


def _copy_late_writes(this: Migration, old: OldServer, new: NewServer, file: ProgressFile) -> None:
    """Copy what was written on the old server since, for example while the member looked for the mail."""
    if old.head().rev == file.progress.copied:
        return
    this.say(f"{old.host} may have newer records.")
    copy_repository(old, new, file, this.target.settings, this.say)
    copy_blobs(old, new, this.target.settings, bool(this.target.bypass), this.say)


def _finish(
    this: Migration, find_old: Callable[[], OldServer], new: NewServer, file: ProgressFile, *, again: bool = True
) -> int:
    """Do what is left of a move whose identity names the new server. `again` tries missing blobs once more.

    Until the account is active here, the member is offline everywhere. So no fault of the old server may delay that.
    """
    old = None
    try:
        old = find_old()
        _copy_unless_written(this, old, new, file)
    except ServiceError as error:
        old = None
        this.say(f"{error} The account becomes active here without that server.")
    activate(new, this.say)
    _write_member(this, new, file)
    if old is None:
        return _not_deactivated(this)
    try:
        if again:
            lost = [blob.cid for blob in copy_blobs(old, new, this.target.settings, bool(this.target.bypass), this.say)]
        else:
            lost = [cid for cid, _ in new.missing_blobs()]
        return _end(this, old, file, lost)
    except ServiceError as error:
        this.say(str(error))
        return _not_deactivated(this)


def _not_deactivated(this: Migration) -> int:
    this.say(
        "The account is active here. The old server has not deactivated its copy yet. Run the command again when that "
        "server answers. If it has deleted or taken down the account, only `pulumi up` is left."
    )
    return 1


def _copy_unless_written(this: Migration, old: OldServer, new: NewServer, file: ProgressFile) -> None:
    """Copy late writes to an account that was never active here. An import into one with writes of its own would delete
    those."""
    head = new.head()
    if not new.status()["activated"] and head.signed_rev != head.rev:
        _copy_late_writes(this, old, new, file)


def _finish_alone(this: Migration, handle: str, error: Exception) -> int:
    """Without the old server, do what is left at the new one. Raises `error` if the identity is still the old one's."""
    target = this.target
    did = handle if handle.startswith("did:") else did_of_handle(target.root, target.stack, handle)
    if not did or this.directory.identity(did).server != target.public_url:
        raise error
    this.say(f"{error} The identity names {target.settings.hostname} already.")
    with progress_file(target.root, target.stack, did) as file:
        new = accounts.new_server(target, None, file, this.ask, this.clock, this.say)
        activate(new, this.say)
        _write_member(this, new, file)
    return _not_deactivated(this)


def _end(this: Migration, old: OldServer, file: ProgressFile, lost: list[str]) -> int:
    say, target = this.say, this.target
    if old.status()["activated"]:
        if not _late_writes_are_safe(this, old, file):
            return 1
        old.deactivate()
    say(f"Account: deactivated on {old.host}. Its data stay there until the member deletes them.")
    say(
        f"Moved. Run `pulumi up --stack {target.stack}`, which creates the records of the handle. The member logs in "
        f"with {target.settings.hostname} as the hosting provider."
    )
    if lost:
        say(f"{len(lost):,} blobs are still missing. Run the command again to try them again.")
    return 0


def _write_member(this: Migration, new: NewServer, file: ProgressFile) -> None:
    handle, email = file.progress.handle, file.progress.email
    if not handle:  # the file was lost
        account = new.client.query("com.atproto.server.getSession")
        handle, email = str(account["handle"]), str(account["email"])
        file.update(handle=handle, email=email)
    try:
        edit = this.target.member_edit(handle, email)
    except StackFileError as error:
        this.say(f"The member could not be written into the stack file: {error}")
        return
    if edit is None:
        this.say(f"Stack file: {handle} is in Pulumi.{this.target.stack}.yaml.")
        return
    this.say(edit.diff("with the member").rstrip())
    edit.write()


def _late_writes_are_safe(this: Migration, old: OldServer, file: ProgressFile) -> bool:
    """Keep what was written on the old server after the copy; return whether the old account may be deactivated.

    It cannot be imported any more: an import makes the records those of the export, and would delete newer ones.
    """
    copied = file.progress.copied
    head = old.head()
    if not copied or head.rev == copied:
        return True
    path = file.folder / f"written-later-{head.rev}.car"
    old.export(path, since=copied)
    this.say(
        f"{old.host} was written to after the copy (revision {head.rev}, copied {copied}). These records are not on "
        f"{this.target.settings.hostname}. They are kept in {path}."
    )
    return this.ask.agree(f"Deactivate the account on {old.host} nevertheless?")
