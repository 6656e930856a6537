"""A memory limit as Docker sets it: a control group that counts page cache and children, without swap.

Owns: creating the group, running a command in it, and the kernel's statistics afterwards. Does not own: the command.
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
_PATIENCE = 600.0
_ENTER = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"']


class NoLimitError(Exception):
    """This machine cannot create a memory control group; the text names the reason."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One control group. The files' names differ between the kernel's two interfaces."""

    folder: Path
    second: bool
    """Whether the interface has version 2."""

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, run in the group."""
        return [_ENTER[0], *_ENTER[1:], str(self.folder), *command]

    def node(self, install: Install, folder: Path) -> Install:
        """The same install, whose programs all run in the group; `folder` contains the script that starts them."""
        script = folder / "node"
        script.write_text(f'#!/bin/sh\necho $$ >"{self.folder}/cgroup.procs" && exec "{install.node}" "$@"\n')
        script.chmod(0o755)
        return replace(install, node=script)

    @property
    def held(self) -> int:
        """Bytes that the kernel cannot take back: the processes' own memory, and files that exist only in memory."""
        names = ("anon", "shmem") if self.second else ("total_rss", "total_shmem")
        lines = (self.folder / "memory.stat").read_text().splitlines()
        known = dict(line.split() for line in lines)
        return sum(int(known.get(name, 0)) for name in names)

    @property
    def kills(self) -> int:
        """Number of processes that the kernel has killed because they exceeded the limit."""
        text = (self.folder / ("memory.events" if self.second else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def limited(mebibytes: int) -> Iterator[Limit]:
    """A control group with so much memory during the block. Raises NoLimitError."""
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
        if (folder / names[1]).exists():  # absent if the kernel does not count swap
            (folder / names[1]).write_text("0" if second else str(limit))
        yield Limit(folder=folder, second=second)
    finally:
        _end(folder)


def _end(folder: Path) -> None:
    """End the group with its processes, as a container does: a server can outlive a killed job."""
    end = time.monotonic() + _PATIENCE
    while left := (folder / "cgroup.procs").read_text().split():
        assert time.monotonic() < end, f"{left} are still in {folder}"
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.05)
    folder.rmdir()


def _parent() -> tuple[Path, bool]:
    """The folder in which memory groups can be created, and whether the interface has version 2."""
    own = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    for controllers, path in own.items():
        if "memory" in controllers.split(","):
            return _mounted("cgroup", "memory", path), False
    if "" not in own:
        raise NoLimitError("this kernel has no control groups")
    group = _mounted("cgroup2", "", own[""])
    # A group with processes passes no controller to groups below it, so search further up.
    for folder in (group, *group.parents):
        enabled = folder / "cgroup.subtree_control"
        if enabled.exists() and "memory" in enabled.read_text().split():
            return folder, True
    raise NoLimitError(f"no control group from {group} upwards hands on the controller of memory")


def _mounted(kind: str, option: str, path: str) -> Path:
    """The folder of a group in this file system; a container sees its own group as the root."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        root, place = before.split()[3:5]
        if after.split()[0] == kind and (not option or option in after.split()[-1].split(",")):
            below = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
            return Path(f"{place}/{below}")
    raise NoLimitError(f"{kind} is not mounted")
