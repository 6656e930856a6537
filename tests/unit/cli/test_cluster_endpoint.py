"""`./pds repair` and `list` while the server of a cluster's address is lost. Other servers answer at their own ones."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest

from cli.cluster import endpoint, hosts
from cli.cluster.endpoint import ServersAddress
from cli.cluster.hosts import Cluster, ClusterError
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from tests.support.certificates import Authority, server_context
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_servers import ADDRESS, FakeClusterWithServers, ServersAccount

OUTPUTS: dict[str, Any] = {
    "hosts": {"a": {}, "b": {}},
    "workers": ["1", "2", "3", "4"],
    "servers": ["101", "102", "103"],
    "ipv4": ADDRESS,
    "nomad_address": f"https://{ADDRESS}:4650",
    "worker_tag": "pds-fleet-worker",
}
BEFORE = f"{ADDRESS} leads to server 1, and Nomad does not answer there. At their own addresses these servers do: 2, 3."


class _Stack:
    name = "fleet"

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return OUTPUTS


def _stack() -> Any:
    return _Stack()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeClusterWithServers:
    """Two hosts, two spares and three servers."""
    fake = FakeClusterWithServers({"a": 1, "b": 2}, workers=4)

    def passes(_cluster: Cluster, *, leave: frozenset[str] = frozenset()) -> Passes:
        rules = Rules(may_detach=False, leave=leave)
        return Passes(fake, fake, fake.places, "workers", rules, "me", fake.now, seizes=True)

    def has_leader(_address: ServersAddress, address: str) -> bool:
        droplet = fake.leads_to if address == ADDRESS else int(address.rpartition(".")[2])
        return droplet is not None and droplet not in fake.servers_down

    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(Cluster, "passes", passes)
    monkeypatch.setattr(ServersAddress, "has_leader", has_leader)
    monkeypatch.setattr(endpoint, "DigitalOceanAccount", lambda _token: ServersAccount())
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "time", fake.now)
    monkeypatch.setattr(time, "monotonic", fake.now)
    return fake


def test_repair_leads_the_address_to_a_server_that_answers_and_then_moves_the_host(
    account: FakeClusterWithServers, capsys: pytest.CaptureFixture[str]
) -> None:
    account.cut_power(1)
    account.lose_server(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.assignments == [2]
    assert account.is_serving("a")
    said = capsys.readouterr().out
    assert BEFORE in said
    assert "leads to server 2. Write 'cluster.servers.endpoint: 2' into Pulumi.fleet.yaml" in said


def test_repair_asks_before_it_leads_the_address_elsewhere(
    account: FakeClusterWithServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.lose_server(1)
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    assert hosts.repair(_stack(), yes=False) == 1
    assert account.assignments == []


def test_repair_waits_for_the_assignment_that_a_takeover_has_just_requested(account: FakeClusterWithServers) -> None:
    account.lose_server(1)
    account.assign(ADDRESS, 102)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.leads_to_server == 2


def test_list_says_where_the_address_leads_and_what_to_do_if_nothing_answers_there(
    account: FakeClusterWithServers,
) -> None:
    cluster = Cluster.of(_stack())
    assert hosts.lines(cluster)[-1] == f"servers: 101, 102, 103; {ADDRESS} leads to server 1"
    account.lose_server(1)
    with pytest.raises(ClusterError, match=r"these servers do: 2, 3\. `\./pds repair fleet` assigns it"):
        hosts.lines(cluster)


def test_nothing_is_said_of_the_address_if_no_server_answers(account: FakeClusterWithServers) -> None:
    for number in (1, 2, 3):
        account.lose_server(number)
    assert Cluster.of(_stack()).servers_address.lost() == "", "the error of Nomad's own client has the address"


def test_a_server_is_asked_at_its_own_address_with_the_certificate_of_the_cluster_s(tmp_path: Path) -> None:
    authority = Authority()
    client = authority.issue("operator", client=True)
    nomad = FakeNomad()
    with serve(nomad, server_context(authority.issue(ADDRESS), tmp_path, authority.pem)):
        port = urlsplit(nomad.address).port
        values = {
            **OUTPUTS,
            "nomad_address": f"https://{ADDRESS}:{port}",
            "nomad_ca_pem": authority.pem,
            "nomad_client_cert_pem": client.cert_pem,
            "nomad_client_key_pem": client.key_pem,
        }
        cloud = FakeClusterWithServers({"a": 1}, workers=2)
        found = ServersAddress("fleet", values, cloud, "token")
        assert found.has_leader("127.0.0.1")
        nomad.leaderless_answers = 1
        assert not found.has_leader("127.0.0.1"), "it has lost the others"
        elsewhere = {**values, "nomad_address": f"https://203.0.113.10:{port}"}
        assert not ServersAddress("fleet", elsewhere, cloud, "token").has_leader("127.0.0.1"), "another certificate"
    assert not found.has_leader("127.0.0.1"), "it is gone"
