"""How long a host was silent, as far as Nomad's answers tell."""

from typing import Any

import pytest

from components.takeover.decide import Action, Droplet, Heard, HostView, Node, Rules, decide
from components.takeover.services import Http, NomadServers

NOW = 1_000_000.0


def _node(status: str, monkeypatch: pytest.MonkeyPatch) -> Node:
    """The node of host a, which got this status ten seconds ago."""
    answers: dict[str, Any] = {
        "/v1/nodes": [{"ID": "n-1", "Datacenter": "a", "Status": status, "ModifyIndex": 7}],
        "/v1/node/n-1": {"Status": status, "StatusUpdatedAt": NOW - 10, "Meta": {"pds_droplet": "5"}},
    }
    monkeypatch.setattr(Http, "call", lambda _self, _method, path, _body=None: answers[path])
    node = NomadServers("http://127.0.0.1:4646", "token").node("a")
    assert node is not None
    assert node.droplet == 5
    return node


def _is_moved(node: Node) -> bool:
    attached = Action("attach", "completed", NOW - 86_400)
    host = HostView("a", "volume", "192.0.2.1", 5, 5, (attached,), node, "fleet")
    workers = {5: Droplet(5, True, frozenset({"volume"})), 6: Droplet(6, True, frozenset())}
    return decide(host, workers, {}, NOW, Rules(after_seconds=60), Heard(3, 1)).kind == "retire"


def test_a_rebuilt_server_has_the_node_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def stub(number: int, name: str, status: str, pool: str = "servers") -> dict[str, Any]:
        return {"ID": f"n-{number}", "Name": name, "NodePool": pool, "Status": status, "ModifyIndex": number}

    stubs = [stub(1, "fleet-server-1", "ready"), stub(2, "fleet-server-1", "down"), stub(3, "a", "ready", "default")]
    node = {"Status": "ready", "StatusUpdatedAt": NOW, "Meta": None}
    answers: dict[str, Any] = {"/v1/nodes": stubs, "/v1/node/n-1": node}
    monkeypatch.setattr(Http, "call", lambda _self, _method, path, _body=None: answers[path])
    assert NomadServers("http://127.0.0.1:4646", "token").server_nodes() == {"fleet-server-1": Node(True, NOW)}


@pytest.mark.parametrize("status", ["down", "disconnected"])
def test_nomad_missed_the_heartbeats_of_20_seconds_before_it_called_a_node_down(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = _node(status, monkeypatch)
    assert node == Node(False, NOW - 10, 20.0, 5)


def test_a_node_that_registers_again_was_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _node("initializing", monkeypatch) == Node(False, NOW - 10, 0.0, 5)


def test_a_host_is_moved_after_60_seconds_without_a_heartbeat_of_which_nomad_waits_20() -> None:
    assert _is_moved(Node(False, NOW - 41, 20.0, 5))
    assert not _is_moved(Node(False, NOW - 39, 20.0, 5))
    assert not _is_moved(Node(False, NOW - 41, 0.0, 5)), "its agent restarts, and Nomad heard of it 41 s ago"
