"""A cluster with the services that `./pds upgrade` of it uses, on a clock of their own."""

import json
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster import drain, upgrade
from cli.cluster.hosts import Cluster
from cli.lib.stack import EngineResult
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from offline.stackfile import parse_settings, read_text
from tests.support.fake_cluster import FakeCluster, KilledError
from tests.support.programs import CLUSTER

FIRST_SERVER = 90
ADDRESS = "203.0.113.9"


class World:
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
        self.hosts = {"a": "a", "b": "b"}
        """Hosts of the outputs, with their volumes."""
        self.listed: dict[int, list[str]] = {}
        """Volumes that the account lists at a droplet, although they are detached."""
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
            "hosts": {name: {"volume_id": volume} for name, volume in self.hosts.items()},
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
            assert not self.held(droplet), f"{name} carries a host"
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

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def droplet(self, path: str) -> Any:
        number = int(path.partition("/")[2])
        status = "off" if number in self.off else "active"
        found = {"status": status, "volume_ids": self.listed.get(number) or self.held(number)}
        return found if number in [*self.servers, *self.workers] else None

    def held(self, droplet: int) -> list[str]:
        """The volumes that the droplet has."""
        return [name for name, volume in self.fake.volumes.items() if volume.carrier == droplet]

    def power_off(self, droplet: int) -> None:
        self.event()
        assert not self.held(droplet), f"droplet {droplet} carries a host"
        self.off.add(droplet)


class _Account:
    def __init__(self, world: World) -> None:
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


def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: int = 3) -> World:
    world = World(tmp_path, servers)
    fake, address_at = world.fake, world.fake.address_at

    def leads_to(address: str) -> int | None:
        return world.servers[world.leads_to - 1] if address == ADDRESS else address_at(address)

    monkeypatch.setattr(fake, "address_at", leads_to)

    def passes(cluster: Cluster) -> Passes:
        rules = Rules(may_detach=False)
        places = tuple(place for place in fake.places if place.name in cluster.outputs["hosts"])
        return Passes(fake, fake, places, "workers", rules, "me", fake.now, seizes=True)

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
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


def run(world: Any) -> int:
    return upgrade.upgrade(world, yes=True, settle_seconds=0)


ORDER = ["server 2", "server 3", "server 1", "worker 3", "worker 1", "worker 2"]
