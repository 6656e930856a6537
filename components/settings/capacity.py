"""The resources that Nomad counts on a droplet, and whether its processors suffice for the jobs."""

import re
from collections.abc import Iterator

from components.settings.faults import Fault
from components.settings.settings import Settings

_SEEN = 0.94
"""Smallest share of the nominal size that MemTotal, which Nomad counts, shows; kernel and firmware keep the rest."""

_MHZ_OF_A_VCPU = 2000
"""The slowest of DigitalOcean's regular processors. Nomad counts the value in /proc/cpuinfo."""

PDS_MHZ, INGRESS_MHZ, BACKUP_MHZ, SMALL_MHZ = 500, 300, 200, 100
"""Processor demand of a task: the server, the ingress, restic, every other task."""


def allocatable_mib(nominal: int, reserved: int) -> int:
    """Memory for jobs on a droplet of `nominal` MiB, of which Nomad reserves `reserved` for the system."""
    return int(nominal * _SEEN) - reserved


def processor_asked(settings: Settings) -> dict[str, int]:
    """Processor demand of this stack's jobs on its host, by section, in MHz. Of all backups it counts one at a time:
    the others can wait for capacity, but a server would wait for ever."""
    return {
        "pds": PDS_MHZ,
        "ingress": INGRESS_MHZ if settings.ingress_is_ours else 0,
        "alerts": SMALL_MHZ if settings.alerts and settings.alerts.ping_url else 0,
        "members": SMALL_MHZ if any(member.email_verified for member in settings.members) else 0,
        "backup": BACKUP_MHZ if settings.backup or settings.clubs else 0,
        "clubs": len(settings.clubs) * PDS_MHZ,
    }


def processor_faults(settings: Settings) -> Iterator[Fault]:
    """Jobs that need more than the droplet's processors, which Nomad could not place."""
    named = re.search(r"(?:^|-)([0-9]+)vcpu-", settings.host.size)
    if settings.on or not named:
        return  # the operator knows an existing host; a size that names no processors has at least two
    vcpus = int(named[1])
    asked = processor_asked(settings)
    wanted = sum(asked.values())
    if wanted > vcpus * _MHZ_OF_A_VCPU:
        yield Fault(
            "host.size",
            f"{settings.host.size} has about {vcpus * _MHZ_OF_A_VCPU} MHz; the jobs ask for {wanted} MHz "
            f"({', '.join(f'{part} {mhz}' for part, mhz in asked.items() if mhz)}).",
            f"Write a size with {-(-wanted // _MHZ_OF_A_VCPU)} processors or more, or give room to fewer 'clubs'.",
        )
