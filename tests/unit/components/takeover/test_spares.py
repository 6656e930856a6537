"""A volume is detached only if there is a spare for it beside those that other hosts need, and no host waits for
another one's trouble."""

from typing import Any

import pytest

from components.takeover.decide import DETACH_SECONDS, Action, Rules
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster, passes_over, run_passes


def _carriers(cluster: FakeCluster) -> dict[str, int | None]:
    return {name: volume.carrier for name, volume in cluster.volumes.items()}


def _two_dead_of_four(workers: int = 5) -> FakeCluster:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=workers)
    cluster.cut_power(1)
    cluster.cut_power(2)
    return cluster


def test_of_two_dead_hosts_the_one_without_a_spare_keeps_its_droplet() -> None:
    cluster = _two_dead_of_four()
    steps = run_passes(cluster, passes_over(cluster), 300)
    assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}
    assert cluster.is_serving("a")
    assert steps[1].kind == "ask"
    assert "host b is down, and there is no spare worker" in steps[1].text


def test_its_droplet_that_only_rebooted_brings_it_back() -> None:
    cluster = _two_dead_of_four()
    passes = passes_over(cluster)
    run_passes(cluster, passes, 120)
    cluster.alive[2] = True
    del cluster.down_since["b"]
    assert {step.kind for step in run_passes(cluster, passes, 60)} == {"fine"}
    assert all(map(cluster.is_serving, "abcd"))


def test_with_another_spare_it_is_moved_too() -> None:
    cluster = _two_dead_of_four()
    passes = passes_over(cluster)
    run_passes(cluster, passes, 120)
    cluster.alive[6] = True
    run_passes(cluster, passes, 120)
    assert _carriers(cluster) == {"a": 5, "b": 6, "c": 3, "d": 4}


def test_the_spare_of_a_host_whose_detach_or_attach_is_in_progress_is_no_other_s() -> None:
    for seconds in range(12):
        cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=5)
        cluster.cut_power(1)
        cluster.pass_time(seconds)
        cluster.cut_power(2)
        passes = passes_over(cluster)
        for _ in range(120):
            passes.once()
            cluster.pass_time(1)
        assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}, f"host b died {seconds} s after host a"


def test_two_hosts_whose_droplets_are_retired_do_not_wait_for_each_other() -> None:
    cluster = _two_dead_of_four()
    cluster.items["retired"] = '{"1": "a", "2": "b"}'
    run_passes(cluster, passes_over(cluster), 300)
    assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "on a droplet that is no worker"])
def test_a_volume_that_no_spare_can_get_keeps_none_from_the_others(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 77}, workers=3)
    carrier = cluster.carrier

    def answer(volume: str) -> int | None:
        if gone and volume == "c":
            raise Refused(404, "volume c does not exist")
        return carrier(volume)

    passes = passes_over(cluster)
    place = cluster.places[0]
    monkeypatch.setattr(cluster, "carrier", answer)
    assert passes.spare_for(place) == 3


def test_a_volume_that_is_being_attached_still_needs_its_spare() -> None:
    cluster = FakeCluster({"a": 1, "b": None}, workers=2)
    cluster.volumes["b"].actions.append(Action("attach", "in-progress", cluster.time))
    assert passes_over(cluster).spare_for(cluster.places[0]) is None


GONE, SILENT = Refused(404, "volume a does not exist"), Unavailable("GET volume a returned 500")


@pytest.mark.parametrize(("error", "kind"), [(GONE, "refused"), (SILENT, "wait")], ids=["gone", "silent"])
def test_a_host_of_which_nothing_is_known_keeps_no_other_from_its_takeover(
    error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    for name in ("carrier", "actions"):
        monkeypatch.setattr(cluster, name, _failing_for("a", error, getattr(cluster, name)))
    cluster.cut_power(2)
    steps = run_passes(cluster, passes_over(cluster), 120)
    assert _carriers(cluster) == {"a": 1, "b": 3}
    assert [step.kind for step in steps] == [kind, "fine"]
    assert steps[0].text == f"host a: {error}"


def _failing_for(name: str, error: Exception, answer: Any) -> Any:
    def ask(volume: str) -> Any:
        if volume == name:
            raise error
        return answer(volume)

    return ask


@pytest.mark.parametrize("error", [Unavailable("no answer"), Refused(403, "no scope"), Refused(401, "expired")])
def test_a_service_that_answers_about_no_host_ends_the_pass(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)

    def fail(_volume: str) -> Any:
        raise error

    monkeypatch.setattr(cluster, "carrier", fail)
    with pytest.raises(type(error)):
        passes_over(cluster).once()


def test_an_attach_that_does_not_end_is_told_and_the_next_host_takes_another_spare() -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=6)
    cluster.attaches_never_end = {"a"}
    cluster.cut_power(1)
    cluster.pass_time(60)
    cluster.cut_power(2)
    steps = run_passes(cluster, passes_over(cluster), DETACH_SECONDS + 200)
    assert _carriers(cluster) == {"a": None, "b": 6, "c": 3, "d": 4}, "droplet 5 is that of host a"
    assert steps[0].kind == "ask"
    assert "the attach of its volume is not over after 300 s" in steps[0].text
    assert cluster.violations == []


def _two_on_one_droplet() -> FakeCluster:
    """The volumes of hosts a and b are on droplet 1, and host b is down: a droplet has one reserved IP."""
    cluster = FakeCluster({"a": 1, "b": 1, "c": 2, "d": 3, "e": 4}, workers=5)
    cluster.volumes["b"].address_at = None
    cluster.down_since["b"] = cluster.time - 2000
    return cluster


def test_a_host_leaves_a_droplet_on_which_another_one_is_well() -> None:
    cluster = _two_on_one_droplet()
    for _ in range(20):
        if cluster.volumes["b"].carrier != 1:
            break
        passes_over(cluster, Rules(leave={"b"})).once()
        cluster.pass_time(4)
    run_passes(cluster, passes_over(cluster), 60)
    assert _carriers(cluster) == {"a": 1, "b": 5, "c": 2, "d": 3, "e": 4}
    assert all(map(cluster.is_serving, "abcde"))


@pytest.mark.parametrize("noted", ["a", "b"])
def test_of_two_dead_hosts_on_one_droplet_the_one_without_a_spare_stays_there(noted: str) -> None:
    cluster = _two_on_one_droplet()
    cluster.items["retired"] = f'{{"1": "{noted}"}}'
    cluster.cut_power(1)
    run_passes(cluster, passes_over(cluster), 300)
    assert sorted(_carriers(cluster)[name] or 0 for name in "ab") == [1, 5]


def test_a_host_on_the_droplet_that_another_one_left_gets_a_spare_before_a_third() -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=5)
    cluster.items["retired"] = '{"1": "d"}'
    cluster.cut_power(1)
    cluster.cut_power(2)
    for seconds in range(120):
        steps = passes_over(cluster).once()
        assert {step.kind for step in steps if "host b" in step.text} <= {"ask", "wait"}, f"after {seconds} s"
        cluster.pass_time(1)
    assert _carriers(cluster) == {"a": 5, "b": 2, "c": 3, "d": 4}
