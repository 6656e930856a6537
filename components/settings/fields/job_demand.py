"""Memory and processor share that Nomad jobs reserve. Each section of the stack file states that of its jobs."""

from dataclasses import dataclass

PDS_MHZ, INGRESS_MHZ, BACKUP_MHZ, SMALL_MHZ = 500, 300, 200, 100
"""Processor share of a task: the server, the ingress, restic, every other task."""


@dataclass(frozen=True, kw_only=True)
class JobDemand:
    """What the jobs of a section reserve at the same time: memory in MiB, processor share in MHz."""

    memory_mib: int = 0
    mhz: int = 0

    def __add__(self, other: "JobDemand") -> "JobDemand":
        return JobDemand(memory_mib=self.memory_mib + other.memory_mib, mhz=self.mhz + other.mhz)
