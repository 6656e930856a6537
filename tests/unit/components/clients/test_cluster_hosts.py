"""Hosts that `pulumi up` places on workers, on services with a clock of their own."""

import time
from typing import Any

import pytest

from components.clients.cluster import hosts as cluster_hosts
from components.clients.errors import ServiceError
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from components.takeover.services import DigitalOcean, Refused
from tests.support.fake_cluster import FakeCluster


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two hosts that no droplet has, and three workers."""
    fake = FakeCluster({"a": None, "b": None}, workers=3)

    def of(_nomad: Any, _hosts: Any, tag: str, _token: str, rules: Rules, holder: str) -> Passes:
        return Passes(fake, fake, fake.places, tag, rules, holder, fake.now)

    monkeypatch.setattr(cluster_hosts, "passes_of", of)
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "monotonic", fake.now)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    return fake


def _place(seconds: float = 900) -> None:
    cluster_hosts.place({}, {}, "workers", seconds)


def test_places_every_host_and_waits_for_its_node(account: FakeCluster) -> None:
    _place()
    assert account.is_serving("a")
    assert account.is_serving("b")
    assert account.violations == []


def test_moves_no_host_that_a_droplet_has(account: FakeCluster) -> None:
    _place()
    account.cut_power(1)
    with pytest.raises(ServiceError, match="host a: its node is not ready"):
        _place(60)
    assert account.volumes["a"].carrier == 1


def test_leaves_a_volume_on_a_droplet_of_another_stack_and_says_so_at_once(account: FakeCluster) -> None:
    account.volumes["a"].carrier = 77
    began = account.time
    with pytest.raises(ServiceError, match=r"droplet 77, which is not a worker.*`\./pds adopt`") as refused:
        _place()
    assert "doctl" not in str(refused.value), "that droplet may serve from the volume"
    assert account.volumes["a"].carrier == 77
    assert account.time - began < 60


def test_a_volume_that_is_gone_is_named_at_once(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_volume: str) -> int:
        raise Refused(404, "volume va does not exist")

    monkeypatch.setattr(account, "carrier", refuse)
    began = account.time
    with pytest.raises(ServiceError, match="Host a: volume va does not exist"):
        _place()
    assert account.time - began < 60


def test_requires_the_token_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServiceError, match="set DIGITALOCEAN_TOKEN"):
        _place()


def test_names_the_missing_right_of_a_token(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_volume: str, _droplet: int) -> None:
        raise Refused(403, "POST /v2/volumes/ID/actions returned 403")

    monkeypatch.setattr(account, "attach", refuse)
    with pytest.raises(ServiceError, match=r"returned 403\. Give the DigitalOcean token the scope for it"):
        _place()


def test_all_passes_of_a_process_know_when_digitalocean_takes_the_next_request() -> None:
    nomad = {"address": "http://127.0.0.1:1", "ca_pem": "", "cert_pem": "", "key_pem": "", "token": ""}
    first, second, other = (
        cluster_hosts.passes_of(nomad, {}, "workers", token, Rules(), "me") for token in ("one", "one", "two")
    )
    assert first.cloud is second.cloud, "`./pds drain` makes passes anew for each look"
    assert first.cloud is not other.cloud, "the limit is that of a token"


def test_passes_go_by_digitalocean_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_hosts, "client_tls", lambda *_pem: None)
    monkeypatch.setattr(DigitalOcean, "now", lambda _self: 7.0)
    nomad = dict.fromkeys(("address", "ca_pem", "cert_pem", "key_pem", "token"), "https://192.0.2.1")
    passes = cluster_hosts.passes_of(nomad, {}, "workers", "token", Rules(), "me")
    assert passes.now() == 7, "an operator's machine may be hours ahead, and its leases are read by others"
