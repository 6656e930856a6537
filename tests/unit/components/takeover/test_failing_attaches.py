"""An attach that fails, or seems to fail, and a volume with which no node starts: the host comes back, or a person is
told before the spares are used up."""

from components.takeover.decide import SETTLE_SECONDS, Action, Rules, Step
from components.takeover.passes import Passes
from tests.support.fake_cluster import FakeCluster


def _passes(cluster: FakeCluster, rules: Rules | None = None) -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), "one", cluster.now)


def _run(cluster: FakeCluster, passes: Passes, seconds: float) -> list[Step]:
    """Passes until the time is over; the steps of the last one."""
    steps: list[Step] = []
    end = cluster.time + seconds
    while cluster.time < end:
        steps = passes.once()
        cluster.pass_time(5)
    return steps


def _cut(workers: int) -> FakeCluster:
    """Two hosts and spares; host a has just died."""
    cluster = FakeCluster({"a": 1, "b": 2}, workers=workers)
    cluster.cut_power(1)
    return cluster


def test_a_host_stays_where_an_attach_worked_that_is_listed_as_errored() -> None:
    cluster = _cut(workers=4)
    passes = _passes(cluster)
    while cluster.volumes["a"].carrier != 3:
        _run(cluster, passes, 5)
    attach = cluster.volumes["a"].actions.pop()
    cluster.volumes["a"].actions.append(Action("attach", "errored", attach.started))
    cluster.down_since["a"] = cluster.time - 70  # its node starts later than usual
    _run(cluster, passes, 600)
    assert cluster.volumes["a"].carrier == 3
    assert cluster.volumes["a"].address_at == 3


def test_a_volume_with_which_no_node_starts_leaves_a_spare_to_the_other_hosts() -> None:
    cluster = _cut(workers=5)
    cluster.never_starts = {"a"}
    passes = _passes(cluster)
    steps = _run(cluster, passes, 4 * SETTLE_SECONDS)
    assert cluster.volumes["a"].carrier == 4, "the first droplet may have been the cause, the second was not"
    assert steps[0].kind == "ask"
    assert "its node started on none of the last 2 droplets" in steps[0].text
    assert passes.spare_for(cluster.places[1]) == 5


def test_a_person_moves_a_host_whose_node_did_not_start() -> None:
    cluster = _cut(workers=5)
    cluster.never_starts = {"a"}
    _run(cluster, _passes(cluster), 4 * SETTLE_SECONDS)
    _run(cluster, _passes(cluster, Rules(leave={"a"})), 10)
    assert cluster.volumes["a"].carrier is None


def test_a_host_that_was_moved_in_earlier_outages_is_moved_again() -> None:
    cluster = _cut(workers=3)
    cluster.volumes["a"].actions += [Action("attach", "completed", cluster.time - ago) for ago in (9e5, 8e5, 7e5)]
    _run(cluster, _passes(cluster), 120)
    assert cluster.volumes["a"].carrier == 3
