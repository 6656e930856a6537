"""Every Nomad job of a stack with a PDS. Previews, outputs, backups, golden files and tests iterate these entries.

A cluster has no PDS: its takeover (`render/cluster/`) and the ingress of each host are not among them.

An entry is the value `ENTRY` of a module in `render/jobs/`, `render/ingress/` or `render/metrics/`, so that
this file needs no edit for a new job.
"""

import importlib
import pkgutil
from collections.abc import Iterator

from components.render import ingress, jobs, metrics
from components.render.nomad_job import NomadJob
from components.settings.sections.settings import Settings


def _entries() -> Iterator[NomadJob]:
    for package in (jobs, ingress, metrics):
        for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            name = f"{package.__name__}.{found.name}"
            if name != __name__ and (entry := getattr(importlib.import_module(name), "ENTRY", None)):
                yield entry


NOMAD_JOBS: tuple[NomadJob, ...] = tuple(_entries())
"""By module name: the server's and those beside it, then the ingresses' and the metrics store's."""


def requested_jobs(settings: Settings) -> list[NomadJob]:
    """The jobs of a stack with these settings."""
    return [job for job in NOMAD_JOBS if job.is_requested(settings)]
