"""`NomadJob`: what the program knows about a Nomad job beside its text. Each job's module states its entry as `ENTRY`.

`jobs/registry.py` collects the entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

from components.settings.sections.settings import Settings

PDS_JOB = "pds"
"""ID and service name of the server's job, as in the post. The ingress finds the server by it."""


@dataclass(frozen=True, kw_only=True)
class NomadJob:
    """One Nomad job."""

    job_id: str
    """Nomad's ID of the job."""
    role: str
    """Its name among the stack's outputs and resources, in snake_case. Both ingresses have one role."""
    file: str
    """Name of its file in `build/STACK/`."""
    section: str
    """The section of the stack file that states its memory and processor share."""
    render: Callable[[Settings, str], str]
    """Returns the job file, HCL, for the settings and the stack's name."""
    is_requested: Callable[[Settings], bool]
    """Whether a stack with these settings has the job."""
    variable_path: str | None = None
    """Path of the Nomad variable with its secrets. A job may read the variable of its own path without a policy."""


def own_path(job_id: str) -> str:
    """The path of the Nomad variable that a job, and each run of it, may read without a policy.

    Sources: Nomad's documentation, concepts/variables; nomad/structs/workload_id.go.
    """
    return f"nomad/jobs/{job_id}"
