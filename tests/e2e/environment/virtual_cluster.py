"""A cluster's droplets in machine grade: a server or workers, each a virtual machine with the exact `user_data`.

Beside the public interface each has a private one, alone in the cluster's VPC. From a worker the reserved
address leads to a server of Nomad on this machine. A volume comes and goes while a machine runs, as a SCSI disk that
QEMU plugs and unplugs: the kernel is told, and asked nothing.
"""

import ipaddress
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from components.render.cluster.user_data import MachineIdentity
from components.render.host.cloud_init import Certificates
from components.settings.parse import read
from components.settings.sections.settings import Settings
from tests.e2e.environment.environment import ROOT
from tests.e2e.environment.outside import lay_out_nomad
from tests.e2e.environment.qemu import Disk, Private, VirtualMachine
from tests.e2e.environment.tools import E2eError, run
from tests.e2e.environment.virtual import VirtualMachines, free_port
from tests.e2e.images.droplet import DropletImage
from tests.e2e.images.installed import installed_image
from tests.support.certificates import Authority

RESERVED = "203.0.113.200"
"""The address that leads to a server."""
VPC = "10.118.0.0/20"
"""The range of the private addresses, which is that of `settings_of`."""
RPC = 4647
"""Nomad's port for workers, at that address."""
PATIENCE = 1500.0
"""Seconds after which something that should happen by itself counts as never."""

_ENDED = "until [ -e /run/cloud-init/result.json ]; do sleep 2; done; cat /run/cloud-init/status.json"
"""As `cloud-init status --wait`, without a second Python that looks four times a second."""
_STATE = "systemctl is-system-running --wait || systemctl --failed --plain --no-legend"


def settings_of(stack: str, **nomad: str) -> Settings:
    """The settings of a cluster of one server and two hosts; `nomad` says where its program comes from."""
    options = {
        "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
        "cluster": {
            "servers": {"count": 1},
            "hosts": {"a": {"volume_gib": 10}, "b": {"volume_gib": 10}},
            "workers": {"spares": 1},
        },
        "clubs": {"chess": {"host": "a", "port": 3101}},
        "ingress": {"kind": "none"},
        "nomad": nomad,
    }
    settings = read(options, f"Pulumi.{stack}.yaml", stack)
    assert settings.cluster
    assert str(settings.cluster.vpc_ip_range) == VPC
    return settings


def identity(authority: Authority, name: str) -> MachineIdentity:
    """What a droplet of the cluster gets from resources, with a certificate for `name`."""
    pair = authority.issue(name, peer=True)
    return MachineIdentity(certificates=Certificates(authority.pem, pair.cert_pem, pair.key_pem), address=RESERVED)


def until(what: str, happened: Callable[[], bool], patience: float = PATIENCE) -> float:
    """Wait until it happened; the seconds. Raises E2eError."""
    began, error = time.monotonic(), "it did not happen"
    while time.monotonic() - began < patience:
        try:
            if happened():
                return time.monotonic() - began
        except E2eError as caught:
            error = str(caught)
        time.sleep(1)
    raise E2eError(f"{what}: not within {patience:.0f} s: {error}")


class ClusterVirtualMachines(VirtualMachines):
    """`rpc`, an address and port of this machine, is where the reserved address leads."""

    def __init__(self, folder: Path, image: DropletImage, rpc: tuple[str, int], memory_mib: int) -> None:
        super().__init__(folder, image)
        self._vpc, self._rpc, self._memory_mib = ipaddress.ip_network(VPC), rpc, memory_mib
        self._reached: dict[tuple[int, int], int] = {}

    def make(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """`boot` a new droplet, and wait as `finish_boot` does."""
        began = time.monotonic()
        self.boot(droplet_id, user_data, volumes)
        self.finish_boot(droplet_id, began)

    def finish_boot(self, droplet_id: int, began: float) -> None:
        """Wait until cloud-init has ended without an error, and the boot without a failed unit. Raises E2eError."""
        until(f"a login to droplet {droplet_id}", lambda: self.ask(droplet_id, "true") == "")
        print(f"\n== droplet {droplet_id}: a login after {time.monotonic() - began:.0f} s", flush=True)
        stages = json.loads(self.ask(droplet_id, _ENDED, PATIENCE))["v1"].values()
        print(f"== droplet {droplet_id}: cloud-init has ended after {time.monotonic() - began:.0f} s", flush=True)
        reports = [stage for stage in stages if isinstance(stage, dict)]
        errors = [error for report in reports for error in report.get("errors", [])]
        recoverable = {level for report in reports for level in report.get("recoverable_errors", {})}
        # cloud-init reports DEPRECATED: this way of reading metadata will be removed.
        if errors or recoverable != {"DEPRECATED"}:
            raise E2eError(f"cloud-init on droplet {droplet_id} reports: {errors} {reports}")
        state = self.ask(droplet_id, _STATE, PATIENCE)
        if state != "running\n":
            raise E2eError(f"droplet {droplet_id} is {state}")
        print(self.ask(droplet_id, "free --mebi | head -2; systemd-analyze"), flush=True)

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """Plug the volume into the droplet. Raises E2eError if a droplet has it: a volume is attached to one only."""
        for number, droplet in self._droplets.items():
            if volume_id in droplet.volumes.values():
                raise E2eError(f"droplet {number} has the volume {name}")
        droplet = self._droplets[droplet_id]
        droplet.volumes[name] = volume_id
        if droplet.machine.running:
            droplet.machine.plug(Disk(name, self.volume_file(volume_id)))

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """Unplug the volume, whatever the droplet does with it."""
        droplet = self._droplets[droplet_id]
        [name] = [name for name, identity in droplet.volumes.items() if identity == volume_id]
        if droplet.machine.running:
            droplet.machine.unplug(name)
        del droplet.volumes[name]

    def reach(self, droplet_id: int, port: int) -> tuple[str, int]:
        """The address and port of this machine that lead to a port of the droplet's public address."""
        if (droplet_id, port) not in self._reached:
            self._reached[droplet_id, port] = free_port()
            self._droplets[droplet_id].machine.forward(f"127.0.0.1:{self._reached[droplet_id, port]}", str(port))
        return "127.0.0.1", self._reached[droplet_id, port]

    def volume_file(self, volume_id: str) -> Path:
        """The volume's content."""
        return self._volumes[volume_id].file

    def private_address(self, droplet_id: int) -> str:
        """The droplet's address in the VPC."""
        return str(self._vpc[droplet_id + 1])

    def _machine(self, home: Path, droplet_id: int, address: str) -> VirtualMachine:
        machine = super()._machine(home, droplet_id, address)
        relay = [sys.executable, "-m", "tests.e2e.environment.relay", self._rpc[0], str(self._rpc[1])]
        machine.neighbours = {**machine.neighbours, f"{RESERVED}:{RPC}": relay}
        machine.private = Private(_private_mac(droplet_id), VPC, str(self._vpc[-2]), str(self._vpc[-3]))
        machine.memory_mib = self._memory_mib
        return machine

    def _interfaces(self, droplet_id: int, address: str) -> dict[str, list[dict[str, object]]]:
        ipv4 = {"ip_address": self.private_address(droplet_id), "netmask": str(self._vpc.netmask), "gateway": ""}
        private: dict[str, object] = {"ipv4": ipv4, "mac": _private_mac(droplet_id), "type": "private"}
        return {**super()._interfaces(droplet_id, address), "private": [private]}


def _private_mac(droplet_id: int) -> str:
    return f"52:54:00:00:01:{droplet_id:02x}"


def virtual_cluster(
    folder: Path, stack: str, rpc: int, memory_mib: int
) -> tuple[ClusterVirtualMachines, Settings, Path]:
    """The machines of a cluster that install this machine's Nomad, its settings, and the folder of cached images. The
    reserved address leads to `rpc`, a port of this machine."""
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e")).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    program, version = shutil.which("nomad"), re.search(r"v([0-9.]+)", run(["nomad", "version"]))
    assert program
    assert version
    machines = ClusterVirtualMachines(folder, installed_image(cache), ("127.0.0.1", rpc), memory_mib)
    sha256 = lay_out_nomad(machines.outside, Path(program), version[1])
    return machines, settings_of(stack, version=version[1], sha256=sha256, mirror="https://releases.test/nomad"), cache
