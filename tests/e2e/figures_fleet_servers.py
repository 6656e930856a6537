"""A part of `make bench`: 100 hosts and 2,000 clubs on three real Nomad servers, without engine and Docker; as root.

It answers what `figures_fleet` answers about the servers: their memory, an election, and how long a club's registration
takes until Nomad has placed it, beside one host and beside all. The servers have the rendered agent's file, mutual TLS
and ACLs. The clubs' namespaces, policies, secret variables and jobs are those that the program renders, evaluated
without an engine. The hosts are nodes without an agent (`mock_nodes.py`), and nothing of the clubs runs.
"""

import json
import os
import shutil
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from components.render.cluster.agents import server_agent
from components.settings.parse import read
from tests.e2e.environment.machine import CPU_MHZ, lot
from tests.e2e.environment.mock_nodes import MockNodes, Rpc
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import unmount_below
from tests.e2e.figures_fleet import (
    CLUBS_A_HOST,
    HOSTS,
    Model,
    NomadServers,
    election,
    register_club,
    resident,
    until_running,
)
from tests.support.certificates import Authority
from tests.support.programs import CLUSTER, cluster, shared

_AT_ONCE = 8
_PATIENCE = 300.0
_SAMPLES = 5


@dataclass
class Servers(NomadServers):
    """Three agents, by address; `None` for a dead one."""

    folder: Path
    ports: dict[str, int]
    agents: dict[str, Service | None]

    def url(self) -> str:
        """See `NomadServers`."""
        return f"http://{next(own for own, agent in self.agents.items() if agent)}:{self.ports['http']}"

    def kill(self, own: str) -> None:
        """SIGKILL to the server at this address."""
        agent = self.agents[own]
        assert agent
        agent.stop(signal.SIGKILL)
        self.agents[own] = None

    def memory(self) -> str:
        """Of the servers, in MiB: the least and the most."""
        found = [resident(agent) for agent in self.agents.values() if agent]
        return f"{min(found):.0f}-{max(found):.0f}"


def main() -> int:
    """Print the tables, or what is missing; exit code 0 in either case, since nothing is asserted."""
    if not shutil.which("nomad") or os.geteuid():
        print("Not measured here, a fleet on real servers: it needs nomad on PATH, and root.")
        return 0
    console = Console(emoji=False)
    with _servers() as (servers, tls):
        model = _model(servers)
        nodes = MockNodes(lambda: _rpc(servers, tls), lambda: servers.allocations("pending"))
        hosts = {f"h{at}": [f"club-h{at}x{number}" for number in range(CLUBS_A_HOST)] for at in range(1, HOSTS + 1)}
        [real, *_] = servers.ask("GET", "/v1/nodes")
        table = Table("beside", "a club is placed, s", "a server, MiB", title="Three servers")
        try:
            _register_nodes(servers, tls, nodes, real["ID"], {"first": _samples("first")})
            nodes.start()
            table.add_row("one host", _placed(servers, model, "first"), servers.memory())
            began = time.monotonic()
            _register_nodes(servers, tls, nodes, real["ID"], {**hosts, "last": _samples("last")})
            print(f"{len(hosts)} nodes after {time.monotonic() - began:.0f} s", flush=True)
            todo = [(host, at, club) for host, clubs in hosts.items() for at, club in enumerate(clubs)]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda item: register_club(servers.ask, model, *item), todo))
            print(f"{len(todo)} clubs after {time.monotonic() - began:.0f} s", flush=True)
            until_running(servers, nodes, len(todo))
            print(f"all count as running after {time.monotonic() - began:.0f} s", flush=True)
            memory = servers.memory()
            table.add_row(f"{len(hosts)} hosts, {len(todo)} clubs", _placed(servers, model, "last"), memory)
            console.print(table)
            console.print(election(servers.ask, servers.kill))
        finally:
            nodes.stop()
        print(f"errors of mock nodes: {len(nodes.errors)} {nodes.errors[:3]}")
    return 0


@contextmanager
def _servers() -> Iterator[tuple[Servers, ssl.SSLContext]]:
    authority = Authority("the cluster's CA")
    settings = read(CLUSTER, "Pulumi.fleet.yaml", "fleet")
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    with lot() as mine, tempfile.TemporaryDirectory(prefix="pds-servers-", ignore_cleanup_errors=True) as name:
        folder, ports = Path(name), dict(mine.ports)
        pair = authority.issue("server.global.nomad", "client.global.nomad", "127.0.0.1", peer=True)
        (folder / "ca.pem").write_text(authority.pem)
        certificate = pair.written(folder, "pair.pem")
        servers = Servers(folder, ports, {})
        addresses = [f"{mine.network}.{number}" for number in (201, 202, 203)]
        for own in addresses:
            home = folder / own
            home.mkdir()
            text = server_agent(settings, f"server-{own}", "127.0.0.0/8", addresses[0], "bench")
            (home / "agent.hcl").write_text(_mapped(text, own, home, folder, ports))
            command = [str(shutil.which("nomad")), "agent", f"-config={home}/agent.hcl"]
            servers.agents[own] = Service(command, home / "nomad.log", keep)
        tls = authority.trusted()
        tls.load_cert_chain(certificate)
        try:
            servers.token = _answer(lambda: servers.ask("POST", "/v1/acl/bootstrap", {})["SecretID"])
            _answer(lambda: len(servers.ask("GET", "/v1/nodes")) == len(addresses))
            yield servers, tls
        finally:
            for agent in filter(None, servers.agents.values()):
                agent.stop()
            unmount_below(folder)


def _mapped(text: str, own: str, home: Path, folder: Path, ports: dict[str, int]) -> str:
    """The rendered file with this machine's paths, addresses and ports."""
    for old, new in (
        ('"/var/lib/nomad"', f'"{home}/state"'),
        ("/etc/stunnel/pds/ca.pem", f"{folder}/ca.pem"),
        ("/etc/stunnel/pds/server.pem", f"{folder}/pair.pem"),
        ("/etc/stunnel/pds/server.key", f"{folder}/pair.pem"),
        ('"0.0.0.0"', f'"{own}"'),
        ('retry_join = ["127.0.0.1"]', f'retry_join = ["{own}:{ports["rpc"]}"]'),
        ('  http = "127.0.0.1"', f'  http = "{own}"'),
    ):
        assert old in text, f"the rendered file has no {old}"
        text = text.replace(old, new)
    lines = []
    for line in text.splitlines():
        if "GetPrivateInterfaces" in line:
            line = f'{line.partition("=")[0]}= "{own}"'
        if "retry_join     =" in line:
            line = f'{line.rpartition(chr(34))[0]}:{ports["serf"]}"]'
        lines.append(line)
    listening = "\n".join(f"  {name} = {port}" for name, port in ports.items())
    return "\n".join([*lines, f"ports {{\n{listening}\n}}", f"client {{\n  cpu_total_compute = {CPU_MHZ}\n}}", ""])


def _answer(ask: Any) -> Any:
    """The first true answer."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            if found := ask():
                return found
        except httpx.HTTPError as error:
            if time.monotonic() > end:
                raise TimeoutError(str(error)) from None
        if time.monotonic() > end:
            raise TimeoutError("no answer")
        time.sleep(0.5)


def _model(servers: Servers) -> Model:
    """The club `chess` of a cluster, as the program renders it."""
    evaluation = shared(host=cluster(), on="fleet", nomad={"datacenter": "a"}, ingress={"kind": "caddy"})
    jobs = [
        json.dumps(servers.ask("POST", "/v1/jobs/parse", {"JobHCL": item.inputs["jobspec"], "Canonicalize": True}))
        for item in evaluation.of("job:Job")
    ]
    [variable] = [item for item in evaluation.of("variable:Variable") if item.inputs["path"] == "nomad/jobs/pds"]
    return Model("chess", jobs, {key: str(value) for key, value in variable.inputs["items"].items()})


def _samples(host: str) -> list[str]:
    return [f"sample-{host}-{number}" for number in range(_SAMPLES)]


def _register_nodes(
    servers: Servers, tls: ssl.SSLContext, nodes: MockNodes, real: str, hosts: dict[str, list[str]]
) -> None:
    rpc = _rpc(servers, tls)
    nodes.register(rpc, real, hosts, servers.token)
    rpc.close()


def _placed(servers: Servers, model: Model, host: str) -> str:
    """The least and the most seconds from a club's first request until its server has an allocation."""
    seconds = []
    for at, club in enumerate(_samples(host)):
        began = time.monotonic()
        register_club(servers.ask, model, host, 100 + at, club)
        _answer(lambda: servers.ask("GET", f"/v1/job/pds/allocations?namespace={club}"))  # noqa: B023 (at once)
        seconds.append(time.monotonic() - began)
    return f"{min(seconds):.1f}-{max(seconds):.1f}"


def _rpc(servers: Servers, tls: ssl.SSLContext) -> Rpc:
    addresses = [(own, servers.ports["rpc"]) for own, agent in servers.agents.items() if agent]
    return Rpc(addresses, tls, "server.global.nomad", "global")


if __name__ == "__main__":
    sys.exit(main())
