"""A cluster's droplets in process grade whose volumes are disks, and whose agents can be frozen or cut off.

A volume is an ext4 file system in a file, mounted through a loop device of its own for each attach. If it is taken from
a running worker, ext4 is shut down first: every process that still runs there gets I/O errors, and what was not flushed
is lost. Then they run on for `lingers` seconds before they end, as they do on a droplet between the detach and the end
of `volume-lost.sh`. A power cut shuts the file system down, too. The next attach replays the journal.

Each worker's agent has a control group (version 2), by which its packets to the servers are dropped: its link is down
for it, while its containers and their members go on.

All workers share one mount namespace, so the volume has the same path on each, and the old mount is under the new one.
"""

import fcntl
import os
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.machine import Machine
from tests.e2e.environment.tools import E2eError, need, run

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h): _IOR('X', 125, __u32)."""
_WITHOUT_FLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not written, as if the disk was gone."""
_MIB = 8192
"""Of each volume's file, which is sparse. The API's size of the volume is another matter."""
_REPAIRED = 2
"""e2fsck's highest exit code of a file system that is well afterwards."""


class DiskMachines(ClusterMachines):
    """Servers and workers. `at_fence` runs when a volume was taken from a running worker, before its processes end."""

    def __init__(self, folder: Path, docker_host: str, ports: Mapping[str, int]) -> None:
        need("mkfs.ext4", "e2fsck", "blkid", "debugfs", "losetup", "iptables")
        super().__init__(folder, docker_host, ports)
        (self._shims / "debugfs").unlink()  # the disks are real
        self._loops: dict[str, str] = {}
        self._dead: set[str] = set()
        self._groups = _second_groups()
        self._cut: set[int] = set()
        self.lingers = 0.0
        self.at_fence: Callable[[Machine], None] = lambda _machine: None
        self.fenced: dict[str, float] = {}
        self.attached: dict[str, float] = {}
        """When a volume was last taken from a droplet, and given to one, by `time.monotonic`."""

    def make_volume(self, volume_id: str, gib: int) -> None:
        """A blank disk."""
        super().make_volume(volume_id, gib)
        with self._disk(volume_id).open("wb") as file:
            file.truncate(_MIB * 1024 * 1024)

    def drop_volume(self, volume_id: str) -> None:
        """See `ProcessMachines`."""
        self._unmount(volume_id)
        super().drop_volume(volume_id)
        self._disk(volume_id).unlink(missing_ok=True)

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """See `ClusterMachines`."""
        self.attached[volume_id] = time.monotonic()
        super().attach(droplet_id, name, volume_id)

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """I/O errors for all that runs there, then its end."""
        machine = self._machines[droplet_id]
        is_running = machine.agent is not None
        self._shut_down(volume_id)
        self.fenced[volume_id] = time.monotonic()
        if is_running:
            self.at_fence(machine)
            time.sleep(self.lingers)
        super().detach(droplet_id, volume_id)

    def start(self, droplet_id: int) -> None:
        """See `ClusterMachines`. The disk that it has is mounted again."""
        volume = self._carried.get(droplet_id)
        if volume and volume not in self._loops:
            self._mount(volume, "")
        super().start(droplet_id)

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """See `ClusterMachines`. Without grace the disk keeps only what was flushed."""
        volume = self._carried.get(droplet_id)
        if volume and not graceful:
            self._shut_down(volume)
        super().stop(droplet_id, graceful)
        self.mend_link(droplet_id)
        self._end_group(droplet_id)
        if volume:
            self._unmount(volume)

    def freeze(self, machine: Machine) -> None:
        """Stop the agent's processes, which keep their memory and their connections."""
        for pid in self._in_group(machine.droplet_id):
            os.kill(pid, signal.SIGSTOP)

    def cut_link(self, machine: Machine) -> None:
        """Drop all packets from the agent to the cluster's addresses, without a word to either side."""
        run(["iptables", "--insert", *self._rule(machine.droplet_id)])
        self._cut.add(machine.droplet_id)

    def mend_link(self, droplet_id: int) -> None:
        """Deliver packets again."""
        if droplet_id in self._cut:
            self._cut.discard(droplet_id)
            run(["iptables", "--delete", *self._rule(droplet_id)])

    def _rule(self, droplet_id: int) -> list[str]:
        group = str(self._group(droplet_id).relative_to(self._groups))
        return [
            "OUTPUT",
            "--destination",
            f"{self._network}.0/24",
            "--match",
            "cgroup",
            "--path",
            group,
            "--jump",
            "DROP",
        ]

    def _before_agent(self, machine: Machine) -> list[str]:
        group = self._group(machine.droplet_id)
        group.mkdir(exist_ok=True)
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]

    def _group(self, droplet_id: int) -> Path:
        return self._groups / f"pds-e2e-{self._network}-{droplet_id}"

    def _in_group(self, droplet_id: int) -> list[int]:
        with suppress(FileNotFoundError):
            return [int(pid) for pid in (self._group(droplet_id) / "cgroup.procs").read_text().split()]
        return []

    def _end_group(self, droplet_id: int) -> None:
        """End what the agent left, such as the processes that write logs."""
        end = time.monotonic() + 30
        while pids := self._in_group(droplet_id):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise E2eError(f"processes of droplet {droplet_id} do not end: {pids}")
            time.sleep(0.05)
        with suppress(FileNotFoundError):
            self._group(droplet_id).rmdir()

    def _disk(self, volume_id: str) -> Path:
        return self.volume_folder(volume_id).with_suffix(".img")

    def _mount(self, volume_id: str, owner: str) -> None:
        """As `volume.sh` prepares it, without quotas: format a blank disk, check any other."""
        disk = self._disk(volume_id)
        if not run(["blkid", "-p", str(disk)], check=False):
            with tempfile.TemporaryDirectory() as seed:
                Path(seed).chmod(0o755)
                Path(seed, ".pds-volume").write_text(f"{owner}\n")
                run(["mkfs.ext4", "-q", "-m", "1", "-d", seed, str(disk)])
        run(["sh", "-c", f'e2fsck -p "$0" || [ $? -le {_REPAIRED} ]', str(disk)])
        device = run(["losetup", "--find", "--show", str(disk)]).strip()
        self._loops[volume_id] = device
        run(["mount", device, str(self.volume_folder(volume_id))])

    def _shut_down(self, volume_id: str) -> None:
        if volume_id not in self._loops or volume_id in self._dead:
            return
        self._dead.add(volume_id)
        handle = os.open(self.volume_folder(volume_id), os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(handle)

    def _unmount(self, volume_id: str) -> None:
        device = self._loops.pop(volume_id, None)
        self._dead.discard(volume_id)
        if device:
            folder = str(self.volume_folder(volume_id))
            run(["sh", "-c", 'umount "$0" || umount --lazy "$0"', folder])
            # At once, or when the last process of an old droplet has ended.
            run(["losetup", "--detach", device])


def _second_groups() -> Path:
    """Where control groups of version 2 are mounted. Raises E2eError."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, folder, kind, *_rest = line.split()
        if kind == "cgroup2":
            return Path(folder)
    raise E2eError("no control groups of version 2 are mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
