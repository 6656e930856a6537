"""What a takeover needs of DigitalOcean and Nomad. `services.py` has both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from components.takeover.decide import Action, Droplet, Node


class Cloud(Protocol):
    """DigitalOcean (`services.py`)."""

    def workers(self, tag: str) -> dict[int, Droplet]: ...
    def carrier(self, volume: str) -> int | None: ...
    def actions(self, volume: str) -> tuple[Action, ...]: ...
    def address_at(self, address: str) -> int | None: ...
    def detach(self, volume: str, droplet: int) -> None: ...
    def attach(self, volume: str, droplet: int) -> None: ...
    def assign(self, address: str, droplet: int) -> None: ...


class Servers(Protocol):
    """Nomad (`services.py`)."""

    def node(self, datacenter: str) -> Node | None: ...
    def state(self) -> tuple[dict[str, str], int]: ...
    def write(self, items: Mapping[str, str], index: int) -> bool: ...


@dataclass(frozen=True)
class ClusterHost:
    """A host's volume and address."""

    name: str
    volume: str
    address: str
