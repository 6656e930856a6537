"""`./pds clubs`: every stack of the project in one table, the cost of each, and the host with room for the next club.

A stack is a file `Pulumi.STACK.yaml` here, or a stack of this project in the backend. `-` means unknown; the reason is
printed below the table.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.settings.capacity import allocatable_mib
from components.settings.checks import SYSTEM_RESERVE_MIB, memory_asked
from components.settings.placement import Club
from tools.account import Account, AccountError
from tools.clubs import prices
from tools.clubs.known import Known
from tools.clubs.look import GIB, MIB, Found, Used, look
from tools.clubs.prices import Prices
from tools.stack import Stack, digitalocean_token

NEXT = Club(port=3101)
"""The defaults of the next club."""

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stack, the findings, and its share of its host's price."""

    stack: str
    hostname: str | None
    host: str
    found: Found
    usd_per_month: float | None


@dataclass(frozen=True, kw_only=True)
class Room:
    """The rest of a host by its stack file, after the clubs and its own reserve."""

    host: str
    memory_mib: int
    disk_gib: int

    @property
    def fits(self) -> bool:
        """Return whether the next club fits."""
        return self.memory_mib >= NEXT.memory_mib and self.disk_gib >= NEXT.disk_gib


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report."""

    rows: tuple[Row, ...]
    rooms: tuple[Room, ...]
    prices: Prices
    notes: tuple[str, ...]

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(
            {
                "clubs": [_plain(row) for row in self.rows],
                "rooms": [asdict(room) | {"fits": room.fits} for room in self.rooms],
                "next": {"memory_mib": NEXT.memory_mib, "disk_gib": NEXT.disk_gib},
                "prices": {"rule": prices.RULE, "sources": list(self.prices.sources)},
                "notes": list(self.notes),
            },
            indent=1,
        )

    def tell(self, console: Console) -> None:
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
        for room in self.rooms:
            yield (
                f"Room on {room.host}, by its stack file: {room.memory_mib} MiB of memory and {room.disk_gib} GiB of "
                f"disk; the next club (memory_mib {NEXT.memory_mib}, disk_gib {NEXT.disk_gib}) "
                f"{'fits' if room.fits else 'does not fit'}."
            )
        fitting = max((room for room in self.rooms if room.fits), key=lambda room: room.memory_mib, default=None)
        if fitting:
            yield f"The next one: ./pds club NAME --hostname pds.their-club.org --on {fitting.host}"
        elif self.rooms:
            yield "No host has room: raise 'host.size' or 'volume.size_gib' of one, or give the next club its own."
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


def report(root: Path, stacks: Sequence[Known]) -> Report:
    """Inspect all stacks. Raises no error that one of them causes."""
    found, notes = _prices(root, stacks)
    by_name = {stack.name: stack for stack in stacks}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        looked = list(pool.map(lambda stack: look(Stack(stack.name, root), stack, _limit(stack, by_name)), stacks))
    rows = tuple(
        Row(
            stack=stack.name,
            hostname=stack.settings.hostname if stack.settings else None,
            host=stack.where or "-",
            found=what,
            usd_per_month=_cost(stack, by_name, found) if what.state not in ("no stack", "no up yet") else None,
        )
        for stack, what in zip(stacks, looked, strict=True)
    )
    rooms = tuple(_room(stack) for stack in stacks if stack.has_a_host and stack.made)
    notes += [f"{row.stack}: {note}" for row in rows for note in row.found.notes]
    return Report(rows=rows, rooms=rooms, prices=found, notes=tuple(notes))


def _prices(root: Path, stacks: Sequence[Known]) -> tuple[Prices, list[str]]:
    made = [stack for stack in stacks if stack.made and stack.has_a_host]
    token = digitalocean_token(Stack(made[0].name, root)) if made else None
    if not token:
        return prices.listed(), []
    try:
        with Account(token) as account:
            return prices.of_account(account), []
    except AccountError as error:
        return prices.listed(), [f"prices: {error}"]


def _limit(stack: Known, stacks: Mapping[str, Known]) -> int | None:
    """Return the limit of its data, in bytes: of a club its quota, of a host's own PDS the volume."""
    if stack.has_a_host and stack.settings:
        return stack.settings.volume.size_gib * GIB
    host = stacks.get(stack.host)
    gets = host.settings.clubs.get(stack.name) if host and host.settings else None
    return gets.disk_gib * GIB if gets else None


def _cost(stack: Known, stacks: Mapping[str, Known], found: Prices) -> float | None:
    host = stacks.get(stack.host)
    if host is None or host.settings is None or not host.has_a_host:
        return None
    return found.each(host.settings)


def _room(stack: Known) -> Room:
    settings = stack.settings
    assert settings
    memory = allocatable_mib(settings.host.memory_mib, SYSTEM_RESERVE_MIB) - sum(memory_asked(settings).values())
    # Its own PDS has no quota: it reserves the default of a club.
    disk = settings.volume.size_gib - NEXT.disk_gib - sum(club.disk_gib for club in settings.clubs.values())
    return Room(host=stack.name, memory_mib=memory, disk_gib=disk)


def _plain(row: Row) -> Mapping[str, Any]:
    found = asdict(row.found)
    return {"stack": row.stack, "hostname": row.hostname, "host": row.host, **found, "usd_per_month": row.usd_per_month}


def _cells(row: Row) -> tuple[str, ...]:
    found = row.found
    return (
        row.stack,
        row.host,
        found.state,
        found.version or "-",
        "-" if found.accounts is None else str(found.accounts),
        _of(found.disk),
        _of(found.memory),
        _time(found.backup),
        _time(found.drill),
        "-" if row.usd_per_month is None else f"${row.usd_per_month:.2f}",
    )


def _of(used: Used) -> str:
    if used.used is None:
        return "-"
    return f"{_size(used.used)} of {_size(used.limit)}" if used.limit else _size(used.used)


def _size(count: int) -> str:
    """Return GiB from one on, else MiB."""
    return f"{count / GIB:.1f}".removesuffix(".0") + " GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _time(text: str | None) -> str:
    """Return a time to the minute, in UTC."""
    return "-" if text is None else text if text.startswith("none") else f"{text[:10]} {text[11:16]} UTC"
