"""The servers' address leads to a server that is up."""

from collections.abc import Callable

import pytest

from components.takeover.decide import SETTLE_SECONDS, Rules, Step
from components.takeover.endpoint import ENDPOINT, UNKNOWN_SECONDS
from components.takeover.passes import Passes
from components.takeover.services import Limited, Refused, Unavailable
from tests.support.fake_cluster import KilledError, dies_at, fails_at
from tests.support.fake_servers import FakeClusterWithServers


def _passes(cluster: FakeClusterWithServers, holder: str = "one") -> Passes:
    return Passes(
        cluster,
        cluster,
        cluster.places,
        "pds-fleet-worker",
        Rules(),
        holder,
        cluster.now,
        endpoint=cluster.endpoint(),
        calm_seconds=20,
    )


def _run(cluster: FakeClusterWithServers, passes: Passes, seconds: float, pause: float = 5) -> list[Step]:
    """Passes until the time is over; the steps for the address."""
    told: list[Step] = []
    passes.tell = lambda host, step: told.append(step) if host == ENDPOINT else None
    end = cluster.time + seconds
    while cluster.time < end:
        try:
            passes.once()
        except Unavailable as error:
            told.append(Step("wait", str(error)))
        cluster.pass_time(pause)
    return told


def _cluster() -> FakeClusterWithServers:
    return FakeClusterWithServers({"a": 1, "b": 2}, workers=4)


def test_the_address_moves_to_a_server_that_is_up_and_a_person_hears_what_to_write() -> None:
    cluster = _cluster()
    cluster.lose_server(1)
    steps = _run(cluster, _passes(cluster), 120)
    (moved,) = (step for step in steps if step.kind == "assign")
    assert cluster.leads_to_server == 2
    assert "leads to server 1 (droplet 101), which is down. It is assigned to server 2 (droplet 102)" in moved.text
    assert "Write 'cluster.servers.endpoint: 2' into Pulumi.fleet.yaml and run `pulumi up --stack fleet`" in moved.text
    assert steps[-1].kind == "fine"


def test_the_address_stays_until_the_server_has_been_silent_for_as_long_as_a_host() -> None:
    cluster = _cluster()
    cluster.lose_server(1)
    assert {step.kind for step in _run(cluster, _passes(cluster), 55)} == {"wait"}
    assert cluster.assignments == []


@pytest.mark.parametrize("lost", [2, 3])
def test_the_loss_of_another_server_moves_nothing(lost: int) -> None:
    cluster = _cluster()
    cluster.lose_server(lost)
    _run(cluster, _passes(cluster), 600)
    assert cluster.assignments == []


def test_the_address_goes_to_no_server_that_is_down() -> None:
    cluster = _cluster()
    cluster.lose_server(2)
    cluster.lose_server(1)
    _run(cluster, _passes(cluster), 120)
    assert cluster.leads_to_server == 3


@pytest.mark.parametrize("how", ["assignments_refused", "assignments_fail"])
def test_the_address_goes_to_the_next_server_if_digitalocean_does_not_assign_it_to_the_first(how: str) -> None:
    cluster = _cluster()
    getattr(cluster, how).add(2)
    cluster.lose_server(1)
    passes = _passes(cluster)
    _run(cluster, passes, 180)
    assert cluster.leads_to_server == 3
    getattr(cluster, how).clear()
    cluster.start_server(1)
    cluster.lose_server(3)
    _run(cluster, passes, 180)
    assert cluster.leads_to_server == 1, "the order begins again once the address is fine"


def test_a_server_that_comes_back_does_not_get_the_address_again() -> None:
    cluster = _cluster()
    passes = _passes(cluster)
    cluster.lose_server(1)
    _run(cluster, passes, 120)
    cluster.start_server(1)
    _run(cluster, passes, 600)
    assert cluster.assignments == [2]


def test_a_flapping_server_moves_the_address_only_when_it_is_down_for_long() -> None:
    cluster = _cluster()
    passes = _passes(cluster)
    for _ in range(10):
        cluster.lose_server(1)
        _run(cluster, passes, 40)
        cluster.start_server(1)
        _run(cluster, passes, 20)
    assert cluster.assignments == []


def test_a_single_server_has_nowhere_to_lead_to() -> None:
    cluster = FakeClusterWithServers({"a": 1}, workers=2, servers=1)
    cluster.lose_server(1)
    steps = _run(cluster, _passes(cluster), 600)
    assert cluster.assignments == []
    assert steps[-1].text.endswith("which is down, and no other server is ready")


def test_host_leader_and_the_server_of_the_address_are_lost_together_and_one_spare_is_used() -> None:
    cluster = _cluster()
    cluster.cut_power(1)
    cluster.lose_server(1)
    _run(cluster, _passes(cluster), 200)
    assert cluster.is_serving("a")
    assert cluster.volumes["a"].carrier == 3
    assert cluster.violations == []


def _calls() -> range:
    cluster = _cluster()
    cluster.lose_server(1)
    cluster.pass_time(61)
    passes = _passes(cluster)
    while cluster.leads_to_server != 2:
        passes.once()
        cluster.pass_time(4)
    return range(1, cluster.calls + 1)


def _is_well(cluster: FakeClusterWithServers) -> None:
    assert cluster.leads_to_server == 2
    assert set(cluster.assignments) == {2}
    assert cluster.is_serving("a")
    assert cluster.is_serving("b")
    assert cluster.violations == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_or_without_an_answer_in_any_call_the_next_pass_goes_on(when: str) -> None:
    for strike in (dies_at, fails_at):
        for number in _calls():
            cluster = _cluster()
            cluster.lose_server(1)
            cluster.pass_time(61)
            setattr(cluster, when, strike(number))
            try:
                _run(cluster, _passes(cluster), 30)
            except KilledError:
                setattr(cluster, when, lambda _number: None)
            _run(cluster, _passes(cluster, "two"), 180)
            _is_well(cluster)


@pytest.mark.parametrize("holder", ["two", "one"], ids=["with the lease", "as if there were no lease"])
def test_a_second_program_in_any_call_of_the_first_does_no_harm(holder: str) -> None:
    def run_at(cluster: FakeClusterWithServers, number: int) -> Callable[[int], None]:
        def run(at: int) -> None:
            if at == number:
                second = _passes(cluster, holder)
                for _ in range(8):
                    second.once()
                    cluster.pass_time(4)

        return run

    for number in _calls():
        cluster = _cluster()
        cluster.lose_server(1)
        cluster.pass_time(61)
        cluster.before = run_at(cluster, number)
        _run(cluster, _passes(cluster), 120)
        _is_well(cluster)


def test_an_address_that_leads_to_no_droplet_is_assigned_after_longer_than_an_update_takes() -> None:
    cluster = _cluster()
    cluster.leads_to = None
    passes = _passes(cluster)
    _run(cluster, passes, UNKNOWN_SECONDS - 10)
    assert cluster.assignments == [], "`pulumi up` assigns it after the rebuild"
    _run(cluster, passes, 60)
    assert cluster.leads_to_server == 1


def test_a_server_whose_node_nomad_does_not_know_gets_time_to_join() -> None:
    cluster = _cluster()
    cluster.unknown.add(101)
    passes = _passes(cluster)
    _run(cluster, passes, UNKNOWN_SECONDS - 10)
    assert cluster.assignments == []
    cluster.unknown.clear()
    _run(cluster, passes, 600)
    assert cluster.assignments == []


def test_an_address_of_a_droplet_that_is_no_server_is_for_a_person() -> None:
    cluster = _cluster()
    cluster.leads_to = 7
    steps = _run(cluster, _passes(cluster), 600)
    assert {step.kind for step in steps} == {"ask"}
    assert "leads to droplet 7, which is no server of this cluster" in steps[0].text
    assert cluster.assignments == []


def test_a_server_that_was_down_in_a_restored_snapshot_gets_time_to_register() -> None:
    cluster = _cluster()
    cluster.lose_server(1)
    cluster.pass_time(3600)
    nodes = cluster.server_nodes()
    address = cluster.endpoint()
    assert address.once(cluster.time, 60, back_since=cluster.time).kind == "wait"
    assert nodes["fleet-server-1"].since < cluster.time
    cluster.pass_time(SETTLE_SECONDS + 1)
    assert address.once(cluster.time, 60, back_since=cluster.time - SETTLE_SECONDS - 1).kind == "assign"


def test_an_assignment_that_does_not_end_is_neither_repeated_quickly_nor_silent() -> None:
    cluster = _cluster()
    cluster.never_ends = True
    cluster.lose_server(1)
    steps = _run(cluster, _passes(cluster), 600)
    assert len(cluster.assignments) == 1
    assert sum("refused (The reserved IP already has a pending event.)" in step.text for step in steps) > 5
    assert steps[-1].kind == "wait", "a person hears of a wait of five minutes"


def test_digitalocean_is_asked_once_a_minute_while_the_server_is_ready_and_every_five_seconds_else() -> None:
    cluster = _cluster()
    passes = _passes(cluster)
    _run(cluster, passes, 600, pause=1)
    assert cluster.looks <= 2 * 11
    cluster.never_ends = True
    cluster.lose_server(1)
    before = cluster.looks
    _run(cluster, passes, 60, pause=1)
    assert cluster.looks - before <= 2 * 13
    _run(cluster, passes, 600, pause=1)
    before = cluster.looks
    _run(cluster, passes, 600, pause=1)
    assert cluster.looks - before <= 2 * 11, "after a while nothing is urgent any more"


def test_a_token_without_the_right_is_reported_and_a_limit_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _cluster()

    def refuse(_address: str) -> int | None:
        raise Refused(403, "missing the scope reserved_ip:read")

    monkeypatch.setattr(cluster, "address_at", refuse)
    with pytest.raises(Refused):
        _passes(cluster).once()

    def limit(_address: str) -> int | None:
        raise Limited("no more requests", 7.0)

    monkeypatch.setattr(cluster, "address_at", limit)
    passes = _passes(cluster)
    passes.once()
    assert passes.limited_seconds == 7
