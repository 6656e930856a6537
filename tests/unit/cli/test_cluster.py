"""`./pds repair`, `drain` and the lines of `list` for a cluster, on services with a clock of their own."""

import time
from collections.abc import Callable
from typing import Any

import click
import pytest

from cli.cluster import hosts
from cli.cluster.hosts import Cluster, ClusterError
from components.takeover.decide import DETACH_SECONDS, Rules
from components.takeover.passes import Passes
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
        "worker 3, droplet 3 lost host b: raise its generation to make it a spare",
        "servers: 9",
    ]


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


def test_repair_without_a_spare_changes_nothing(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.cut_power(1)
    account.items["retired"] = '{"3": "b"}'
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.volumes["a"].carrier == 1
    assert "Add a spare" in capsys.readouterr().out


def test_repair_names_the_last_fence_if_the_detach_does_not_end(account: FakeCluster) -> None:
    account.cut_power(1)
    account.detaches_never_end = True
    with pytest.raises(ClusterError, match="doctl compute droplet delete 1"):
        hosts.repair(_stack(), yes=True)
    assert account.volumes["a"].carrier == 1
    assert account.time < 1_000_000 + 2 * DETACH_SECONDS


def test_repair_takes_the_lease_of_the_job(account: FakeCluster) -> None:
    account.cut_power(1)
    account.items["lease"] = f'{{"holder": "job", "until": {account.time + 60}}}'
    assert hosts.repair(_stack(), yes=True) == 0


def test_drain_moves_a_host_that_is_well(account: FakeCluster) -> None:
    assert hosts.drain(_stack(), "a", yes=True) == 0
    assert account.volumes["a"].carrier == 3
    assert account.is_serving("a")
    assert account.is_serving("b")
    assert account.violations == []


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
