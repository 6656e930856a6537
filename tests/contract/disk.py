"""A disk whose power can be cut: an ext4 file system in a file, on a loop device; needs root.

The file contains what the kernel has sent to the device, not what it still holds in memory. A cut is a copy of the file
at one instant. The copy is mounted in place of the file, so the file system replays its journal as after a crash. The
cache of a real device is not part of this.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MIB = 256
_TRIES = 50


class NoDiskError(Exception):
    """This machine cannot create such a disk; the text names the reason."""


@dataclass
class Disk:
    """A disk mounted at `mount`; `image` is the content of the device."""

    image: Path
    mount: Path

    def cut(self) -> None:
        """Replace the device by a copy of its current content. Stop the processes that use it first (SIGSTOP)."""
        copy = self.image.with_suffix(".cut")
        for _ in range(_TRIES):
            before = self._writes()
            _run("cp", "--sparse=always", str(self.image), str(copy))
            # The kernel writes back by itself. A copy during such a write is not of a single instant.
            if self._writes() == before:
                break
        else:
            raise AssertionError("the device was written to during every copy")
        self.image = copy

    def again(self) -> None:
        """Mount the remaining content at the same place, after the processes that used the disk were killed."""
        _run("umount", str(self.mount))
        _run("mount", "-o", "loop", str(self.image), str(self.mount))

    def _writes(self) -> str:
        [device] = _run("findmnt", "--noheadings", "--output", "SOURCE", str(self.mount)).split()
        return Path("/sys/class/block", Path(device).name, "stat").read_text().split()[4]


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Create the disk, mounted below `folder`. Raises NoDiskError if this machine cannot."""
    if os.geteuid() != 0:
        raise NoDiskError("only root mounts a loop device, and this is another user")
    shm = Path("/dev/shm")
    image = (shm if os.access(shm, os.W_OK) else folder) / f"pds-power-cut-{os.getpid()}.img"
    mount = folder / "disk"
    mount.mkdir()
    made = Disk(image=image, mount=mount)
    try:
        with image.open("wb") as file:
            file.truncate(_MIB * 1024 * 1024)
        try:
            _run("mkfs.ext4", "-q", str(image))
            _run("mount", "-o", "loop", str(image), str(mount))
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            raise NoDiskError(f"this machine has no loop device for an ext4 file system: {why}".strip()) from error
        yield made
    finally:
        if os.path.ismount(mount):
            _run("umount", "--lazy", str(mount))
        for path in (image, image.with_suffix(".cut")):
            path.unlink(missing_ok=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
