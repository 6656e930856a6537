"""The restore as a Nomad job that waits registered: restic fetches a snapshot, then the server's image makes it ready.

It is part of the stack and runs only when `./pds restore` dispatches it, so that nothing registers a job outside the
engine. What is asked for is the meta of the run; secrets come on the host from the variable at `RESTORE_PATH`.
"""

from components.render.batch import batch_job, data_volume
from components.render.jobspec import Lifecycle, Parameterized, Resources, Task, VolumeMount
from components.render.pds_job import JOB as PDS_JOB
from components.render.pds_job import hardened, variable_lines
from components.render.restic import LOGS, RESOURCES, disk, hardened_restic, on_disk, opened_by, restic_environment
from components.render.scripts import scripts
from components.settings.checks import BACKUP_MEMORY_MIB
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.settings import Settings

JOB = "pds-restore"

RESTORE_PATH = f"nomad/jobs/{JOB}"
"""The variable with what opens this stack's backups. A run of a job reads what its parent may."""

OTHER_PATH = f"nomad/jobs/{JOB}/{JOB}/fetch"
"""A variable with what opens another stack's backups instead, while `./pds restore --to` runs; the fetch task's own."""

META = ("snapshot", "from", "show", "sequence", "rotation_public_key", "takedown", "delete", "bring_back", "forget")
"""What a run can be told, as the programs `fetch.sh` and `restore.cjs` read it."""

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
        tasks=(_fetch(settings, stack), _restore(settings)),
    )


def _fetch(settings: Settings, stack: str) -> Task:
    other = f'{{{{ if nomadVarExists "{OTHER_PATH}" }}}}{variable_lines(OTHER_PATH).rstrip()}{{{{ end }}}}\n'
    return Task(
        name="fetch",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=hardened_restic(settings, "fetch.sh"),
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),
            *on_disk(settings, read_only=True),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "TARGET": f"{DATA_DIRECTORY}/.restore",
            **restic_environment(settings, stack),
        },
        templates=(*scripts("fetch.sh", "open.sh"), opened_by(variable_lines(RESTORE_PATH) + other)),
        resources=RESOURCES,
        logs=LOGS,
    )


def _restore(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="restore",
        user="1000:1000",
        config=hardened(settings, pids_limit=128, command="node", args=("/local/restore.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FOR_RESTORE if name in environment},
        templates=scripts("restore.cjs"),
        resources=Resources(cpu=500, memory=BACKUP_MEMORY_MIB),
        logs=LOGS,
    )
