"""`./pds adopt` and `./pds release`: the checks before the first change, the order of the steps, and a kill at each.

`tests/e2e/scenarios/e2e_adoption.py` uses the real engine, Nomad and PDS.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.adoption import release, released_state
from cli.adoption.adopt import VOLUME, AdoptError
from cli.adoption.handover import VolumeError
from cli.adoption.release import ReleaseError
from cli.lib.stack import EngineResult, Stack, StackError
from cli.move.own_disks import BackupsStayError
from offline.stackfile import StackFileError, read_settings
from tests.unit.cli.adopted_host import (
    ADOPTED,
    FILES,
    ID,
    IP,
    RELEASED,
    KilledError,
    World,
    adopt_house,
    release_house,
    require_adopted,
    require_released,
)
from tests.unit.cli.adopted_host import world as world


def test_adopts_a_host_with_its_pds_and_its_clubs(world: World) -> None:
    assert adopt_house(world) == 0
    assert world.calls == ADOPTED
    assert world.given == "fleet-a pds clubs/pds-house 16", "the worker moves the PDS of the host itself"
    require_adopted(world)


@pytest.mark.parametrize("number", range(1, len(ADOPTED) + 1), ids=ADOPTED)
def test_an_adoption_that_is_killed_goes_on(world: World, number: int) -> None:
    world.kill_at = number
    with pytest.raises(KilledError):
        adopt_house(world)
    world.kill_at = 0
    assert adopt_house(world) == 0
    require_adopted(world)


def test_state_that_loses_its_host_has_the_new_place_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its volume it would else accept the `up` of an older file, which makes another host under the name."""
    prefix = "urn:pulumi:house::pds::T::"
    kept = {"urn": f"{prefix}pds-identity", "inputs": {"hostname": "house.test", "place": "own droplet"}}
    resources = [kept | {"outputs": kept["inputs"]}, {"urn": f"{prefix}{VOLUME}", "inputs": {}}]
    imported: list[Any] = []

    def run(_stack: Stack, *words: str) -> EngineResult:
        imported.append(json.loads(Path(words[-1]).read_text())["deployment"]["resources"])
        return EngineResult(0, "")

    monkeypatch.setattr(Stack, "export", lambda _stack: {"deployment": {"resources": resources}})
    monkeypatch.setattr(Stack, "run", run)
    house = Stack("house", tmp_path)
    assert released_state.release(house, lambda item: released_state.name_of(item) == VOLUME, "fleet/a") == 1
    [[identity]] = imported
    assert identity["inputs"] == identity["outputs"] == {"hostname": "house.test", "place": "fleet/a"}


def test_releases_a_host_with_its_clubs(world: World) -> None:
    world.begin_release()
    assert release_house(world) == 0
    assert world.calls == RELEASED
    assert world.given == "house clubs/pds-house pds"
    require_released(world)


@pytest.mark.parametrize("number", range(1, len(RELEASED) + 1), ids=RELEASED)
def test_a_release_that_is_killed_goes_on(world: World, number: int) -> None:
    world.begin_release()
    world.kill_at = number
    with pytest.raises(KilledError):
        release_house(world)
    world.kill_at = 0
    assert release_house(world) == 0
    require_released(world)


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
        (_changed("house", backup={"volume": "disk2"}), BackupsStayError, "house are on disk disk2 of the droplet"),
        (_changed("chess-club", backup={"volume": "disk2"}), BackupsStayError, "Write a bucket .*chess-club.yaml"),
        (lambda world: setattr(world, "pending", "chess-club"), StackError, "chess-club has pending changes"),
        (lambda world: setattr(world, "carrier", 99), VolumeError, "`./pds repair house` first"),
        (lambda world: setattr(world, "carrier", None), VolumeError, "was interrupted: no droplet has volume"),
        (
            lambda world: world.write("navy", {"cluster": {"hosts": {"x": {"adopt": {"volume": ID}}}}}),
            VolumeError,
            r"was interrupted: Pulumi\.navy\.yaml has its volume",
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
        adopt_house(world)
    assert world.calls == []
    assert files == {name: world.file(name) for name in FILES}


@pytest.mark.parametrize(
    ("host", "single", "problem"),
    [("b", "house", "already has a host b"), ("a", "chess-club", "no host with a droplet of its own")],
)
def test_refuses_another_host_or_stack(world: World, host: str, single: str, problem: str) -> None:
    with pytest.raises(AdoptError, match=problem):
        adopt_house(world, host, single)
    assert world.calls == []


def test_refuses_to_release_to_a_stack_with_another_volume(world: World) -> None:
    world.hosts = {"a": {"volume_id": ID, "address": IP}}
    world.made.clear()
    world.write("house", {**FILES["house"], "volume": {"adopt": "707f78a4-e098-11e5-ad9f-000f53306ae1"}})
    with pytest.raises(ReleaseError, match="another volume than host a of fleet"):
        release_house(world)
    assert world.calls == []


@pytest.mark.parametrize("name", ["house", "chess-club"])
def test_refuses_to_release_a_host_whose_worker_has_the_backups(world: World, name: str) -> None:
    """The worker becomes a spare, and a spare is rebuilt."""
    world.begin_release()
    world.write(name, {**world.file(name), "backup": {"volume": "disk2"}})
    with pytest.raises(BackupsStayError, match=f"the backups of {name} are on disk disk2"):
        release_house(world)
    assert world.calls == []


def test_refuses_to_release_a_host_without_a_stack(world: World) -> None:
    world.begin_release()
    world.write("fleet", {**world.file("fleet"), "clubs": {}})
    with pytest.raises(ReleaseError, match=r"^No stack is on host b, so it cannot be released\. Nothing was changed"):
        release._planned(world.stack("fleet"), "b", world.stack("house"), read_settings("fleet", world.root))


def test_refuses_to_release_to_a_stack_that_is_not_on_the_host(world: World) -> None:
    world.begin_release()
    with pytest.raises(
        ReleaseError, match=r"house is not on host b\. Name a stack that is: --to rooks\. Nothing was changed"
    ):
        release._planned(world.stack("fleet"), "b", world.stack("house"), read_settings("fleet", world.root))
