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

_RESTART = "systemctl restart nomad.service"
_FORGET = "/usr/local/lib/pds/forget-agent"


class _Stack:
    name = "fleet"

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return {"hosts": {"a": {}, "b": {}}, "workers": ["1", "2"], "nomad_management_token": "secret"}


class _Nodes:
    """Nomad's nodes and volumes. The restored state calls the nodes ready; it has not heard of them."""

    def __init__(self) -> None:
        self.nodes = {host: {"ID": f"n-{host}", "Datacenter": host, "Status": "ready"} for host in "ab"}
        self.index = dict.fromkeys(("n-a", "n-b"), 10)
        self.former: list[dict[str, Any]] = []
        self.stays_ready = False
        self.volumes = {"n-a": ["v-1"], "n-b": ["v-2"]}
        self.known = {"v-1": "n-a", "v-2": "n-b"}
        self.names: dict[str, str] = {}
        """Of volumes whose name is not their ID."""
        self.deleted: list[str] = []

    def get(self, path: str) -> Any:
        if path == "/v1/nodes":
            return [{**node, "ModifyIndex": self.index[node["ID"]]} for node in [*self.former, *self.nodes.values()]]
        if path == "/v1/volumes?type=host&namespace=*":
            return [
                {"ID": volume, "Name": self.names.get(volume, volume), "NodeID": node, "Namespace": "chess"}
                for volume, node in self.known.items()
            ]
        own = {"pds": {"Name": "pds", "ID": ""}}
        volumes = self.volumes[path.removeprefix("/v1/node/")]
        return {"HostVolumes": own | {self.names.get(volume, volume): {"ID": volume} for volume in volumes}}

    def request(self, method: str, path: str) -> tuple[int, Any]:
        assert method == "DELETE"
        self.deleted.append(path)
        return 200, {}

    def registers(self, host: str) -> None:
        self.index[self.nodes[host]["ID"]] += 1

    def forgets(self, host: str) -> None:
        self.former.append({**self.nodes[host], "Status": "ready" if self.stays_ready else "down"})
        self.nodes[host] = {"ID": f"m-{host}", "Datacenter": host, "Status": "ready"}
        self.index[f"m-{host}"] = 20
        self.volumes[f"m-{host}"] = []


class _World:
    """Two hosts whose nodes are down for the new servers until their agents are restarted."""

    def __init__(self) -> None:
        self.fake = FakeCluster({"a": 1, "b": 2}, workers=2)
        self.fake.down_since = dict.fromkeys("ab", self.fake.time)
        self.nodes = _Nodes()
        self.commands: list[tuple[str, list[str]]] = []
        self.closed: set[str] = set()
        self.mute: set[str] = set()

    def connect(self, endpoint: str, arguments: list[str], *, allow_ip: bool) -> int:
        assert not allow_ip, "no firewall is opened without a wish"
        if endpoint in self.closed:
            raise CommandError("Port 22 does not answer.")
        self.commands.append((endpoint, arguments))
        if arguments == [_FORGET]:
            self.nodes.forgets(endpoint)
        elif endpoint not in self.mute:
            self.fake.down_since.pop(endpoint, None)
            self.nodes.registers(endpoint)
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
    monkeypatch.setattr(rejoin, "nomad_api", lambda _access: made.nodes)
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "monotonic", fake.now)
    return made


def _rejoin() -> bool:
    stack: Any = _Stack()
    return rejoin.rejoin(stack)


def test_restarts_the_agent_of_each_host_and_waits_for_its_node(world: _World) -> None:
    assert _rejoin()
    assert world.commands == [(host, [_RESTART]) for host in ("a", "b")], "no agent forgets volumes that Nomad knows"


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


def test_a_node_that_is_ready_only_in_the_restored_state_is_waited_for(
    world: _World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its volumes there are those of the snapshot, not the agent's."""
    world.fake.down_since.clear()
    world.mute = {"b"}
    assert not _rejoin()
    assert "Not ready after 300 s: b." in capsys.readouterr().out


def test_an_agent_with_a_volume_that_nomad_does_not_know_forgets_it(world: _World) -> None:
    """It would refuse the volume's name for ever, and the club that is newer than the snapshot would not come back."""
    world.nodes.volumes["n-a"].append("v-new")
    assert _rejoin()
    assert world.commands == [("a", [_RESTART]), ("b", [_RESTART]), ("a", [_FORGET])]


def test_a_record_that_is_older_than_a_move_is_removed(world: _World, capsys: pytest.CaptureFixture[str]) -> None:
    """The next `up` would take the former host for that of the data."""
    world.nodes.names = {"v-1": "pds-chess", "v-9": "pds-chess"}
    world.nodes.volumes = {"n-a": [], "n-b": ["v-2", "v-9"]}
    assert _rejoin()
    assert world.nodes.deleted == ["/v1/volume/host/v-1?namespace=chess"]
    assert "pds-chess is on host b by now. Nomad's record of it on a is removed." in capsys.readouterr().out
    assert world.commands[-1] == ("b", [_FORGET])


@pytest.mark.parametrize("on_b", [[], ["v-9"]], ids=["on no host", "and an unknown volume of another name"])
def test_a_record_of_a_volume_that_no_other_agent_has_is_kept(world: _World, on_b: list[str]) -> None:
    world.nodes.volumes = {"n-a": [], "n-b": ["v-2", *on_b]}
    assert _rejoin()
    assert world.nodes.deleted == [], "the agent of host a may have failed to set it up"


def test_both_volumes_of_a_club_that_is_being_moved_are_kept(world: _World) -> None:
    world.nodes.names = {"v-1": "pds-chess", "v-9": "pds-chess"}
    world.nodes.volumes["n-b"].append("v-9")
    assert _rejoin()
    assert world.nodes.deleted == []


def test_a_former_node_that_nomad_still_calls_ready_is_waited_for(
    world: _World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refresh would take its volumes for present ones."""
    world.nodes.volumes["n-a"].append("v-new")
    world.nodes.stays_ready = True
    assert not _rejoin()
    assert "No other node after 300 s: a." in capsys.readouterr().out


def test_an_agent_that_ssh_does_not_reach_again_is_named_with_its_command(
    world: _World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.nodes.volumes["n-a"].append("v-new")
    connect = world.connect
    codes = {_RESTART: 0, _FORGET: 255}
    monkeypatch.setattr(rejoin, "connect", lambda host, line, **way: connect(host, line, **way) or codes[line[0]])
    assert not _rejoin()
    assert f"./pds ssh fleet --host a -- {_FORGET}" in capsys.readouterr().out
