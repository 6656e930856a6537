"""A host with a PDS of its own and a club on it, for the tests of `./pds adopt` and `./pds release`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.adoption import adopt, handover, release, remove_from_nomad
from cli.adoption.adopt import ADDRESS, DROPLET, VOLUME
from cli.cluster.hosts import Cluster
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.stack import Resource, Stack, StackError, State
from components.settings import stack_identity
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from offline.stackfile import read_settings
from tests.support.fake_cluster import FakeCluster

ID, IP, OLD, NEW = "506f78a4-e098-11e5-ad9f-000f53306ae1", "203.0.113.10", 71, 72
OTHER_ID = "607f78a4-e098-11e5-ad9f-000f53306ae1"
OPERATORS = {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]}
OUTPUTS: dict[str, Any] = {
    **{f"nomad_{name}": "x" for name in ("address", "ca_pem", "client_cert_pem", "client_key_pem", "management_token")},
    "worker_tag": "w",
    "hosts": {"b": {"volume_id": OTHER_ID, "address": "203.0.113.11"}},
    "workers": [str(OLD)],
}
FILES: dict[str, dict[str, Any]] = {
    "fleet": {
        "operators": OPERATORS,
        "ingress": {"kind": "caddy"},
        "cluster": {"hosts": {"b": {"volume_gib": 20}}, "workers": {"spares": 1}},
        "clubs": {"rooks": {"host": "b", "port": 3101}},
    },
    "house": {
        "hostname": "house.test",
        "dns": {"provider": "manual"},
        "operators": OPERATORS,
        "host": {"size": "s-2vcpu-4gb"},
        "ingress": {"kind": "caddy", "acme_email": "alice@house.test"},
        "clubs": {"chess-club": {"port": 3102, "disk_gib": 4}},
    },
    "chess-club": {
        "hostname": "chess.test",
        "on": "house",
        "dns": {"provider": "manual"},
        "ingress": {"kind": "caddy"},
        "pds": {"port": 3102, "new": True},
    },
}


class KilledError(BaseException):
    """The command was killed."""


@dataclass
class World:
    """The account, the states and the stack files, as far as the two commands change them. `alone`: it begins with a
    host of its own.

    Each of its calls refuses what would lose data or a host.
    """

    root: Path
    made: dict[str, str] = field(default_factory=lambda: {VOLUME: ID, ADDRESS: IP, DROPLET: str(OLD)})
    """Resources of the state of `house`."""
    providers: dict[str, str] = field(default_factory=lambda: {"chess-club": "house"})
    """The stack whose Nomad the state of a club has a provider of."""
    places: dict[str, str] = field(
        default_factory=lambda: {
            "fleet": "",
            "house": stack_identity.OWN_DROPLET,
            "chess-club": "house",
            "rooks": "fleet/b",
        }
    )
    """The place of each stack's PDS in its state."""
    on: dict[str, str] = field(default_factory=lambda: {"chess-club": "house", "rooks": "fleet"})
    """The stack whose host each state names. Unlike the place, only an `up` changes it."""
    hosts: dict[str, Any] = field(default_factory=dict)
    """Hosts of the outputs of `fleet`, beside b."""
    alone: bool = True
    carrier: int | None = OLD
    given: str = ""
    released: set[str] = field(default_factory=set)
    forgotten: bool = False
    calls: list[str] = field(default_factory=list)
    kill_at: int = 0
    attached_again: int = 0
    """The droplet that gets the volume as soon as it is detached."""
    pending: str = ""

    def stack(self, name: str) -> Stack:
        return Stack(name, self.root)

    def file(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.load((self.root / f"Pulumi.{name}.yaml").read_text(), yaml.CSafeLoader)["config"]
        return {key.removeprefix("pds:"): value for key, value in found.items()}

    def write(self, name: str, options: dict[str, Any]) -> None:
        config = {key if ":" in key else f"pds:{key}": value for key, value in options.items()}
        (self.root / f"Pulumi.{name}.yaml").write_text(yaml.dump({"config": config}, Dumper=yaml.CSafeDumper))

    def call(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.kill_at:
            raise KilledError

    def give_away(self, _stack: str, droplet: int, _address: str, handover: list[str]) -> None:
        assert droplet == self.carrier
        self.call("give away")
        self.given = " ".join(handover)

    def set_free(self, _account: Any, volume: str, address: str, droplet: int, _again: str) -> None:
        assert (volume, address) == (ID, IP)
        assert self.given, "the next owner could not claim it"
        assert self.alone or "a" not in self.file("fleet")["cluster"]["hosts"], "a takeover would attach it to a spare"
        self.call("set free")
        if self.attached_again:
            self.carrier = self.attached_again
        elif droplet == self.carrier:
            self.carrier = None

    def release(self, stack: Stack, is_released: Callable[[Any], bool], place: str | None = None) -> int:
        """Like the real one, it changes no state in which there is nothing to release."""
        self.call(f"release {stack.name}")
        self.released.add(stack.name)
        if stack.name == "fleet":
            return 1
        assert place == stack_identity.place(read_settings(stack.name, stack.root))
        own = [name for name in (VOLUME, ADDRESS) if stack.name == "house" and name in self.made]
        gone = [self.made.pop(name) for name in own]
        provider = (
            f"urn:pulumi:{stack.name}::pds::pulumi:providers:nomad::pds-host-provider-{self.providers.get(stack.name)}"
        )
        if is_released({"urn": provider, "type": "pulumi:providers:nomad"}):
            gone.append(self.providers.pop(stack.name))
        if gone:
            self.places[stack.name] = place
        return len(gone)

    def forget(self, _nomad: Any, host: str, _clubs: tuple[str, ...]) -> None:
        assert host == "a"
        assert self.carrier is None or self.carrier == NEW
        self.call("forget")
        self.forgotten = True

    def up(self, stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
        assert yes
        settings = read_settings(stack.name, stack.root)
        place = stack_identity.place(settings)
        assert place in (self.places.get(stack.name), (env or {}).get(stack_identity.MOVED_TO)), "the state refuses it"
        assert stack.name in self.released or (self.alone and stack.name == "fleet")
        if settings.cluster:
            assert ("a" in settings.cluster.hosts) is self.alone
            assert not self.alone or self.carrier != OLD, "the takeover would take it from a running host"
        elif settings.on is None:
            assert self.carrier is None or self.carrier == NEW, "a droplet is made with the volume"
        else:
            assert settings.on.stack == ("fleet" if self.alone else "house")
        self.call(f"up {stack.name}")
        self.places[stack.name] = place
        self.on[stack.name] = (settings.on and settings.on.stack) or ""
        if settings.cluster:
            self.hosts = {"a": {"volume_id": ID, "address": IP}} if "a" in settings.cluster.hosts else {}
        elif settings.on is None:
            self.made = {VOLUME: ID, ADDRESS: IP, DROPLET: str(NEW)}
        else:
            self.providers[stack.name] = settings.on.stack or ""
            if stack.name == "house":
                self.made = {}
        if settings.on is None and (settings.cluster is not None) is self.alone:
            self.carrier = NEW

    def begin_release(self) -> None:
        """Let the host be one of the cluster, after an adoption."""
        adopt.adopt(self.stack("fleet"), "a", self.stack("house"), yes=True)
        self.alone, self.carrier, self.given = False, OLD, ""
        self.released.clear()
        self.calls.clear()


def _state(world: World, stack: Stack) -> State:
    provider = {f"pds-host-provider-{world.providers[stack.name]}": "1"} if stack.name in world.providers else {}
    made = {**provider, **(world.made if stack.name == "house" else {})}
    prefix, place = f"urn:pulumi:{stack.name}::pds::T::", world.places[stack.name]
    outputs = {"place": place, "on": world.on.get(stack.name, "")}
    identity = Resource(f"{prefix}{stack_identity.RESOURCE}", "T", "1", outputs)
    return State((identity, *(Resource(f"{prefix}{name}", "T", number, {}) for name, number in made.items())))


def _configure(file: Path, verb: str, path: str, *value: str) -> None:
    """`pulumi config set` and `rm`, on keys with dots and indices."""
    document = yaml.load(file.read_text(), yaml.CSafeLoader)
    *sections, last = path.split(".")
    options = document["config"]
    for section in sections:
        options = options.setdefault(section, {})
    if verb == "rm":
        del options[last]
    elif last.endswith("]"):
        options.setdefault(last.partition("[")[0], []).append(*value)
    else:
        (text,) = value
        options[last] = yaml.load(text, yaml.CSafeLoader)
    file.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))


def _answer(world: World, path: str) -> Any:
    if path.startswith("volumes/"):
        droplets = [world.carrier] if world.carrier else []
        return {"droplet_ids": droplets, "size_gigabytes": 25, "name": "pds-house"}
    return {"status": "active"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    for name, options in FILES.items():
        made.write(name, options)
    monkeypatch.setattr(Stack, "state", lambda stack: _state(made, stack))
    monkeypatch.setattr(Stack, "outputs", lambda _stack: {**OUTPUTS, "hosts": {**OUTPUTS["hosts"], **made.hosts}})
    monkeypatch.setattr(Stack, "configure", lambda _stack, file, *words: _configure(file, *words))
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    fake = FakeCluster({"a": OLD}, workers=1)
    fake.alive[OLD] = True
    monkeypatch.setattr(
        Cluster, "passes", lambda _cluster: Passes(fake, fake, fake.places, "w", Rules(), "me", fake.now)
    )
    for module in (adopt, release):
        monkeypatch.setattr(module, "up", made.up)
        monkeypatch.setattr(module, "release", made.release)
        monkeypatch.setattr(module, "refuse_changes", lambda stack: _refuse(made, stack))
    monkeypatch.setattr(release, "_nomad", lambda _cluster: None)
    monkeypatch.setattr(remove_from_nomad, "forget", made.forget)
    monkeypatch.setattr(remove_from_nomad, "is_forgotten", lambda _nomad, _host: made.forgotten)
    monkeypatch.setattr(handover, "give_away", made.give_away)
    monkeypatch.setattr(handover, "set_free", made.set_free)
    monkeypatch.setattr(DigitalOceanAccount, "get", lambda _account, path: _answer(made, path))
    write = StackFileEdit.write

    def written(edit: StackFileEdit) -> None:
        made.call(f"write {edit.path.name.split('.')[1]}")
        write(edit)

    monkeypatch.setattr(StackFileEdit, "write", written)
    return made


def _refuse(world: World, stack: Stack) -> None:
    if stack.name == world.pending:
        raise StackError(f"Stack {stack.name} has pending changes.")


def adopt_house(world: World, host: str = "a", single: str = "house") -> int:
    return adopt.adopt(world.stack("fleet"), host, world.stack(single), yes=True)


def release_house(world: World) -> int:
    return release.release_host(world.stack("fleet"), "a", world.stack("house"), "", yes=True)


ADOPTED = [
    *("give away", "write fleet", "set free", "write house", "write chess-club", "release house"),
    *("release chess-club", "up fleet", "up house", "up chess-club"),
]
RELEASED = [
    *("give away", "write house", "write fleet", "release fleet", "up fleet", "set free", "write chess-club"),
    *("release house", "release chess-club", "forget", "up house", "up chess-club"),
]


def require_adopted(world: World) -> None:
    assert world.carrier == NEW
    fleet, house, chess = (world.file(name) for name in FILES)
    assert fleet["cluster"]["hosts"]["a"] == {"volume_gib": 25, "adopt": {"volume": ID, "address": IP}}
    assert fleet["clubs"]["chess-club"] == {"host": "a", "port": 3102, "disk_gib": 4, "memory_mib": 896}
    assert fleet["clubs"]["house"] == {"host": "a", "port": 3000, "disk_gib": 16, "memory_mib": 512}
    assert house == {
        "hostname": "house.test",
        "dns": {"provider": "manual"},
        "ingress": {"kind": "caddy"},
        "on": "fleet",
        "nomad": {"datacenter": "a"},
        "pds": {"port": 3000, "new": False},
    }
    assert (chess["on"], chess["nomad"]) == ("fleet", {"datacenter": "a"})
    assert chess["pds"]["new"] is False, "an empty volume must be a fault"


def require_released(world: World) -> None:
    assert world.carrier == NEW
    assert world.forgotten
    fleet, house, chess = (world.file(name) for name in FILES)
    assert list(fleet["cluster"]["hosts"]) == ["b"]
    assert list(fleet["clubs"]) == ["rooks"]
    assert fleet["cluster"]["workers"]["spares"] == 2, "the number of workers stays: none with a host is deleted"
    assert house["host"] == {"region": "fra1", "size": "s-2vcpu-4gb", "reserved_ip_adopt": IP}
    assert house["volume"] == {"size_gib": 25, "adopt": ID}
    assert house["operators"] == OPERATORS
    assert house["clubs"] == {"chess-club": {"port": 3102, "disk_gib": 4, "memory_mib": 896}}
    assert "on" not in house
    assert (chess["on"], chess["nomad"]) == ("house", {})
