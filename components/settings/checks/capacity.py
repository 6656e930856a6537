"""Whether a droplet has the memory and the processors that its Nomad jobs reserve, and the room on a cluster's hosts.

Each section of the stack file states the demand of its jobs (`Section.job_demand`). This module adds them up.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.settings.fields.errors import Fault
from components.settings.fields.job_demand import BACKUP_MHZ, JobDemand
from components.settings.fields.option import Section
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings

SYSTEM_RESERVE_MIB = 512
"""Memory reserved for Debian, Docker and the Nomad agent, in MiB; Nomad's `reserved.memory`."""

_VISIBLE_MEMORY = 0.94
"""Smallest share of the nominal size that MemTotal, which Nomad counts, shows; kernel and firmware keep the rest."""

_MHZ_OF_A_VCPU = 2000
"""The slowest of DigitalOcean's regular processors. Nomad counts the value in /proc/cpuinfo."""

_SIZES = {1: "s-1vcpu-1gb", 2: "s-1vcpu-2gb", 4: "s-2vcpu-4gb", 8: "s-4vcpu-8gb", 16: "s-8vcpu-16gb"}
"""Basic droplets by their GiB, to suggest one that is large enough."""


def allocatable_mib(nominal: int) -> int:
    """Memory that Nomad gives to jobs on a droplet of `nominal` MiB, in MiB."""
    return int(nominal * _VISIBLE_MEMORY) - SYSTEM_RESERVE_MIB


def allocatable_mhz(size: str) -> int | None:
    """Processor share that a droplet of this size slug has; None if it names no processors, and has at least two."""
    stated = re.search(r"(?:^|-)([0-9]+)vcpu-", size)
    return int(stated[1]) * _MHZ_OF_A_VCPU if stated else None


def job_demands(settings: Settings) -> dict[str, JobDemand]:
    """What this stack's jobs reserve on its host, by section; sections without jobs are omitted."""
    demands = {name: _section_demand(getattr(settings, name)) for name in type(settings).model_fields}
    if not settings.ingress_is_ours:
        del demands["ingress"]
    if settings.clubs and not settings.backup:
        # The clubs' backups run one at a time: the others can wait for capacity. A server would wait for ever.
        demands["backup"] = JobDemand(mhz=BACKUP_MHZ)
    return {name: demand for name, demand in demands.items() if demand != JobDemand()}


def _section_demand(value: object) -> JobDemand:
    """The demand of an option's value: a section, a list or a map of sections, or a plain value."""
    entries = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
    sections = [entry for entry in entries if isinstance(entry, Section)]
    return type(sections[0]).total_demand(sections) if sections else JobDemand()


def memory_demand(settings: Settings) -> int:
    """Memory that this stack's jobs reserve on its host, in MiB."""
    return sum(demand.memory_mib for demand in job_demands(settings).values())


def processor_demand(settings: Settings) -> int:
    """Processor share that this stack's jobs reserve on its host, in MHz."""
    return sum(demand.mhz for demand in job_demands(settings).values())


def memory_faults(settings: Settings) -> Iterator[Fault]:
    """Jobs that reserve more than the droplet's memory, which Nomad could not place."""
    if settings.on:
        return  # the operator knows the capacity of an existing host
    available, demand = allocatable_mib(settings.host.memory_mib), memory_demand(settings)
    if demand > available:
        fitting = [size for gib, size in _SIZES.items() if demand <= allocatable_mib(gib * 1024)]
        larger = f"Write a larger size, for example '{fitting[0]}', or lower" if fitting else "Lower"
        by_section = {name: part.memory_mib for name, part in job_demands(settings).items() if part.memory_mib}
        yield Fault(
            "host.size",
            f"{settings.host.size} has {available} MiB for jobs, after what kernel and system keep. The jobs reserve "
            f"{demand} MiB ({_listed(by_section)}).",
            f"{larger} 'pds.memory_mib'.",
        )


def processor_faults(settings: Settings) -> Iterator[Fault]:
    """Jobs that reserve more than the droplet's processors, which Nomad could not place."""
    available, demand = allocatable_mhz(settings.host.size), processor_demand(settings)
    if settings.on or available is None:
        return  # the operator knows an existing host
    if demand > available:
        by_section = {name: part.mhz for name, part in job_demands(settings).items()}
        yield Fault(
            "host.size",
            f"{settings.host.size} has about {available} MHz. The jobs reserve {demand} MHz ({_listed(by_section)}).",
            f"Write a size with {-(-demand // _MHZ_OF_A_VCPU)} processors or more, or remove some of the 'clubs'.",
        )


def _listed(by_section: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {amount}" for name, amount in by_section.items())


RESERVE_GIB = 5
"""Of the volume of a cluster's host, for Nomad, the ingress and what backups need for a while."""


@dataclass(frozen=True, kw_only=True)
class HostRoom:
    """What is left on a host of a cluster, after its ingress and its clubs, with those that are leaving it; negative if
    they reserve too much."""

    host: str
    memory_mib: int
    disk_gib: int
    mhz: int | None
    """None if the size of the workers names no processors."""

    def fits(self, club: ClubOptions) -> bool:
        """Whether the club has room, too."""
        mhz = self.mhz is None or self.mhz >= club.job_demand.mhz
        return mhz and self.memory_mib >= club.memory_mib and self.disk_gib >= club.disk_gib


def host_room(settings: Settings, host: str) -> HostRoom:
    """The room on a host of the cluster, by the stack file."""
    cluster = settings.cluster
    assert cluster
    # A club that is leaving runs there until its move pauses it, and again if it goes back.
    clubs = [club for club in settings.clubs.values() if host in (club.host, club.leaving and club.leaving.host)]
    # The clubs' backups run one at a time: the others can wait for capacity.
    demand = sum((club.job_demand for club in clubs), settings.ingress.job_demand) + JobDemand(mhz=BACKUP_MHZ)
    mhz = allocatable_mhz(cluster.workers.size)
    return HostRoom(
        host=host,
        memory_mib=allocatable_mib(cluster.workers.memory_mib) - demand.memory_mib,
        disk_gib=cluster.hosts[host].volume_gib - RESERVE_GIB - sum(club.disk_gib for club in clubs),
        mhz=None if mhz is None else mhz - demand.mhz,
    )


def roomiest_host(settings: Settings, club: ClubOptions) -> str | None:
    """The host of the cluster with the most memory left, then disk, among those with room for `club`; None if there is
    none. Of equal hosts the first by name."""
    assert settings.cluster
    free = [host_room(settings, host) for host in sorted(settings.cluster.hosts)]
    fitting = [room for room in free if room.fits(club)]
    return max(fitting, key=lambda room: (room.memory_mib, room.disk_gib)).host if fitting else None
