"""The progress of a migration that the two servers and the directory do not show.

It holds no password, no session and no mailed token. `operation` is signed and becomes public when it is submitted; it
is kept so that a killed run submits this one and does not have another one signed. If the file is lost, the command
continues from what the servers show, and needs another token at most.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from cli.lib.private_files import write_private


class MigrationError(CommandError):
    """The migration cannot start or continue. The text names the cause and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`server` is the URL of the account's old data, `old_handle` its handle there. `handle` and `email` are those of
    the new account."""

    did: str
    server: str = ""
    old_handle: str = ""
    handle: str = ""
    email: str = ""
    copied: str = ""
    """Revision of the last copy of the repository."""
    token_requested: float = 0.0
    """Time of the last mail with a token."""
    operation: dict[str, Any] | None = None


class ProgressFile:
    """The file of one account in `folder`, where the export is kept, too."""

    def __init__(self, folder: Path, did: str) -> None:
        self.folder = folder
        self._path = folder / "progress.json"
        self.progress = self._read(did)

    def update(self, **changes: Any) -> None:
        """Write changes of the progress."""
        self.progress = replace(self.progress, **changes)
        write_private(self._path, json.dumps(asdict(self.progress), indent=1).encode())

    def _read(self, did: str) -> Progress:
        try:
            known = Progress(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return Progress(did=did)  # none, or torn: everything in it can be found again
        return known if known.did == did else Progress(did=did)


def did_of_handle(root: Path, stack: str, handle: str) -> str:
    """Return the DID of a migration that began with the old `handle`; empty if there is none."""
    for path in sorted((root / "build" / "migrate" / stack).glob("*/progress.json")):
        try:
            known = Progress(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if handle in (known.old_handle, known.handle):
            return known.did
    return ""


@contextmanager
def progress_file(root: Path, stack: str, did: str) -> Iterator[ProgressFile]:
    """Open the file of an account's migration. Raises MigrationError if another process has it."""
    folder = root / "build" / "migrate" / stack / did.rpartition(":")[2]
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MigrationError(
                f"Another `./pds migrate-account` is already moving {did}. Wait until it ends."
            ) from None
        yield ProgressFile(folder, did)
