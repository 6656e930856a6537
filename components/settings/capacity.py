"""What Nomad counts of a droplet, and whether the processors suffice for what the jobs ask for."""

import re
from collections.abc import Iterator

from components.settings.faults import Fault
from components.settings.settings import Settings

_SEEN = 0.94
"""Nomad counts MemTotal, which lacks what kernel and firmware keep: the least part of the nominal size that is left."""

_MHZ_OF_A_VCPU = 2000
"""The slowest of DigitalOcean's regular processors. Nomad counts what /proc/cpuinfo says."""

PDS_MHZ, INGRESS_MHZ, BACKUP_MHZ, SMALL_MHZ = 500, 300, 200, 100
"""What a task asks for: the server; the ingress; restic; every other one."""


def allocatable_mib(nominal: int, reserved: int) -> int:
    """Memory for jobs on a droplet of `nominal` MiB, of which Nomad leaves `reserved` to the system."""
    return int(nominal * _SEEN) - reserved


def processor_asked(settings: Settings) -> dict[str, int]:
    """What this stack's jobs take on its host, by section, in MHz. Of all backups one at a time: the others wait for a
    place, which a server would do for ever."""
    return {
        "pds": PDS_MHZ,
        "ingress": INGRESS_MHZ if settings.ingress_is_ours else 0,
        "alerts": SMALL_MHZ if settings.alerts and settings.alerts.ping_url else 0,
        "members": SMALL_MHZ if any(member.email_verified for member in settings.members) else 0,
        "backup": BACKUP_MHZ if settings.backup or settings.clubs else 0,
        "clubs": len(settings.clubs) * PDS_MHZ,
    }


def processor_faults(settings: Settings) -> Iterator[Fault]:
    """Jobs that ask for more than the droplet's processors, for which Nomad would find no place."""
    named = re.search(r"(?:^|-)([0-9]+)vcpu-", settings.host.size)
    if settings.on or not named:
        return  # what there is, its owner says; a size that names no processors has two at least
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
