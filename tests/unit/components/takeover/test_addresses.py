"""Each address comes to the droplet that has its host's volume, also if another address is in the way."""

from collections.abc import Callable

import pytest

from components.takeover.decide import Rules
from components.takeover.passes import Passes
from tests.support.fake_cluster import FakeCluster


def _passes(cluster: FakeCluster, holder: str = "one") -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", Rules(), holder, cluster.now)


def _circle() -> FakeCluster:
    """Three hosts whose addresses lead to each other's droplets."""
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3}, workers=4)
    for name, droplet in {"a": 2, "b": 3, "c": 1}.items():
        cluster.volumes[name].address_at = droplet
    return cluster


def _mended(cluster: FakeCluster, passes: Passes) -> bool:
    for _ in range(10):
        passes.once()
        cluster.pass_time(4)
    return all(map(cluster.is_serving, "abc"))


def test_addresses_in_a_circle_are_freed_and_assigned() -> None:
    cluster = _circle()
    assert _mended(cluster, _passes(cluster))


@pytest.mark.parametrize("pause", [0.0, 4.0], ids=["at once", "seconds apart"])
def test_a_second_program_in_any_call_of_the_first_does_no_harm(pause: float) -> None:
    cluster = _circle()
    _mended(cluster, _passes(cluster))
    for number in range(1, cluster.calls + 1):
        cluster = _circle()
        cluster.before = _second_program(cluster, number, pause)
        assert _mended(cluster, _passes(cluster)), f"with a second program in call {number}"


def _second_program(cluster: FakeCluster, number: int, pause: float) -> Callable[[int], None]:
    def run(at: int) -> None:
        if at == number:
            second = _passes(cluster)
            for _ in range(3):
                second.once()
                cluster.pass_time(pause)

    return run


def test_the_address_of_a_host_that_is_away_does_not_stop_the_one_on_its_former_droplet() -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3}, workers=3)
    cluster.volumes["a"].address_at = None
    cluster.volumes["b"].carrier, cluster.volumes["b"].address_at = None, 1
    _passes(cluster).once()
    cluster.pass_time(4)
    _passes(cluster).once()
    cluster.pass_time(4)
    assert cluster.volumes["a"].address_at == 1


def test_the_address_of_a_host_on_the_same_droplet_stays_there() -> None:
    cluster = FakeCluster({"a": 1, "b": 1}, workers=1)
    cluster.volumes["b"].address_at = None
    steps = _passes(cluster).once()
    assert steps[1].kind == "wait"
    assert "The Droplet already has a reserved IP." in steps[1].text
    assert cluster.volumes["a"].assigning is None


def test_an_address_that_is_no_host_s_is_left_to_a_person() -> None:
    cluster = FakeCluster({"a": 1}, workers=1)
    cluster.volumes["a"].address_at = None
    cluster.other_addresses = {1: "203.0.113.9"}
    [step] = _passes(cluster).once()
    assert step.kind == "ask"
    assert "Run `doctl compute reserved-ip-action unassign 203.0.113.9`" in step.text
