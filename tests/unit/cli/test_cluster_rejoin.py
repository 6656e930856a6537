"""Agents that call servers which are gone, restarted by ssh after a restore of the servers' state."""

import time
from typing import Any

import pytest

from cli.cluster import rejoin
from cli.cluster.hosts import Cluster
from cli.errors import CommandError
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from tests.support.fake_cluster import FakeCluster


class _Stack:
    name = "fleet"

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return {"hosts": {"a": {}, "b": {}}, "workers": ["1", "2"]}


class _World:
    """Two hosts whose nodes are down for the new servers until their agents are restarted."""

    def __init__(self) -> None:
        self.fake = FakeCluster({"a": 1, "b": 2}, workers=2)
        self.fake.down_since = dict.fromkeys("ab", self.fake.time)
        self.commands: list[tuple[str, list[str]]] = []
        self.closed: set[str] = set()
        self.mute: set[str] = set()

    def connect(self, endpoint: str, arguments: list[str], *, allow_ip: bool) -> int:
        assert not allow_ip, "no firewall is opened without a wish"
        if endpoint in self.closed:
            raise CommandError("Port 22 does not answer.")
        self.commands.append((endpoint, arguments))
        if endpoint not in self.mute:
            del self.fake.down_since[endpoint]
        return 0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> _World:
    made = _World()
    fake = made.fake
    passes = Passes(fake, fake, fake.places, "workers", Rules(may_detach=False), "me", fake.now)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(Cluster, "passes", lambda _cluster: passes)
    monkeypatch.setattr(rejoin, "host_endpoint", lambda _stack, host: host)
    monkeypatch.setattr(rejoin, "connect", made.connect)
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "monotonic", fake.now)
    return made


def _rejoin() -> bool:
    stack: Any = _Stack()
    return rejoin.rejoin(stack)


def test_restarts_the_agent_of_each_host_and_waits_for_its_node(world: _World) -> None:
    assert _rejoin()
    assert world.commands == [(host, ["systemctl restart nomad.service"]) for host in ("a", "b")]


def test_a_host_that_ssh_does_not_reach_is_named_with_its_command(
    world: _World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.closed = {"a"}
    assert not _rejoin()
    assert [host for host, _ in world.commands] == ["b"], "one host's trouble keeps no other from its servers"
    said = capsys.readouterr().out
    assert "host a: Port 22 does not answer." in said
    assert "./pds ssh fleet --host a -- systemctl restart nomad.service" in said


def test_a_node_that_does_not_come_back_is_named(world: _World, capsys: pytest.CaptureFixture[str]) -> None:
    world.mute = {"b"}
    assert not _rejoin()
    assert "Not ready after 300 s: b." in capsys.readouterr().out
