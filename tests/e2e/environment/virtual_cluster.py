"""A cluster's droplets in machine grade: a server and workers, each a virtual machine with the exact `user_data`.

Beside the public interface each has a private one in the cluster's VPC, on a network of these machines alone. The
reserved address leads from any of them to the server, and its endpoint is reachable from this machine. A volume comes
and goes while a machine runs, as a SCSI disk that QEMU plugs and unplugs: the kernel is told, and asked nothing.
"""

import ipaddress
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.environment.qemu import Disk, Segment, VirtualMachine
from tests.e2e.environment.tools import E2eError
from tests.e2e.environment.virtual import VirtualMachines, free_port
from tests.e2e.images.droplet import DropletImage

RESERVED = "203.0.113.200"
"""The address that leads to the server."""

_RPC, _ENDPOINT = 4647, 4650
_SERVER_MIB = 1024
"""As of s-1vcpu-1gb."""


class ClusterVirtualMachines(VirtualMachines):
    """`vpc` is the range of the private addresses; `server` is the ID of the droplet that is the server."""

    def __init__(self, folder: Path, image: DropletImage, vpc: str, server: int) -> None:
        super().__init__(folder, image)
        self._vpc, self._server = ipaddress.ip_network(vpc), server
        self._multicast = f"230.0.113.1:{free_port()}"
        self._reached: dict[tuple[int, int], int] = {}
        self._rpc, self.endpoint = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """See `VirtualMachines`."""
        super().boot(droplet_id, user_data, volumes)
        if droplet_id == self._server:
            machine = self._droplets[droplet_id].machine
            for (host, port), inside in ((self._rpc, _RPC), (self.endpoint, _ENDPOINT)):
                machine.forward(f"{host}:{port}", str(inside))

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

    def reach(self, droplet_id: int, port: int) -> str:
        """The URL on this machine that leads to a port of the droplet's public address."""
        if (droplet_id, port) not in self._reached:
            self._reached[droplet_id, port] = free_port()
            self._droplets[droplet_id].machine.forward(f"127.0.0.1:{self._reached[droplet_id, port]}", str(port))
        return f"http://127.0.0.1:{self._reached[droplet_id, port]}"

    def volume_file(self, volume_id: str) -> Path:
        """The volume's content."""
        return self._volumes[volume_id].file

    def _machine(self, home: Path, droplet_id: int, address: str) -> VirtualMachine:
        machine = super()._machine(home, droplet_id, address)
        relay = [sys.executable, "-m", "tests.e2e.environment.relay", self._rpc[0], str(self._rpc[1])]
        machine.neighbours = {**machine.neighbours, f"{RESERVED}:{_RPC}": relay}
        machine.segment = Segment(self._multicast, _private_mac(droplet_id))
        if droplet_id == self._server:
            machine.memory_mib = _SERVER_MIB
        return machine

    def _interfaces(self, droplet_id: int, address: str) -> dict[str, list[dict[str, object]]]:
        ipv4 = {"ip_address": self.private_address(droplet_id), "netmask": str(self._vpc.netmask), "gateway": ""}
        private: dict[str, object] = {"ipv4": ipv4, "mac": _private_mac(droplet_id), "type": "private"}
        return {**super()._interfaces(droplet_id, address), "private": [private]}

    def private_address(self, droplet_id: int) -> str:
        """The droplet's address in the VPC."""
        return str(self._vpc[droplet_id + 1])


def _private_mac(droplet_id: int) -> str:
    return f"52:54:00:00:01:{droplet_id:02x}"
