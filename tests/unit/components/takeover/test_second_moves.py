"""No host is moved twice because the servers' address led nowhere, and none waits for longer than that."""

from itertools import count

import pytest

from components.takeover.decide import SETTLE_SECONDS
from components.takeover.services import Unavailable
from tests.support.fake_servers import ADDRESS, FakeClusterWithServers
from tests.unit.components.takeover.test_endpoint import _cluster, _passes, _run


def test_a_host_whose_node_cannot_join_is_not_moved_to_the_next_spare() -> None:
    cluster = _cluster()
    cluster.never_ends = True  # DigitalOcean does not assign the address
    cluster.cut_power(1)
    cluster.lose_server(1)
    passes = _passes(cluster)
    _run(cluster, passes, 3 * SETTLE_SECONDS)
    assert cluster.volumes["a"].carrier == 3, "the next spare could not join either"
    cluster.never_ends = False
    _run(cluster, passes, 120)
    assert cluster.is_serving("a")
    assert cluster.volumes["a"].carrier == 3


def test_a_host_that_does_not_join_although_the_address_is_well_is_moved_after_its_time() -> None:
    cluster = _cluster()
    cluster.never_ends = True
    cluster.cut_power(1)
    cluster.lose_server(1)
    passes = _passes(cluster)
    _run(cluster, passes, 2 * SETTLE_SECONDS)
    cluster.never_ends = False
    _run(cluster, passes, 5)
    cluster.alive[3] = False
    cluster.volumes["a"].ready_at = float("inf")
    _run(cluster, passes, SETTLE_SECONDS - 60)
    assert cluster.volumes["a"].carrier == 3
    _run(cluster, passes, 180)
    assert cluster.volumes["a"].carrier == 4
    assert cluster.is_serving("a")


def _of_which_the_first_spare_is_dead() -> FakeClusterWithServers:
    """Host a is moved twice: droplet 3, the first spare, is dead as well."""
    cluster = _cluster()
    cluster.cut_power(1)
    cluster.alive[3] = False
    return cluster


def test_a_look_without_an_answer_does_not_put_off_the_second_move_of_a_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, looks = _of_which_the_first_spare_is_dead(), count(1)
    address_at = cluster.address_at

    def sometimes_silent(address: str) -> int | None:
        if address == ADDRESS and next(looks) % 3 == 0:
            raise Unavailable("503")
        return address_at(address)

    monkeypatch.setattr(cluster, "address_at", sometimes_silent)
    _run(cluster, _passes(cluster), SETTLE_SECONDS + 200)
    assert cluster.is_serving("a"), "a failed look does not say that the address leads nowhere"
    assert cluster.volumes["a"].carrier == 4


def test_a_program_that_does_not_know_yet_where_the_address_leads_moves_no_host_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = _of_which_the_first_spare_is_dead()
    _run(cluster, _passes(cluster), SETTLE_SECONDS - 20)
    address_at = cluster.address_at

    def silent(address: str) -> int | None:
        if address == ADDRESS:
            raise Unavailable("503")
        return address_at(address)

    monkeypatch.setattr(cluster, "address_at", silent)
    restarted = _passes(cluster)
    _run(cluster, restarted, 300)
    assert cluster.volumes["a"].carrier == 3
    monkeypatch.setattr(cluster, "address_at", address_at)
    _run(cluster, restarted, 200)
    assert cluster.is_serving("a")


def test_a_server_that_is_silent_for_too_short_to_move_the_address_does_not_put_off_a_host_s_second_move() -> None:
    cluster = _of_which_the_first_spare_is_dead()
    passes = _passes(cluster)
    for _ in range(2):
        _run(cluster, passes, 400)
        cluster.lose_server(1)
        _run(cluster, passes, 20)
        cluster.start_server(1)
    _run(cluster, passes, SETTLE_SECONDS + 200 - 2 * 420)
    assert cluster.is_serving("a")
    assert cluster.assignments == []


def test_a_program_that_starts_again_gives_a_host_the_same_time_to_join() -> None:
    cluster = _cluster()
    cluster.never_ends = True
    cluster.cut_power(1)
    cluster.lose_server(1)
    _run(cluster, _passes(cluster), 2 * SETTLE_SECONDS)
    cluster.never_ends = False
    cluster.pass_time(5)
    cluster.volumes["a"].ready_at = cluster.time + 600
    assert cluster.leads_to_server == 2
    restarted = _passes(cluster, "two")
    _run(cluster, restarted, 580)
    assert cluster.volumes["a"].carrier == 3, "its node cannot have joined before"
    _run(cluster, restarted, 60)
    assert cluster.is_serving("a")


def test_the_newest_assignment_is_asked_for_once_and_puts_off_no_move_after_its_time() -> None:
    cluster = _of_which_the_first_spare_is_dead()
    cluster.completed_at = cluster.time - 2000
    passes = _passes(cluster)
    _run(cluster, passes, SETTLE_SECONDS + 30)
    looks = cluster.looks
    _run(cluster, passes, 170)
    assert cluster.is_serving("a")
    assert cluster.volumes["a"].carrier == 4
    assert looks % 2 == 0, "of each look two requests"
    assert cluster.looks % 2 == 1, "and one that is not repeated"


def test_a_host_that_was_moved_once_and_dies_later_is_moved_at_once_although_the_address_leads_nowhere() -> None:
    cluster = _cluster()
    passes = _passes(cluster)
    cluster.cut_power(1)
    _run(cluster, passes, 200)
    _run(cluster, passes, 2 * SETTLE_SECONDS, pause=60)
    cluster.never_ends = True
    cluster.cut_power(3)
    cluster.lose_server(1)
    _run(cluster, passes, 90)
    assert cluster.volumes["a"].carrier == 4
