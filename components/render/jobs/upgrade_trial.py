"""The trial of another version of the server, as a Nomad job that is registered and runs when `./pds upgrade`
dispatches it.

The meta of the run names the image. `fetch` gets the newest backup; `candidate` tests the image's server on throw-away
data; `serve` starts it on the copy of the backup. The latter two have no network, no secret and no mount, so a
candidate can harm nothing.
"""

from dataclasses import replace

from components.render.hcl import Raw
from components.render.jobs.common import batch_job
from components.render.jobs.drill import FOR_SERVER
from components.render.jobs.pds import hardened, preloading, server_modules
from components.render.jobs.restic import LOGS, disk, fetched_for_trial, resources
from components.render.jobspec import DockerConfig, Lifecycle, Parameterized, Task
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import plain_environment
from components.settings.sections.settings import Settings

JOB = "pds-upgrade-trial"

UPGRADE_TRIAL_PATH = own_path(JOB)
"""The variable with the backups' credentials."""


def upgrade_trial_job(settings: Settings, stack: str) -> str:
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
            fetched_for_trial(settings, stack, UPGRADE_TRIAL_PATH),
            _on_candidate(settings, "candidate", "upgrade_trial.cjs"),
            _on_candidate(settings, "serve", "serve.cjs", lifecycle=Lifecycle(hook="poststop")),
        ),
    )


def _on_candidate(settings: Settings, name: str, program: str, lifecycle: Lifecycle | None = None) -> Task:
    environment = plain_environment(settings)
    modules = server_modules(settings)
    return Task(
        name=name,
        user="1000:1000",
        lifecycle=lifecycle,
        config=_without_network(settings, program),
        env={key: environment[key] for key in FOR_SERVER if key in environment}
        # Detects a version with which one of the modules does not work, before the server is stopped.
        | {"TRIAL": "candidate", "TRIAL_NODE_OPTIONS": preloading(*modules)},
        templates=scripts(program, *modules),
        resources=resources(settings),
        logs=LOGS,
    )


def _without_network(settings: Settings, program: str) -> DockerConfig:
    config = hardened(settings, pids_limit=128, command="node", args=(f"/local/{program}",))
    # Nomad inserts the meta of the run; for HCL it is text.
    return replace(config, image=Raw('"${NOMAD_META_image}"'), network_mode="none")


ENTRY = NomadJob(
    job_id=JOB,
    role="upgrade_trial",
    file="upgrade-trial.nomad.hcl",
    section="backup",
    render=upgrade_trial_job,
    is_requested=lambda settings: settings.backup is not None,
    variable_path=UPGRADE_TRIAL_PATH,
)
