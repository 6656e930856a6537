"""An attach that fails, or seems to fail, and a volume with which no node starts: the host comes back, or a person is
told before the spares are used up."""

import pytest

from components.takeover.decide import DETACH_SECONDS, SETTLE_SECONDS, Action, Droplet, Rules
from components.takeover.reporting import Reporter
from tests.support.fake_cluster import FakeCluster, passes_over, run_passes


def _cut(workers: int) -> FakeCluster:
    """Two hosts and spares; host a has just died."""
    cluster = FakeCluster({"a": 1, "b": 2}, workers=workers)
    cluster.cut_power(1)
    return cluster


def test_a_host_stays_where_an_attach_worked_that_is_listed_as_errored() -> None:
    cluster = _cut(workers=4)
    passes = passes_over(cluster)
    while cluster.volumes["a"].carrier != 3:
        run_passes(cluster, passes, 5)
    attach = cluster.volumes["a"].actions.pop()
    cluster.volumes["a"].actions.append(Action("attach", "errored", attach.started))
    cluster.down_since["a"] = cluster.time - 70  # its node starts later than usual
    run_passes(cluster, passes, 600)
    assert cluster.volumes["a"].carrier == 3
    assert cluster.volumes["a"].address_at == 3


def test_a_volume_with_which_no_node_starts_leaves_a_spare_to_the_other_hosts() -> None:
    cluster = _cut(workers=5)
    cluster.never_starts = {"a"}
    passes = passes_over(cluster)
    steps = run_passes(cluster, passes, 4 * SETTLE_SECONDS)
    assert cluster.volumes["a"].carrier == 4, "the first droplet may have been the cause, the second was not"
    assert steps[0].kind == "ask"
    assert "its node started on none of the last 2 droplets" in steps[0].text
    assert passes.spare_for(cluster.places[1]) == 5


def test_a_person_moves_a_host_whose_node_did_not_start() -> None:
    cluster = _cut(workers=5)
    cluster.never_starts = {"a"}
    run_passes(cluster, passes_over(cluster), 4 * SETTLE_SECONDS)
    run_passes(cluster, passes_over(cluster, Rules(leave={"a"})), 10)
    assert cluster.volumes["a"].carrier is None


def test_a_host_that_was_moved_in_earlier_outages_is_moved_again() -> None:
    cluster = _cut(workers=3)
    cluster.volumes["a"].actions += [Action("attach", "completed", cluster.time - ago) for ago in (9e5, 8e5, 7e5)]
    run_passes(cluster, passes_over(cluster), 120)
    assert cluster.volumes["a"].carrier == 3


@pytest.mark.parametrize("failure", ["attaches_fail", "attaches_refused"])
def test_an_attach_that_fails_is_repeated_on_the_next_spare(failure: str) -> None:
    cluster = _cut(workers=4)
    setattr(cluster, failure, {3})
    run_passes(cluster, passes_over(cluster), 120)
    assert cluster.volumes["a"].carrier == 4
    assert sum(action.kind == "attach" for action in cluster.volumes["a"].actions) <= 3, "one on each spare"
    assert cluster.is_serving("a")


def test_with_attaches_that_fail_on_each_spare_the_first_one_is_tried_again() -> None:
    cluster = _cut(workers=4)
    cluster.attaches_fail = {3, 4}
    passes = passes_over(cluster)
    run_passes(cluster, passes, 120)
    cluster.attaches_fail = set()
    run_passes(cluster, passes, 60)
    assert cluster.is_serving("a")


def test_an_attach_that_fails_again_and_again_is_told_to_a_person() -> None:
    cluster = _cut(workers=3)
    cluster.attaches_fail = {3}
    sent: list[str] = []
    passes = passes_over(cluster)
    passes.tell = Reporter("fleet", sent.append, cluster.now).report
    run_passes(cluster, passes, 61 + DETACH_SECONDS + 30)
    assert any(text.startswith("Cluster fleet, action required: no progress") for text in sent)


def test_a_spare_that_a_volume_has_just_reached_is_no_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 3, "c": 2}, workers=4)
    cluster.items["retired"] = '{"1": "a"}'
    cluster.volumes["a"].carrier = None
    cluster.volumes["a"].actions.append(Action("detach", "completed", cluster.time - 10))
    workers = cluster.workers

    def behind(tag: str) -> dict[int, Droplet]:
        """DigitalOcean's list of droplets does not show the volume of host b yet."""
        return workers(tag) | {3: Droplet(3, True, frozenset())}

    monkeypatch.setattr(cluster, "workers", behind)
    passes_over(cluster).once()
    cluster.pass_time(4)
    assert cluster.volumes["a"].carrier == 4


def test_a_second_move_is_no_alarm() -> None:
    cluster = _cut(workers=4)
    cluster.never_starts = {"a"}
    passes = passes_over(cluster)
    run_passes(cluster, passes, SETTLE_SECONDS)
    sent: list[str] = []
    passes.tell = Reporter("fleet", sent.append, cluster.now).report
    cluster.never_starts = set()
    run_passes(cluster, passes, 150)
    assert cluster.is_serving("a")
    assert not [text for text in sent if "action required" in text]


@pytest.mark.parametrize("failure", ["attaches_fail", "attaches_refused"])
def test_an_attach_that_does_not_end_keeps_its_spare_although_it_was_not_the_first(failure: str) -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=7)
    setattr(cluster, failure, {5})
    cluster.cut_power(1)
    passes = passes_over(cluster)
    run_passes(cluster, passes, 75)
    cluster.attaches_never_end = {"a"}
    run_passes(cluster, passes, 30)
    assert cluster.volumes["a"].then == 6
    setattr(cluster, failure, set())
    cluster.cut_power(2)
    run_passes(cluster, passes, DETACH_SECONDS + 120)
    assert cluster.volumes["b"].carrier == 5, "droplet 6 is that of host a"
