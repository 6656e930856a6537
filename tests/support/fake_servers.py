"""`FakeCluster` with three servers, and the address that leads to one of them.

A worker's agent knows this address only: after an attach, the host's node becomes ready only if the address leads to a
server that is on. Servers are the droplets from 101; those are not workers. The address is as strict as a host's.
"""

from collections.abc import Mapping
from typing import Any, Self

from components.takeover.decide import Droplet, Node
from components.takeover.endpoint import Endpoint
from components.takeover.services import Refused
from tests.support.fake_cluster import ACTION_SECONDS, BOOT_SECONDS, FakeCluster

ADDRESS = "203.0.113.9"
_FIRST = 101


class FakeClusterWithServers(FakeCluster):
    """Both services, for `Passes` and `Endpoint`."""

    def __init__(
        self, hosts: Mapping[str, int | None], workers: int, servers: int = 3, now: float = 1_000_000.0
    ) -> None:
        super().__init__(hosts, workers, now)
        self.servers_down: dict[int, float] = {}
        """Since when a server's node is down."""
        self.unknown: set[int] = set()
        """Servers whose node Nomad does not know."""
        self.count = servers
        self.leads_to: int | None = _FIRST
        self.assignments: list[int] = []
        self.looks = 0
        """Requests to DigitalOcean about the address."""
        self.never_ends = False
        self.assignments_refused: set[int] = set()
        """Servers that have another address."""
        self.assignments_fail: set[int] = set()
        """Servers to which an assignment ends as errored."""
        self.completed_at: float | None = None
        """When the newest assignment of the address was completed."""
        self._assigning: tuple[int, float] | None = None
        self._died: dict[str, float] = {}

    def lose_server(self, number: int) -> None:
        """Its power is cut: the node is down from now on."""
        self.servers_down[_FIRST - 1 + number] = self.time

    def start_server(self, number: int) -> None:
        """It is on again."""
        del self.servers_down[_FIRST - 1 + number]

    @property
    def leads_to_server(self) -> int | None:
        """The number of the server that the address leads to."""
        return None if self.leads_to is None else self.leads_to - _FIRST + 1

    def endpoint(self) -> Endpoint:
        """What moves the address, in a program of its own."""
        return Endpoint(self, self, ADDRESS, "fleet")

    def cut_power(self, droplet: int) -> None:
        super().cut_power(droplet)
        self._died |= self.down_since

    def pass_time(self, seconds: float) -> None:
        before = self.time
        super().pass_time(seconds)
        if self._assigning and not self.never_ends and self.time - self._assigning[1] >= ACTION_SECONDS:
            number, self._assigning = self._assigning[0], None
            if number - _FIRST + 1 not in self.assignments_fail:
                self.leads_to, self.completed_at = number, self.time
        if self.leads_to is None or self.leads_to in self.servers_down:
            for volume in self.volumes.values():
                if volume.ready_at > before:
                    volume.ready_at = self.time + BOOT_SECONDS

    def node(self, datacenter: str) -> Node | None:
        node = super().node(datacenter)
        if node is None or node.is_ready:
            return node
        # Until the agent registers on the new droplet, Nomad has the state since the old one was lost.
        return Node(False, self._died.get(datacenter, node.since))

    def server_nodes(self) -> dict[str, Node]:
        self._call()
        return {
            f"fleet-server-{number - _FIRST + 1}": Node(
                number not in self.servers_down, self.servers_down.get(number, 0.0)
            )
            for number in self._servers()
            if number not in self.unknown
        }

    def _servers(self) -> range:
        return range(_FIRST, _FIRST + self.count)

    def workers(self, _tag: str) -> dict[int, Droplet]:
        if _tag != "pds-fleet-server":
            return super().workers(_tag)
        self._call()
        self.looks += 1
        return {
            number: Droplet(number, True, frozenset(), f"pds-fleet-server-{number - _FIRST + 1}")
            for number in self._servers()
        }

    def address_at(self, address: str) -> int | None:
        if address != ADDRESS:
            return super().address_at(address)
        self._call()
        self.looks += 1
        return self.leads_to

    def assigned_at(self, address: str) -> float | None:
        self._call()
        assert address == ADDRESS
        self.looks += 1
        return self.completed_at

    def assign(self, address: str, droplet: int) -> None:
        if address != ADDRESS:
            super().assign(address, droplet)
            return
        self._call()
        if self._assigning:
            raise Refused(422, "The reserved IP already has a pending event.")
        assert droplet in self._servers()
        if droplet - _FIRST + 1 in self.assignments_refused:
            raise Refused(422, "The Droplet already has a reserved IP.")
        self._assigning = (droplet, self.time)
        self.assignments.append(droplet - _FIRST + 1)
        self._called()


class ServersAccount:
    """In place of `DigitalOceanAccount`: the servers with a public address each, 198.51.100.101 and so on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def get(self, path: str) -> Any:
        number = path.removeprefix("droplets/")
        private = {"ip_address": f"10.118.0.{number}", "type": "private"}
        return {"networks": {"v4": [private, {"ip_address": f"198.51.100.{number}", "type": "public"}]}}
