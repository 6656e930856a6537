"""A dead host comes back on a spare, whatever fails in between. No volume is attached before it is detached."""

from collections.abc import Callable

import pytest

from components.takeover.decide import DETACH_SECONDS, SETTLE_SECONDS, Action, Heard, Node, Rules, Step, running_action
from components.takeover.passes import Passes
from components.takeover.services import Unavailable
from tests.support.fake_cluster import FakeCluster, KilledError, dies_at, fails_at


def _passes(cluster: FakeCluster, holder: str = "one", rules: Rules | None = None) -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", rules or Rules(), holder, cluster.now)


def _run(cluster: FakeCluster, passes: Passes, seconds: float, pause: float = 5) -> list[Step]:
    """Passes until the time is over; the steps that were no waits."""
    steps: list[Step] = []
    end = cluster.time + seconds
    while cluster.time < end:
        try:
            steps += passes.once()
        except Unavailable:
            steps.append(Step("wait", "unavailable"))
        cluster.pass_time(pause)
    return [step for step in steps if step.kind not in ("fine", "wait")]


def _cut() -> FakeCluster:
    """Two hosts and a spare; host a has just died."""
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    return cluster


def _calls_of_a_takeover() -> int:
    cluster = _cut()
    cluster.pass_time(61)
    passes = _passes(cluster)
    while cluster.volumes["a"].address_at != 3:
        passes.once()
        cluster.pass_time(4)
    return cluster.calls


CALLS = range(1, _calls_of_a_takeover() + 1)


def _is_well(cluster: FakeCluster) -> None:
    assert cluster.violations == []
    assert cluster.is_serving("a"), "the dead host is back"
    assert cluster.is_serving("b"), "the other host was left alone"
    assert cluster.volumes["a"].carrier == 3
    assert cluster.volumes["b"].carrier == 2


def test_a_dead_host_comes_back_on_the_spare() -> None:
    cluster = _cut()
    steps = _run(cluster, _passes(cluster), 120)
    assert [step.kind for step in steps] == ["retire", "detach", "attach", "assign"]
    _is_well(cluster)


def test_nothing_is_moved_before_the_stated_time() -> None:
    cluster = _cut()
    assert _run(cluster, _passes(cluster), 55) == []
    assert cluster.volumes["a"].carrier == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_any_call_the_next_program_goes_on(when: str) -> None:
    killed = 0
    for number in CALLS:
        cluster = _cut()
        cluster.pass_time(61)
        setattr(cluster, when, dies_at(number))
        try:
            _run(cluster, _passes(cluster), 30)
        except KilledError:
            killed += 1
        setattr(cluster, when, lambda _number: None)
        _run(cluster, _passes(cluster, "two"), 120)
        _is_well(cluster)
    # After a call only those that change something are told: leases, the retirement, detach, attach, assign.
    assert killed == len(CALLS) if when == "before" else killed >= 8


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_without_an_answer_is_looked_at_again(when: str) -> None:
    for number in CALLS:
        cluster = _cut()
        cluster.pass_time(61)
        setattr(cluster, when, fails_at(number))
        _run(cluster, _passes(cluster), 120)
        _is_well(cluster)


@pytest.mark.parametrize("holder", ["two", "one"], ids=["with the lease", "as if there were no lease"])
@pytest.mark.parametrize("pause", [0.0, 4.0], ids=["at once", "seconds apart"])
def test_a_second_program_in_any_call_of_the_first_does_no_harm(holder: str, pause: float) -> None:
    for number in CALLS:
        cluster = _cut()
        cluster.pass_time(61)
        cluster.before = _second_program(cluster, number, holder, pause)
        _run(cluster, _passes(cluster), 120)
        assert cluster.violations == []
        assert cluster.volumes["a"].carrier == 3
        assert cluster.is_serving("a")
        assert cluster.is_serving("b")


def _second_program(cluster: FakeCluster, number: int, holder: str, pause: float) -> Callable[[int], None]:
    def run(at: int) -> None:
        if at == number:
            second = _passes(cluster, holder)
            for _ in range(8):
                second.once()
                cluster.pass_time(pause)

    return run


def test_two_dead_hosts_of_four_get_two_spares() -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=6)
    cluster.cut_power(1)
    cluster.cut_power(2)
    _run(cluster, _passes(cluster), 200)
    assert {cluster.volumes[name].carrier for name in "ab"} == {5, 6}
    assert all(map(cluster.is_serving, "abcd"))


@pytest.mark.parametrize(
    ("hosts", "down"), [(2, 2), (3, 2), (3, 3), (4, 3)], ids=["both", "two of three", "all three", "three of four"]
)
def test_servers_that_do_not_hear_of_most_hosts_ask_a_person_and_move_none(hosts: int, down: int) -> None:
    cluster = FakeCluster({f"h{number}": number for number in range(1, hosts + 1)}, workers=hosts + 4)
    for number in range(1, down + 1):
        cluster.cut_power(number)
        cluster.pass_time(15)  # heartbeats end at different moments
    steps = _run(cluster, _passes(cluster), 600)
    assert {step.kind for step in steps} == {"ask"}
    assert f"{down} of {hosts} hosts" in steps[-1].text
    assert [cluster.volumes[f"h{number}"].carrier for number in range(1, hosts + 1)] == list(range(1, hosts + 1))


def test_the_only_host_of_a_cluster_is_moved_although_the_servers_may_be_cut_off() -> None:
    cluster = FakeCluster({"a": 1}, workers=2)
    cluster.cut_power(1)
    _run(cluster, _passes(cluster), 200)
    assert cluster.volumes["a"].carrier == 2
    assert cluster.is_serving("a")


def test_hosts_that_are_heard_of_again_are_left_alone_and_a_dead_one_is_moved() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    cluster.cut_power(2)
    _run(cluster, _passes(cluster), 200)
    cluster.alive[2] = True
    del cluster.down_since["b"]
    _run(cluster, _passes(cluster), 120)
    _is_well(cluster)


def test_a_host_that_dies_while_another_is_moved_waits_for_that_one() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=4)
    cluster.cut_power(1)
    cluster.pass_time(61)
    passes = _passes(cluster)
    while cluster.volumes["a"].carrier == 1:
        passes.once()
        cluster.pass_time(4)
    cluster.cut_power(2)
    _run(cluster, passes, 300)
    assert {cluster.volumes[name].carrier for name in "ab"} == {3, 4}
    assert cluster.is_serving("a")
    assert cluster.is_serving("b")
    assert cluster.violations == []


def test_a_person_moves_all_hosts_that_are_down() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=4)
    cluster.cut_power(1)
    cluster.cut_power(2)
    leaving = _passes(cluster, "me", Rules(leave={"a", "b"}))
    while not {cluster.volumes[name].carrier for name in "ab"}.isdisjoint({1, 2}):
        leaving.once()
        cluster.pass_time(4)
    _run(cluster, _passes(cluster, "me"), 60)
    assert cluster.is_serving("a")
    assert cluster.is_serving("b")


def test_a_host_that_was_never_a_node_is_no_sign_of_a_lost_network() -> None:
    assert Heard.of([None, None, Node(False, 0.0)]) == Heard(1, 1)
    assert not Heard(1, 1).is_too_little


def test_new_volumes_are_placed_one_on_a_worker() -> None:
    cluster = FakeCluster({"a": None, "b": None, "c": None}, workers=4)
    placing = _passes(cluster, "", Rules(may_detach=False))
    _run(cluster, placing, 60)
    assert [cluster.volumes[name].carrier for name in "abc"] == [1, 2, 3]
    assert [cluster.volumes[name].address_at for name in "abc"] == [1, 2, 3]


def test_an_up_takes_no_volume_from_a_droplet() -> None:
    cluster = _cut()
    steps = _run(cluster, _passes(cluster, "", Rules(may_detach=False)), 1000)
    assert steps == []
    assert cluster.volumes["a"].carrier == 1


@pytest.mark.parametrize("may_detach", [True, False])
@pytest.mark.parametrize("leave", [frozenset(), frozenset({"a"})])
def test_a_volume_on_a_droplet_that_is_no_worker_stays_there(may_detach: bool, leave: frozenset[str]) -> None:
    # A host with a droplet of its own, which is about to be adopted: it serves, unknown to this Nomad.
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.volumes["a"].carrier = 77
    cluster.down_since["a"] = 0.0
    steps = _run(cluster, _passes(cluster, rules=Rules(may_detach=may_detach, leave=leave)), 1000)
    assert {step.kind for step in steps} == {"foreign"}
    assert cluster.volumes["a"].carrier == 77


def test_without_a_spare_the_volume_stays_and_a_person_is_asked() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=2)
    cluster.cut_power(1)
    steps = _run(cluster, _passes(cluster), 120)
    assert {step.kind for step in steps} == {"ask"}
    assert cluster.volumes["a"].carrier == 1, "a volume on no droplet would be worse"


def test_a_droplet_that_lost_a_host_gets_none_again() -> None:
    cluster = _cut()
    _run(cluster, _passes(cluster), 120)
    cluster.alive[1] = True  # it reboots, and looks like a spare
    cluster.cut_power(2)
    steps = _run(cluster, _passes(cluster), 200)
    assert {step.kind for step in steps} == {"ask"}
    assert cluster.volumes["b"].carrier == 2


def test_a_host_that_flaps_is_moved_once() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=6)
    cluster.cut_power(1)
    _run(cluster, _passes(cluster), 100)
    carrier = cluster.volumes["a"].carrier
    cluster.down_since["a"] = cluster.time
    assert _run(cluster, _passes(cluster), SETTLE_SECONDS - 200) == []
    assert cluster.volumes["a"].carrier == carrier


def test_a_host_that_dies_soon_after_its_first_placement_is_moved() -> None:
    cluster = FakeCluster({"a": None}, workers=2)
    _run(cluster, _passes(cluster), 60)
    assert cluster.is_serving("a")
    cluster.cut_power(1)
    _run(cluster, _passes(cluster), 120)
    assert cluster.volumes["a"].carrier == 2, "only a move is followed by a pause"
    assert cluster.is_serving("a")


def test_a_host_that_is_back_before_the_detach_is_left_alone() -> None:
    cluster = _cut()
    cluster.pass_time(61)
    assert _passes(cluster).once()[0].kind == "retire"
    cluster.alive[1] = True
    del cluster.down_since["a"]
    passes = _passes(cluster)
    assert _run(cluster, passes, 60) == []
    assert passes.retired() == {}, "its droplet may have hosts again"


def test_a_detach_that_does_not_end_asks_a_person_and_attaches_nothing() -> None:
    cluster = _cut()
    cluster.detaches_never_end = True
    steps = _run(cluster, _passes(cluster), DETACH_SECONDS + 120)
    assert steps[-1].kind == "ask"
    assert "still not detached from droplet 1" in steps[-1].text
    assert "attach" not in [step.kind for step in steps]


def test_the_advice_to_run_repair_is_not_for_repair_itself() -> None:
    cluster = _cut()
    cluster.detaches_never_end = True
    cluster.detach("a", 1)
    cluster.pass_time(DETACH_SECONDS + 10)
    job, repair = (_passes(cluster, "", Rules(may_detach=may)).once()[0] for may in (True, False))
    assert "Run `./pds repair workers`" in job.text
    assert "./pds repair" not in repair.text
    assert "Deleting that droplet always detaches the volume" in repair.text


def test_a_detach_that_failed_in_an_earlier_outage_does_not_stop_the_takeover() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.volumes["a"].actions.append(Action("detach", "errored", cluster.time - 86_400))
    cluster.cut_power(1)
    _run(cluster, _passes(cluster), 120)
    _is_well(cluster)


def test_a_person_moves_a_host_whose_node_is_ready() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    leaving = _passes(cluster, "me", Rules(leave={"a"}))
    for _ in range(2):
        leaving.once()
    cluster.pass_time(4)
    _run(cluster, _passes(cluster, "me"), 60)
    _is_well(cluster)


def test_the_lease_of_another_program_holds_this_one() -> None:
    cluster = _cut()
    _passes(cluster, "one").once()
    assert [step.text for step in _passes(cluster, "two").once()] == ["another takeover holds the lease"]
    cluster.pass_time(61)
    assert len(_passes(cluster, "two").once()) == 2, "a lease ends"


@pytest.mark.parametrize(("ahead", "is_held"), [(50, True), (86_400, False)])
def test_a_lease_of_a_clock_that_is_ahead_stops_no_takeover(ahead: float, is_held: bool) -> None:
    cluster = _cut()
    laptop = _passes(cluster, "laptop", Rules(may_detach=False))
    laptop.now = lambda: cluster.time + ahead
    laptop.once()
    assert (len(_passes(cluster, "job").once()) == 1) is is_held
    _run(cluster, _passes(cluster, "job"), 240)
    _is_well(cluster)


def test_a_program_that_gives_its_lease_back_holds_no_other() -> None:
    cluster = _cut()
    first, second = _passes(cluster, "one"), _passes(cluster, "two")
    first.once()
    second.give_back()
    assert len(second.once()) == 1, "only its holder gives it back"
    first.give_back()
    assert len(second.once()) == 2


def test_an_action_that_stays_listed_as_in_progress_stops_no_takeover() -> None:
    cluster = _cut()
    cluster.volumes["a"].actions += [
        Action("resize", "in-progress", cluster.time - 90_000),
        Action("resize", "completed", cluster.time - 80_000),
    ]
    _run(cluster, _passes(cluster), 120)
    _is_well(cluster)


@pytest.mark.parametrize(("later", "is_over"), [("resize", False), ("attach", True), ("detach", True)])
def test_a_detach_in_progress_is_over_only_after_a_later_attach_or_detach(later: str, is_over: bool) -> None:
    detach = Action("detach", "in-progress", 100.0)
    assert running_action((detach, Action(later, "completed", 200.0))) == (None if is_over else detach)
    assert running_action((Action(later, "completed", 100.0), detach)) == detach, "it is not older"
