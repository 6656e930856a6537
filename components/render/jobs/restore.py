"""The restore as a registered Nomad job: restic fetches a snapshot, then the server's image prepares it.

It is part of the stack and runs only when `./pds restore` dispatches it, so that only the engine registers jobs. The
meta of the run has the parameters. On the host, the variable at `RESTORE_PATH` provides the secrets.
"""

from components.render.jobs.common import batch_job, blobs_served, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobs.restic import LOGS, disk, hardened_restic, on_disk, opened_by, resources, restic_environment
from components.render.jobspec import Lifecycle, Parameterized, Resources, Task, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, plain_environment
from components.settings.sections import OLDER_BACKUPS_MIB
from components.settings.sections.settings import Settings

JOB = "pds-restore"

RESTORE_PATH = own_path(JOB)
"""The variable with the credentials of this stack's backups. A run of a job may read its parent's variables."""

OTHER_PATHS = {task: f"nomad/jobs/{JOB}/{JOB}/{task}" for task in ("fetch", "fetch-older")}
"""Variables with the credentials of another stack's backups while `./pds restore --to` runs; one for each task."""

META = (
    "snapshot",
    "from",
    "show",
    "verify",
    "only",
    "step",
    "without",
    "without_directory",
    "without_departures",
    "sequence",
    "rotation_public_key",
    "takedown",
    "delete",
    "applied",
    "bring_back",
    "old_data",
    "whole",
    "forget",
)
"""Parameters of a run, as `fetch.sh`, `fetch_older.sh` and `restore.cjs` read them."""

_FOR_RESTORE = (
    "PDS_HOSTNAME",
    "PDS_SERVICE_HANDLE_DOMAINS",
    "PDS_DATA_DIRECTORY",
    "PDS_DID_PLC_URL",
    "PDS_CRAWLERS",
)


def restore_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.backup
    return batch_job(
        settings,
        stack,
        JOB,
        parameterized=Parameterized(meta_optional=META),
        volumes=(data_volume(settings, stack), *disk(settings)),
        tasks=(_fetch(settings, stack), _restore(settings), _older(settings, stack)),
    )


def _fetch(settings: Settings, stack: str) -> Task:
    return _with_the_key(settings, stack, "fetch", Lifecycle(hook="prestart"), resources(settings))


def _older(settings: Settings, stack: str) -> Task:
    """Fetches accounts from older backups for the restore. Nomad ends it with the restore."""
    lifecycle = Lifecycle(hook="poststart", sidecar=True)
    return _with_the_key(settings, stack, "fetch-older", lifecycle, Resources(cpu=100, memory=OLDER_BACKUPS_MIB))


def _with_the_key(settings: Settings, stack: str, name: str, lifecycle: Lifecycle, limits: Resources) -> Task:
    script, path = f"{name.replace('-', '_')}.sh", OTHER_PATHS[name]
    other = f'{{{{ if nomadVarExists "{path}" }}}}{variable_lines(path).rstrip()}{{{{ end }}}}\n'
    return Task(
        name=name,
        user="1000:1000",
        lifecycle=lifecycle,
        config=hardened_restic(settings, script),
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),
            *on_disk(settings, read_only=True),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "TARGET": f"{DATA_DIRECTORY}/.restore",
            **restic_environment(settings, stack),
        },
        templates=(*scripts(script, "restic_open.sh"), opened_by(variable_lines(RESTORE_PATH) + other)),
        resources=limits,
        logs=LOGS,
    )


def _restore(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="restore",
        user="1000:1000",
        config=hardened(settings, pids_limit=128, command="node", args=("/local/restore.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FOR_RESTORE if name in environment}
        | blobs_served(settings)
        | {"OLDER_BACKUPS": "true"},
        templates=scripts("restore.cjs", "restore_server.cjs"),
        resources=resources(settings, cpu=500),
        logs=LOGS,
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="restore",
    file="restore.nomad.hcl",
    section="backup",
    render=restore_job,
    is_requested=lambda settings: settings.backup is not None,
    variable_path=RESTORE_PATH,
)
