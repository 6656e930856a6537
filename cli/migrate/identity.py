"""The one operation of the PLC directory that names the new server, and the token from the old server's mail.

The old server signs (`identity/signPlcOperation.js`), the new one checks and submits (`submitPlcOperation.js`). The
operation keeps everything that is not a server's: rotation keys, services, verification methods and aliases of others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cli.migrate.directory import MOST_KEYS, Directory, Identity, cid_of_operation
from cli.migrate.servers import NewServer, OldServer
from cli.migrate.state import MigrationError, ProgressFile
from cli.migrate.target import Questions
from cli.migrate.xrpc import CallRefusedError, Clock, NoAnswerError

Json = Any
Say = Callable[[str], None]

_TOKEN_VALID = 900
"""Seconds for which a mailed token is valid (`account-manager/helpers/email-token.js`)."""
_TRIES = 5
_FIELDS = ("rotationKeys", "alsoKnownAs", "verificationMethods", "services")


@dataclass(frozen=True, kw_only=True)
class IdentityChange:
    """The new content of the identity, and what becomes of the rotation keys."""

    of: str
    """CID of the operation that it changes. Content of a later one would be lost."""
    content: dict[str, Json]
    kept: tuple[str, ...]
    """Keys that are neither server's, which stay first."""
    removed: tuple[str, ...]
    """The old server's."""


def identity_change(identity: Identity, old: Json, new: Json) -> IdentityChange:
    """Return the change, from what each server recommends. Raises MigrationError if it is impossible."""
    present, theirs, ours = identity.rotation_keys, set(old["rotationKeys"]), list(new["rotationKeys"])
    kept = tuple(key for key in present if key not in theirs and key not in ours)
    keys = [*kept, *ours]
    if len(keys) > MOST_KEYS:
        raise MigrationError(
            f"The identity would have {len(keys)} rotation keys, and the directory accepts {MOST_KEYS}. The member "
            f"first removes one of {', '.join(kept)}, with `goat plc`. Nothing final was done."
        )
    others = [alias for alias in identity.aliases if not alias.startswith("at://")]
    content = {
        "rotationKeys": keys,
        "alsoKnownAs": [*new["alsoKnownAs"], *others],
        "verificationMethods": {**identity.data["verificationMethods"], **new["verificationMethods"]},
        "services": {**identity.data["services"], **new["services"]},
    }
    removed = tuple(key for key in present if key in theirs - set(ours))
    return IdentityChange(of=identity.cid, content=content, kept=kept, removed=removed)


def move_identity(
    old: OldServer,
    new: NewServer,
    directory: Directory,
    file: ProgressFile,
    change: IdentityChange,
    *,
    before: Callable[[], None],
    ask: Questions,
    clock: Clock,
    say: Say,
) -> None:
    """Have the operation signed, and submit it. `before` runs just before it is submitted. Raises ServiceError, and
    MigrationError if the identity is no longer the one that `change` was made of.

    A killed run may have had it signed: the stored one is submitted only if it is still the next one.
    """

    def refuse_another() -> None:
        if directory.identity(old.did).cid != change.of:
            raise MigrationError(
                f"The identity in {directory.url} was changed since the list above was made. Nothing final was done. "
                "Run the command again. It lists the identity as it is now."
            )

    refuse_another()
    operation = file.progress.operation
    if operation is None or operation.get("prev") != change.of or not _holds(operation, change.content):
        operation = _signed(old, file, change, ask, clock, say, refuse_another)
    before()
    refuse_another()
    try:
        new.client.procedure("com.atproto.identity.submitPlcOperation", {"operation": operation}, attempts=1)
    except (CallRefusedError, NoAnswerError) as error:
        if directory.identity(old.did).cid != cid_of_operation(operation):
            if isinstance(error, CallRefusedError):
                file.update(operation=None)
            raise
    present = directory.identity(old.did)
    if present.cid != cid_of_operation(operation):
        raise MigrationError(f"{directory.url} has another newest operation of {old.did}. Run the command again.")
    say(f"Identity: {directory.url} names {new.host}.")


def _holds(operation: dict[str, Json], content: dict[str, Json]) -> bool:
    return all(operation.get(name) == content[name] for name in _FIELDS)


def _signed(
    old: OldServer,
    file: ProgressFile,
    change: IdentityChange,
    ask: Questions,
    clock: Clock,
    say: Say,
    before: Callable[[], None],
) -> dict[str, Json]:
    """Return the signed operation, which is checked and stored first. `before` runs after each token is typed."""
    for _ in range(_TRIES):
        if clock.time() - file.progress.token_requested >= _TOKEN_VALID:
            old.client.procedure("com.atproto.identity.requestPlcOperationSignature")
            file.update(token_requested=clock.time())
            say(f"{old.host} sends a mail with a token to the member. It is valid for 15 minutes.")
        token = ask.secret("Token from that mail (empty: send another mail)")
        if not token:
            file.update(token_requested=0.0)
            continue
        before()
        try:
            answer = old.client.procedure(
                "com.atproto.identity.signPlcOperation", {**change.content, "token": token}, attempts=1
            )
        except CallRefusedError as refusal:
            if refusal.error not in ("ExpiredToken", "InvalidToken"):
                raise
            say(f"{old.host}: {refusal.message}.")
            if refusal.error == "ExpiredToken":
                file.update(token_requested=0.0)
            continue
        except NoAnswerError:
            file.update(token_requested=0.0)  # it may be used
            raise
        file.update(token_requested=0.0)  # a token is used once
        operation: dict[str, Json] = answer["operation"]
        if operation.get("prev") != change.of or not _holds(operation, change.content):
            raise MigrationError(
                f"{old.host} signed another operation than was requested. It was not submitted. Nothing final was done."
            )
        file.update(operation=operation)
        return operation
    raise MigrationError(f"{old.host} accepted no token. Nothing final was done. Run the command again.")


def activate(new: NewServer, say: Say) -> None:
    """Activate the new account, if it is not active yet. Raises ServiceError."""
    if not new.status()["activated"]:
        new.client.procedure("com.atproto.server.activateAccount")
        status = new.status()
        if not status["activated"] or not status["validDid"]:
            raise MigrationError(f"{new.host} did not activate the account. Run the command again.")
    _sign(new)
    say(f"Account: active on {new.host}.")


def _sign(new: NewServer) -> None:
    """Have the repository signed with the new key by a commit without writes.

    `repo/importRepo.js` stores the old server's commit as the newest one, with the signature of a key that the identity
    does not name any more. Until the next write relays would refuse it.
    """
    head = new.head()
    if head.signed_rev == head.rev:
        return
    new.client.procedure("com.atproto.repo.applyWrites", {"repo": new.did, "writes": []})
    head = new.head()
    if head.signed_rev != head.rev:
        raise MigrationError(f"{new.host} did not sign the repository. Run the command again.")
