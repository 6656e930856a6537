"""What a migration does not move, listed before anything is final."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.migrate.copying import MissingBlob
from cli.migrate.identity import IdentityChange
from cli.migrate.servers import NewServer, OldServer
from cli.migrate.xrpc import CallRefusedError

_SHOWN = 10
_KEPT = "not of these two servers; stays first. Remove it with `goat` if it is not the member's"


@dataclass(frozen=True, kw_only=True)
class Report:
    """`missing` are losses that another run may repair; `stays` is what no migration moves; `identity` is its new
    content."""

    missing: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    identity: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text."""
        found = ["Missing on the new server:", *_indented(self.missing or ["nothing"])]
        found += ["Not moved by any tool:", *_indented(self.stays)]
        return [*found, "The identity after the move:", *_indented(self.identity)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def report(
    old: OldServer,
    new: NewServer,
    change: IdentityChange,
    handle: str,
    lost: Sequence[MissingBlob],
    preferences: str,
    folder: Path,
) -> Report:
    """Compare the servers and return the report. Raises ServiceError."""
    missing = [*_records(old, new), *_blobs(lost, folder)]
    if preferences:
        missing.append(f"preferences: {preferences}")
    return Report(missing=missing, stays=_stays(old, new, handle), identity=_identity(old, new, change))


def _records(old: OldServer, new: NewServer) -> list[str]:
    """Both trees are the same. A server may count another number, if it does not index a record."""
    theirs, ours = old.status()["indexedRecords"], new.status()["indexedRecords"]
    if theirs == ours:
        return []
    return [f"records: {old.host} counts {theirs:,}, {new.host} {ours:,}, though both repositories are the same"]


def _blobs(lost: Sequence[MissingBlob], folder: Path) -> list[str]:
    if not lost:
        return []
    listing = folder / "missing-blobs.txt"
    listing.write_text("".join(f"{blob.cid} {blob.record} {blob.reason}\n" for blob in lost))
    shown = [f"  {blob.record}: {blob.cid}: {blob.reason}" for blob in lost[:_SHOWN]]
    more = [f"  and {len(lost) - _SHOWN:,} more"] if len(lost) > _SHOWN else []
    head = f"{len(lost):,} blobs (pictures, videos) are missing. Their records were copied. Full list: {listing}"
    return [head, *shown, *more]


def _stays(old: OldServer, new: NewServer, handle: str) -> list[str]:
    lines = []
    present = str(old.session.get("handle", ""))
    if present and present != handle:
        lines.append(f"the handle {present}: {old.host} issued it. The account becomes {handle}. Mentions keep working")
    try:
        names = old.app_passwords()
    except CallRefusedError:
        names = []
    if names:
        lines.append(f"app passwords: {', '.join(names)}. Create new ones on {new.host}")
    if old.session.get("emailAuthFactor"):
        lines.append(f"the sign-in code by mail: {new.host} does not offer it")
    lines += [
        f"the confirmation of the e-mail address: confirm it again on {new.host}",
        f"sessions of apps: log in again, with {new.host} as the hosting provider",
        "chat: direct messages are kept by the chat service, by DID, and not by either server. This command does not "
        "touch them",
    ]
    return lines


def _identity(old: OldServer, new: NewServer, change: IdentityChange) -> list[str]:
    content = change.content
    lines = [f"server {content['services']['atproto_pds']['endpoint']}, handle {content['alsoKnownAs'][0]}"]
    for key in content["rotationKeys"]:
        owner = _KEPT if key in change.kept else f"of {new.host}"
        lines.append(f"rotation key {key}: {owner}")
    lines += [f"rotation key {key}: of {old.host}, removed" for key in change.removed]
    if not change.kept:
        lines.append("no rotation key of the member's own: without this server nothing can change the identity")
    return lines
