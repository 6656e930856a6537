"""`./pds upgrade` of a cluster, on services with a clock of their own: order, refusals, and a kill at each step."""

import json
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.cluster import drain, upgrade
from cli.cluster.hosts import Cluster, ClusterError
from cli.lib.stack import EngineResult
from components.takeover.decide import Action, Rules
from components.takeover.interfaces import UPGRADE
from components.takeover.passes import Passes
from offline.stackfile import parse_settings, read_text
from tests.support.fake_cluster import FakeCluster, KilledError
from tests.support.programs import CLUSTER

FIRST_SERVER = 90
ADDRESS = "203.0.113.9"


class _World:
    """A cluster of three servers, hosts a and b on workers 1 and 2, and worker 3 as spare: engine, Nomad, account."""

    name = "fleet"

    def __init__(self, root: Path, servers: int = 3) -> None:
        self.root = root
        self.fake = FakeCluster({"a": 1, "b": 2}, workers=3)
        self.servers = [FIRST_SERVER + number for number in range(servers)]
        self.workers = [1, 2, 3]
        self.next = 100
        self.applied: dict[str, int] = {}
        self.variable: dict[str, Any] | None = None
        self.events = 0
        self.dies_at = 0
        self.healthy = True
        self.changes_pending = False
        self.rebuilt: list[str] = []
        self.endpoint = self.leads_to = 1
        self.off: set[int] = set()
        self.refreshed: set[int] = set()
        self.refresh_code = 0
        section = {**CLUSTER["cluster"], "servers": {"count": servers}}
        file = {"config": {f"pds:{key}": value for key, value in {**CLUSTER, "cluster": section}.items()}}
        (root / "Pulumi.fleet.yaml").write_text(yaml.safe_dump(file, sort_keys=False))

    def event(self) -> None:
        self.events += 1
        if self.events == self.dies_at:
            raise KilledError

    # The engine.

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return {
            "hosts": {"a": {}, "b": {}},
            "workers": [str(number) for number in self.workers],
            "servers": [str(number) for number in self.servers],
            "ipv4": ADDRESS,
            "worker_tag": "workers",
            "nomad_management_token": "management",
        }

    def run(self, *arguments: str) -> EngineResult:
        if arguments[0] == "refresh":
            self.event()
            target = arguments[-1]
            assert arguments[1:-1] == ("--yes", "--skip-preview", "--target")
            self.refreshed.add(self.workers[int(target.removeprefix("**-worker-")) - 1])
            return EngineResult(self.refresh_code, "")
        return EngineResult(int(self.changes_pending), "")

    def run_interactively(self, *_arguments: str, env: Any = None) -> int:
        self.event()
        section = _loaded((self.root / "Pulumi.fleet.yaml").read_text())["config"]["pds:cluster"]
        replaced = 0
        for kind, present in (("servers", self.servers), ("workers", self.workers)):
            for number, generation in section.get(kind, {}).get("generations", {}).items():
                name = f"{kind[:-1]} {number}"
                if generation == self.applied.get(name, 1):
                    continue
                replaced += 1
                self._replace(name, present, int(number) - 1)
                self.applied[name] = generation
        assert replaced <= 1, "one droplet at a time"
        self.endpoint = self.leads_to = section["servers"].get("endpoint", 1)
        self.event()
        return 0

    def preview(self) -> str:
        section = _loaded((self.root / "Pulumi.fleet.yaml").read_text())["config"]["pds:cluster"]
        steps = [self._step("Stack", "fleet", "same"), self._step("Droplet", "worker-9", "update")]
        for kind in ("servers", "workers"):
            for number, generation in section.get(kind, {}).get("generations", {}).items():
                name = f"{kind[:-1]} {number}"
                if generation != self.applied.get(name, 1):
                    steps.append(self._step("Droplet", name.replace(" ", "-"), "replace"))
        return json.dumps({"steps": steps, "changeSummary": {}})

    def _step(self, kind: str, name: str, op: str) -> dict[str, Any]:
        urn = f"urn:pulumi:fleet::pds::m:i:{kind}::{name}"
        state = {"type": f"m:i:{kind}", "urn": urn}
        return {"urn": urn, "op": op, "oldState": state, "newState": state}

    def _replace(self, name: str, present: list[int], at: int) -> None:
        droplet = present[at]
        if name.startswith("worker"):
            assert not [v for v in self.fake.volumes.values() if v.carrier == droplet], f"{name} carries a host"
            assert droplet in self.refreshed, f"{name} may have the volume of its former host in the state"
            assert droplet in self.off, f"{name} may hang, and the provider's shutdown of it would not end"
            del self.fake.alive[droplet]
            self.fake.alive[self.next] = True
        else:
            assert at + 1 not in (self.endpoint, self.leads_to), "the server that the address leads to"
            assert self.healthy, "the servers were not healthy"
        present[at] = self.next
        self.next += 1
        self.rebuilt.append(name)

    # Nomad.

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self.event()
        if path.startswith("/v1/operator/autopilot"):
            voters = [{"ID": f"raft-{server}", "Voter": True} for server in self.servers]
            return (200, {"Healthy": True, "Servers": voters}) if self.healthy else (429, {})
        if method == "GET":
            return (200, self.variable) if self.variable else (404, None)
        self.variable = body if method == "PUT" else None
        return 200, {}

    def get(self, _path: str) -> Any:
        return [
            {"NodeName": name, "JobType": "service", "ClientStatus": "running"}
            for name in self.fake.volumes
            if self.fake.is_serving(name)
        ]

    # The account.

    def __enter__(self) -> "_World":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def droplet(self, path: str) -> Any:
        number = int(path.partition("/")[2])
        status = "off" if number in self.off else "active"
        return {"status": status} if number in [*self.servers, *self.workers] else None

    def power_off(self, droplet: int) -> None:
        self.event()
        assert not [v for v in self.fake.volumes.values() if v.carrier == droplet], f"droplet {droplet} carries a host"
        self.off.add(droplet)


class _Account:
    def __init__(self, world: _World) -> None:
        self._world = world

    def __enter__(self) -> "_Account":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def get(self, path: str) -> Any:
        return self._world.droplet(path)

    def create(self, path: str, body: Any) -> None:
        assert body == {"type": "power_off"}
        self._world.power_off(int(path.split("/")[1]))


_parsed = cache(parse_settings)
_loaded = cache(partial(yaml.load, Loader=yaml.CSafeLoader))


def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: int = 3) -> _World:
    world = _World(tmp_path, servers)
    fake, address_at = world.fake, world.fake.address_at

    def leads_to(address: str) -> int | None:
        return world.servers[world.leads_to - 1] if address == ADDRESS else address_at(address)

    monkeypatch.setattr(fake, "address_at", leads_to)

    def passes(_cluster: Cluster) -> Passes:
        rules = Rules(may_detach=False)
        return Passes(fake, fake, fake.places, "workers", rules, "me", fake.now, seizes=True)

    def shut_down(_cluster: Cluster, _passes: Passes, droplet: int) -> None:
        world.event()
        fake.cut_power(droplet)

    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(Cluster, "passes", passes)
    monkeypatch.setattr(drain, "_shut_down", shut_down)
    # The same few texts in each of many runs.
    monkeypatch.setattr(upgrade, "read_settings", lambda stack, root: _parsed(stack, read_text(stack, root)))
    monkeypatch.setattr(upgrade, "parse_settings", _parsed)
    monkeypatch.setattr(upgrade, "nomad_api", lambda _access: world)
    monkeypatch.setattr(upgrade, "preview_of_engine", lambda _stack: world.preview())
    monkeypatch.setattr(upgrade, "DigitalOceanAccount", lambda _token: _Account(world))
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "time", fake.now)
    monkeypatch.setattr(time, "monotonic", fake.now)
    return world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _World:
    return _world(tmp_path, monkeypatch)


def _run(world: Any) -> int:
    return upgrade.upgrade(world, yes=True, settle_seconds=0)


ORDER = ["server 2", "server 3", "server 1", "worker 3", "worker 1", "worker 2"]


def test_rebuilds_servers_then_spares_then_each_host_s_worker(
    world: _World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(world) == 0
    assert "All workers and all 3 servers are rebuilt, and every host is ready." in capsys.readouterr().out
    assert world.rebuilt == ORDER
    assert world.endpoint == 2, "another server was named before the first was rebuilt"
    assert world.fake.is_serving("a")
    assert world.fake.is_serving("b")
    assert world.fake.violations == []
    assert world.variable is None


def test_killed_anywhere_the_next_run_rebuilds_the_rest_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = _world(tmp_path, monkeypatch)
    _run(world)
    for number in range(1, world.events + 1):
        world = _world(tmp_path, monkeypatch)
        world.dies_at = number
        with pytest.raises(KilledError):
            _run(world)
        if world.fake.down_since:
            # A drain was cut off: the takeover of the cluster moves the host.
            job = Passes(world.fake, world.fake, world.fake.places, "workers", Rules(), "job", world.fake.now)
            for _ in range(60):
                job.once()
                world.fake.pass_time(4)
        assert _run(world) == 0
        assert sorted(world.rebuilt) == sorted(ORDER), f"killed in call {number}"
        assert world.fake.violations == []


def test_an_interrupted_run_applies_no_file_that_rebuilds_two_droplets(world: _World) -> None:
    world.dies_at = 8
    with pytest.raises(KilledError):
        _run(world)
    assert world.variable, "it was interrupted"
    rebuilt = list(world.rebuilt)
    file = world.root / "Pulumi.fleet.yaml"
    content = yaml.load(file.read_text(), yaml.CSafeLoader)
    content["config"]["pds:cluster"]["servers"]["generations"] = {"2": 7, "3": 7}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError, match="more than one droplet: server-2, server-3"):
        _run(world)
    assert world.rebuilt == rebuilt


def test_an_interrupted_run_applies_no_file_that_rebuilds_the_worker_of_a_host(world: _World) -> None:
    drained = drain.drain

    def cut_short(*arguments: Any, **options: Any) -> int:
        drained(*arguments, **options)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain, "drain", cut_short)
        with pytest.raises(KilledError):
            _run(world)
    assert world.fake.volumes["a"].carrier == world.workers[2], "worker 3 was rebuilt, and host a drained to it"
    rebuilt = list(world.rebuilt)
    file = world.root / "Pulumi.fleet.yaml"
    content = yaml.load(file.read_text(), yaml.CSafeLoader)
    # Another checkout: it has the server's numbers, and not that of worker 3.
    content["config"]["pds:cluster"]["workers"]["generations"] = {"3": 1}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError, match=r"rebuild worker 3, droplet \d+, which runs host a"):
        _run(world)
    assert world.rebuilt == rebuilt


def test_the_only_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = _world(tmp_path, monkeypatch, servers=1)
    assert _run(world) == 0
    assert world.rebuilt == ["worker 3", "worker 1", "worker 2"]
    said = capsys.readouterr().out
    assert "This command keeps the only server, because it has Nomad's state" in said
    assert "All workers are rebuilt, and every host is ready." in said


def _address_elsewhere(world: _World) -> None:
    world.fake.volumes["a"].address_at = 3


def _action(world: _World) -> None:
    world.fake.volumes["a"].actions.append(Action("resize", "in-progress", world.fake.time))


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (lambda world: setattr(world, "healthy", False), "The servers are not healthy"),
        (lambda world: world.fake.cut_power(1), r"Host a: its node is not ready\. Run `\./pds repair fleet` first"),
        (_address_elsewhere, r"Host a: ip-a does not lead to its droplet\. Run `\./pds repair fleet` first"),
        (_action, r"Host a: an action on its volume is in progress\. Repeat the command when it is over"),
        (lambda world: world.fake.items.update(retired='{"3": "b"}'), "There is no spare worker"),
        (lambda world: setattr(world, "changes_pending", True), "changes that are not applied"),
        (
            lambda world: setattr(world, "leads_to", 2),
            r"203\.0\.113\.9 leads to server 2, and the stack file names server 1.*endpoint: 2' into Pulumi",
        ),
    ],
)
def test_refuses_before_anything_is_touched(world: _World, fault: Any, problem: str) -> None:
    fault(world)
    before = (world.root / "Pulumi.fleet.yaml").read_bytes()
    with pytest.raises(ClusterError, match=problem):
        _run(world)
    assert (world.root / "Pulumi.fleet.yaml").read_bytes() == before
    assert world.variable is None
    assert world.rebuilt == []


def test_stops_if_the_servers_do_not_become_healthy(world: _World, capsys: pytest.CaptureFixture[str]) -> None:
    def sick(*_arguments: str, env: Any = None) -> int:
        code = _World.run_interactively(world)
        world.healthy = False
        return code

    world.run_interactively = sick  # type: ignore[method-assign]
    assert _run(world) == 1
    assert world.rebuilt == ["server 2"]
    assert "Repeat `./pds upgrade fleet`" in capsys.readouterr().out
    assert world.variable, "the next run goes on"


def test_stops_if_a_worker_s_state_cannot_be_refreshed(world: _World) -> None:
    world.refresh_code = 1
    assert _run(world) == 1
    assert [name for name in world.rebuilt if name.startswith("worker")] == []
    assert world.off == set()


def test_asks_first(world: _World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    assert upgrade.upgrade(world, yes=False, settle_seconds=0) == 1  # type: ignore[arg-type]
    assert world.rebuilt == []


def test_a_spare_that_a_takeover_has_just_chosen_is_not_rebuilt_under_its_host(world: _World) -> None:
    retire = Passes.retire

    def late(passes: Passes, droplet: int, host: str | None = UPGRADE) -> None:
        retire(passes, droplet, host)
        if host == UPGRADE and world.fake.volumes["a"].carrier == 1:
            world.fake.cut_power(1)
            world.fake.detach("a", 1)
            world.fake.pass_time(4)
            world.fake.attach("a", 3)
            world.fake.assign("ip-a", 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passes, "retire", late)
        assert _run(world) == 0
    assert sorted(world.rebuilt) == sorted(ORDER)
    assert world.fake.is_serving("a")
    assert json.loads(world.fake.items["retired"]).get("3") in (None, UPGRADE)
