"""`./pds drain`, on services with a clock of their own."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import pytest

from cli.cluster import drain
from cli.cluster.hosts import Cluster, ClusterError
from components.takeover.decide import DETACH_SECONDS, Action, Rules
from components.takeover.passes import Passes
from components.takeover.services import Unavailable
from tests.support.fake_cluster import FakeCluster
from tests.unit.cli.test_cluster import _failed_detach, _stack
from tests.unit.cli.test_cluster import account as account


def test_drain_leaves_the_spare_to_a_host_that_needs_it(account: FakeCluster) -> None:
    account.volumes["b"].carrier = None
    account.items["retired"] = '{"2": "b"}'
    with pytest.raises(ClusterError, match=r"There is no free spare worker\. Nothing was changed"):
        drain.drain(_stack(), "a", yes=True)
    assert account.alive[1]


@pytest.mark.parametrize("done", [True, False], ids=["it is done", "it has noted the spare"])
def test_drain_leaves_the_droplet_on_if_another_operator_s_drain_takes_the_spare(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    def confirm(_text: str) -> bool:
        if done:
            drain.drain(_stack(), "b", yes=True)
        else:
            account.items["retired"] = '{"2": "b"}'
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    with pytest.raises(ClusterError, match="taken by another command meanwhile"):
        drain.drain(_stack(), "a", yes=False)
    assert account.alive[1]
    assert "1" not in json.loads(account.items["retired"]), "its droplet is no reason to keep a spare free"


def _written_meanwhile(account: FakeCluster, times: int) -> Callable[[], tuple[dict[str, str], int]]:
    """In place of `state`: another program writes just after so many looks."""
    state, left = account.state, times

    def look() -> tuple[dict[str, str], int]:
        nonlocal left
        found = state()
        if left:
            left -= 1
            account.index += 1
        return found

    return look


def test_drain_takes_the_lease_although_another_program_writes_in_the_same_moment(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Passes(account, account, account.places, "workers", Rules(), "job", account.now)
    job.once()
    passes = Cluster.of(_stack()).passes()
    with monkeypatch.context() as patch:
        patch.setattr(account, "state", _written_meanwhile(account, 2))
        drain._reserve(passes, account.places[0], 1)
    account.pass_time(2)
    job.once()
    assert json.loads(account.items["retired"]) == {"1": "a"}, "without the lease, the job takes the note away"


def test_drain_leaves_the_droplet_on_if_it_cannot_take_the_lease(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "state", _written_meanwhile(account, 1000))
    with pytest.raises(ClusterError, match=r"keep writing the Nomad variable.*Host a was not moved\. Try again"):
        drain.drain(_stack(), "a", yes=True)
    assert account.alive[1]


def test_drain_switches_no_droplet_off_that_is_no_worker(account: FakeCluster) -> None:
    account.volumes["a"].carrier = 77
    account.alive[77] = True
    workers = account.workers
    account.workers = lambda tag: {n: d for n, d in workers(tag).items() if n != 77}  # type: ignore[method-assign, assignment]
    with pytest.raises(ClusterError, match=r"detach a 77 --wait`, then `\./pds repair fleet`"):
        drain.drain(_stack(), "a", yes=True)
    assert account.alive[77]


def test_drain_moves_a_host_although_a_detach_failed_once(account: FakeCluster) -> None:
    _failed_detach(account)
    assert drain.drain(_stack(), "a", yes=True) == 0, "the droplet is off: to give up would leave the clubs away"
    assert account.is_serving("a")


def test_drain_leaves_a_host_on_whose_volume_an_action_is_in_progress(account: FakeCluster) -> None:
    account.volumes["a"].actions.append(Action("detach", "in-progress", account.time - 2 * DETACH_SECONDS))
    with pytest.raises(ClusterError, match=r"volume of host a is in progress\. Nothing was changed"):
        drain.drain(_stack(), "a", yes=True)
    assert account.alive[1]


def test_drain_places_a_host_that_is_on_no_droplet(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.volumes["a"].carrier = None
    account.alive[1] = False
    account.items["retired"] = '{"1": "a"}'
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert "Host a is on no droplet. It moves to worker 3, droplet 3." in capsys.readouterr().out
    assert account.is_serving("a")


def test_drain_moves_a_host_that_is_well(account: FakeCluster) -> None:
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert account.volumes["a"].carrier == 3
    assert account.is_serving("a")
    assert account.is_serving("b")
    assert account.violations == []


def test_drain_judges_times_by_digitalocean_s_clock(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: account.time + DETACH_SECONDS + 100)
    assert drain.drain(_stack(), "a", yes=True) == 0, "a detach of a moment ago is no reason to delete the droplet"


def _silent_from_the_shutdown_on(account: FakeCluster, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither DigitalOcean nor Nomad answers for so many seconds after the droplet is off."""

    def shut_down(_cluster: Cluster, _passes: Passes, droplet: int) -> None:
        account.cut_power(droplet)
        end = account.time + seconds

        def silent(_number: int) -> None:
            if account.time < end:
                raise Unavailable("nothing answers")

        account.before = silent

    monkeypatch.setattr(drain, "_shut_down", shut_down)


def test_drain_waits_for_services_that_do_not_answer(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _silent_from_the_shutdown_on(account, 120, monkeypatch)
    assert drain.drain(_stack(), "a", yes=True) == 0, "the droplet is off: to give up would leave the clubs away"
    assert account.is_serving("a")
    assert capsys.readouterr().out.count("nothing answers") == 1, "it says once what it waits for"


def test_drain_waits_for_an_answer_in_the_middle_of_each_step(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_fifth_fails(number: int) -> None:
        if number % 5 == 0:
            raise Unavailable("no answer")

    def shut_down(_cluster: Cluster, _passes: Passes, droplet: int) -> None:
        account.cut_power(droplet)
        account.after = every_fifth_fails

    monkeypatch.setattr(drain, "_shut_down", shut_down)
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert account.is_serving("a")
    assert account.violations == []


def test_drain_that_gives_up_names_the_droplet_and_how_to_go_on(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "monotonic", account.now)
    _silent_from_the_shutdown_on(account, 1_000_000, monkeypatch)
    assert drain.drain(_stack(), "a", yes=True) == 1
    said = capsys.readouterr().out
    assert "Droplet 1 is off" in said
    assert "a: not ready after 900 s. nothing answers." in said
    assert "`./pds repair fleet` continues" in said


def test_drain_does_not_stop_because_another_host_needs_a_person(account: FakeCluster) -> None:
    account.alive[4] = True
    account.volumes["b"].actions.append(Action("detach", "in-progress", account.time - 2 * DETACH_SECONDS))
    assert drain.drain(_stack(), "a", yes=True) == 0, "droplet 1 is off, and nothing is in the way of host a"
    assert account.is_serving("a")


def test_drain_stays_within_the_requests_that_digitalocean_allows(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("workers", "carrier", "actions", "address_at"):
        monkeypatch.setattr(account, name, partial(_asked, asked, getattr(account, name)))
    began = account.time
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert len(asked) * 60 / (account.time - began) < 250, "a token's requests in a minute; the rest are answered 429"


def _asked(asked: list[str], answer: Callable[[str], Any], argument: str) -> Any:
    asked.append(argument)
    return answer(argument)


@pytest.mark.parametrize(
    ("prepare", "host", "problem"),
    [
        (lambda _fake: None, "c", "has no host c: a, b"),
        (lambda fake: fake.items.update(retired='{"3": "b"}'), "a", "There is no free spare worker. Nothing was"),
    ],
)
def test_drain_refuses(account: FakeCluster, prepare: Callable[[FakeCluster], None], host: str, problem: str) -> None:
    prepare(account)
    with pytest.raises(ClusterError, match=problem):
        drain.drain(_stack(), host, yes=True)
    assert account.volumes["a"].carrier == 1
