"""Living hosts in a Nomad that was restored from an older snapshot or filled again: nothing moves them."""

import json

import pytest

from components.takeover.decide import SETTLE_SECONDS, Action, Rules, Step
from components.takeover.passes import Passes
from tests.support.fake_cluster import FakeCluster


@pytest.fixture
def cluster() -> FakeCluster:
    """Host a, which a takeover has moved to droplet 3 hours ago, host b, and a spare."""
    made = FakeCluster({"a": 1, "b": 2}, workers=4)
    made.detach("a", 1)
    made.pass_time(4)
    made.attach("a", 3)
    made.pass_time(4)
    made.assign("ip-a", 3)
    made.pass_time(10_000)
    return made


def _passes(cluster: FakeCluster, rules: Rules | None = None, holder: str = "job") -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), holder, cluster.now)


def _run(cluster: FakeCluster, passes: Passes, seconds: float) -> list[Step]:
    end = cluster.time + seconds
    steps: list[Step] = []
    while cluster.time < end:
        steps = passes.once()
        cluster.pass_time(5)
    return steps


def test_a_node_that_is_ready_on_the_droplet_before_is_told_and_not_moved(cluster: FakeCluster) -> None:
    cluster.registered_on = {"a": 1}
    steps = _run(cluster, _passes(cluster), 600)
    assert cluster.volumes["a"].carrier == 3
    assert steps[0].kind == "ask"
    assert "names droplet 1, but its volume is on droplet 3. Nothing is moved" in steps[0].text
    cluster.registered_on = {"a": 3}
    assert {step.kind for step in _run(cluster, _passes(cluster), 5)} == {"fine"}


def test_a_person_moves_it(cluster: FakeCluster) -> None:
    cluster.registered_on = {"a": 1}
    _run(cluster, _passes(cluster, Rules(leave={"a"})), 10)
    assert cluster.volumes["a"].carrier is None


def test_a_host_that_nomad_does_not_know_has_time_to_register(cluster: FakeCluster) -> None:
    cluster.forgotten = {"a", "b"}
    passes = _passes(cluster)
    assert {step.kind for step in _run(cluster, passes, SETTLE_SECONDS - 100)} == {"wait"}
    cluster.forgotten = set()
    assert {step.kind for step in _run(cluster, passes, 5)} == {"fine"}
    cluster.forgotten = {"b"}
    assert [step.kind for step in _run(cluster, passes, SETTLE_SECONDS - 100)] == ["fine", "wait"], "it begins anew"
    _run(cluster, passes, 300)
    assert cluster.volumes["b"].carrier == 1, "a host that does not become a node is moved, as after its first attach"


def test_moves_of_an_earlier_nomad_are_no_failed_starts_of_a_host_that_has_no_node_yet(cluster: FakeCluster) -> None:
    cluster.forgotten = {"a"}
    passes = _passes(cluster)
    _run(cluster, passes, 100)
    cluster.volumes["a"].actions += [
        Action("detach", "completed", cluster.time),
        Action("attach", "completed", cluster.time + 5),
    ]
    _run(cluster, passes, SETTLE_SECONDS + 100)
    assert cluster.volumes["a"].carrier == 1, "of this Nomad it had one droplet"
    steps = _run(cluster, passes, 2 * SETTLE_SECONDS)
    assert cluster.volumes["a"].carrier == 1
    assert "started on none of the last 2 droplets" in steps[0].text


def _snapshot(cluster: FakeCluster) -> dict[str, str]:
    """The takeover's variable in a snapshot that is taken while host a is down."""
    _run(cluster, _passes(cluster), 10)
    return dict(cluster.items)


def _restore(cluster: FakeCluster, snapshot: dict[str, str], age: float) -> None:
    """Nomad knows host a as down, and its agent is not heard of yet."""
    cluster.pass_time(age)
    cluster.items = dict(snapshot)
    cluster.down_since["a"] = cluster.time - age - 300


def test_a_node_that_was_down_in_the_snapshot_has_time_to_be_heard_of(cluster: FakeCluster) -> None:
    _restore(cluster, _snapshot(cluster), 3600)
    steps = _run(cluster, _passes(cluster, holder="new job"), SETTLE_SECONDS / 2)
    assert steps[0] == Step(
        "wait", "host a: its node was down already when Nomad came back or was restored, less than 15 minutes ago"
    )
    # The program ends, and Nomad starts it again: the lease is that of a moment ago.
    assert {step.kind for step in _run(cluster, _passes(cluster, holder="next job"), 100)} == {"wait", "fine"}
    assert cluster.volumes["a"].carrier == 3
    del cluster.down_since["a"]
    assert {step.kind for step in _run(cluster, _passes(cluster, holder="next job"), 100)} == {"fine"}


def test_a_node_that_is_not_heard_of_in_that_time_is_moved(cluster: FakeCluster) -> None:
    _restore(cluster, _snapshot(cluster), 3600)
    _run(cluster, _passes(cluster, holder="new job"), SETTLE_SECONDS + 100)
    assert cluster.volumes["a"].carrier != 3


def test_a_host_that_dies_after_the_restore_does_not_wait(cluster: FakeCluster) -> None:
    _restore(cluster, _snapshot(cluster), 3600)
    passes = _passes(cluster, holder="new job")
    del cluster.down_since["a"]
    _run(cluster, passes, 10)
    cluster.cut_power(2)
    _run(cluster, passes, 120)
    assert cluster.volumes["b"].carrier == 1, "the spare"


def test_a_snapshot_that_is_restored_under_a_running_program_is_noticed(cluster: FakeCluster) -> None:
    snapshot = _snapshot(cluster)
    passes = _passes(cluster)
    _run(cluster, passes, 3600)
    _restore(cluster, snapshot, 5)
    cluster.down_since["a"] = cluster.time - 3000
    assert _run(cluster, passes, 300)[0].kind == "wait"
    assert cluster.volumes["a"].carrier == 3


def test_a_program_that_starts_again_delays_no_takeover(cluster: FakeCluster) -> None:
    _run(cluster, _passes(cluster), 10)
    cluster.cut_power(2)
    cluster.pass_time(120)  # its own server died, too
    _run(cluster, _passes(cluster, holder="next job"), 60)
    assert cluster.volumes["b"].carrier == 1
    assert "back_since" not in json.dumps(cluster.items)


@pytest.mark.parametrize("ahead", [7200, 700, -900])
def test_a_person_s_program_with_a_wrong_clock_delays_no_takeover(ahead: float) -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3}, workers=5)
    job = _passes(cluster)
    job.once()
    cluster.pass_time(5)
    cluster.cut_power(2)
    laptop = _passes(cluster, Rules(may_detach=False), "laptop")
    laptop.now, laptop.seizes = lambda: cluster.time + ahead, True
    laptop.once()
    laptop.give_back()
    cluster.pass_time(125)  # a lease that ends later than in two minutes holds no program
    _run(cluster, job, 60)
    assert cluster.volumes["b"].carrier == 4
    assert "back_since" not in cluster.items


def test_a_restored_snapshot_is_noticed_although_a_person_s_program_is_first(cluster: FakeCluster) -> None:
    _restore(cluster, _snapshot(cluster), 3600)
    repair = _passes(cluster, Rules(may_detach=False), "laptop")
    repair.seizes = True
    repair.once()
    repair.give_back()
    assert _run(cluster, _passes(cluster, holder="new job"), 300)[0].kind == "wait"
    assert cluster.volumes["a"].carrier == 3


def test_a_time_of_return_in_the_future_delays_no_takeover(cluster: FakeCluster) -> None:
    cluster.items["back_since"] = json.dumps(cluster.time + 86_400)  # by a server whose clock was ahead
    cluster.cut_power(2)
    _run(cluster, _passes(cluster), 120)
    assert cluster.volumes["b"].carrier == 1
