"""The progress of a move, as `move:note` in the club's stack file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cli.backups.restore import MOVE_NOTE, is_begun
from cli.lib.apply import change_together
from cli.lib.stack import Stack, StackError
from offline.stackfile import read_config, read_settings

KEY = MOVE_NOTE
"""Not one of the program's options, so it changes nothing."""


@dataclass(frozen=True)
class StackHost:
    """A host: that of a stack, or of a cluster's stack the one with the name `host`."""

    stack: str
    host: str | None = None

    @classmethod
    def of(cls, text: str) -> "StackHost":
        """Read it from the note of a move: STACK, or STACK/HOST."""
        stack, _, host = text.partition("/")
        return cls(stack, host or None)

    def __str__(self) -> str:
        return f"{self.stack}/{self.host}" if self.host else self.stack

    @property
    def described(self) -> str:
        """Return it as a sentence names it."""
        return f"host {self.host} of {self.stack}" if self.host else f"the host of {self.stack}"

    @property
    def flags(self) -> str:
        """Return the options of `./pds move` for it."""
        return f"--to {self.stack} --host {self.host}" if self.host else f"--to {self.stack}"

    @property
    def listing(self) -> str:
        """Return the command that lists what was removed on it."""
        host = f" --host {self.host}" if self.host else ""
        return f"`./pds ssh {self.stack}{host} -- ls /srv/nomad/.trash`"


@dataclass(frozen=True, kw_only=True)
class MoveProgress:
    """The progress of a move. `snapshot` is the backup's id, once it is made of the paused PDS; `opened` whether the
    new server may have run; `without` the DIDs of the accounts to leave behind. `run` is the run that restores
    `snapshot`; a run of another backup counts for nothing. `newer` says that the new host's data were found to be
    newer than the backup."""

    source: StackHost
    to: StackHost
    snapshot: str = ""
    opened: bool = False
    without: tuple[str, ...] = ()
    run: str = ""
    newer: bool = False

    @property
    def within(self) -> bool:
        """Return whether both hosts are of one cluster."""
        return self.source.stack == self.to.stack


def place(club: Stack) -> StackHost:
    """Return the host that the club's stack file names. Raises StackFileError."""
    settings = read_settings(club.name, club.root)
    assert settings.on
    assert settings.on.stack
    cluster = read_settings(settings.on.stack, club.root).cluster
    return StackHost(settings.on.stack, settings.nomad.datacenter if cluster else None)


def read(club: Stack) -> MoveProgress | None:
    """Return the progress of the club's move; None if it is not being moved. Raises StackFileError."""
    entry: Mapping[str, Any] | None = read_config(club.name, club.root).get(KEY)
    if not is_begun(entry):
        return None
    snapshot = str(entry.get("snapshot") or "")
    restored, _, run = str(entry.get("run") or "").partition(" ")
    return MoveProgress(
        source=StackHost.of(str(entry["from"])),
        to=StackHost.of(str(entry["to"])),
        snapshot=snapshot,
        opened=bool(entry.get("opened")),
        without=tuple(str(entry.get("without") or "").split()),
        run=run if restored == snapshot else "",
        newer=bool(entry.get("newer")),
    )


def write(club: Stack, note: MoveProgress) -> None:
    """Write the progress; that of another move is replaced. Raises StackError."""
    before = read(club)
    if before and (before.source, before.to) != (note.source, note.to):
        forget(club)
        before = None
    written = _values(before) if before else {}
    changes = {f"{KEY}.{key}": value for key, value in _values(note).items() if written.get(key) != value}
    if changes:
        change_together(club, changes)
    for key in written.keys() - _values(note).keys():
        if club.run("config", "rm", "--path", f"{KEY}.{key}").code:
            raise StackError(f"Pulumi.{club.name}.yaml could not be changed. Remove '{KEY}.{key}' from it yourself.")


def forget(club: Stack) -> None:
    """Remove the progress of a move that has ended. Raises StackError."""
    if club.run("config", "rm", KEY).code:
        raise StackError(f"Pulumi.{club.name}.yaml could not be changed. Remove '{KEY}' from it yourself.")


def _values(note: MoveProgress) -> dict[str, str]:
    values = {
        "from": str(note.source),
        "to": str(note.to),
        "snapshot": note.snapshot,
        "opened": "true" if note.opened else "",
        "without": " ".join(note.without),
        "run": f"{note.snapshot} {note.run}" if note.run else "",
        "newer": "true" if note.newer else "",
    }
    return {key: value for key, value in values.items() if value}
