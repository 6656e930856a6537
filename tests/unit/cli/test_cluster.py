"""`./pds repair`, `drain` and the lines of `list` for a cluster, on services with a clock of their own."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import pytest

from cli.cluster import hosts
from cli.cluster.hosts import Cluster, ClusterError
from cli.lib.digitalocean import DigitalOceanError
from components.takeover.decide import DETACH_SECONDS, Action, Rules
from components.takeover.passes import Passes
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster

OUTPUTS: dict[str, Any] = {
    "hosts": {"a": {}, "b": {}},
    "workers": ["1", "2", "3"],
    "servers": ["9"],
    "worker_tag": "workers",
    "clubs": {"rooks": {"datacenter": "a"}, "chess": {"datacenter": "a"}},
}


class _Stack:
    name = "fleet"

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return OUTPUTS


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two hosts on workers 1 and 2, and a spare."""
    fake = FakeCluster({"a": 1, "b": 2}, workers=3)

    def passes(_cluster: Cluster, *, leave: frozenset[str] = frozenset()) -> Passes:
        rules = Rules(may_detach=False, leave=leave)
        return Passes(fake, fake, fake.places, "workers", rules, "me", fake.now, seizes=True)

    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(Cluster, "passes", passes)
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "time", fake.now)
    monkeypatch.setattr(hosts, "_shut_down", lambda _cluster, droplet: fake.cut_power(droplet))
    return fake


def _stack() -> Any:
    return _Stack()


def test_lines_say_who_carries_what(account: FakeCluster) -> None:
    account.cut_power(2)
    account.items["retired"] = '{"3": "b"}'
    assert hosts.lines(Cluster.of(_stack())) == [
        "host a (ip-a) on worker 1, droplet 1: ready; clubs chess, rooks",
        "host b (ip-b) on worker 2, droplet 2: NOT READY; no club",
        "spares: none",
        "worker 3, droplet 3 lost host b: raise its generation to make it a spare (if it hangs, first `doctl compute "
        "droplet-action power-off 3 --wait`)",
        "servers: 9",
    ]


def _gone(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = account.carrier

    def answer(volume: str) -> int | None:
        if volume == "a":
            raise Refused(404, "volume a does not exist")
        return carrier(volume)

    monkeypatch.setattr(account, "carrier", answer)


def test_a_host_without_its_volume_hides_no_other(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _gone(account, monkeypatch)
    assert hosts.lines(Cluster.of(_stack()))[:2] == [
        "host b (ip-b) on worker 2, droplet 2: ready; no club",
        "host a: UNKNOWN. volume a does not exist.",
    ]
    assert hosts.repair(_stack(), yes=True) == 1, "a person has to look at host a"
    account.cut_power(2)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.volumes["b"].carrier == 3


def test_repair_finds_nothing_to_do(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts.repair(_stack(), yes=True) == 0
    assert "Nothing to repair" in capsys.readouterr().out
    assert account.volumes["a"].carrier == 1


def test_repair_brings_a_dead_host_back_at_once(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.cut_power(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.is_serving("a")
    assert account.volumes["a"].carrier == 3
    assert account.volumes["b"].carrier == 2
    assert account.violations == []
    assert "host a: detach its volume from droplet 1" in capsys.readouterr().out


def test_repair_asks_first(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    account.cut_power(1)
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    assert hosts.repair(_stack(), yes=False) == 1
    assert account.volumes["a"].carrier == 1


@pytest.mark.parametrize("steps", [0, 1], ids=["while the person reads the question", "after its droplet was retired"])
def test_repair_leaves_a_host_that_came_back_where_it_is(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    account.cut_power(1)
    for _ in range(steps):
        Cluster.of(_stack()).passes(leave=frozenset("a")).once()

    def confirm(_text: str) -> bool:
        account.alive[1] = True
        del account.down_since["a"]
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    assert hosts.repair(_stack(), yes=False) == 0
    assert account.is_serving("a")
    assert [action.kind for action in account.volumes["a"].actions] == ["attach"], "nothing was taken from it"
    assert Cluster.of(_stack()).passes().retired() == {}, "its droplet may have hosts again"
    assert "host a is back on the droplet that it was on" in capsys.readouterr().out


def test_repair_without_a_spare_changes_nothing(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.cut_power(1)
    account.items["retired"] = '{"3": "b"}'
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.volumes["a"].carrier == 1
    said = capsys.readouterr().out
    assert "host a was on worker 1, droplet 1" in said
    assert "Add a spare" in said
    assert "`./pds repair fleet` goes on" in said


def test_repair_of_two_hosts_with_one_spare_moves_one_and_leaves_the_other_where_it_is(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.down_since = {"a": account.time - 300, "b": account.time - 300}  # both serve: only the servers lost them
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.is_serving("a"), "it was brought to its end, although host b needs a person"
    assert (account.volumes["a"].carrier, account.volumes["b"].carrier) == (3, 2)
    said = capsys.readouterr().out
    assert "Spares: 1." in said
    assert "host b is down, and there is no spare worker" in said


def test_drain_leaves_the_spare_to_a_host_that_needs_it(account: FakeCluster) -> None:
    account.volumes["b"].carrier = None
    account.items["retired"] = '{"2": "b"}'
    with pytest.raises(ClusterError, match=r"There is no spare worker\. Nothing was changed"):
        hosts.drain(_stack(), "a", yes=True)
    assert account.alive[1]


def test_repair_waits_for_a_host_that_a_takeover_has_just_moved(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.alive[4] = True
    account.cut_power(1)
    account.detach("a", 1)
    account.pass_time(5)
    account.attach("a", 3)
    account.pass_time(5)
    assert not account.is_serving("a")
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.is_serving("a")
    assert account.volumes["a"].carrier == 3
    assert [action.kind for action in account.volumes["a"].actions] == ["attach", "detach", "attach"]
    assert "Just attached: a." in capsys.readouterr().out


@pytest.mark.parametrize("done", [True, False], ids=["it is done", "it has noted the spare"])
def test_drain_leaves_the_droplet_on_if_another_operator_s_drain_takes_the_spare(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    def confirm(_text: str) -> bool:
        if done:
            hosts.drain(_stack(), "b", yes=True)
        else:
            account.items["retired"] = '{"2": "b"}'
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    with pytest.raises(ClusterError, match="taken by another command meanwhile"):
        hosts.drain(_stack(), "a", yes=False)
    assert account.alive[1]
    assert "1" not in json.loads(account.items["retired"]), "its droplet is no reason to keep a spare free"


def test_drain_switches_no_droplet_off_that_is_no_worker(account: FakeCluster) -> None:
    account.volumes["a"].carrier = 77
    account.alive[77] = True
    workers = account.workers
    account.workers = lambda tag: {n: d for n, d in workers(tag).items() if n != 77}  # type: ignore[method-assign, assignment]
    with pytest.raises(ClusterError, match="on droplet 77, which is no worker"):
        hosts.drain(_stack(), "a", yes=True)
    assert account.alive[77]


def test_repair_ends_at_a_volume_on_a_droplet_that_is_no_worker(account: FakeCluster) -> None:
    account.volumes["a"].carrier = 77
    account.down_since["a"] = account.time - 300
    began = account.time
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.time - began < 60


def test_repair_names_the_last_fence_if_the_detach_does_not_end(account: FakeCluster) -> None:
    account.cut_power(1)
    account.detaches_never_end = True
    with pytest.raises(ClusterError, match="doctl compute droplet delete 1"):
        hosts.repair(_stack(), yes=True)
    assert account.volumes["a"].carrier == 1
    assert account.time < 1_000_000 + 2 * DETACH_SECONDS


def _failed_detach(account: FakeCluster) -> None:
    """Days ago a detach from droplet 1 failed, and the host was ready again."""
    account.volumes["a"].actions.append(Action("detach", "errored", account.time - 3 * 86_400))


def test_repair_requests_a_detach_itself_although_an_earlier_one_failed(account: FakeCluster) -> None:
    _failed_detach(account)
    account.cut_power(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.volumes["a"].carrier == 3


def test_repair_goes_on_after_detaches_that_failed_for_longer_than_a_person_waits(account: FakeCluster) -> None:
    account.cut_power(1)
    for seconds in range(0, 2 * int(DETACH_SECONDS), 60):
        account.volumes["a"].actions.append(Action("detach", "errored", account.time + seconds))
    account.pass_time(2 * DETACH_SECONDS)
    assert hosts.repair(_stack(), yes=True) == 0, "DigitalOcean detaches again"
    assert account.is_serving("a")


def test_repair_gives_up_if_each_of_its_detaches_fails(account: FakeCluster) -> None:
    account.cut_power(1)
    account.detaches_fail = True
    with pytest.raises(ClusterError, match="doctl compute droplet delete 1"):
        hosts.repair(_stack(), yes=True)
    assert len(account.volumes["a"].actions) > 2, "it requested the detach again and again"


def test_drain_moves_a_host_although_a_detach_failed_once(account: FakeCluster) -> None:
    _failed_detach(account)
    assert hosts.drain(_stack(), "a", yes=True) == 0, "the droplet is off: to give up would leave the clubs away"
    assert account.is_serving("a")


def test_drain_leaves_a_host_on_whose_volume_an_action_is_in_progress(account: FakeCluster) -> None:
    account.volumes["a"].actions.append(Action("detach", "in-progress", account.time - 2 * DETACH_SECONDS))
    with pytest.raises(ClusterError, match=r"volume of host a is in progress\. Nothing was changed"):
        hosts.drain(_stack(), "a", yes=True)
    assert account.alive[1]


def test_repair_takes_the_lease_of_the_job(account: FakeCluster) -> None:
    account.cut_power(1)
    account.items["lease"] = f'{{"holder": "job", "until": {account.time + 60}}}'
    assert hosts.repair(_stack(), yes=True) == 0


def test_repair_gives_the_lease_back_to_the_job_in_the_end(account: FakeCluster) -> None:
    account.cut_power(1)
    hosts.repair(_stack(), yes=True)
    job = Passes(account, account, account.places, "workers", Rules(), "job", account.now)
    assert [step.kind for step in job.once()] == ["fine", "fine"]


def test_drain_moves_a_host_that_is_well(account: FakeCluster) -> None:
    assert hosts.drain(_stack(), "a", yes=True) == 0
    assert account.volumes["a"].carrier == 3
    assert account.is_serving("a")
    assert account.is_serving("b")
    assert account.violations == []


def _silent_from_the_shutdown_on(account: FakeCluster, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither DigitalOcean nor Nomad answers for so many seconds after the droplet is off."""

    def shut_down(_cluster: Cluster, droplet: int) -> None:
        account.cut_power(droplet)
        end = account.time + seconds

        def silent(_number: int) -> None:
            if account.time < end:
                raise Unavailable("nothing answers")

        account.before = silent

    monkeypatch.setattr(hosts, "_shut_down", shut_down)


def test_drain_waits_for_services_that_do_not_answer(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _silent_from_the_shutdown_on(account, 120, monkeypatch)
    assert hosts.drain(_stack(), "a", yes=True) == 0, "the droplet is off: to give up would leave the clubs away"
    assert account.is_serving("a")
    assert capsys.readouterr().out.count("nothing answers") == 1, "it says once what it waits for"


def test_drain_waits_for_an_answer_in_the_middle_of_each_step(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_fifth_fails(number: int) -> None:
        if number % 5 == 0:
            raise Unavailable("no answer")

    def shut_down(_cluster: Cluster, droplet: int) -> None:
        account.cut_power(droplet)
        account.after = every_fifth_fails

    monkeypatch.setattr(hosts, "_shut_down", shut_down)
    assert hosts.drain(_stack(), "a", yes=True) == 0
    assert account.is_serving("a")
    assert account.violations == []


def test_drain_that_gives_up_names_the_droplet_and_how_to_go_on(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "monotonic", account.now)
    _silent_from_the_shutdown_on(account, 1_000_000, monkeypatch)
    assert hosts.drain(_stack(), "a", yes=True) == 1
    said = capsys.readouterr().out
    assert "Droplet 1 is off" in said
    assert "a: not ready after 900 s. nothing answers." in said
    assert "`./pds repair fleet` goes on" in said


def test_drain_does_not_stop_because_another_host_needs_a_person(account: FakeCluster) -> None:
    account.alive[4] = True
    account.volumes["b"].actions.append(Action("detach", "in-progress", account.time - 2 * DETACH_SECONDS))
    assert hosts.drain(_stack(), "a", yes=True) == 0, "droplet 1 is off, and nothing is in the way of host a"
    assert account.is_serving("a")


def test_drain_stays_within_the_requests_that_digitalocean_allows(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("workers", "carrier", "actions", "address_at"):
        monkeypatch.setattr(account, name, partial(_asked, asked, getattr(account, name)))
    began = account.time
    assert hosts.drain(_stack(), "a", yes=True) == 0
    assert len(asked) * 60 / (account.time - began) < 250, "a token's requests in a minute; the rest are answered 429"


def _asked(asked: list[str], answer: Callable[[str], Any], argument: str) -> Any:
    asked.append(argument)
    return answer(argument)


def test_a_shutdown_is_waited_for_while_its_droplet_s_state_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [{"status": "active"}, DigitalOceanError("answered 502."), {"status": "off"}]

    class Account:
        def __init__(self, _token: str) -> None: ...

        def __enter__(self) -> "Account":
            return self

        def __exit__(self, *_error: object) -> None: ...

        def create(self, path: str, body: Any) -> None:
            assert (path, body) == ("droplets/1/actions", {"type": "shutdown"})

        def get(self, path: str) -> Any:
            assert path == "droplets/1"
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(hosts, "DigitalOceanAccount", Account)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    hosts._shut_down(Cluster("fleet", OUTPUTS, "token"), 1)
    assert answers == [], "a droplet that was told to shut down goes off, whatever one look says"


@pytest.mark.parametrize(
    ("prepare", "host", "problem"),
    [
        (lambda _fake: None, "c", "has no host c: a, b"),
        (lambda fake: fake.items.update(retired='{"3": "b"}'), "a", "There is no spare worker. Nothing was changed"),
    ],
)
def test_drain_refuses(account: FakeCluster, prepare: Callable[[FakeCluster], None], host: str, problem: str) -> None:
    prepare(account)
    with pytest.raises(ClusterError, match=problem):
        hosts.drain(_stack(), host, yes=True)
    assert account.volumes["a"].carrier == 1
