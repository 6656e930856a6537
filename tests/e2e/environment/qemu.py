"""One virtual machine of QEMU, and control of it while it runs.

Software emulation unless PDS_E2E_ACCEL names another accelerator (`kvm`): hardware virtualisation inside of a virtual
machine is often present and fails.

The machine's network is QEMU's own, closed except for forwarded ports. It spans half of IPv4, so that the droplet has
the addresses of the API, and reaches 169.254.169.254 as a droplet does.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.environment.service import last_lines
from tests.e2e.environment.tools import E2eError
from tests.e2e.images.droplet import DropletImage

GATEWAY = "198.51.100.1"
MAC = "52:54:00:00:00:01"
_NETWORK = "128.0.0.0/128.0.0.0"
_NAMESERVER = "203.0.113.53"
_LINE = (
    "console=ttyS0 loglevel=4 root=/dev/vda rw panic=-1 net.ifnames=0 mitigations=off no_timer_check "
    "systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900"
)
"""Without mitigations: page table isolation would empty the emulated TLB at each system call. No check of the timer:
on a busy machine it ended in a panic. systemd's 90 s for a start are those of a real processor."""
_START = 30.0
_OFF = 300.0
"""Deadline of a clean shutdown, in seconds; the drain unit's limit is 90."""


@dataclass
class Disk:
    """A volume as a disk. Its serial is that of DigitalOcean's disks: the host finds it by its name."""

    name: str
    file: Path


@dataclass(frozen=True)
class Private:
    """A second interface, in a network without another machine. A hub without a second port would block its queue."""

    mac: str
    network: str
    gateway: str
    nameserver: str
    """QEMU's own two addresses there."""


@dataclass
class VirtualMachine:
    """A machine with one root disk. `home` gets its console, QEMU's own output and its control socket.

    `neighbours`: `ADDRESS:PORT` to a command that answers one connection on its standard input.
    """

    home: Path
    image: DropletImage
    serial: str
    address: str
    neighbours: Mapping[str, Sequence[str]]
    memory_mib: int = 2048
    private: Private | None = None
    process: "subprocess.Popen[bytes] | None" = None
    forwarded: dict[str, str] = field(default_factory=dict)

    def start(self, disks: Sequence[Disk] = ()) -> None:
        """Power on, with these disks from the start. Raises E2eError if QEMU doesn't run."""
        (self.home / "control").unlink(missing_ok=True)
        with (self.home / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(disks), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise E2eError(f"QEMU did not start:\n{last_lines(self.home / 'qemu.log')}")
            time.sleep(0.1)
        for outside, inside in self.forwarded.items():
            self._forward(outside, inside)

    @property
    def running(self) -> bool:
        """Whether it is powered on."""
        return self.process is not None and self.process.poll() is None

    def plug(self, disk: Disk) -> None:
        """Add a disk while it runs. Raises E2eError."""
        added = self._monitor(f'drive_add 0 "if=none,{_drive(disk)}"')
        error = self._monitor(f"device_add {_device(disk)}")
        if added != "OK" or error:
            raise E2eError(f"the disk {disk.name} can't be plugged in: {added} {error}")

    def unplug(self, name: str) -> None:
        """Take a disk away while it runs, whatever the machine does with it. Raises E2eError."""
        error = self._monitor(f"device_del {name}-disk")
        if error:
            raise E2eError(f"the disk {name} can't be taken away: {error}")
        # QEMU closes the file a moment later.
        end = time.monotonic() + _START
        while any(block["device"] == name for block in self._ask("query-block")):
            if time.monotonic() > end:
                raise E2eError(f"QEMU still has the disk {name}")
            time.sleep(0.1)

    def grow(self, name: str, gib: int) -> None:
        """Enlarge the disk, and notify the machine as DigitalOcean does."""
        self._monitor(f"block_resize {name} {gib}G")

    def forward(self, outside: str, inside: str) -> None:
        """`ADDRESS:PORT` of this machine's loopback leads to the guest's port from now on."""
        if outside not in self.forwarded:
            self.forwarded[outside] = inside
            if self.running:
                self._forward(outside, inside)

    def forget(self, outside: str) -> None:
        """End the forwarding."""
        if self.forwarded.pop(outside, None) and self.running:
            self._monitor(f"hostfwd_remove net0 tcp:{outside}")

    def power_button(self) -> None:
        """Press it, and wait until the machine is off; after five minutes power it off, as a provider would."""
        assert self.process is not None
        self._monitor("system_powerdown")
        try:
            self.process.wait(_OFF)
        except subprocess.TimeoutExpired:
            self.pull_the_plug()

    def pull_the_plug(self) -> None:
        """Off, at once; data not yet written to a disk are lost."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(_START)

    def _forward(self, outside: str, inside: str) -> None:
        error = self._monitor(f"hostfwd_add net0 tcp:{outside}-{self.address}:{inside}")
        if error:
            raise E2eError(f"{outside} can't be forwarded to the virtual machine: {error}")

    def _command(self, disks: Sequence[Disk]) -> list[str]:
        forwards = [f"guestfwd=tcp:{where}-cmd:{' '.join(command)}" for where, command in self.neighbours.items()]
        network = [
            "user",
            "id=net0",
            f"net={_NETWORK}",
            f"host={GATEWAY}",
            f"dns={_NAMESERVER}",
            "ipv6=off",
            "restrict=on",
        ]
        command = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", f"q35,accel={os.environ.get('PDS_E2E_ACCEL', 'tcg')}"),
            *("-cpu", "Nehalem", "-smp", "1", "-m", str(self.memory_mib)),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", _LINE),
            # cloud-init recognises a droplet by these two.
            *("-smbios", f"type=1,manufacturer=DigitalOcean,product=Droplet,serial={self.serial}"),
            *("-drive", f"if=virtio,format=raw,cache=unsafe,file={self.home / 'disk.ext4'}"),
            *("-device", "virtio-scsi-pci,id=scsi0", "-device", "virtio-rng-pci"),
            *("-netdev", ",".join([*network, *forwards]), "-device", f"virtio-net-pci,netdev=net0,mac={MAC}"),
            *("-chardev", f"file,id=console,append=on,path={self.home / 'console.log'}", "-serial", "chardev:console"),
            *("-qmp", f"unix:{self.home / 'control'},server=on,wait=off"),
        ]
        if self.private:
            own = f"host={self.private.gateway},dns={self.private.nameserver}"
            command += [
                *("-netdev", f"user,id=net1,net={self.private.network},{own},ipv6=off,restrict=on"),
                *("-device", f"virtio-net-pci,netdev=net1,mac={self.private.mac}"),
            ]
        for disk in disks:
            command += ["-drive", f"if=none,{_drive(disk)}", "-device", _device(disk)]
        return command

    def _answers(self) -> bool:
        try:
            self._ask("query-status")
        except (OSError, ValueError):
            return False
        return True

    def _monitor(self, line: str) -> str:
        return str(self._ask("human-monitor-command", **{"command-line": line})).strip()

    def _ask(self, command: str, **arguments: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_START)
            control.connect(str(self.home / "control"))
            with control.makefile("rw") as lines:
                lines.readline()  # its greeting
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    lines.write(json.dumps(request) + "\n")
                    lines.flush()
                    answer = _answer(lines)
        if "error" in answer:
            raise E2eError(f"QEMU refuses {command}: {answer['error']['desc']}")
        return answer["return"]


def _answer(lines: Any) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(lines.readline())
        if "event" not in message:
            return message


def _drive(disk: Disk) -> str:
    return f"id={disk.name},format=raw,cache=unsafe,discard=unmap,file={disk.file}"


def _device(disk: Disk) -> str:
    return (
        f"scsi-hd,id={disk.name}-disk,bus=scsi0.0,drive={disk.name},vendor=DO,product=Volume,serial={disk.name},"
        f"device_id={disk.name}"
    )
