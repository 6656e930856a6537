"""`./pds adopt` and `./pds release` from a clone with files that are older than the states: no PDS is led back to the
data of an earlier stay."""

from collections.abc import Callable

import pytest

from cli.adoption import adopt, handover, release
from cli.adoption.club_hosts import ClubHostError
from tests.unit.cli.adopted_host import ADOPTED, RELEASED, KilledError, World, adopt_house, release_house
from tests.unit.cli.adopted_host import world as world

OLDER = r"The state has chess-club on the host of ground, .* has it on {}: this file is older.*git pull"
AFTER_ADOPTION, AFTER_RELEASE = "host a of fleet", "the host of house"


def _move_away(world: World, place: str = "ground") -> None:
    """Another clone moves chess-club, and this one does not get its file."""
    world.places["chess-club"] = place
    world.on["chess-club"] = world.providers["chess-club"] = place.partition("/")[0]


def _refused(world: World, command: Callable[[World], int], problem: str) -> None:
    with pytest.raises(ClubHostError, match=problem):
        command(world)
    assert "up chess-club" not in world.calls, "the old host would serve its old data under the live name"
    assert "release chess-club" not in world.calls, "the state would get the older file's place"


def test_a_club_that_has_moved_since_is_not_led_back_by_a_repeated_adoption(world: World) -> None:
    adopt_house(world)
    _move_away(world)
    world.calls.clear()
    _refused(world, adopt_house, OLDER.format(AFTER_ADOPTION))
    assert world.calls == []


def test_a_club_that_has_moved_since_is_not_led_back_by_a_repeated_release(world: World) -> None:
    """Its state lacks the provider of this host, as if the last step of the release were left."""
    world.begin_release()
    release_house(world)
    _move_away(world)
    world.calls.clear()
    _refused(world, release_house, OLDER.format(AFTER_RELEASE))
    assert world.calls == []


@pytest.mark.parametrize("place", ["ground", "fleet/b"])
@pytest.mark.parametrize("command", [adopt_house, release_house])
def test_an_older_file_of_a_club_begins_neither_command(
    world: World, command: Callable[[World], int], place: str
) -> None:
    if command is release_house:
        world.begin_release()
    _move_away(world, place)
    _refused(world, command, "this file is older than the last `pulumi up`.*No stack file was changed")
    assert world.calls == []


@pytest.mark.parametrize("step", ["set free", "up fleet", "up house"])
def test_a_club_that_moves_while_the_host_is_adopted_is_not_led_back(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _moves_during(world, monkeypatch, step)
    with pytest.raises(ClubHostError, match="this file is older"):
        adopt_house(world)
    assert "up chess-club" not in world.calls, "the others are not held up"
    assert world.places["chess-club"] == "ground"


@pytest.mark.parametrize("step", ["set free", "up house"])
def test_a_club_that_moves_while_the_host_is_released_is_not_led_back(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world.begin_release()
    _moves_during(world, monkeypatch, step)
    with pytest.raises(ClubHostError, match="this file is older"):
        release_house(world)
    assert "up chess-club" not in world.calls, "the others are not held up"
    assert world.places["chess-club"] == "ground"


def _moves_during(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Another clone moves chess-club in this step."""
    for module, name in ((adopt, "up"), (handover, "set_free")):
        real = getattr(module, name)

        def call(*args: object, real: Callable[..., object] = real, **options: object) -> None:
            real(*args, **options)
            if world.calls[-1] == step:
                _move_away(world)

        monkeypatch.setattr(module, name, call)
        if module is adopt:
            monkeypatch.setattr(release, name, call)


@pytest.mark.parametrize(
    ("command", "steps", "known"),
    [(adopt_house, ADOPTED, "house/fra"), (release_house, RELEASED, "fleet/a")],
)
def test_a_state_that_names_the_host_as_it_was_is_no_obstacle(
    world: World, command: Callable[[World], int], steps: list[str], known: str
) -> None:
    """A host's own datacenter may have a name. A killed command leaves such a state, too."""
    if command is release_house:
        world.begin_release()
    world.places["chess-club"] = known
    assert command(world) == 0
    assert world.calls == steps


@pytest.mark.parametrize("known", ["", "fleet/a"])
def test_a_state_without_a_place_or_with_the_new_one_is_no_obstacle(world: World, known: str) -> None:
    world.kill_at = ADOPTED.index("up house") + 1
    with pytest.raises(KilledError):
        adopt_house(world)
    world.kill_at, world.places["chess-club"] = 0, known
    assert adopt_house(world) == 0
    assert world.places["chess-club"] == "fleet/a"
