"""The registry of Nomad jobs: every job that the program registers is in it, and its memory is counted."""

from typing import Any

import pytest

from components.render.jobs.registry import NOMAD_JOBS, requested_jobs
from components.render.nomad_job import NomadJob
from components.settings.checks.capacity import job_demands, memory_demand
from components.settings.sections.settings import Settings
from offline.hcl_reader import only_job
from tests.support.invariants import kind
from tests.support.programs import ALERTS, BACKUP, CLUB, run, settings_of
from tools.preview import FILES, rendered

FULL: dict[str, Any] = {
    "alerts": ALERTS,
    "backup": BACKUP,
    "blobs": {"bucket": "club-blobs"},
    **CLUB,
    "host": {"size": "s-2vcpu-4gb"},
    "pds": {"unreferenced_blob_days": 30},
    "metrics": {"store": True},
}
"""The options of a stack with every job of one kind of ingress."""


def _full(ingress: str) -> Settings:
    return settings_of(**FULL, ingress={"kind": ingress})


def _peak_mib(text: str) -> int:
    """The memory that Nomad reserves for the job's group: sidecars, and the largest phase of its other tasks."""
    (group,) = (body for item in only_job(text)["group"] for body in item.values())
    phases: dict[str, int] = {}
    sidecars = 0
    for task in (body for item in group["task"] for body in item.values()):
        memory = task["resources"][0]["memory"]
        (lifecycle,) = task.get("lifecycle", [{"hook": "main"}])
        if lifecycle.get("sidecar"):
            sidecars += memory
        else:
            phases[lifecycle["hook"]] = phases.get(lifecycle["hook"], 0) + memory
    return sidecars + max(phases.values())


@pytest.mark.parametrize("ingress", ["io", "caddy"])
def test_the_registry_has_every_nomad_job_of_a_full_stack(ingress: str) -> None:
    evaluation = run(**FULL, ingress={"kind": ingress})
    registered = [item.inputs["jobspec"] for item in evaluation.resources if kind(item) == "Job"]
    requested = requested_jobs(_full(ingress))
    assert sorted(registered) == sorted(job.render(_full(ingress), "dev") for job in requested)
    assert {f"{job.role}_job" for job in requested} == evaluation.outputs["files"].keys() - {"ingress_file"}
    assert {job.file for job in requested} <= rendered(evaluation).keys()


@pytest.mark.parametrize("job", NOMAD_JOBS, ids=lambda job: job.job_id)
def test_the_config_of_a_task_holds_no_template_that_nomad_s_agent_would_refuse(job: NomadJob) -> None:
    # The agent parses a task's config as HCL once more (`ParseHclInterface` in task_runner.go). In what is left after
    # the job file was read, `${NAME}` is a variable of the task, and `%{` begins a directive.
    text = job.render(_full("caddy" if job.job_id == "caddy" else "io"), "dev")
    groups = [body for item in only_job(text)["group"] for body in item.values()]
    for task in (body for group in groups for item in group["task"] for body in item.values()):
        assert "%{" not in str(task["config"])


def test_the_options_of_a_stack_decide_its_jobs() -> None:
    assert {job.job_id for job in requested_jobs(settings_of())} == {"pds", "io"}
    assert {job.job_id for job in requested_jobs(settings_of(ingress={"kind": "none"}))} == {"pds"}
    everywhere = {job.job_id for kind_ in ("io", "caddy") for job in requested_jobs(_full(kind_))}
    assert everywhere == {job.job_id for job in NOMAD_JOBS}, "these tests cover every job"


@pytest.mark.parametrize("job", NOMAD_JOBS, ids=lambda job: job.job_id)
def test_a_job_s_section_counts_at_least_the_memory_that_nomad_reserves(job: NomadJob) -> None:
    settings = _full("caddy" if job.job_id == "caddy" else "io")
    demands = job_demands(settings)
    # Of the jobs with the keys of both, one runs at a time.
    sections = {job.section, "blobs"} if job.section == "backup" else {job.section}
    assert _peak_mib(job.render(settings, "dev")) <= sum(demands[section].memory_mib for section in sections)


def test_a_stack_s_memory_is_the_sum_of_its_sections() -> None:
    full = _full("io")
    assert {name: demand.memory_mib for name, demand in job_demands(full).items()} == {
        "pds": 640,
        "ingress": 256,
        "alerts": 128,
        "backup": 384,
        "blobs": 256,
        "metrics": 128,
        "members": 128,
    }
    assert memory_demand(full) == 1920


def test_each_job_has_a_unique_id_file_and_variable() -> None:
    assert len({job.job_id for job in NOMAD_JOBS}) == len({job.file for job in NOMAD_JOBS}) == len(NOMAD_JOBS)
    assert {job.file for job in NOMAD_JOBS} <= FILES.keys()
    paths = [job.variable_path for job in NOMAD_JOBS if job.variable_path]
    assert len(set(paths)) == len(paths)
