"""What `./pds adopt` and `./pds release` refuse so that no PDS is stopped, moved or forgotten by mistake."""

from typing import Any

import click
import pytest

from cli.adoption import adopt, handover, release
from cli.adoption.adopt import AdoptError
from cli.adoption.club_hosts import ClubHostError
from cli.adoption.handover import VolumeError
from cli.adoption.release import ReleaseError
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import StackError
from offline.stackfile import StackFileError
from tests.unit.cli.adopted_host import (
    ADOPTED,
    FILES,
    ID,
    IP,
    OLD,
    OTHER_ID,
    KilledError,
    World,
    adopt_house,
    release_house,
)
from tests.unit.cli.adopted_host import world as world


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
        ({"on": "elsewhere"}, r"places its PDS on elsewhere\. It has to be on house or on fleet \(host a\)"),
        ({"on": None}, r"places its PDS on its own droplet \('on' is missing\)"),
        ({"on": {"stack": "fleet"}, "nomad": {"datacenter": "b"}}, "nomad.datacenter: b"),
        (
            {"move:note": {"from": "house", "to": "ground"}},
            r"chess-club is moving from house to ground\. Finish the move with `\./pds move chess-club --to ground`",
        ),
    ],
)
@pytest.mark.parametrize("began", [False, True])
def test_a_club_that_moves_or_has_moved_is_not_adopted(
    world: World, options: dict[str, Any], problem: str, began: bool
) -> None:
    if began:
        world.kill_at = 3
        with pytest.raises(KilledError):
            adopt_house(world)
        world.kill_at, world.calls[:] = 0, []
    world.write("chess-club", {**FILES["chess-club"], **options})
    with pytest.raises(ClubHostError, match=problem):
        adopt_house(world)
    assert world.calls == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"on": "elsewhere"}, r"places its PDS on elsewhere \(.*\)\. It has to be on fleet \(host a\) or on house"),
        ({"on": "fleet", "nomad": {"datacenter": "b"}}, "nomad.datacenter: b"),
        (
            {"move:note": {"from": "fleet/a", "to": "fleet/b"}},
            r"chess-club is moving from fleet/a to fleet/b\. .* `\./pds move chess-club --to fleet --host b`",
        ),
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
            release_house(world)
        world.kill_at, world.calls[:] = 0, []
    world.write("chess-club", {**world.file("chess-club"), **options})
    with pytest.raises(ClubHostError, match=problem):
        release_house(world)
    assert world.calls == []
    assert not world.forgotten


@pytest.mark.parametrize("note", [{"from": "house"}, {"to": "ground"}])
def test_a_note_with_one_host_is_no_move(world: World, note: dict[str, str]) -> None:
    """A `./pds move` that was killed before it had done anything leaves one. Nothing can finish it."""
    world.write("chess-club", {**FILES["chess-club"], "move:note": note})
    assert adopt_house(world) == 0
    assert world.calls == ADOPTED


@pytest.mark.parametrize(("host", "left"), [("a", "b"), ("b", "a")])
def test_a_host_that_a_club_moves_to_or_from_is_not_released(world: World, host: str, left: str) -> None:
    world.begin_release()
    fleet = world.file("fleet")
    fleet["cluster"]["hosts"]["a"]["volume_gib"] = 40
    fleet["clubs"]["rooks"] = {"host": host, "port": 3101, "leaving": {"host": left, "port": 3101}}
    world.write("fleet", fleet)
    world.write("rooks", {**FILES["chess-club"], "on": "fleet", "nomad": {"datacenter": "a"}, "hostname": "rooks.test"})
    with pytest.raises(ClubHostError, match=r"clubs\.rooks\.leaving: .* has two hosts for rooks"):
        release_house(world)
    assert world.calls == []


@pytest.mark.parametrize("host", ["a", "b", "z"])
def test_a_release_that_is_over_is_not_repeated(world: World, host: str) -> None:
    """The target's file keeps the volume, and a club may have moved to the cluster since."""
    world.begin_release()
    release_house(world)
    world.calls.clear()
    with pytest.raises(ReleaseError, match=r"a release to it is over|another volume than host b"):
        release.release_host(world.stack("fleet"), host, world.stack("house"), "", yes=True)
    assert world.calls == []


def test_a_release_that_has_begun_is_not_continued_with_another_host(world: World) -> None:
    world.begin_release()
    world.kill_at = 4
    with pytest.raises(KilledError):
        release_house(world)
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
        release_house(world)
    world.kill_at, world.calls[:] = 0, []
    asked: list[str] = []

    def decline(question: str) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr(click, "confirm", decline)
    assert release.release_host(world.stack("fleet"), "a", world.stack("house"), "", yes=False) == 1
    assert (asked, world.calls) == (["Shut its worker down and continue?"], [])


def test_a_host_is_not_forgotten_while_another_droplet_has_its_volume(world: World) -> None:
    world.begin_release()
    world.attached_again = 99
    with pytest.raises(ReleaseError, match=r"Droplet 99 has volume .* not the droplet of house"):
        release_house(world)
    assert not world.forgotten
    assert world.calls[-1] == "release chess-club"


def test_an_older_checkout_does_not_get_the_advice_to_run_up(world: World) -> None:
    """Such an `up` makes another volume and another address, and leads the DNS record of the live PDS there."""
    before = {name: world.file(name) for name in FILES}
    world.kill_at = ADOPTED.index("up fleet") + 1
    with pytest.raises(KilledError):
        adopt_house(world)
    world.kill_at, world.calls[:] = 0, []
    for name, options in before.items():
        world.write(name, options)
    with pytest.raises(
        AdoptError, match=r"has begun already: its state has the droplet, and no volume.*no `pulumi up`"
    ):
        adopt_house(world)
    assert world.calls == []


def _by_hand(world: World, **more: Any) -> None:
    """An operator wrote the adoption into the cluster's file, without the command."""
    fleet = world.file("fleet")
    fleet["cluster"]["hosts"]["a"] = {"volume_gib": 25, "adopt": {"volume": ID, "address": IP, **more}}
    fleet["clubs"]["house"] = {"host": "a", "port": 3000, "disk_gib": 10, "memory_mib": 512}
    fleet["clubs"]["chess-club"] = {"host": "a", "port": 3102, "disk_gib": 4, "memory_mib": 896}
    world.write("fleet", fleet)


def test_an_adoption_in_the_file_alone_still_writes_the_next_owner(world: World) -> None:
    _by_hand(world)
    assert adopt_house(world) == 0
    assert world.calls == [call for call in ADOPTED if call != "write fleet"]
    assert world.given == "fleet-a pds clubs/pds-house 10", "with the quota of the file"


def test_an_adoption_in_the_file_alone_is_checked_and_asked_about(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _by_hand(world)
    world.pending = "chess-club"
    with pytest.raises(StackError, match="chess-club has pending changes"):
        adopt_house(world)
    world.pending = ""
    monkeypatch.setattr(click, "confirm", lambda _question: False)
    assert adopt.adopt(world.stack("fleet"), "a", world.stack("house"), yes=False) == 1
    assert world.calls == []


def test_an_adoption_of_another_volume_in_the_file_is_refused(world: World) -> None:
    _by_hand(world, volume=OTHER_ID)
    with pytest.raises(AdoptError, match="does not match the state of house: volume or address differ"):
        adopt_house(world)
    assert world.calls == []


@pytest.mark.parametrize("name", ["fleet-a", "fleet-b2"])
def test_a_stack_with_the_name_of_an_owner_is_neither_adopted_nor_released_to(world: World, name: str) -> None:
    world.write(name, FILES["house"])
    with pytest.raises(VolumeError, match="could then claim the other's volume"):
        adopt_house(world, single=name)
    with pytest.raises(VolumeError, match="could then claim the other's volume"):
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
        handover.set_free(account, ID, IP, OLD, "./pds adopt")
    assert requested == [f"droplets/{OLD}/actions"], "shut down, and not detached"
