"""`make e2e_env`, its third part: many clubs on one host, under the real engine; as root, some minutes.

It answers two questions. How does the time of `./pds preview-all` grow with the number of clubs? How much of a host's
memory and cost does a club need, with 1, 5 and 20 of them? None of the clubs is up when previews are timed, so each
shows all its resources.

Nothing is asserted. The cost of a host is that of the table in `cli/stacks/prices.json`: the smallest droplet on which
these limits fit, with an ingress, and a volume with club_terms for every quota.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.stacks.prices import listed
from components.settings.checks.capacity import SYSTEM_RESERVE_MIB
from components.settings.sections import HostOptions, IngressOptions
from components.settings.sections.placement import ClubOptions
from tests.e2e.environment.bare import memory_mib
from tests.e2e.environment.environment import PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.tools import missing, run
from tests.e2e.figures import resident_mib
from tests.e2e.images.build import PDS_TAG

_PREVIEWED = (1, 10, 50)
_HOSTED = (1, 5, 20)
_LIMIT_MIB = 256
"""Memory of each server; it uses half of it when idle."""
_AT_ONCE = 4
"""Concurrent engines, as in `up-all`."""
_SERVER_MHZ, _INGRESS_MHZ = 500, 300
"""Memory that their jobs reserve in Nomad."""
_MHZ = 2000
"""Nomad's minimum for a droplet's processor."""
_SETTLED = 30.0
_FIRST_PORT = 13101
"""Not the first ports of clubs, which another e2e_env on this machine may use."""


def main() -> int:
    """Print the tables, or what is missing; exit code 0 in either case, since nothing is asserted."""
    if lines := missing(*PROGRAMS):
        print("\n".join(["Not measured here, many clubs under the real engine:", *lines]))
        return 0
    console = Console(emoji=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with tempfile.TemporaryDirectory(prefix="pds-host-clubs-") as folder, e2e_env(Path(folder), cache) as running:
        names = [f"club-{_letters(number)}" for number in range(max(*_PREVIEWED, *_HOSTED))]
        running.configure(
            host={"size": "s-8vcpu-16gb"},
            volume={"size_gib": 100},
            pds={"memory_mib": _LIMIT_MIB},
            clubs={name: club_terms(number) for number, name in enumerate(names)},
        )
        running.pulumi("up", "--yes", "--skip-preview", show=True)
        clubs: list[E2eEnvironment] = []
        console.print(_previews(running, clubs, names))
        console.print(_memory(running, clubs))
    return 0


def _letters(number: int) -> str:
    return f"{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}"


def club_terms(number: int) -> dict[str, int]:
    """The host's entry for a club."""
    return {"port": _FIRST_PORT + number, "disk_gib": 1, "memory_mib": _LIMIT_MIB}


def _make(running: E2eEnvironment, clubs: list[E2eEnvironment], names: Sequence[str]) -> None:
    """Stacks and files of these clubs, after the existing ones."""
    for number, name in list(enumerate(names))[len(clubs) :]:
        config = {
            "pds:hostname": f"{name}.test",
            "pds:on": running.name,
            "pds:dns": {"zone": f"{name}.test", "create_zone": True, "nameservers": [running.nameserver]},
            "pds:ingress": {"kind": "none"},
            "pds:pds": {
                "image": PDS_TAG,
                "port": club_terms(number)["port"],
                "memory_mib": _LIMIT_MIB,
                "new": True,
                "escrow": "declined",
                "crawlers": [],
            },
        }
        clubs.append(running.beside(name, config))


def _previews(running: E2eEnvironment, clubs: list[E2eEnvironment], names: Sequence[str]) -> Table:
    """`./pds preview-all` over more and more of them; the host's own stack is one more each time."""
    columns = ("clubs", "s", "s a stack", "ratio to the first", "CPU s a stack", "ratio to the first")
    table = Table(*columns, title="./pds preview-all, four engines at once")
    first = first_cpu = 0.0
    for count in _PREVIEWED:
        _make(running, clubs, names[:count])
        before = _cpu()
        seconds = running.pds_command("preview-all").seconds
        each, cpu = seconds / (count + 1), (_cpu() - before) / (count + 1)
        first, first_cpu = first or each, first_cpu or cpu
        cells = (f"{seconds:.0f}", f"{each:.2f}", f"{each / first:.2f}", f"{cpu:.2f}", f"{cpu / first_cpu:.2f}")
        table.add_row(str(count), *cells)
    return table


def _cpu() -> float:
    """Processor time of the finished child processes, without other work on the machine."""
    times = os.times()
    return times.children_user + times.children_system


def _memory(running: E2eEnvironment, clubs: list[E2eEnvironment]) -> Table:
    """Memory of their containers, idle, and the cost of a host for this many."""
    columns = ("clubs", "servers, MiB", "each, MiB", "Nomad and Docker, MiB", "by limits, MiB", "droplet", "USD each")
    table = Table(*columns, title=f"One host, its own PDS and its clubs, idle; limit {_LIMIT_MIB} MiB")
    up = 0
    for count in _HOSTED:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda club: club.pulumi("up", "--yes", "--skip-preview"), clubs[up:count]))
        up = count
        time.sleep(_SETTLED)
        containers = run(["docker", "ps", "--quiet", "--filter", "name=^pds-"], running.docker_host).split()
        whole = sum(memory_mib(container, running.docker_host) for container in containers)
        assert len(containers) == count + 1, "every club runs"
        limits = SYSTEM_RESERVE_MIB + IngressOptions().memory_mib + _LIMIT_MIB * (count + 1)
        size, each = _cost(limits, count)
        cells = (whole, whole / len(containers), resident_mib(running), limits)
        table.add_row(str(count), *(f"{cell:.0f}" for cell in cells), size, each)
        print(f"{count} clubs: {whole:.0f} MiB", flush=True)
    return table


def _cost(limits: int, count: int) -> tuple[str, str]:
    """The smallest droplet of the price table with enough memory and processors, and a PDS's share of it and its
    volume."""
    prices, gib = listed(), ClubOptions.model_fields["disk_gib"].default * (count + 1)
    mhz = _INGRESS_MHZ + _SERVER_MHZ * (count + 1)
    fitting = [
        size
        for size in prices.droplets
        if HostOptions(size=size).memory_mib >= limits and _processors(size) * _MHZ >= mhz
    ]
    if not fitting:
        return "-", "-"
    size = min(fitting, key=lambda size: prices.droplets[size])
    return size, f"{(prices.droplets[size] + prices.gib * gib) / (count + 1):.2f}"


def _processors(size: str) -> int:
    return int(size.split("-")[1].removesuffix("vcpu"))


if __name__ == "__main__":
    sys.exit(main())
