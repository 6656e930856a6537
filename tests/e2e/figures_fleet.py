"""A part of `make bench`: 100 hosts and 2,000 clubs on three real Nomad servers; as root, about half an hour.

It answers four questions. How long do `up` and a preview of one club take beside them, compared with an empty cluster?
How long does `./pds list` take? How long are the servers without a leader after its SIGKILL? How much memory does a
server need?

Real: engine, program, the three servers with mutual TLS, gossip key and ACLs, one host with a worker, and its clubs'
PDSes. Mocked: the 100 hosts, which are nodes without an agent (`mock_nodes.py`). Their clubs have what the program
makes in Nomad: a namespace, an ACL policy, a token, the secret variable and all jobs, copied from a real club. Nothing
of them runs, and no Pulumi stack is theirs: `./pds list` takes a time for each stack beside what is shown here. The
three servers share this machine's two processors and its disk with everything else.
"""

import json
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from components.render import acl_policies
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import UP, cluster_env
from tests.e2e.environment.environment import PROGRAMS, E2eEnvironment
from tests.e2e.environment.mock_nodes import MockNodes, Rpc
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import missing

HOSTS, CLUBS_A_HOST = 100, 20
REAL = {"club-aa": 13301, "club-ab": 13302, "club-ac": 13303}
"""The real clubs and their ports: the one that is copied, one that is made before the others, and one after."""
_COPIED, _BEFORE, _AFTER = REAL
_FIRST_PORT = 20_000
_AT_ONCE = 4
_PATIENCE = 1800.0
_WATCHED = 90.0
"""Seconds after an election in which nodes may be lost: longer than `failover_heartbeat_ttl`."""


Ask = Callable[..., Any]
"""Method, path and body to Nomad's answer."""


@dataclass(frozen=True)
class Model:
    """The club that is copied: its name, its jobs as JSON, and the items of its secret variable."""

    name: str
    jobs: Sequence[str]
    items: Mapping[str, str]


@dataclass
class NomadServers:
    """Nomad's API at the first server that is on, with a management token."""

    token: str = field(default="", kw_only=True)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=60), kw_only=True)

    def url(self) -> str:
        """The API of the first server that is on."""
        raise NotImplementedError

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Nomad's answer."""
        answer = self.http.request(method, f"{self.url()}{path}", headers={"X-Nomad-Token": self.token}, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def allocations(self, status: str) -> list[dict[str, Any]]:
        """All allocations with this status at their client."""
        query = httpx.QueryParams({"namespace": "*", "task_states": "false", "filter": f'ClientStatus == "{status}"'})
        found: list[dict[str, Any]] = self.ask("GET", f"/v1/allocations?{query}") or []
        return found


@dataclass
class Fleet(NomadServers):
    """The cluster's stack, its droplets and its real clubs."""

    stack: E2eEnvironment
    machines: ClusterMachines
    clubs: dict[str, E2eEnvironment]

    def url(self) -> str:
        """See `NomadServers`."""
        return self.machines.api_url(next(own for own, at in self.machines.servers().items() if at.agent))

    def kill(self, own: str) -> None:
        """SIGKILL to the server at this address."""
        machine = self.machines.servers()[own]
        assert machine.agent
        machine.agent.stop(signal.SIGKILL)
        machine.agent = None

    def memory(self) -> list[float]:
        """Of each server, in MiB."""
        return [resident(machine.agent) for machine in self.machines.servers().values() if machine.agent]


def resident(agent: Service) -> float:
    """Resident memory of an agent, in MiB, with the program's own pages: on a droplet no other agent shares them."""
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(status.split("VmRSS:", 1)[1].split()[0]) / 1024


def main() -> int:
    """Print the tables, or what is missing; exit code 0 in either case, since nothing is asserted."""
    if lines := missing(*PROGRAMS):
        print("\n".join(["Not measured here, a fleet on real servers:", *lines]))
        return 0
    console = Console(emoji=False)
    with _fleet() as fleet:
        fleet.stack.pulumi(*UP, show=True)
        fleet.token = fleet.stack.outputs()["nomad_management_token"]
        fleet.clubs[_COPIED].pulumi(*UP)
        rows = [_timed(fleet, "an empty cluster", _BEFORE)]
        with _filled(fleet) as nodes:
            rows.append(_timed(fleet, f"{HOSTS} hosts, {HOSTS * CLUBS_A_HOST} clubs", _AFTER))
            columns = ("beside", "preview, s", "up, s", "./pds list, s", "a server, MiB")
            table = Table(*columns, title="One club of a cluster with three servers")
            for row in rows:
                table.add_row(*row)
            console.print(table)
            console.print(election(fleet.ask, fleet.kill))
            print(f"errors of mock nodes: {len(nodes.errors)} {nodes.errors[:3]}")
    return 0


def _timed(fleet: Fleet, beside: str, new: str) -> list[str]:
    """A row: a preview of the first club, `up` of a new one, `./pds list`, and the servers' memory."""
    preview = fleet.clubs[_COPIED].pulumi("preview").seconds
    up = fleet.clubs[new].pulumi(*UP).seconds
    listed = fleet.stack.pds_command("list").seconds
    memory = "-".join(f"{part:.0f}" for part in (min(fleet.memory()), max(fleet.memory())))
    row = [beside, f"{preview:.1f}", f"{up:.1f}", f"{listed:.1f}", memory]
    print(" ".join(row), flush=True)
    return row


@contextmanager
def _fleet() -> Iterator[Fleet]:
    with cluster_env() as cluster:
        cluster.configure(
            {
                "servers": {"count": 3},
                "hosts": {"a": {"volume_gib": 20}},
                "workers": {"size": "s-8vcpu-16gb", "spares": 0},
            },
            clubs={name: {"host": "a", "port": port, "disk_gib": 1, "memory_mib": 256} for name, port in REAL.items()},
        )
        clubs = {
            name: cluster.club(name, port, on=cluster.stack.name, nomad={"datacenter": "a"})
            for name, port in REAL.items()
        }
        yield Fleet(cluster.stack, cluster.machines, clubs)


@contextmanager
def _filled(fleet: Fleet) -> Iterator[MockNodes]:
    """Register nodes and clubs, and wait until each club's server counts as running."""
    began = time.monotonic()
    [real] = [node for node in fleet.ask("GET", "/v1/nodes") if node["Datacenter"] == "a"]
    nodes = MockNodes(lambda: _rpc(fleet), lambda: fleet.allocations("pending"))
    jobs = _jobs(fleet)
    names = [f"h{number}" for number in range(1, HOSTS + 1)]
    hosts = {name: [f"club-{name}x{at}" for at in range(CLUBS_A_HOST)] for name in names}
    rpc = _rpc(fleet)
    nodes.register(rpc, real["ID"], hosts, fleet.token)
    rpc.close()
    nodes.start()
    try:
        print(f"{len(names)} nodes after {time.monotonic() - began:.0f} s", flush=True)
        variable = fleet.ask("GET", f"/v1/var/nomad/jobs/pds?namespace={_COPIED}")
        model = Model(_COPIED, jobs, variable["Items"])
        todo = [(host, at, club) for host, clubs in hosts.items() for at, club in enumerate(clubs)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda item: register_club(fleet.ask, model, *item), todo))
        print(f"{len(todo)} clubs after {time.monotonic() - began:.0f} s", flush=True)
        until_running(fleet, nodes, len(todo))
        print(f"all count as running after {time.monotonic() - began:.0f} s", flush=True)
        yield nodes
    finally:
        nodes.stop()


def _jobs(fleet: Fleet) -> list[str]:
    """The jobs of the copied club, as JSON."""
    listed = fleet.ask("GET", f"/v1/jobs?namespace={_COPIED}")
    ids = [item["ID"] for item in listed if not item["ParentID"]]
    return [json.dumps(fleet.ask("GET", f"/v1/job/{identity}?namespace={_COPIED}")) for identity in ids]


def register_club(ask: Ask, model: Model, host: str, at: int, club: str) -> None:
    """All that a club has in Nomad, less the volume's directory; `at` is its number on the host."""
    ask("PUT", f"/v1/namespace/{club}", {"Name": club, "Description": f"The PDS of stack {club}."})
    rules = acl_policies.club(club, f"pds-{club}")
    ask("PUT", f"/v1/acl/policy/club-{club}", {"Name": f"club-{club}", "Rules": rules})
    ask("PUT", "/v1/acl/token", {"Name": club, "Type": "client", "Policies": [f"club-{club}"]})
    body = {"Namespace": club, "Path": "nomad/jobs/pds", "Items": dict(model.items)}
    ask("PUT", f"/v1/var/nomad/jobs/pds?namespace={club}", body)
    for text in model.jobs:
        job = json.loads(text.replace(model.name, club))
        job["Datacenters"] = [host]
        for group in job["TaskGroups"]:
            for port in [port for network in group["Networks"] or [] for port in network["ReservedPorts"] or []]:
                port["Value"] = _FIRST_PORT + at
        ask("PUT", f"/v1/jobs?namespace={club}", {"Job": job})


def until_running(servers: NomadServers, nodes: MockNodes, count: int) -> None:
    """Wait until so many allocations of mock nodes count as running. Raises TimeoutError."""
    end = time.monotonic() + _PATIENCE
    while True:
        running = [item for item in servers.allocations("running") if item["NodeID"] in nodes.secrets]
        if len(running) >= count:
            return
        if time.monotonic() > end:
            blocked = servers.ask("GET", "/v1/evaluations?namespace=*&status=blocked") or []
            raise TimeoutError(f"{len(running)} of {count} clubs count as running; {nodes.errors[-3:]} {blocked[:2]}")
        time.sleep(3)


def _rpc(fleet: Fleet) -> Rpc:
    """A connection with a worker's certificate to the servers that are on."""
    [worker] = fleet.machines.hosts().values()
    files = worker.root / "etc/pds/tls"
    tls = ssl.create_default_context(cafile=files / "ca.pem")
    tls.load_cert_chain(files / "worker.pem", files / "worker.key")
    port = fleet.machines.rpc_port
    addresses = [(own, port) for own in fleet.machines.servers()]
    return Rpc(addresses, tls, "server.global.nomad", "global")


def election(ask: Ask, kill: Callable[[str], None]) -> Table:
    """SIGKILL to the leader, by its address: until there is another, until it takes a write, and how many nodes it
    loses."""
    leader = str(ask("GET", "/v1/status/leader")).partition(":")[0]
    began = time.monotonic()
    kill(leader)
    chosen = _first(lambda: not str(ask("GET", "/v1/status/leader") or leader).startswith(leader), began)
    body = {"Namespace": "default", "Path": "bench/election", "Items": {"now": "1"}}
    written = _first(lambda: bool(ask("PUT", "/v1/var/bench/election", body)), began)
    down = 0
    while time.monotonic() - began < _WATCHED:
        with suppress(httpx.HTTPError):
            down = max(down, sum(node["Status"] != "ready" for node in ask("GET", "/v1/nodes")))
        time.sleep(2)
    table = Table("what", "", title="After the leader's SIGKILL")
    table.add_row("another leader, s", f"{chosen:.1f}")
    table.add_row("a write is accepted, s", f"{written:.1f}")
    table.add_row(f"nodes down at most, within {_WATCHED:.0f} s", str(down))
    return table


def _first(ask: Any, began: float) -> float:
    """Seconds from `began` until the answer is true."""
    while time.monotonic() - began < _PATIENCE:
        with suppress(httpx.HTTPError):
            if ask():
                return time.monotonic() - began
        time.sleep(0.1)
    return float("nan")


if __name__ == "__main__":
    sys.exit(main())
