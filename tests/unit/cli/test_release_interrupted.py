"""`./pds release` that was interrupted, and what another person or CI ran before it was repeated."""

import pytest

from cli.adoption.adopt import ADDRESS, DROPLET, VOLUME
from cli.adoption.release import ReleaseError
from tests.unit.cli.adopted_host import (
    ID,
    IP,
    NEW,
    OLD,
    RELEASED,
    KilledError,
    World,
    release_house,
    require_released,
)
from tests.unit.cli.adopted_host import world as world

_WRITTEN = RELEASED.index("write house") + 1
_LAST = RELEASED.index("up house") + 1


def _interrupt(world: World, number: int) -> None:
    world.begin_release()
    world.kill_at = number
    with pytest.raises(KilledError):
        release_house(world)
    world.kill_at, world.calls[:] = 0, []


def _up_of_house(world: World) -> None:
    """What the engine does with the new stack file: it imports volume and address, then it makes the droplet, which
    DigitalOcean refuses while another one has the volume."""
    world.made = {VOLUME: ID, ADDRESS: IP}
    if world.carrier is None:
        world.made[DROPLET], world.carrier = str(NEW), NEW
        world.providers.pop("house", None)


@pytest.mark.parametrize("number", range(_WRITTEN + 1, _LAST + 1), ids=RELEASED[_WRITTEN:_LAST])
def test_goes_on_after_an_up_of_the_target_in_between(world: World, number: int) -> None:
    _interrupt(world, number)
    _up_of_house(world)
    assert release_house(world) == 0
    require_released(world)


def test_a_volume_that_a_worker_got_again_is_set_free_again(world: World) -> None:
    """A `drain` or a takeover of before had requested its attach, and the last `up` failed after the import."""
    _interrupt(world, _LAST)
    world.made, world.carrier = {VOLUME: ID, ADDRESS: IP}, OLD
    assert release_house(world) == 0
    assert "set free" in world.calls
    require_released(world)


def test_a_volume_that_an_unknown_droplet_has_is_left_there(world: World) -> None:
    _interrupt(world, _LAST)
    world.made, world.carrier = {VOLUME: ID, ADDRESS: IP}, 99
    with pytest.raises(ReleaseError, match="Droplet 99 has volume"):
        release_house(world)
    assert not {"set free", "up house"} & set(world.calls)


def test_only_the_clubs_are_left_after_the_up_of_the_target(world: World) -> None:
    """The droplet of the target has the volume: nothing is shut down again."""
    _interrupt(world, len(RELEASED))
    assert release_house(world) == 0
    assert world.calls == ["up house", "up chess-club"]
