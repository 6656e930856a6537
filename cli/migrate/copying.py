"""Copies an account's repository, blobs and preferences. Each part can be repeated, and copies only what is missing.

`importRepo` is one transaction in the server (`repo/importRepo.js`), so a repository is imported whole or not at all.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cli.migrate import car
from cli.migrate.servers import Head, NewServer, OldServer, is_lost, spooled
from cli.migrate.state import MigrationError, ProgressFile
from cli.migrate.xrpc import CallRefusedError, NoAnswerError, TooLargeError
from cli.snapshot.repository import is_hash_of
from components.settings.sections.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")
Say = Callable[[str], None]

_WORKERS = 4
_STEP = 100
"""Blobs between two lines of progress."""
_SLOWEST = 3600.0
"""Seconds for the transfer of one blob, with its attempts and the waits for rate limits."""
_IDLE_MIB, _MIB_PER_1000_BLOCKS = 256, 12
"""The server reads a whole repository into memory (`repo/importRepo.js`), and Node's heap is half of its container."""
_MEBIBYTE = 1024 * 1024
_DAILY_UPLOADS = 1000
"""Uploads of blobs that a server accepts from one address in a day (`repo/uploadBlob.js`), if it limits requests."""


@dataclass(frozen=True, order=True)
class MissingBlob:
    """A blob that could not be copied, a record that names it, and the reason."""

    record: str
    cid: str
    reason: str


def copy_repository(old: OldServer, new: NewServer, file: ProgressFile, settings: Settings, say: Say) -> Head:
    """Make the new server's records those of the old one; return the old server's commit. Raises ServiceError."""
    head = old.head()
    if head.data and head.data == new.head().data:
        file.update(copied=head.rev)
        say("Repository: the same records are on both servers.")
        return head
    path = file.folder / "repository.car"
    export = fetched_export(old, path, say)
    refuse_size(export, settings)
    try:
        new.client.upload("com.atproto.repo.importRepo", path, "application/vnd.ipld.car")
    except NoAnswerError as error:
        raise MigrationError(f"{error} If it ran out of memory, raise 'pds.memory_mib'.") from error
    there = new.head().data
    if there != export.data:
        raise MigrationError(
            f"After the import {new.host} has other records than the export (roots {there} and {export.data}). Nothing "
            "final was done. Run the command again."
        )
    path.unlink(missing_ok=True)
    file.update(copied=export.rev)
    say(f"Repository: {export.blocks:,} blocks imported, every record is there.")
    return Head(head.cid if export.rev == head.rev else "", export.rev, export.data)


def fetched_export(old: OldServer, path: Path, say: Say) -> car.Exported:
    """Store the old server's export at `path`, and read it once. Raises ServiceError, CarError, MigrationError."""
    say(f"Repository: fetching it from {old.host}.")
    try:
        old.export(path)
        export = car.read_export(path, old.did)
    except OSError as error:
        raise MigrationError(f"{path} cannot be written: {error.strerror}.") from None
    say(f"Repository: {export.size / _MEBIBYTE:.1f} MiB at revision {export.rev}. The server imports it.")
    return export


def refuse_size(export: car.Exported, settings: Settings) -> None:
    """Refuse what the server would refuse, and what would end it for all of its members."""
    limit, needed = settings.pds.max_import_size, memory_for(export.blocks)
    if needed > settings.pds.memory_mib:
        raise MigrationError(
            f"To import {export.blocks:,} blocks the server needs about {needed:,} MiB, and 'pds.memory_mib' is "
            f"{settings.pds.memory_mib:,}. With less memory the server would stop for all members. Set "
            f"'pds.memory_mib: {needed}' for the move, run `pulumi up`, and run the command again."
        )
    if limit is not None and export.size > limit:
        raise MigrationError(
            f"The repository has {export.size:,} bytes, and 'pds.max_import_size' allows {limit:,}. Raise it, run "
            "`pulumi up`, and run the command again."
        )


def memory_for(blocks: int) -> int:
    """Return the MiB that the server needs to import so many blocks (docs/figures.md, Migrations)."""
    return _IDLE_MIB + -(-blocks * _MIB_PER_1000_BLOCKS // 1000)


def copy_blobs(old: OldServer, new: NewServer, settings: Settings, bypass: bool, say: Say) -> list[MissingBlob]:
    """Copy the blobs that the new server lacks; return those that cannot be copied. Raises ServiceError."""
    wanted = list(new.missing_blobs())
    if not wanted:
        say("Blobs: none is missing.")
        return []
    say(f"Blobs: {len(wanted):,} to copy.")
    if len(wanted) > _DAILY_UPLOADS and settings.pds.rate_limits and not bypass:
        say(
            f"  {new.host} accepts {_DAILY_UPLOADS:,} uploads a day from one address. To copy all of them now, set "
            "'pds.rate_limits: false' for the move, or PDS_RATE_LIMIT_BYPASS_KEY in 'pds.extra_secret_env'."
        )
    limit, lost, copied = settings.pds.blob_upload_limit, [], 0

    def copy(blob: tuple[str, str]) -> MissingBlob | int:
        return _copy_blob(old, new, *blob, limit)

    for number, result in enumerate(each(wanted, copy), 1):
        if isinstance(result, MissingBlob):
            lost.append(result)
        else:
            copied += result
        if number % _STEP == 0 or number == len(wanted):
            say(f"  {number:,} of {len(wanted):,}, {copied / _MEBIBYTE:.1f} MiB, {len(lost)} not copied")
    return sorted(lost)


def _copy_blob(old: OldServer, new: NewServer, cid: str, record: str, limit: int) -> MissingBlob | int:
    """Copy one blob; return its size, or why it is missing. Raises ServiceError for what concerns all blobs."""
    with spooled() as file:
        try:
            kind = old.blob(cid, file, limit)
        except CallRefusedError as refusal:
            if is_lost(refusal):
                return MissingBlob(record, cid, f"{old.host} does not have it")
            return MissingBlob(record, cid, f"{old.host} refuses it: {refusal.message or refusal.status}")
        except NoAnswerError as error:
            if not error.reached:
                raise
            return MissingBlob(record, cid, str(error).removesuffix(" Run the command again."))
        except TooLargeError:
            return MissingBlob(record, cid, f"it is larger than 'pds.blob_upload_limit' ({limit:,} bytes)")
        file.seek(0)
        content = file.read()
    if not is_hash_of(cid, content):
        return MissingBlob(record, cid, f"{old.host} sent content that does not match the CID")
    try:
        uploaded = new.client.upload("com.atproto.repo.uploadBlob", content, kind)["blob"]
    except CallRefusedError as refusal:
        return MissingBlob(record, cid, f"{new.host} refuses it: {refusal.message or refusal.status}")
    if uploaded["ref"]["$link"] != cid:
        return MissingBlob(record, cid, f"{new.host} returned another CID")
    return len(content)


def each(items: Sequence[Item], work: Callable[[Item], Result], workers: int = _WORKERS) -> Iterator[Result]:
    """Return the results of `work` as they come, from several threads. The first error ends the others."""
    pending: queue.SimpleQueue[Item] = queue.SimpleQueue()
    results: queue.SimpleQueue[Result | Exception] = queue.SimpleQueue()
    ended = threading.Event()
    for item in items:
        pending.put(item)

    def run() -> None:
        while not ended.is_set():
            try:
                item = pending.get_nowait()
            except queue.Empty:
                return
            try:
                results.put(work(item))
            except Exception as error:
                results.put(error)

    for _ in range(min(workers, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in items:
            try:
                result = results.get(timeout=_SLOWEST)
            except queue.Empty:
                raise MigrationError(f"Nothing was copied for {_SLOWEST:.0f} s. Run the command again.") from None
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        ended.set()


def copy_preferences(old: OldServer, new: NewServer, say: Say) -> str:
    """Copy the preferences; return why they are not the same afterwards, or "". Raises ServiceError."""
    try:
        preferences = old.preferences()
        if new.preferences() != preferences:
            new.client.procedure("app.bsky.actor.putPreferences", {"preferences": preferences})
        if _sorted(new.preferences()) != _sorted(preferences):
            return f"{new.host} returns other preferences than {old.host}"
    except CallRefusedError as refusal:
        return str(refusal).rstrip(".")
    say(f"Preferences: {len(preferences)} copied.")
    return ""


def _sorted(preferences: Sequence[object]) -> list[str]:
    return sorted(map(repr, preferences))
