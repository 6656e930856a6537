"""`./pds adopt` and `./pds release`: the checks before the first change, the order of the steps, and a kill at each.

`tests/e2e/scenarios/e2e_adoption.py` uses the real engine, Nomad and PDS.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.adoption import adopt, carried_volume, forgotten_host, release
from cli.adoption.adopt import ADDRESS, DROPLET, VOLUME, AdoptError
from cli.adoption.carried_volume import VolumeError
from cli.adoption.release import ReleaseError
from cli.adoption.residents import ResidentError
from cli.cluster.hosts import Cluster
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.stack import Resource, Stack, StackError, State
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from offline.stackfile import StackFileError, read_settings
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
    """The account, the states and the stack files, as far as the two commands change them; `alone` is where it began.

    Each of its calls refuses what would lose data or a host.
    """

    root: Path
    made: dict[str, str] = field(default_factory=lambda: {VOLUME: ID, ADDRESS: IP, DROPLET: str(OLD)})
    """Resources of the state of `house`."""
    providers: dict[str, str] = field(default_factory=lambda: {"chess-club": "house"})
    """The stack whose Nomad the state of a club has a provider of."""
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
        found: dict[str, Any] = yaml.safe_load((self.root / f"Pulumi.{name}.yaml").read_text())["config"]
        return {key.removeprefix("pds:"): value for key, value in found.items()}

    def write(self, name: str, options: dict[str, Any]) -> None:
        config = {key if ":" in key else f"pds:{key}": value for key, value in options.items()}
        (self.root / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump({"config": config}))

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

    def release(self, stack: Stack, _is_released: Callable[[Any], bool]) -> int:
        self.call(f"release {stack.name}")
        if stack.name == "house":
            self.made.pop(VOLUME, None)
            self.made.pop(ADDRESS, None)
        self.providers.pop(stack.name, None)
        self.released.add(stack.name)
        return 1

    def forget(self, _nomad: Any, host: str, _clubs: tuple[str, ...]) -> None:
        assert host == "a"
        assert self.carrier is None or self.carrier == NEW
        self.call("forget")
        self.forgotten = True

    def up(self, stack: Stack, *, yes: bool) -> None:
        assert yes
        settings = read_settings(stack.name, stack.root)
        assert stack.name in self.released or (self.alone and stack.name == "fleet")
        if settings.cluster:
            assert ("a" in settings.cluster.hosts) is self.alone
            assert not self.alone or self.carrier != OLD, "the takeover would take it from a running host"
        elif settings.on is None:
            assert self.carrier is None or self.carrier == NEW, "a droplet is made with the volume"
        else:
            assert settings.on.stack == ("fleet" if self.alone else "house")
        self.call(f"up {stack.name}")
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
    return State(tuple(Resource(f"urn:pulumi:house::pds::T::{name}", "T", number, {}) for name, number in made.items()))


def _configure(file: Path, verb: str, path: str, *value: str) -> None:
    """`pulumi config set` and `rm`, on keys with dots and indices."""
    document = yaml.safe_load(file.read_text())
    *sections, last = path.split(".")
    options = document["config"]
    for section in sections:
        options = options.setdefault(section, {})
    if verb == "rm":
        del options[last]
    elif last.endswith("]"):
        options.setdefault(last.partition("[")[0], []).append(*value)
    else:
        options[last] = yaml.safe_load(*value)
    file.write_text(yaml.safe_dump(document))


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
    monkeypatch.setattr(forgotten_host, "forget", made.forget)
    monkeypatch.setattr(carried_volume, "give_away", made.give_away)
    monkeypatch.setattr(carried_volume, "set_free", made.set_free)
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


def _adopt(world: World, host: str = "a", island: str = "house") -> int:
    return adopt.adopt(world.stack("fleet"), host, world.stack(island), yes=True)


def _release(world: World) -> int:
    return release.release_host(world.stack("fleet"), "a", world.stack("house"), "", yes=True)


ADOPTED = [
    *("give away", "write fleet", "set free", "write house", "write chess-club", "release house"),
    *("release chess-club", "up fleet", "up house", "up chess-club"),
]
RELEASED = [
    *("give away", "write house", "write fleet", "release fleet", "up fleet", "set free", "write chess-club"),
    *("release house", "release chess-club", "forget", "up house", "up chess-club"),
]


def _is_adopted(world: World) -> None:
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


def _is_released(world: World) -> None:
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


def test_adopts_a_host_with_its_pds_and_its_clubs(world: World) -> None:
    assert _adopt(world) == 0
    assert world.calls == ADOPTED
    assert world.given == "fleet-a pds clubs/pds-house 16", "the worker moves the PDS of the host itself"
    _is_adopted(world)


@pytest.mark.parametrize("number", range(1, len(ADOPTED) + 1), ids=ADOPTED)
def test_an_adoption_that_is_killed_goes_on(world: World, number: int) -> None:
    world.kill_at = number
    with pytest.raises(KilledError):
        _adopt(world)
    world.kill_at = 0
    assert _adopt(world) == 0
    _is_adopted(world)


def test_releases_a_host_with_its_clubs(world: World) -> None:
    world.begin_release()
    assert _release(world) == 0
    assert world.calls == RELEASED
    assert world.given == "house clubs/pds-house pds"
    _is_released(world)


@pytest.mark.parametrize("number", range(1, len(RELEASED) + 1), ids=RELEASED)
def test_a_release_that_is_killed_goes_on(world: World, number: int) -> None:
    world.begin_release()
    world.kill_at = number
    with pytest.raises(KilledError):
        _release(world)
    world.kill_at = 0
    assert _release(world) == 0
    _is_released(world)


def _changed(name: str, **options: Any) -> Callable[[World], None]:
    return lambda world: world.write(name, {**FILES[name], **options})


@pytest.mark.parametrize(
    ("prepare", "kind", "problem"),
    [
        (_changed("house", host={"region": "ams3", "size": "s-2vcpu-4gb"}), AdoptError, "never leave their region"),
        (_changed("house", ingress={"kind": "none"}), AdoptError, "ingress.kind: .* has 'none', and .* has 'caddy'"),
        (_changed("house", metrics={"store": True}), AdoptError, "a cluster has no metrics store"),
        (_changed("house", clubs={"chess-club": {"port": 3102, "disk_gib": 20}}), AdoptError, "Raise 'size_gib'"),
        (_changed("house", clubs={"rooks": {"port": 3102}}), AdoptError, "clubs.rooks: .* on another host already"),
        (
            _changed("fleet", clubs={}, cluster={"workers": {"size": "s-1vcpu-1gb"}, "hosts": {}}),
            StackFileError,
            "cluster.workers.size: .* reserve",
        ),
        (lambda world: setattr(world, "pending", "chess-club"), StackError, "chess-club has pending changes"),
        (lambda world: setattr(world, "carrier", 99), VolumeError, "`./pds repair house` first"),
        (lambda world: setattr(world, "carrier", None), VolumeError, "is under way: no droplet has volume"),
        (
            lambda world: world.write("navy", {"cluster": {"hosts": {"x": {"adopt": {"volume": ID}}}}}),
            VolumeError,
            r"is under way: Pulumi\.navy\.yaml has its volume",
        ),
        (lambda world: world.made.clear(), AdoptError, "has no pds-host-data-volume"),
    ],
)
def test_refuses_before_anything_is_changed(
    world: World, prepare: Callable[[World], None], kind: type[Exception], problem: str
) -> None:
    prepare(world)
    files = {name: world.file(name) for name in FILES}
    with pytest.raises(kind, match=problem):
        _adopt(world)
    assert world.calls == []
    assert files == {name: world.file(name) for name in FILES}


@pytest.mark.parametrize(
    ("host", "island", "problem"),
    [("b", "house", "has a host b already"), ("a", "chess-club", "no host with a droplet of its own")],
)
def test_refuses_another_host_or_stack(world: World, host: str, island: str, problem: str) -> None:
    with pytest.raises(AdoptError, match=problem):
        _adopt(world, host, island)
    assert world.calls == []


def test_refuses_to_release_to_a_stack_with_another_volume(world: World) -> None:
    world.hosts = {"a": {"volume_id": ID, "address": IP}}
    world.made.clear()
    world.write("house", {**FILES["house"], "volume": {"adopt": "707f78a4-e098-11e5-ad9f-000f53306ae1"}})
    with pytest.raises(ReleaseError, match="another volume than host a of fleet"):
        _release(world)
    assert world.calls == []


def test_refuses_to_release_to_a_stack_that_is_not_on_the_host(world: World) -> None:
    world.begin_release()
    with pytest.raises(ReleaseError, match="house is not on host b: rooks"):
        release._planned(world.stack("fleet"), "b", world.stack("house"), read_settings("fleet", world.root))


def _changes_the_fleet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command changes the cluster's file while the question waits for its answer."""

    def confirm(_question: str) -> bool:
        fleet = world.file("fleet")
        fleet["clubs"]["bishops"] = {"host": "b", "port": 3109}
        world.write("fleet", fleet)
        return True

    monkeypatch.setattr(click, "confirm", confirm)


def test_a_change_of_the_clusters_file_during_the_question_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _changes_the_fleet(world, monkeypatch)
    with pytest.raises(StackFileError, match=r"Pulumi\.fleet\.yaml was changed after .* Repeat the command"):
        adopt.adopt(world.stack("fleet"), "a", world.stack("house"), yes=False)
    assert world.calls == [], "not even the next owner is written"
    assert "bishops" in world.file("fleet")["clubs"]


def test_a_release_keeps_what_changed_during_the_question(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.begin_release()
    _changes_the_fleet(world, monkeypatch)
    with pytest.raises(StackFileError, match=r"Pulumi\.fleet\.yaml was changed"):
        release.release_host(world.stack("fleet"), "a", world.stack("house"), "", yes=False)
    assert world.calls == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"on": "elsewhere"}, r"Pulumi\.chess-club\.yaml has 'on: elsewhere', and not .*is not on this host"),
        ({"on": {"stack": "fleet"}, "nomad": {"datacenter": "b"}}, "nomad.datacenter: b"),
        ({"move:note": {"from": "house"}}, "chess-club is moving"),
    ],
)
@pytest.mark.parametrize("began", [False, True])
def test_a_club_that_moves_or_has_moved_is_not_adopted(
    world: World, options: dict[str, Any], problem: str, began: bool
) -> None:
    if began:
        world.kill_at = 3
        with pytest.raises(KilledError):
            _adopt(world)
        world.kill_at, world.calls[:] = 0, []
    world.write("chess-club", {**FILES["chess-club"], **options})
    with pytest.raises(ResidentError, match=problem):
        _adopt(world)
    assert world.calls == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"on": "elsewhere"}, "on: elsewhere.* and not fleet, host a or house"),
        ({"on": "fleet", "nomad": {"datacenter": "b"}}, "nomad.datacenter: b"),
        ({"move:note": {"from": "fleet/a"}}, "chess-club is moving"),
    ],
)
@pytest.mark.parametrize("began", [False, True])
def test_a_club_that_moves_or_has_moved_is_not_released(
    world: World, options: dict[str, Any], problem: str, began: bool
) -> None:
    world.begin_release()
    if began:
        world.kill_at = 4
        with pytest.raises(KilledError):
            _release(world)
        world.kill_at, world.calls[:] = 0, []
    world.write("chess-club", {**world.file("chess-club"), **options})
    with pytest.raises(ResidentError, match=problem):
        _release(world)
    assert world.calls == []
    assert not world.forgotten


@pytest.mark.parametrize(("host", "left"), [("a", "b"), ("b", "a")])
def test_a_host_that_a_club_moves_to_or_from_is_not_released(world: World, host: str, left: str) -> None:
    world.begin_release()
    fleet = world.file("fleet")
    fleet["cluster"]["hosts"]["a"]["volume_gib"] = 40
    fleet["clubs"]["rooks"] = {"host": host, "port": 3101, "leaving": {"host": left, "port": 3101}}
    world.write("fleet", fleet)
    world.write("rooks", {**FILES["chess-club"], "on": "fleet", "nomad": {"datacenter": "a"}, "hostname": "rooks.test"})
    with pytest.raises(ResidentError, match=r"clubs\.rooks\.leaving: .* has two places for rooks"):
        _release(world)
    assert world.calls == []


@pytest.mark.parametrize("host", ["a", "b", "z"])
def test_a_release_that_is_over_is_not_repeated(world: World, host: str) -> None:
    """The target's file keeps the volume, and a club may have moved to the cluster since."""
    world.begin_release()
    _release(world)
    world.calls.clear()
    with pytest.raises(ReleaseError, match=r"a release to it is over|another volume than host b"):
        release.release_host(world.stack("fleet"), host, world.stack("house"), "", yes=True)
    assert world.calls == []


def test_a_release_that_has_begun_is_not_continued_with_another_host(world: World) -> None:
    world.begin_release()
    world.kill_at = 4
    with pytest.raises(KilledError):
        _release(world)
    world.kill_at, world.calls[:] = 0, []
    with pytest.raises(ReleaseError, match="that of host a of fleet, and not of z"):
        release.release_host(world.stack("fleet"), "z", world.stack("house"), "", yes=True)
    assert world.calls == []


def test_a_release_that_goes_on_asks_before_it_shuts_a_worker_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin_release()
    world.kill_at = 4
    with pytest.raises(KilledError):
        _release(world)
    world.kill_at, world.calls[:] = 0, []
    asked: list[str] = []

    def decline(question: str) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr(click, "confirm", decline)
    assert release.release_host(world.stack("fleet"), "a", world.stack("house"), "", yes=False) == 1
    assert (asked, world.calls) == (["Shut its worker down and go on?"], [])


def test_a_host_is_not_forgotten_while_another_droplet_has_its_volume(world: World) -> None:
    world.begin_release()
    world.attached_again = 99
    with pytest.raises(ReleaseError, match=r"Droplet 99 has volume .* not the droplet of house"):
        _release(world)
    assert not world.forgotten
    assert world.calls[-1] == "release chess-club"


def _by_hand(world: World, **more: Any) -> None:
    """An operator wrote the adoption into the cluster's file, without the command."""
    fleet = world.file("fleet")
    fleet["cluster"]["hosts"]["a"] = {"volume_gib": 25, "adopt": {"volume": ID, "address": IP, **more}}
    fleet["clubs"]["house"] = {"host": "a", "port": 3000, "disk_gib": 10, "memory_mib": 512}
    fleet["clubs"]["chess-club"] = {"host": "a", "port": 3102, "disk_gib": 4, "memory_mib": 896}
    world.write("fleet", fleet)


def test_an_adoption_in_the_file_alone_still_writes_the_next_owner(world: World) -> None:
    _by_hand(world)
    assert _adopt(world) == 0
    assert world.calls == [call for call in ADOPTED if call != "write fleet"]
    assert world.given == "fleet-a pds clubs/pds-house 10", "with the quota of the file"


def test_an_adoption_in_the_file_alone_is_checked_and_asked_about(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _by_hand(world)
    world.pending = "chess-club"
    with pytest.raises(StackError, match="chess-club has pending changes"):
        _adopt(world)
    world.pending = ""
    monkeypatch.setattr(click, "confirm", lambda _question: False)
    assert adopt.adopt(world.stack("fleet"), "a", world.stack("house"), yes=False) == 1
    assert world.calls == []


def test_an_adoption_of_another_volume_in_the_file_is_refused(world: World) -> None:
    _by_hand(world, volume=OTHER_ID)
    with pytest.raises(AdoptError, match="another volume or address than the state of house"):
        _adopt(world)
    assert world.calls == []


@pytest.mark.parametrize("name", ["fleet-a", "fleet-b2"])
def test_a_stack_with_the_name_of_an_owner_is_neither_adopted_nor_released_to(world: World, name: str) -> None:
    world.write(name, FILES["house"])
    with pytest.raises(VolumeError, match="one could claim the volume of the other"):
        _adopt(world, island=name)
    with pytest.raises(VolumeError, match="one could claim the volume of the other"):
        release.release_host(world.stack("fleet"), "a", world.stack(name), "", yes=True)
    assert world.calls == []


def test_a_droplet_that_was_switched_on_again_keeps_its_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second operator switches it on between the shutdown and the detach."""
    states, requested = ["active", "off", "active"], []
    found = {"droplet_ids": [OLD]}

    def get(_account: Any, path: str) -> dict[str, Any]:
        return {"status": states.pop(0)} if path.startswith("droplets/") else found

    monkeypatch.setattr(DigitalOceanAccount, "get", get)
    monkeypatch.setattr(DigitalOceanAccount, "list_all", lambda _account, _path: [])
    monkeypatch.setattr(DigitalOceanAccount, "create", lambda _account, path, _body: requested.append(path))
    with DigitalOceanAccount("token") as account, pytest.raises(VolumeError, match="is on again"):
        carried_volume.set_free(account, ID, IP, OLD, "./pds adopt")
    assert requested == [f"droplets/{OLD}/actions"], "shut down, and not detached"
