"""The monthly cost of a host: by the account's own prices if available, else by a table with its date.

The API has prices of droplets (`price_monthly` of /v2/sizes) and none of volumes. A price that is in neither is
unknown; none is invented. A reserved IP costs nothing while it is assigned. Not included: Spaces, where backups go,
which is a subscription of the whole account, traffic beyond the included amount, and tax.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.lib.digitalocean import DigitalOceanAccount
from components.settings.sections.settings import Settings

PRICE_TABLE: Mapping[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text())

RULE = (
    "Droplet and volume of the host, or all droplets and volumes of the cluster, divided by the PDSes on it: its own, "
    "and the clubs in its stack file."
)


@dataclass(frozen=True)
class Prices:
    """USD a month by droplet size, and for one GiB of volume; `sources` name the source of each."""

    droplets: Mapping[str, float]
    gib: float
    sources: tuple[str, ...]

    def host(self, settings: Settings) -> float | None:
        """Return droplets and volumes of a host or a cluster; None if a size has no known price."""
        if cluster := settings.cluster:
            server, worker = self.droplets.get(cluster.servers.size), self.droplets.get(cluster.workers.size)
            if server is None or worker is None:
                return None
            gib = sum(host.volume_gib for host in cluster.hosts.values())
            return cluster.servers.count * server + cluster.worker_count * worker + self.gib * gib
        droplet = self.droplets.get(settings.host.size)
        return None if droplet is None else droplet + self.gib * settings.volume.size_gib

    def each(self, settings: Settings) -> float | None:
        """Return the same for each PDS on it."""
        whole = self.host(settings)
        pdses = len(settings.clubs) + (0 if settings.cluster else 1)
        return None if whole is None else whole / max(1, pdses)


def listed() -> Prices:
    """Return those of the table."""
    return Prices(
        PRICE_TABLE["droplets"]["usd_per_month"],
        PRICE_TABLE["volumes"]["usd_per_gib_and_month"],
        (f"droplets: {_source('droplets')}", f"volumes: {_source('volumes')}"),
    )


def of_account(account: DigitalOceanAccount) -> Prices:
    """Return droplets by the account's own prices. Raises DigitalOceanError."""
    sizes = {str(size["slug"]): float(size["price_monthly"]) for size in account.list_all("sizes")}
    sources = ("droplets: this account's own prices, queried now", f"volumes: {_source('volumes')}")
    return Prices(sizes, PRICE_TABLE["volumes"]["usd_per_gib_and_month"], sources)


def _source(kind: str) -> str:
    return f"of {PRICE_TABLE[kind]['date']}, {PRICE_TABLE[kind]['source']}"
