"""`./pds check` of a cluster: one line for each part, with the remedy, on services with a clock of their own."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cli import app
from cli.cluster import checks, endpoint
from cli.cluster.checks import ClusterSubject
from cli.cluster.endpoint import ServersAddress
from cli.cluster.hosts import Cluster
from cli.lib.stack import State
from components.render.cluster.user_data import server_hash, worker_hash
from components.settings.parse import read
from components.settings.sections.settings import Settings
from components.takeover.decide import Droplet, Rules
from components.takeover.passes import Passes
from components.takeover.services import Refused
from tests.support.answers import Answers
from tests.support.certificates import Authority
from tests.support.fake_servers import FakeClusterWithServers, ServersAccount
from tests.support.programs import CLUSTER

RUNNING = (200, [{"ID": "job", "ClientStatus": "running"}])
AUTOPILOT = "GET /v1/operator/autopilot/health"
STATS = "GET /v1/client/stats?node_id=n-a"
LEASE = "GET /v1/var/takeover/state"
RECORD = "GET /v1/var/nomad/jobs/pds-nomad-snapshots/repository?namespace=default"
SNAPSHOTS = "GET /v1/job/pds-nomad-snapshots?namespace=default"
HOUR = 3600
OUTPUTS: dict[str, Any] = {
    "escrow": {"stack": "fleet", "hosts": {"a": {}}, "nomad_management_token": "t", "nomad_ca_pem": "c"}
    | {"nomad_ca_key_pem": "k"},
    "hosts": {"a": {}, "b": {}},
    "workers": ["1", "2", "3"],
    "servers": ["101", "102", "103"],
    "ipv4": "203.0.113.9",
    "worker_tag": "workers",
    "clubs": {"chess": {"datacenter": "a"}, "rooks": {"datacenter": "b"}},
    "nomad_client_cert_pem": Authority("Nomad").issue("client", client=True, days=90).cert_pem,
}


def _server(number: int, *, healthy: bool = True, voter: bool = True) -> dict[str, Any]:
    return {"Name": f"server-{number}", "Healthy": healthy, "Voter": voter}


def _health(*servers: dict[str, Any], healthy: bool = True) -> tuple[int, Any]:
    """Autopilot's answer; Nomad gives it with status 429 if something is unhealthy."""
    answer = {"Healthy": healthy, "FailureTolerance": 1 if healthy else 0, "Servers": list(servers)}
    return (200 if healthy else 429), answer


def _stats(percent: float) -> tuple[int, Any]:
    disks = [{"Mountpoint": "/", "UsedPercent": 99.0, "Size": 1}]
    return 200, {"DiskStats": [*disks, {"Mountpoint": "/srv/nomad", "UsedPercent": percent, "Size": 50 * 1024**3}]}


def _meta(configuration: str) -> tuple[int, Any]:
    return 200, {"Meta": {"pds_configuration": configuration}}


class World:
    """The account, and the servers' answers."""

    def __init__(self, settings: Settings) -> None:
        self.account = FakeClusterWithServers({"a": 1, "b": 2}, workers=3, now=time.time())
        self.answering = {"203.0.113.9"}
        self.settings, self.outputs = settings, dict(OUTPUTS)
        self.state = State(())
        nodes = [
            {"ID": f"n-{host}", "Name": f"host-{host}", "Datacenter": host, "Status": "ready"}
            | {"NodePool": "default", "Version": "2.0.6"}
            for host in ("a", "b")
        ]
        first = {"ID": "n-1", "Name": "fleet-server-1", "Datacenter": "dc1", "Status": "ready", "NodePool": "servers"}
        nodes.append(first | {"Version": "2.0.6"})
        lease = json.dumps({"holder": "job", "until": self.account.time + 55})
        self.nomad = Answers(
            {
                AUTOPILOT: _health(*(_server(number) for number in (1, 2, 3))),
                "GET /v1/nodes": (200, nodes),
                STATS: _stats(40),
                "GET /v1/client/stats?node_id=n-b": _stats(41),
                "GET /v1/job/caddy/allocations?namespace=host-a": RUNNING,
                "GET /v1/job/caddy/allocations?namespace=host-b": RUNNING,
                "GET /v1/job/pds-takeover/allocations?namespace=default": RUNNING,
                LEASE: (200, {"Items": {"lease": lease}}),
                SNAPSHOTS: (200, {"SubmitTime": (time.time() - 100 * HOUR) * 1e9}),
                RECORD: (200, {"ModifyTime": (time.time() - HOUR / 2) * 1e9}),
                "GET /v1/node/n-1": _meta(server_hash(settings, "fleet", 1)),
                "GET /v1/node/n-a": _meta(worker_hash(settings, "fleet")),
                "GET /v1/node/n-b": _meta(worker_hash(settings, "fleet")),
                "GET /v1/var/nomad/jobs/pds-takeover?namespace=default": (200, {"Items": {"TAKEOVER_TOKEN": "t"}}),
            }
        )

    def verdicts(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bool | None, str]]:
        rules = Rules(may_detach=False)
        passes = Passes(self.account, self.account, self.account.places, "workers", rules, "me", self.account.now)
        monkeypatch.setattr(Cluster, "passes", lambda _cluster: passes)
        monkeypatch.setattr(ClusterSubject, "api", self.nomad)
        monkeypatch.setattr(checks, "DigitalOcean", lambda _token, _url: self.account)
        monkeypatch.setattr(ServersAddress, "has_leader", lambda _found, address: address in self.answering)
        monkeypatch.setattr(endpoint, "DigitalOceanAccount", lambda _token: ServersAccount())
        subject = ClusterSubject(self.settings, Cluster("fleet", self.outputs, "token"), self.state)
        return {result.name: (result.ok, result.remark) for result in checks.run_checks(subject)}


@pytest.fixture
def world() -> World:
    """A healthy cluster with two hosts and a spare."""
    options = {**CLUSTER, "cluster": {**CLUSTER["cluster"], "escrow": "made"}}
    return World(read(options, "Pulumi.fleet.yaml", "fleet"))


def test_a_healthy_cluster_has_nothing_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = world.verdicts(monkeypatch)
    assert {name: remark for name, (ok, remark) in found.items() if not ok} == {}
    assert list(found) == [
        "servers' address", "servers", "host a", "disk a", "ingress a", "host b", "disk b", "ingress b", "spares",
        "takeover", "takeover's token", "snapshots", "machines", "firewall", "account", "escrow", "clubs",
        "client certificate",
    ]  # fmt: skip
    assert found["servers"][1] == "3 of 3 are healthy, and 1 may be lost"
    assert found["host a"][1] == "on worker 1, droplet 1, with its volume and ip-a; clubs chess"
    assert found["disk a"][1] == "40 % of 50 GiB"


def _cut_power(world: World) -> None:
    world.account.cut_power(1)


def _take_volume(world: World) -> None:
    world.account.volumes["a"].carrier = None


def _move_address(world: World) -> None:
    world.account.volumes["a"].address_at = 3


def _retire(world: World) -> None:
    world.account.items["retired"] = '{"3": "b"}'


def _lose_spare(world: World) -> None:
    workers = world.account.workers

    def with_one_off(_tag: str) -> dict[int, Droplet]:
        return workers(_tag) | {3: Droplet(3, is_active=False, volumes=frozenset())}

    world.account.workers = with_one_off  # type: ignore[method-assign]


def _small_worker(world: World) -> None:
    workers = world.account.workers

    def with_a_small_one(_tag: str) -> dict[int, Droplet]:
        sizes = {1: 4096, 2: 8192, 3: 2048}
        return {number: replace(droplet, memory_mib=sizes[number]) for number, droplet in workers(_tag).items()}

    world.account.workers = with_a_small_one  # type: ignore[method-assign]


def _answer(path: str, answer: tuple[int, Any]) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.nomad.answers[path] = answer

    return change


def _lease(holder: str, seconds: float) -> Callable[[World], None]:
    def change(world: World) -> None:
        lease = json.dumps({"holder": holder, "until": world.account.time + seconds})
        world.nomad.answers[LEASE] = (200, {"Items": {"lease": lease}})

    return change


def _lead_to(number: int | None) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.account.leads_to = number and 100 + number

    return change


def _lose_address(world: World) -> None:
    world.answering = {"198.51.100.102", "198.51.100.103"}


def _failed(item: str, why: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        known = json.dumps({"at": datetime(2026, 11, 28, tzinfo=UTC).timestamp(), "why": why})
        world.nomad.answers[LEASE][1]["Items"][item] = known

    return change


def _sent(hours: float) -> Callable[[World], None]:
    return _answer(RECORD, (200, {"ModifyTime": (time.time() - hours * HOUR) * 1e9}))


def _unpinged(why: str) -> Callable[[World], None]:
    items = {"repository": "s3:https://s3.test/bucket/nomad-fleet 5af1c2", "ping_failed": why}
    return _answer(RECORD, (200, {"ModifyTime": time.time() * 1e9, "Items": items}))


def _without(section: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        options = {key: value for key, value in CLUSTER["cluster"].items() if key != section}
        world.settings = read({**CLUSTER, "cluster": options}, "Pulumi.fleet.yaml", "fleet")

    return change


def _no_escrow(world: World) -> None:
    del world.outputs["escrow"]


def _old_server(world: World) -> None:
    world.nomad.answers["GET /v1/node/n-1"] = _meta("of yesterday")
    world.nomad.answers["GET /v1/nodes"][1][2]["Version"] = "2.0.4"


def _unapplied(world: World) -> None:
    world.outputs["clubs"] = {"chess": {"datacenter": "b"}, "rooks": {"datacenter": "b"}}


def _moving(world: World) -> None:
    chess = {"host": "a", "port": 3105, "leaving": {"host": "b", "port": 3105}}
    world.settings = read({**CLUSTER, "clubs": {**CLUSTER["clubs"], "chess": chess}}, "Pulumi.fleet.yaml", "fleet")


def _ending(world: World) -> None:
    pem = Authority("Nomad").issue("client", client=True, days=20).cert_pem
    world.outputs["nomad_client_cert_pem"] = pem


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (_answer(AUTOPILOT, _health(_server(1), _server(2, healthy=False), healthy=False)), "servers", "server-2"),
        (
            _answer(AUTOPILOT, _health(_server(1), _server(2), _server(3, voter=False))),
            "servers",
            "2 of 3 servers are voters",
        ),
        (_answer(AUTOPILOT, (500, "No cluster leader")), "servers", "Is there a leader?"),
        (_lead_to(3), "servers' address", "leads to server 3, and the stack file names server 1. Write"),
        (_lead_to(None), "servers' address", "leads to no server. `pulumi up --stack fleet --refresh` assigns it"),
        (_lose_address, "servers' address", "leads to server 1, and Nomad does not answer there. At their own"),
        (_cut_power, "host a", "its node is not ready. `./pds repair fleet`"),
        (_take_volume, "host a", "no droplet has its volume"),
        (_move_address, "host a", "ip-a leads elsewhere. `./pds repair fleet` assigns it to that droplet"),
        (_answer(STATS, _stats(81)), "disk a", "Raise 'cluster.hosts.a.volume_gib'"),
        (_answer("GET /v1/job/caddy/allocations?namespace=host-b", (200, [])), "ingress b", "job caddy does not run"),
        (_retire, "spares", "0 of 1 are ready. worker 3, droplet 3 lost host b: raise its generation"),
        (_lose_spare, "spares", "worker 3, droplet 3 is off"),
        (_small_worker, "spares", "has 4096 MiB: worker 3, droplet 3: 2048 MiB. A host there has too little memory"),
        (_answer("GET /v1/job/pds-takeover/allocations?namespace=default", (200, [])), "takeover", "does not run"),
        (_lease("job", -120), "takeover", "has not checked the hosts lately"),
        (_lease("laptop:7", 86_400), "takeover", "Its clock is ahead"),
        (_lease("laptop:7", 40), "takeover", "waits for laptop:7, which holds the lease"),
        (
            _failed("notify_failed", "404"),
            "takeover",
            "'cluster.takeover.notify_url' failed at 2026-11-28 00:00 UTC (404)",
        ),
        (
            _failed("ping_failed", "it does not know"),
            "takeover",
            "--path cluster.takeover.ping_url --stack fleet`, then run `pulumi up",
        ),
        (
            _sent(4),
            "snapshots",
            "and one is due every 1 h. `./pds nomad fleet -- job status pds-nomad-snapshots` lists",
        ),
        (
            _unpinged("404"),
            "snapshots",
            "could not be pinged (404). If the service is faulty, wait for the next snapshot. If the service no longer "
            "has this URL, write another one: `pulumi config set --secret --path cluster.snapshots.ping_url --stack "
            "fleet`, then run `pulumi up",
        ),
        (_answer(RECORD, (404, "")), "snapshots", "none has succeeded since the job was made at"),
        (_answer(SNAPSHOTS, (404, "")), "snapshots", "Nomad has no job that takes them. Run `pulumi up --stack fleet`"),
        (_without("snapshots"), "snapshots", "none are configured. If all servers are lost"),
        (_without("escrow"), "escrow", "Run `./pds escrow fleet`, store the file safely, then run"),
        (_no_escrow, "escrow", "the state has no escrow"),
        (_old_server, "machines", "server 1 runs Nomad 2.0.4, and the stack file names"),
        (_unapplied, "clubs", "chess: not applied. Run `pulumi up --stack fleet`"),
        (_moving, "clubs", "`./pds move chess --to fleet` continues"),
        (_ending, "client certificate", "After that no command reaches Nomad. `pulumi up --stack fleet` renews it"),
    ],
)
def test_names_what_is_wrong_and_the_remedy(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[World], None], name: str, words: str
) -> None:
    change(world)
    ok, remark = world.verdicts(monkeypatch)[name]
    assert ok is False
    assert words in remark


def test_a_host_without_its_volume_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = world.account.carrier

    def answer(volume: str) -> int | None:
        if volume == "a":
            raise Refused(404, "volume a does not exist")
        return carrier(volume)

    monkeypatch.setattr(world.account, "carrier", answer)
    found = world.verdicts(monkeypatch)
    assert found["host a"] == (False, "volume a does not exist.")
    assert found["host b"][0]


def test_a_token_without_a_scope_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_volume: str) -> Any:
        raise Refused(403, "GET /v2/volumes/a: 403 missing the scope block_storage:read")

    monkeypatch.setattr(world.account, "carrier", refuse)
    found = world.verdicts(monkeypatch)
    assert found["takeover's token"][0] is False
    assert "missing the scope block_storage:read. Create another token" in found["takeover's token"][1]
    assert found["servers"][0], "one refusal does not hide the other checks"


def test_a_cluster_without_takeover_or_ingress_skips_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {}}}, "ingress": {"kind": "none"}}
    world.settings = read(options, "Pulumi.fleet.yaml", "fleet")
    found = world.verdicts(monkeypatch)
    assert [name for name, (ok, _) in found.items() if ok is None] == [
        "ingress a", "ingress b", "takeover", "takeover's token",
    ]  # fmt: skip


def test_a_first_snapshot_that_is_not_due_yet_is_nothing_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.nomad.answers[RECORD] = (404, "")
    world.nomad.answers[SNAPSHOTS] = (200, {"SubmitTime": (time.time() - 600) * 1e9})
    ok, remark = world.verdicts(monkeypatch)["snapshots"]
    assert ok is None
    assert "the first one is due within 1 h" in remark


def test_older_user_data_is_nothing_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.nomad.answers["GET /v1/node/n-1"] = world.nomad.answers["GET /v1/node/n-b"] = _meta("of yesterday")
    ok, remark = world.verdicts(monkeypatch)["machines"]
    assert ok is None
    assert remark.startswith("built from older user data: server 1, the worker of host b. No action is needed.")


def test_options_of_a_pds_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = read(CLUSTER, "Pulumi.fleet.yaml", "fleet")
    monkeypatch.setattr("offline.stackfile.read_settings", lambda _stack, _root: settings)
    assert app.main(["check", "dev", "--relay"]) == 2
    assert "is a cluster, and has no PDS" in capsys.readouterr().err
