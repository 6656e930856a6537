"""The droplets of a measurement against the API of the tests, as far as the measurement sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.e2e.environment.api_client import Machines
from tools.measure_account.droplet_agent import PORTS

Json = dict[str, Any]


@dataclass
class Droplet:
    """One droplet: `mounted` is what it found on the volume, None without one."""

    name: str
    boots: int = 1
    is_on: bool = True
    has_kernel: bool = True
    has_volume: bool = False
    mounted: int | None = None
    row: int = 0
    error: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it answers, and notices its volume."""
        return self.is_on and self.has_kernel


class Fleet(Machines):
    """Machines of the API, and the programs on them. `admits_public` is what a rule for a tag admits; `is_fenced` is
    whether a detach is an I/O error; `keeps` is whether flushed rows are on the volume."""

    def __init__(self) -> None:
        super().__init__()
        self.droplets: dict[int, Droplet] = {}
        self.addresses: dict[str, int] = {}
        self.rows = 0
        self.admits_public, self.is_fenced, self.keeps = True, True, True
        self.keys: set[str] = set()

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        files = (
            yaml.load(user_data, yaml.CSafeLoader).get("write_files", [])
            if user_data.startswith("#cloud-config\nwrite")
            else []
        )
        unit = next((item["content"] for item in files if item["path"].endswith(".service")), "MEASURE_NAME=other ")
        self.droplets[droplet_id] = Droplet(unit.partition("MEASURE_NAME=")[2].split()[0])

    def start(self, droplet_id: int) -> None:
        droplet = self.droplets[droplet_id]
        droplet.is_on, droplet.has_kernel, droplet.error, droplet.mounted = True, True, None, None
        droplet.boots += 1
        if droplet.has_volume:
            self._mount(droplet)

    def stop(self, droplet_id: int, graceful: bool) -> None:
        self.droplets[droplet_id].is_on = False

    def destroy(self, droplet_id: int) -> None:
        self.droplets.pop(droplet_id, None)

    def assign(self, droplet_id: int, address: str | None) -> None:
        if address:
            self.addresses[address] = droplet_id

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        droplet = self.droplets[droplet_id]
        droplet.has_volume = True
        if droplet.is_alive:
            self._mount(droplet)

    def detach(self, droplet_id: int, volume_id: str) -> None:
        droplet = self.droplets[droplet_id]
        droplet.has_volume = False
        if droplet.is_alive and self.is_fenced:
            droplet.error = "EIO"

    def _mount(self, droplet: Droplet) -> None:
        droplet.mounted = droplet.row = self.rows if self.keeps else 0

    # The programs on them (`Droplets`).

    def __call__(self, key: str) -> "Fleet":
        """The client for a secret path."""
        self.keys.add(key)
        return self

    def status(self, address: str) -> Json | None:
        droplet = self._at(address)
        if droplet is None or not droplet.is_alive:
            return None
        if droplet.mounted is not None and droplet.error is None:
            droplet.row += 30
            self.rows = droplet.row
        shown = {"name": droplet.name, "boot": str(droplet.boots), "found": droplet.mounted, "error": droplet.error}
        return {**shown, "row": None if droplet.mounted is None else droplet.row}

    def stop_kernel(self, address: str) -> None:
        droplet = self._at(address)
        assert droplet
        droplet.has_kernel = False

    def connects(self, address: str, host: str, port: int) -> bool:
        asking, asked = self._at(address), self._at(host)
        assert asking
        assert asked
        return port == PORTS[1] and (self.admits_public or host.startswith("10.135."))

    def _at(self, address: str) -> Droplet | None:
        """The droplet with this address; the API gives a droplet those that end with its number (`_networks`)."""
        last = int(address.rpartition(".")[2])
        if not address.startswith(("10.135.", "198.51.100.")):
            return self.droplets.get(self.addresses.get(address, 0))
        newest_first = sorted(self.droplets.items(), reverse=True)
        return next((item for number, item in newest_first if number % 250 + 2 == last), None)
