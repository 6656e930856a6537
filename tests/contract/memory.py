"""A limit on memory as Docker sets one: a control group, with page cache, children and no swap.

Owns: making the group, running a command in it, and what the kernel says afterwards. Does not own: what is run.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tools.trial.node import Install

_NUMBERS = itertools.count()
_PATIENCE = 10.0
_ENTER = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"']


class NoLimitError(Exception):
    """No control group for memory can be made here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One control group. The files' names differ between the kernel's two interfaces."""

    folder: Path
    second: bool
    """Version 2 of the interface."""

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, inside."""
        return [_ENTER[0], *_ENTER[1:], str(self.folder), *command]

    def node(self, install: Install, folder: Path) -> Install:
        """The same server, whose programs all run inside; `folder` keeps what starts them."""
        script = folder / "node"
        script.write_text(f'#!/bin/sh\necho $$ >"{self.folder}/cgroup.procs" && exec "{install.node}" "$@"\n')
        script.chmod(0o755)
        return replace(install, node=script)

    @property
    def held(self) -> int:
        """Bytes that the kernel cannot take back: the processes' own memory, and files in memory alone."""
        names = ("anon", "shmem") if self.second else ("total_rss", "total_shmem")
        lines = (self.folder / "memory.stat").read_text().splitlines()
        known = dict(line.split() for line in lines)
        return sum(int(known.get(name, 0)) for name in names)

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        text = (self.folder / ("memory.events" if self.second else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def limited(mebibytes: int) -> Iterator[Limit]:
    """A control group with so much memory, for as long as the block. Raises NoLimitError."""
    parent, second = _parent()
    folder = parent / f"pds-test-{os.getpid()}-{next(_NUMBERS)}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoLimitError(f"no control group can be made in {parent}: {error}") from error
    try:
        names = (
            ("memory.max", "memory.swap.max") if second else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        limit = mebibytes * 1024 * 1024
        (folder / names[0]).write_text(str(limit))
        if (folder / names[1]).exists():  # not where the kernel counts no swap
            (folder / names[1]).write_text("0" if second else str(limit))
        yield Limit(folder=folder, second=second)
    finally:
        _end(folder)


def _end(folder: Path) -> None:
    """With the group ends what is still in it, as with a container: a server outlives a job that was killed."""
    end = time.monotonic() + _PATIENCE
    while left := (folder / "cgroup.procs").read_text().split():
        assert time.monotonic() < end, f"{left} are still in {folder}"
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.05)
    folder.rmdir()


def _parent() -> tuple[Path, bool]:
    """Where groups with a limit on memory can be made, and whether it is version 2."""
    own = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    for controllers, path in own.items():
        if "memory" in controllers.split(","):
            return _mounted("cgroup", "memory", path), False
    if "" not in own:
        raise NoLimitError("this kernel has no control groups")
    group = _mounted("cgroup2", "", own[""])
    # A group that has processes hands no controller on to groups below it: one that does is further up.
    for folder in (group, *group.parents):
        enabled = folder / "cgroup.subtree_control"
        if enabled.exists() and "memory" in enabled.read_text().split():
            return folder, True
    raise NoLimitError(f"no control group from {group} upwards hands on the controller of memory")


def _mounted(kind: str, option: str, path: str) -> Path:
    """Where a group is in this file system; a container sees its own group as the root."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        root, place = before.split()[3:5]
        if after.split()[0] == kind and (not option or option in after.split()[-1].split(",")):
            below = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
            return Path(f"{place}/{below}")
    raise NoLimitError(f"{kind} is not mounted")
