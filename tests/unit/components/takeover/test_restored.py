"""Living hosts in a Nomad that was restored from an older snapshot or filled again: nothing moves them."""

import pytest

from components.takeover.decide import SETTLE_SECONDS, Rules, Step
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


def _passes(cluster: FakeCluster, rules: Rules | None = None) -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), "job", cluster.now)


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
