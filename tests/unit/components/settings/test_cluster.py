"""The stack file of a cluster: what is refused, and that the engine's defaults are not options of it."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from components.settings.checks.capacity import host_room
from components.settings.checks.warnings import warnings
from components.settings.fields.errors import SettingsError
from components.settings.host_contract import terms_at, terms_for
from components.settings.parse import read, with_content
from components.settings.sections.settings import Settings
from offline.mock_engine import ROOT
from tests.support.programs import BACKUP, CLUSTER, document


def _with(path: str, value: Any) -> dict[str, Any]:
    """The cluster's options with one of them changed."""

    def changed(options: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
        inner = changed(options.get(keys[0], {}), keys[1:]) if keys[1:] else value
        return {**options, keys[0]: inner}

    return changed(CLUSTER, path.split("."))


def _read(options: Mapping[str, Any]) -> Settings:
    return read(options, "Pulumi.fleet.yaml", "fleet")


@pytest.mark.parametrize(
    ("path", "value", "key", "problem"),
    [
        ("hostname", "pds.example.org", "hostname", "a cluster has no PDS of its own"),
        ("pds", {"new": True}, "pds", "an option of a PDS"),
        ("backup", {"access_key_id": "a", "secret_access_key": "b"}, "backup", "an option of a PDS"),
        ("host", {"size": "s-2vcpu-4gb"}, "host.size", "does not use this option"),
        ("operators", None, "operators", "required"),
        ("cluster", {"hosts": {}, "workers": {"spares": 0}}, "cluster.hosts", "has no place for a PDS"),
        ("cluster.hosts.a.adopt", {"volume": "pds-dev", "address": "203.0.113.7"}, "cluster.hosts.a.adopt.volume", ""),
        ("cluster.hosts.dc1", {}, "cluster.hosts.dc1", "the datacenter of the servers"),
        ("cluster.workers.spares", 0, "cluster.workers.spares", "needs a spare to come back on"),
        ("cluster.servers", {"count": 2}, "cluster.servers.count", "not one of the choices"),
        ("cluster.servers", {"count": 1, "endpoint": 2}, "cluster.servers.endpoint", "there is no server 2"),
        ("cluster.servers.generations", {"4": 2}, "cluster.servers.generations.4", "there are 3 servers"),
        ("cluster.workers.generations", {"9": 2}, "cluster.workers.generations.9", "there are 3 workers"),
        ("cluster.workers.size", "s-1vcpu-1gb", "cluster.workers.size", "reserve 1152 MiB"),
        ("cluster.hosts.a", {"volume_gib": 9}, "cluster.hosts.a.volume_gib", "have 5 GiB, plus 5 GiB"),
        ("cluster.snapshots", {"bucket": "b-1"}, "cluster.snapshots.access_key_id", "is required"),
        ("cluster.snapshots.keep_days", 1, "cluster.snapshots.keep_days", "too small"),
        ("cluster.snapshots.interval_hours", 5, "cluster.snapshots.interval_hours", "not one of the choices"),
        ("cluster.snapshots.region", "nyc2", "cluster.snapshots.region", "there is no Spaces in nyc2"),
        ("cluster.snapshots.adopt", True, "cluster.snapshots.adopt", "the bucket's name is missing"),
        ("cluster.snapshots.endpoint", "https://s3.example.org", "cluster.snapshots.bucket", "no bucket is created"),
        ("cluster.snapshots.endpoint", "http://s3.example.org", "cluster.snapshots.endpoint", "without TLS"),
        ("clubs.chess", {"port": 3101}, "clubs.chess.host", "a cluster has several hosts"),
        ("clubs.chess.host", "c", "clubs.chess.host", "no host 'c'"),
        ("clubs.chess.port", 4647, "clubs.chess.port", "belongs to Nomad"),
        ("clubs.chess.leaving", {"host": "c", "port": 3105}, "clubs.chess.leaving.host", "no host 'c'"),
        (
            "clubs.chess.leaving",
            {"host": "b", "port": 3101},
            "clubs.chess.leaving.port",
            "'clubs.rooks.port' on host b",
        ),
        ("clubs.pawns", {"host": "a", "port": 3101}, "clubs.pawns.port", "'clubs.chess.port' on host a"),
    ],
)
def test_refuses_what_a_cluster_cannot_be(path: str, value: Any, key: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _read({name: option for name, option in _with(path, value).items() if option is not None})
    faults = {fault.key: fault.problem for fault in caught.value.faults}
    assert problem in faults[key], faults


def test_a_fault_in_the_section_is_reported_alone() -> None:
    with pytest.raises(SettingsError) as caught:
        _read(_with("cluster.colour", "red"))
    assert [fault.key for fault in caught.value.faults] == ["cluster.colour"], "it is not checked as a PDS"


def test_refuses_more_clubs_on_a_host_than_it_has_processors_for() -> None:
    clubs = {name: {"host": "a", "port": 3101 + number, "memory_mib": 256} for number, name in enumerate("pqrst")}
    with pytest.raises(SettingsError, match=r"s-1vcpu-4gb lacks \d+ MHz for the 5 clubs on host a"):
        _read({**_with("cluster.workers.size", "s-1vcpu-4gb"), "clubs": clubs})


def test_a_cluster_may_have_spares_before_it_has_a_host() -> None:
    options = _with("cluster.hosts", {}) | {"clubs": {}}
    assert _read(options).cluster, "the first one may be adopted"


def test_one_port_may_be_used_on_two_hosts() -> None:
    clubs = _read(CLUSTER).clubs
    assert {club.port for club in clubs.values()} == {3101}


def test_the_engine_s_defaults_are_no_options_of_a_pds() -> None:
    declared = yaml.load((ROOT / "Pulumi.yaml").read_text(), yaml.CSafeLoader)["config"]
    passed = {key: value["default"] for key, value in declared.items()} | CLUSTER
    assert _read(with_content(passed)).cluster


def test_a_club_of_a_host_without_a_cluster_names_no_host_of_one() -> None:
    with pytest.raises(SettingsError, match="this stack is not a cluster"):
        read(document(clubs={"chess": {"port": 3101, "host": "a"}}), "Pulumi.dev.yaml", "dev")


def test_a_club_s_terms_are_its_host_s() -> None:
    settings = _read(CLUSTER)
    terms = terms_for(settings, settings.clubs["rooks"])
    assert (terms["datacenter"], terms["ingress_namespace"]) == ("b", "host-b")


def test_a_club_that_moves_has_the_terms_of_the_place_that_its_file_names() -> None:
    options = _with("clubs.chess.leaving", {"host": "b", "port": 3105})
    settings = _read(options)
    terms = terms_for(settings, settings.clubs["chess"])
    assert {key: terms_at(terms, "b")[key] for key in ("datacenter", "port", "ingress_namespace")} == {
        "datacenter": "b",
        "port": 3105,
        "ingress_namespace": "host-b",
    }
    for elsewhere in ("a", "dc1"):
        assert terms_at(terms, elsewhere)["datacenter"] == "a", "the place that it moves to, unless it names the other"
        assert terms_at(terms, elsewhere)["port"] == 3101


def test_a_club_that_moves_takes_room_on_both_hosts() -> None:
    settings = _read(_with("clubs.chess.leaving", {"host": "b", "port": 3105}))
    before, chess = host_room(_read(CLUSTER), "b"), settings.clubs["chess"]
    now = host_room(settings, "b")
    assert now.disk_gib == before.disk_gib - chess.disk_gib, "its data are still there"
    assert now.memory_mib == before.memory_mib - chess.memory_mib, "it runs there until it is paused"
    assert now.mhz is not None
    assert before.mhz is not None
    assert now.mhz == before.mhz - chess.job_demand.mhz
    assert host_room(settings, "a") == host_room(_read(CLUSTER), "a")


def _warned(options: Mapping[str, Any]) -> list[str]:
    """The options of which a preview warns."""
    return [text.partition(":")[2].partition(":")[0] for text in warnings(_read(options))]


def test_warns_of_one_server_and_of_what_is_not_configured() -> None:
    assert _warned(_with("cluster", {"hosts": {"a": {}, "b": {}}, "servers": {"count": 1}})) == [
        "cluster.servers.count", "cluster.takeover", "cluster.snapshots", "cluster.escrow",
    ]  # fmt: skip


def test_warns_of_a_takeover_and_snapshots_whose_failure_is_told_to_no_person() -> None:
    options = _with("cluster.takeover", {"token": "dop_v1_t"})
    options["cluster"] = {**options["cluster"], "snapshots": BACKUP, "escrow": "made"}
    assert _warned(options) == [
        "cluster.takeover.notify_url", "cluster.takeover.ping_url", "cluster.snapshots.ping_url",
    ]  # fmt: skip


def test_does_not_warn_of_a_cluster_with_everything() -> None:
    assert _warned(_with("cluster.escrow", "declined")) == []
