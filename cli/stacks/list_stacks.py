"""Every stack of the project in one table, the cost of each, and the host with capacity for the next; `./pds list`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.stack import Stack, digitalocean_token
from cli.stacks import prices
from cli.stacks.inspect_stack import GIB, MIB, StackStatus, Usage, inspect_stack
from cli.stacks.prices import Prices
from cli.stacks.stack_files import KnownStack
from components.settings.checks.capacity import allocatable_mib, host_room, memory_demand
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings

NEXT_CLUB = ClubOptions(port=3101)
"""The defaults of the next club."""

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class StackRow:
    """A stack, the findings, and its share of its host's price."""

    stack: str
    hostname: str | None
    host: str
    status: StackStatus
    usd_per_month: float | None


@dataclass(frozen=True, kw_only=True)
class FreeCapacity:
    """The rest of a host by its stack file, after the clubs and its own reserve."""

    host: str
    """Its stack."""
    memory_mib: int
    disk_gib: int
    cluster_host: str | None = None
    """Its name, if the stack is a cluster."""
    mhz: int | None = None
    """Processor share; None if it is not counted."""

    @property
    def fits(self) -> bool:
        """Return whether the next club fits."""
        mhz = self.mhz is None or self.mhz >= NEXT_CLUB.job_demand.mhz
        return mhz and self.memory_mib >= NEXT_CLUB.memory_mib and self.disk_gib >= NEXT_CLUB.disk_gib

    def __str__(self) -> str:
        return f"host {self.cluster_host} of {self.host}" if self.cluster_host else self.host


@dataclass(frozen=True, kw_only=True)
class StackList:
    """The whole report."""

    rows: tuple[StackRow, ...]
    capacities: tuple[FreeCapacity, ...]
    prices: Prices
    notes: tuple[str, ...]

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(
            {
                "stacks": [_plain(row) for row in self.rows],
                "free_capacity": [asdict(capacity) | {"fits": capacity.fits} for capacity in self.capacities],
                "next_club": {"memory_mib": NEXT_CLUB.memory_mib, "disk_gib": NEXT_CLUB.disk_gib},
                "prices": {"rule": prices.RULE, "sources": list(self.prices.sources)},
                "notes": list(self.notes),
            },
            indent=1,
        )

    def print_to(self, console: Console) -> None:
        """Print the report."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, right in _COLUMNS.items():
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*_cells(row))
        console.print(table)
        console.print()
        for line in self._lines():
            console.print(line, markup=False)

    def _lines(self) -> Iterator[str]:
        yield f"Cost: {prices.RULE} Prices of {'; '.join(self.prices.sources)}."
        for capacity in self.capacities:
            yield (
                f"Free on {capacity}, by its stack file: {capacity.memory_mib} MiB of memory and "
                f"{capacity.disk_gib} GiB of "
                f"disk; the next club (memory_mib {NEXT_CLUB.memory_mib}, disk_gib {NEXT_CLUB.disk_gib}) "
                f"{'fits' if capacity.fits else 'does not fit'}."
            )
        fitting = max(
            (host for host in self.capacities if host.fits),
            key=lambda host: (host.memory_mib, host.disk_gib),
            default=None,
        )
        if fitting:
            where = f"{fitting.host} --host {fitting.cluster_host}" if fitting.cluster_host else fitting.host
            yield f"The next one: ./pds new NAME --hostname pds.their-club.org --on {where}"
        elif self.capacities:
            yield (
                "No host has capacity: raise 'host.size' or 'volume.size_gib' of one (of a cluster "
                "'cluster.workers.size' or 'cluster.hosts.NAME.volume_gib'), add a host to a cluster, or give the next "
                "club its own."
            )
        yield from self.notes


_COLUMNS = {
    "stack": False,
    "host": False,
    "state": False,
    "version": False,
    "accounts": True,
    "disk": True,
    "memory": True,
    "last backup": False,
    "last drill": False,
    "a month": True,
}
"""Column to whether it has figures."""


def stack_list(root: Path, stacks: Sequence[KnownStack]) -> StackList:
    """Inspect all stacks. Raises no error that one of them causes."""
    price_list, notes = _prices(root, stacks)
    by_name = {stack.name: stack for stack in stacks}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        statuses = list(
            pool.map(lambda stack: inspect_stack(Stack(stack.name, root), stack, _limit(stack, by_name)), stacks)
        )
    rows = tuple(
        StackRow(
            stack=stack.name,
            hostname=stack.settings.hostname if stack.settings and not stack.settings.cluster else None,
            host=_where(stack, by_name),
            status=status,
            usd_per_month=_cost(stack, by_name, price_list) if status.state not in ("no stack", "no up yet") else None,
        )
        for stack, status in zip(stacks, statuses, strict=True)
    )
    capacities = tuple(
        capacity for stack in stacks if stack.has_a_host and stack.created for capacity in _free_capacities(stack)
    )
    notes += [note for stack in stacks if stack.created for note in _cost_of_cluster(stack, price_list)]
    notes += [f"{row.stack}: {note}" for row in rows for note in row.status.notes]
    return StackList(rows=rows, capacities=capacities, prices=price_list, notes=tuple(notes))


def _prices(root: Path, stacks: Sequence[KnownStack]) -> tuple[Prices, list[str]]:
    made = [stack for stack in stacks if stack.created and stack.has_a_host]
    token = digitalocean_token(Stack(made[0].name, root)) if made else None
    if not token:
        return prices.listed(), []
    try:
        with DigitalOceanAccount(token) as account:
            return prices.of_account(account), []
    except DigitalOceanError as error:
        return prices.listed(), [f"prices: {error}"]


def _limit(stack: KnownStack, stacks: Mapping[str, KnownStack]) -> int | None:
    """Return the limit of its data, in bytes: of a club its quota, of a host's own PDS the volume."""
    if stack.has_a_host and stack.settings:
        return stack.settings.volume.size_gib * GIB
    host = stacks.get(stack.host)
    grant = host.settings.clubs.get(stack.name) if host and host.settings else None
    return grant.disk_gib * GIB if grant else None


def _where(stack: KnownStack, stacks: Mapping[str, KnownStack]) -> str:
    """Return the host of a PDS; on a cluster with the name of the host there."""
    cluster = stacks.get(stack.host)
    grant = cluster.settings.clubs.get(stack.name) if cluster and cluster.settings else None
    return f"{stack.where}/{grant.host}" if grant and grant.host else stack.where or "-"


def _cost_of_cluster(stack: KnownStack, price_list: Prices) -> Iterator[str]:
    """Yield what the whole cluster costs: its own row is no PDS."""
    settings = stack.settings
    cluster = settings.cluster if settings else None
    if settings is None or cluster is None:
        return
    whole = price_list.host(settings)
    servers, workers, hosts = cluster.servers.count, cluster.worker_count, len(cluster.hosts)
    parts = f"{servers} of {cluster.servers.size}, {workers} of {cluster.workers.size}, {hosts} volumes"
    cost = f"${whole:.2f}" if whole is not None else "an unknown price"
    each = (
        f", ${whole / len(settings.clubs):.2f} for each of {len(settings.clubs)} clubs"
        if settings.clubs and whole
        else ""
    )
    yield f"{stack.name}: the cluster costs {cost} a month ({parts}){each}."


def _cost(stack: KnownStack, stacks: Mapping[str, KnownStack], price_list: Prices) -> float | None:
    host = stacks.get(stack.host)
    if host is None or host.settings is None or not host.has_a_host or (stack.settings and stack.settings.cluster):
        return None
    return price_list.each(host.settings)


def _free_capacities(stack: KnownStack) -> Iterator[FreeCapacity]:
    settings = stack.settings
    assert settings
    if settings.cluster is None:
        yield _free_capacity(stack.name, settings)
        return
    for host in settings.cluster.hosts:
        room = host_room(settings, host)
        yield FreeCapacity(
            host=stack.name, cluster_host=host, memory_mib=room.memory_mib, disk_gib=room.disk_gib, mhz=room.mhz
        )


def _free_capacity(name: str, settings: Settings) -> FreeCapacity:
    memory = allocatable_mib(settings.host.memory_mib) - memory_demand(settings)
    # Its own PDS has no quota: it reserves the default of a club.
    disk = settings.volume.size_gib - NEXT_CLUB.disk_gib - sum(club.disk_gib for club in settings.clubs.values())
    return FreeCapacity(host=name, memory_mib=memory, disk_gib=disk)


def _plain(row: StackRow) -> Mapping[str, Any]:
    status = asdict(row.status)
    return {
        "stack": row.stack,
        "hostname": row.hostname,
        "host": row.host,
        **status,
        "usd_per_month": row.usd_per_month,
    }


def _cells(row: StackRow) -> tuple[str, ...]:
    status = row.status
    return (
        row.stack,
        row.host,
        status.state,
        status.version or "-",
        "-" if status.accounts is None else str(status.accounts),
        _of(status.disk),
        _of(status.memory),
        _time(status.backup),
        _time(status.drill),
        "-" if row.usd_per_month is None else f"${row.usd_per_month:.2f}",
    )


def _of(used: Usage) -> str:
    if used.used is None:
        return "-"
    return f"{_size(used.used)} of {_size(used.limit)}" if used.limit else _size(used.used)


def _size(count: int) -> str:
    """Return GiB from one on, else MiB."""
    return f"{count / GIB:.1f}".removesuffix(".0") + " GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _time(text: str | None) -> str:
    """Return a time to the minute, in UTC."""
    return "-" if text is None else text if text.startswith("none") else f"{text[:10]} {text[11:16]} UTC"
