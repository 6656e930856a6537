"""A part of `make bench`: a cluster under the real engine and Nomad; as root, about half an hour.

It answers three questions. How long are the clubs of a host away after its power was cut, with 1, 5 and 20 clubs on it,
and how much of that is Nomad's? How long are they away in a planned drain? How much memory does a server need, and how
much a spare that waits?

Nothing is asserted. One server, three hosts, a spare for each move. An action of the API takes three seconds. The
clubs' PDSes are real and idle. One club is made by `pulumi up`. The others are copies of it in Nomad, with namespace,
volume, secrets and job of their own, because 25 more stacks would only take time. All droplets share this machine's
processors and its Docker, so the spare has the images, and the start of 20 servers takes longer than on a droplet of
their own. A volume is a folder. The memory of Debian itself is not included.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from components.clients.nomad import NomadApi
from components.clients.nomad_clubs import create_club
from tests.e2e.digitalocean.world import Limits
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import UP, cluster_env
from tests.e2e.environment.environment import PROGRAMS, E2eEnvironment
from tests.e2e.environment.tools import missing
from tests.e2e.figures import memory_of

CLUBS = {"a": 1, "b": 5, "c": 20}
"""How many clubs each host has."""
_ACTION_SECONDS = 3.0
_LIMIT_MIB = 256
_FIRST_PORT = 13201
_PATIENCE = 900.0
_PAUSE = 0.2


@dataclass
class Cluster:
    """The cluster's stack, its droplets, and the ports of each host's clubs."""

    stack: E2eEnvironment
    machines: ClusterMachines
    club: E2eEnvironment
    """The stack of the first club."""
    ports: dict[str, list[int]]
    token: str = ""
    """Nomad's management token."""

    def nomad(self, path: str, body: Any = None) -> Any:
        """The server's answer; a PUT if there is a body."""
        [own] = self.machines.servers()
        url, headers = f"{self.machines.api_url(own)}{path}", {"X-Nomad-Token": self.token}
        method = "GET" if body is None else "PUT"
        answer = httpx.request(method, url, json=body, headers=headers, trust_env=False, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def answers(self, port: int) -> bool:
        """Whether the PDS on this port is healthy."""
        try:
            url = f"http://127.0.0.1:{port}/xrpc/_health"
            return httpx.get(url, trust_env=False, timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


@dataclass
class Move:
    """The seconds of one move of a host, from the power cut or from the command."""

    host: str
    began: float = field(default_factory=time.monotonic)
    at: dict[str, float] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None
    """The first and the last club's answer at the spare."""
    away: float | None = None
    """When the first club was away."""

    def seen(self, what: str) -> None:
        """Keep the first time of it."""
        self.at.setdefault(what, time.monotonic() - self.began)


def main() -> int:
    """Print the tables, or what is missing; exit code 0 in either case, since nothing is asserted."""
    if lines := missing(*PROGRAMS):
        print("\n".join(["Not measured here, a cluster under the real engine:", *lines]))
        return 0
    console = Console(emoji=False, width=140)
    with _cluster() as cluster:
        blank = memory_of(cluster.stack.docker_host.removeprefix("unix://").rpartition("/")[0])
        cluster.stack.pulumi(*UP, show=True)
        cluster.token = cluster.stack.outputs()["nomad_management_token"]
        cluster.club.pulumi(*UP)
        places = [(host, port) for host, ports in cluster.ports.items() for port in ports]
        for host, port in places[1:]:
            _copy(cluster, host, port)
        _wait(lambda: all(cluster.answers(port) for _, port in places), "all clubs")
        console.print(_memory(cluster, blank))
        cluster.stack.world.action_seconds = _ACTION_SECONDS
        console.print(_takeovers(cluster))
        console.print(_drains(cluster))
    return 0


@contextmanager
def _cluster() -> Iterator[Cluster]:
    numbers = iter(range(_FIRST_PORT, _FIRST_PORT + 100))
    ports = {host: [next(numbers) for _ in range(count)] for host, count in CLUBS.items()}
    with cluster_env() as made:
        made.stack.world.limits = Limits(droplets=20, reserved_ips=10)
        made.configure(
            {
                "servers": {"count": 1},
                "hosts": {host: {"volume_gib": 50} for host in CLUBS},
                # A worker that lost a host is no spare until it is rebuilt.
                "workers": {"size": "s-8vcpu-16gb", "spares": 2 * len(CLUBS)},
                "takeover": {"after_seconds": 60},
            },
            clubs={
                _name(port): {"host": host, "port": port, "disk_gib": 1, "memory_mib": _LIMIT_MIB}
                for host, members in ports.items()
                for port in members
            },
        )
        first = made.club(_name(_FIRST_PORT), _FIRST_PORT, on=made.stack.name, nomad={"datacenter": "a"})
        yield Cluster(made.stack, made.machines, first, ports)


def _name(port: int) -> str:
    number = port - _FIRST_PORT
    return f"club-{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}"


def _copy(cluster: Cluster, host: str, port: int) -> None:
    """Another club like the first one, in Nomad only."""
    first, name = _name(_FIRST_PORT), _name(port)
    [own] = cluster.machines.servers()
    api = NomadApi(cluster.machines.api_url(own), "", "", "", cluster.token)
    create_club(api, name, f"pds-{name}", 1, host)

    def of_first(path: str) -> Any:
        text = json.dumps(cluster.nomad(f"{path}?namespace={first}"))
        return json.loads(text.replace(first, name).replace(str(_FIRST_PORT), str(port)))

    for path in [variable["Path"] for variable in cluster.nomad(f"/v1/vars?namespace={first}")]:
        body = {"Namespace": name, "Path": path, "Items": of_first(f"/v1/var/{path}")["Items"]}
        cluster.nomad(f"/v1/var/{path}?namespace={name}", body)
    job = of_first("/v1/job/pds")
    job["Datacenters"] = [host]
    cluster.nomad(f"/v1/jobs?namespace={name}", {"Job": job})


def _wait(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} after {_PATIENCE:.0f} s")
        time.sleep(1)


def _takeovers(cluster: Cluster) -> Table:
    """A power cut of each host; what is Nomad's, what is ours, and what is the servers' own."""
    columns = ("down", "detach requested", "attached", "node ready", "started", "first answer", "all answer")
    table = Table("clubs", *columns, "Nomad's", "ours", "PDS's", "ratio", title="Seconds from a power cut")
    for host, ports in cluster.ports.items():
        move = Move(host)
        dead = cluster.machines.hosts()[host]
        cluster.machines.cut_power(dead)
        _follow(cluster, move, ports, dead.droplet_id)
        started = _started(cluster, host) - (time.time() - time.monotonic()) - move.began
        times = [move.at.get(what, float("nan")) for what in columns[:4]]
        down, _requested, attached, _ready = times
        first, last = move.first or float("nan"), move.last or float("nan")
        # The agent starts with the disk, before the API says that the attach is over.
        begun = max(started, attached)
        nomads, ours, pdses = down + begun - attached, attached - down, first - begun
        cells = [f"{cell:.0f}" for cell in (*times, started, first, last, nomads, ours, pdses)]
        table.add_row(str(len(ports)), *cells, f"{first / nomads:.2f}")
        print(f"{len(ports)} clubs after a power cut: {first:.0f} s to the first answer, {last:.0f} s", flush=True)
    return table


def _drains(cluster: Cluster) -> Table:
    """A drain of each host."""
    table = Table("clubs", "first answer", "all answer", "the command", title="Seconds away in a planned drain")
    for host, ports in cluster.ports.items():
        move = Move(host)
        before = cluster.machines.hosts()[host].droplet_id
        ended: list[float] = []

        def drain(host: str = host, ended: list[float] = ended, began: float = move.began) -> None:
            cluster.stack.pds_command("drain", cluster.stack.name, host, "--yes")
            ended.append(time.monotonic() - began)

        command = threading.Thread(target=drain, daemon=True)
        command.start()
        while command.is_alive() and all(cluster.answers(port) for port in ports):
            time.sleep(_PAUSE)
        move.away = time.monotonic() - move.began
        _follow(cluster, move, ports, before)
        command.join(_PATIENCE)
        first, last = (move.first or float("nan")) - move.away, (move.last or float("nan")) - move.away
        command_seconds = f"{ended[0]:.0f}" if ended else "-"
        table.add_row(str(len(ports)), f"{first:.0f}", f"{last:.0f}", command_seconds)
        print(f"{len(ports)} clubs drained: away for {first:.0f} to {last:.0f} s", flush=True)
    return table


def _follow(cluster: Cluster, move: Move, ports: list[int], before: int) -> None:
    """Watch a move until all clubs answer at another droplet."""
    volume_name = f"pds-{cluster.stack.name}-{move.host}"
    waiting, end = set(ports), time.monotonic() + _PATIENCE
    while waiting and time.monotonic() < end:
        nodes = [node for node in cluster.nomad("/v1/nodes") if node["Datacenter"] == move.host]
        if nodes and all(node["Status"] != "ready" for node in nodes):
            move.seen("down")
        account = cluster.stack.api.dump()
        [volume] = [item for item in account["volumes"].values() if item["name"] == volume_name]
        mine = [item for item in account["actions"].values() if item["volume_id"] == volume["id"]]
        if any(item["type"] == "detach" for item in mine):
            move.seen("detach requested")
        carriers = [number for number in volume["droplet_ids"] if number != before]
        if carriers:
            move.seen("attached")
            if any(node["Status"] == "ready" for node in nodes):
                move.seen("node ready")
            # Before the attach a port is closed, or it is the old server's.
            for port in [port for port in waiting if cluster.answers(port)]:
                waiting.discard(port)
                move.last = time.monotonic() - move.began
                move.first = move.first or move.last
        time.sleep(_PAUSE)


def _started(cluster: Cluster, host: str) -> float:
    """When Nomad started the first server of the host's clubs on its present droplet, as Unix time."""
    [node] = [item["ID"] for item in cluster.nomad("/v1/nodes") if item["Datacenter"] == host]
    times: list[float] = []
    for allocation in cluster.nomad(f"/v1/node/{node}/allocations"):
        state = (allocation["TaskStates"] or {}).get("pds") or {}
        if allocation["ClientStatus"] == "running" and allocation["Namespace"] != "default" and state.get("Events"):
            times.append(max(int(event["Time"]) for event in state["Events"] if event["Type"] == "Started") / 1e9)
    return min(times)


def _memory(cluster: Cluster, blank: float) -> Table:
    """Memory of a server, and of what a blank spare runs beside Debian."""
    [server] = cluster.machines.servers().values()
    table = Table("what", "MiB", title=f"Memory, {sum(CLUBS.values())} clubs")
    table.add_row("a server: Nomad with the takeover's job", f"{memory_of(str(server.root.parent)):.0f}")
    table.add_row("a blank spare: Docker without containers", f"{blank:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
