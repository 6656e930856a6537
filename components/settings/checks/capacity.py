"""Whether a droplet has the memory and the processors that its Nomad jobs reserve.

Each section of the stack file states the demand of its jobs (`Section.job_demand`). This module adds them up.
"""

import re
from collections.abc import Iterator, Mapping

from components.settings.fields.errors import Fault
from components.settings.fields.job_demand import BACKUP_MHZ, JobDemand
from components.settings.fields.option import Section
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
            f"{settings.host.size} has {available} MiB for jobs, beside what kernel and system keep. The jobs reserve "
            f"{demand} MiB ({_listed(by_section)}).",
            f"{larger} 'pds.memory_mib'.",
        )


def processor_faults(settings: Settings) -> Iterator[Fault]:
    """Jobs that reserve more than the droplet's processors, which Nomad could not place."""
    stated = re.search(r"(?:^|-)([0-9]+)vcpu-", settings.host.size)
    if settings.on or not stated:
        return  # the operator knows an existing host; a size that names no processors has at least two
    available, demand = int(stated[1]) * _MHZ_OF_A_VCPU, processor_demand(settings)
    if demand > available:
        by_section = {name: part.mhz for name, part in job_demands(settings).items()}
        yield Fault(
            "host.size",
            f"{settings.host.size} has about {available} MHz. The jobs reserve {demand} MHz ({_listed(by_section)}).",
            f"Write a size with {-(-demand // _MHZ_OF_A_VCPU)} processors or more, or remove some of the 'clubs'.",
        )


def _listed(by_section: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {amount}" for name, amount in by_section.items())
