"""A volume is detached only if there is a spare for it beside those that other hosts need."""

import pytest

from components.takeover.decide import Action, Rules, Step
from components.takeover.passes import Passes
from components.takeover.services import Refused
from tests.support.fake_cluster import FakeCluster


def _passes(cluster: FakeCluster, rules: Rules | None = None) -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), "one", cluster.now)


def _run(cluster: FakeCluster, passes: Passes, seconds: float) -> list[Step]:
    """Passes until the time is over; the last step of each host."""
    steps: list[Step] = []
    end = cluster.time + seconds
    while cluster.time < end:
        steps = passes.once()
        cluster.pass_time(5)
    return steps


def _carriers(cluster: FakeCluster) -> dict[str, int | None]:
    return {name: volume.carrier for name, volume in cluster.volumes.items()}


def _two_dead_of_four(workers: int = 5) -> FakeCluster:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=workers)
    cluster.cut_power(1)
    cluster.cut_power(2)
    return cluster


def test_of_two_dead_hosts_the_one_without_a_spare_keeps_its_droplet() -> None:
    cluster = _two_dead_of_four()
    steps = _run(cluster, _passes(cluster), 300)
    assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}
    assert cluster.is_serving("a")
    assert steps[1].kind == "ask"
    assert "host b is down, and there is no spare worker" in steps[1].text


def test_its_droplet_that_only_rebooted_brings_it_back() -> None:
    cluster = _two_dead_of_four()
    passes = _passes(cluster)
    _run(cluster, passes, 120)
    cluster.alive[2] = True
    del cluster.down_since["b"]
    assert {step.kind for step in _run(cluster, passes, 60)} == {"fine"}
    assert all(map(cluster.is_serving, "abcd"))


def test_with_another_spare_it_is_moved_too() -> None:
    cluster = _two_dead_of_four()
    passes = _passes(cluster)
    _run(cluster, passes, 120)
    cluster.alive[6] = True
    _run(cluster, passes, 120)
    assert _carriers(cluster) == {"a": 5, "b": 6, "c": 3, "d": 4}


def test_the_spare_of_a_host_whose_detach_or_attach_is_in_progress_is_no_other_s() -> None:
    for seconds in range(12):
        cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=5)
        cluster.cut_power(1)
        cluster.pass_time(seconds)
        cluster.cut_power(2)
        passes = _passes(cluster)
        for _ in range(120):
            passes.once()
            cluster.pass_time(1)
        assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}, f"host b died {seconds} s after host a"


def test_two_hosts_whose_droplets_are_retired_do_not_wait_for_each_other() -> None:
    cluster = _two_dead_of_four()
    cluster.items["retired"] = '{"1": "a", "2": "b"}'
    _run(cluster, _passes(cluster), 300)
    assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "on a droplet that is no worker"])
def test_a_volume_that_no_spare_can_get_keeps_none_from_the_others(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 77}, workers=3)
    carrier = cluster.carrier

    def answer(volume: str) -> int | None:
        if gone and volume == "c":
            raise Refused(404, "volume c does not exist")
        return carrier(volume)

    passes = _passes(cluster)
    place = cluster.places[0]
    monkeypatch.setattr(cluster, "carrier", answer)
    assert passes.spare_for(place) == 3


def test_a_volume_that_is_being_attached_still_needs_its_spare() -> None:
    cluster = FakeCluster({"a": 1, "b": None}, workers=2)
    cluster.volumes["b"].actions.append(Action("attach", "in-progress", cluster.time))
    assert _passes(cluster).spare_for(cluster.places[0]) is None
