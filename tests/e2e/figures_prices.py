"""What a cluster costs with 2, 5 and 10 hosts, from `cli/stacks/prices.json` alone; a part of `make bench`.

Each host has as many clubs as the program lets onto it: by memory, processors and disk, as `./pds new` counts them.
"""

import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from cli.stacks.prices import PRICE_TABLE, listed
from components.settings.checks.capacity import host_room
from components.settings.parse import read
from components.settings.sections.placement import FIRST_CLUB_PORT, ClubOptions
from components.settings.sections.settings import Settings

HOSTS = (2, 5, 10)
WORKERS = ("s-2vcpu-4gb", "s-4vcpu-8gb")
_DOCUMENT = {
    "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
    "ingress": {"kind": "caddy"},
}


@dataclass(frozen=True)
class Priced:
    """A cluster that is full."""

    hosts: int
    workers: str
    """Size of each worker."""
    clubs: int
    usd: float
    """A month, for all of it."""


def priced() -> Iterator[Priced]:
    """Each number of hosts with each size of workers, one spare and three servers."""
    for workers in WORKERS:
        clubs = _clubs_of_a_host(workers)
        for hosts in HOSTS:
            settings = _cluster(hosts, workers, clubs * hosts)
            usd = listed().host(settings)
            assert usd is not None, "the table has the sizes"
            yield Priced(hosts, workers, clubs * hosts, usd)


def _clubs_of_a_host(workers: str) -> int:
    clubs = 0
    while host_room(_cluster(1, workers, clubs), "a").fits(ClubOptions(port=FIRST_CLUB_PORT)):
        clubs += 1
    return clubs


def _cluster(hosts: int, workers: str, clubs: int) -> Settings:
    names = string.ascii_lowercase[:hosts]
    # By turns: club-ab is the second one.
    places = {f"club-{_letters(at)}": {"host": names[at % hosts], "port": FIRST_CLUB_PORT + at} for at in range(clubs)}
    cluster = {"hosts": {name: {} for name in names}, "workers": {"size": workers, "spares": 1}}
    return read({**_DOCUMENT, "cluster": cluster, "clubs": places}, "Pulumi.fleet.yaml", "fleet")


def _letters(number: int) -> str:
    return string.ascii_lowercase[number // 26] + string.ascii_lowercase[number % 26]


def main() -> int:
    """Print the table."""
    date = PRICE_TABLE["droplets"]["date"]
    table = Table("hosts", "workers", "clubs", "USD a month", "USD a club", title=f"A full cluster, prices of {date}")
    for row in priced():
        table.add_row(str(row.hosts), row.workers, str(row.clubs), f"{row.usd:.2f}", f"{row.usd / row.clubs:.2f}")
    Console(emoji=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
