"""A droplet as a machine, in machine grade: the exact `user_data` under systemd and cloud-init on Debian 13.

A virtual machine boots from the image of `images/droplet.py`, reads `user_data` from a metadata service at
169.254.169.254 as DigitalOcean's droplets do, and finds its volume as a SCSI disk with DigitalOcean's name, attached
during the boot. Nomad comes from a mirror and the server's image from a registry, both over HTTPS with a certificate of
an authority on the disk. Nothing in `user_data` is mapped or omitted.

Differences from a droplet: no packet leaves this machine; DigitalOcean's firewall does not filter (`assign` forwards
ports as if it allowed everything); the packages are in an archive on the disk; the disk has no boot loader.

Root is needed only to build the image, and QEMU is the one additional program.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.environment.qemu import GATEWAY, MAC, Disk, VirtualMachine
from tests.e2e.environment.tools import E2eError, need, run
from tests.e2e.images.droplet import OUTSIDE, DropletImage
from tests.support.certificates import Authority

REACHABLE = {80: 10080, 443: 10443, 2200: 2200, 4650: 4650}
"""A port of the droplet to the port at its reserved address, which is above 1024 here; SSH has one of its own."""
METADATA = "169.254.169.254"

_SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=10"),
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
    # A login takes seconds under emulation. The connection ends with the machine, and so does its master.
    *("-o", "ControlMaster=auto", "-o", "ControlPersist=600", "-o", "ServerAliveCountMax=12"),
)
_PLUG_AFTER = 12.0
"""Seconds from power on until a volume exists: DigitalOcean attaches it to a machine that is already booting."""


@dataclass
class Droplet:
    """One droplet: its virtual machine and what belongs to it."""

    machine: VirtualMachine
    volumes: dict[str, str]
    ssh: tuple[str, int]
    address: str | None = None


@dataclass
class Volume:
    """A volume's file, and how large it is."""

    file: Path
    gib: int = 0
    names: set[str] = field(default_factory=set)


class VirtualMachines:
    """Machines that are virtual; the `Machines` of a `World`.

    `folder` gets `machines/ID/` (disk, console, QEMU's output), `volumes/` and `outside/`, whose files the droplets may
    fetch from https://releases.test and pds.local. Raises E2eError if a program is missing.
    """

    def __init__(self, folder: Path, image: DropletImage) -> None:
        need("qemu-system-x86_64", "debugfs", "ssh", "ssh-keygen")
        self._folder, self._image = folder.resolve(), image
        self._droplets: dict[int, Droplet] = {}
        self._volumes: dict[str, Volume] = {}
        self.outside = self._folder / "outside"
        self.outside.mkdir(parents=True)
        authority = Authority("the e2e environment's authority")
        (self._folder / "authority.pem").write_text(authority.pem)
        self._certificate = authority.issue(*OUTSIDE).written(self._folder, "outside.pem")
        self._certificate.chmod(0o600)
        self._key = self._folder / "operator"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(self._key)])

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """Create a disk and the metadata with `user_data`, and power on. Raises E2eError."""
        home = self._folder / "machines" / str(droplet_id)
        home.mkdir(parents=True)
        address = f"198.51.100.{droplet_id % 250 + 2}"
        run(["cp", "--sparse=always", str(self._image.disk), str(home / "disk.ext4")])
        self._trust(home / "disk.ext4", home)
        self._write_metadata(home / "metadata", droplet_id, address, user_data)
        machine = self._machine(home, droplet_id, address)
        droplet = Droplet(machine, dict(volumes), ("127.0.0.1", free_port()))
        self._droplets[droplet_id] = droplet
        machine.forward(f"{droplet.ssh[0]}:{droplet.ssh[1]}", "22")
        machine.start()
        if volumes:
            time.sleep(_PLUG_AFTER)
        for disk in self._disks(droplet):
            machine.plug(disk)

    def start(self, droplet_id: int) -> None:
        """Power on, volumes in place."""
        droplet = self._droplets[droplet_id]
        if not droplet.machine.running:
            droplet.machine.start(self._disks(droplet))

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """Press the power button, or power off at once."""
        droplet = self._droplets.get(droplet_id)
        if droplet is None or not droplet.machine.running:
            return
        if graceful:
            droplet.machine.power_button()
        else:
            droplet.machine.pull_the_plug()

    def destroy(self, droplet_id: int) -> None:
        """Off, and its disk gone. Console and volume stay."""
        self.stop(droplet_id, graceful=False)
        droplet = self._droplets.pop(droplet_id, None)
        if droplet is not None:
            (droplet.machine.home / "disk.ext4").unlink()
            shutil.rmtree(droplet.machine.home / "metadata")

    def assign(self, droplet_id: int, address: str | None) -> None:
        """The reserved address leads to the droplet's ports from now on."""
        droplet = self._droplets.get(droplet_id)
        if droplet is None:
            return
        for inside, outside in REACHABLE.items():
            if droplet.address:
                droplet.machine.forget(f"{droplet.address}:{outside}")
            if address:
                droplet.machine.forward(f"{address}:{outside}", str(inside))
        droplet.address = address

    def make_volume(self, volume_id: str, gib: int) -> None:
        """A file of zeros, with holes."""
        file = self._folder / "volumes" / volume_id
        file.parent.mkdir(exist_ok=True)
        self._volumes[volume_id] = Volume(file)
        self.grow_volume(volume_id, gib)

    def grow_volume(self, volume_id: str, gib: int) -> None:
        """Larger, under the running machine that has it."""
        volume = self._volumes[volume_id]
        volume.gib = gib
        for droplet in self._droplets.values():
            for name, identity in droplet.volumes.items():
                if identity == volume_id and droplet.machine.running:
                    droplet.machine.grow(name, gib)
                    return
        with volume.file.open("ab") as file:
            file.truncate(gib << 30)

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """A virtual machine has its disks at birth."""
        raise E2eError(f"droplet {droplet_id} cannot get the volume {name} while it exists")

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """The machine stops: its only disk with data is gone."""
        self.stop(droplet_id, graceful=False)

    def drop_volume(self, volume_id: str) -> None:
        """The file is removed."""
        self._volumes.pop(volume_id).file.unlink()

    def droplets(self) -> dict[int, Droplet]:
        """The existing droplets."""
        return dict(self._droplets)

    def ask(self, droplet_id: int, script: str, patience: float = 120.0) -> str:
        """The output of a shell script on the droplet, run as the operator runs one: by SSH, as root.

        Raises E2eError if it fails, or SSH does, or `patience` (seconds) is over.
        """
        host, port = self._droplets[droplet_id].ssh
        where = ("-S", f"{self._folder}/ssh-{port}", "-i", str(self._key), "-p", str(port))
        try:
            done = subprocess.run(
                [*_SSH, *where, f"root@{host}", "sh -s"],
                input=script,
                capture_output=True,
                text=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            raise E2eError(f"the droplet did not end `{script}` in {patience:.0f} s") from None
        if done.returncode:
            raise E2eError(f"`{script}` ended with {done.returncode} on the droplet:\n{done.stdout}{done.stderr}")
        return done.stdout

    def stop_all(self) -> None:
        """Power everything off, at the end of an e2e environment. Disks are kept until the folder is deleted."""
        for droplet in self._droplets.values():
            droplet.machine.pull_the_plug()

    def _machine(self, home: Path, droplet_id: int, address: str) -> VirtualMachine:
        """The machine of a droplet, not yet powered on."""
        answering = [sys.executable, "-m", "tests.e2e.environment.outside"]
        neighbours = {
            f"{METADATA}:80": [*answering, str(home / "metadata")],
            f"{OUTSIDE['pds.local']}:443": [*answering, str(self.outside), str(self._certificate)],
        }
        return VirtualMachine(home, self._image, str(droplet_id), address, neighbours)

    def _interfaces(self, droplet_id: int, address: str) -> dict[str, list[dict[str, object]]]:
        """The droplet's interfaces, as the metadata service describes them."""
        ipv4 = {"ip_address": address, "netmask": "255.255.255.0", "gateway": GATEWAY}
        return {"public": [{"ipv4": ipv4, "mac": MAC, "type": "public"}]}

    def _disks(self, droplet: Droplet) -> list[Disk]:
        return [Disk(name, self._volumes[identity].file) for name, identity in droplet.volumes.items()]

    def _trust(self, disk: Path, home: Path) -> None:
        """Put the e2e environment's authority among those that the disk's system trusts."""
        bundle, folder = "/etc/ssl/certs/ca-certificates.crt", "/usr/local/share/ca-certificates"
        known = run(["debugfs", "-R", f"cat {bundle}", str(disk)])
        authority = (self._folder / "authority.pem").read_text()
        (home / "trusted.pem").write_text(known + authority)
        for command in (
            f"rm {bundle}",
            f"write {home / 'trusted.pem'} {bundle}",
            f"write {self._folder / 'authority.pem'} {folder}/bench.crt",
        ):
            run(["debugfs", "-w", "-R", command, str(disk)])
        if authority not in run(["debugfs", "-R", f"cat {bundle}", str(disk)]):
            raise E2eError("debugfs did not write the e2e environment's authority into the droplet's disk")

    def _write_metadata(self, folder: Path, droplet_id: int, address: str, user_data: str) -> None:
        """The metadata service's data for any process on the droplet (its version 1)."""
        document = {
            "droplet_id": droplet_id,
            "hostname": f"droplet-{droplet_id}",
            "vendor_data": "",
            "user_data": user_data,
            "public_keys": [self._key.with_suffix(".pub").read_text().strip()],
            "region": "fra1",
            "interfaces": self._interfaces(droplet_id, address),
            "dns": {"nameservers": []},
            "features": {"dhcp_enabled": False},
        }
        place = folder / "metadata"
        (place / "v1").mkdir(parents=True, mode=0o700)
        (place / "v1.json").write_text(json.dumps(document))
        (place / "v1" / "user-data").write_text(user_data)


def free_port() -> int:
    """A port of loopback that no process has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
