"""The trial of another version of the server, as a Nomad job that is registered and runs when `./pds upgrade`
dispatches it.

The meta of the run names the image. `fetch` gets the newest backup; `candidate` tests the image's server on throw-away
data; `serve` starts it on the copy of the backup. The latter two have no network, no secret and no mount, so a
candidate can harm nothing.
"""

from dataclasses import replace

from components.render.batch import batch_job
from components.render.drill_job import FOR_SERVER
from components.render.hcl import Raw
from components.render.jobspec import DockerConfig, Lifecycle, Parameterized, Task
from components.render.pds_job import DURABLE_FILE, hardened
from components.render.restic import LOGS, disk, fetched_for_trial, resources
from components.render.scripts import scripts
from components.settings.environment import plain_environment
from components.settings.settings import Settings

JOB = "pds-candidate"

CANDIDATE_PATH = f"nomad/jobs/{JOB}"
"""The variable with the backups' credentials."""


def candidate_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.backup
    return batch_job(
        settings,
        stack,
        JOB,
        priority=30,
        parameterized=Parameterized(meta_required=("image",)),
        volumes=disk(settings),
        tasks=(
            fetched_for_trial(settings, stack, CANDIDATE_PATH),
            _on_candidate(settings, "candidate", "candidate.cjs"),
            _on_candidate(settings, "serve", "serve.cjs", lifecycle=Lifecycle(hook="poststop")),
        ),
    )


def _on_candidate(settings: Settings, name: str, program: str, lifecycle: Lifecycle | None = None) -> Task:
    environment = plain_environment(settings)
    durable = settings.pds.durable_writes
    return Task(
        name=name,
        user="1000:1000",
        lifecycle=lifecycle,
        config=_without_network(settings, program),
        env={key: environment[key] for key in FOR_SERVER if key in environment}
        | {"TRIAL": "candidate"}
        # Detects a version whose writes cannot be made durable before the server is stopped.
        | ({"TRIAL_PRELOAD": DURABLE_FILE} if durable else {}),
        templates=scripts(program, *(("durable.cjs",) if durable else ())),
        resources=resources(settings),
        logs=LOGS,
    )


def _without_network(settings: Settings, program: str) -> DockerConfig:
    config = hardened(settings, pids_limit=128, command="node", args=(f"/local/{program}",))
    # Nomad inserts the meta of the run; for HCL it is text.
    return replace(config, image=Raw('"${NOMAD_META_image}"'), network_mode="none")
