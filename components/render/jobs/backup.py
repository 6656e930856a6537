"""The backup as a periodic Nomad job: a snapshot by the server's own image, then restic to a bucket.

A pure function of the settings, like `pds.py`. The snapshot program has no key of the bucket; restic mounts the
data read-only. With `blobs`, a task beside restic copies the blobs of the server's bucket. On the host, the variables
at `BACKUP_PATH` and `BLOBS_PATH` provide the secrets.
"""

from dataclasses import replace

from components.render.jobs.common import batch_job, blobs_served, data_volume, space_remedy
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobs.restic import LOGS, disk, hardened_restic, on_disk, opened_by, resources, restic_environment
from components.render.jobspec import Lifecycle, Logs, Periodic, Resources, Restart, Task, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, bucket_environment, plain_environment
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import BLOBS_MIB, BackupOptions
from components.settings.sections.settings import Settings

JOB = "pds-backup"

BACKUP_PATH = own_path(JOB)
"""The variable with the repository's password and the bucket's keys. A job may read the variable of its own path."""

BLOBS_PATH = f"{BACKUP_PATH}/{JOB}/blobs"
"""The variable with the key of the server's bucket, for the task that copies its blobs alone."""

_FROM_SNAPSHOT = ("PDS_HOSTNAME", "PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_DISK_LOCATION")


def backup_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    backup = settings.backup
    assert backup
    return batch_job(
        settings,
        stack,
        JOB,
        priority=40,  # below the PDS's 50
        periodic=Periodic(crons=(_cron(backup.interval_minutes),)),
        volumes=(data_volume(settings, stack), *disk(settings)),
        # For a bucket that is briefly unreachable. After that, the next run is the next attempt.
        restart=Restart(attempts=1, interval="10m", delay="30s", mode="fail"),
        tasks=(
            _snapshot(settings),
            _send(settings, backup, stack),
            *((_blobs(settings, backup, stack),) if settings.blobs else ()),
            _stamp(settings),
        ),
    )


def _cron(minutes: int) -> str:
    if minutes < 60:
        return f"*/{minutes} * * * *"
    # Not at the full hour, when other jobs usually run.
    return f"7 */{minutes // 60} * * *" if minutes < 1440 else "7 3 * * *"


def _snapshot(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="snapshot",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=hardened(settings, pids_limit=128, command="node", args=("/local/snapshot.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FROM_SNAPSHOT if name in environment}
        | {"SPACE_REMEDY": space_remedy(settings)}
        | blobs_served(settings)
        # The snapshot reports an account that is gone without a recorded deletion.
        | ({"ACCOUNTS_DELETED": " ".join(sorted(settings.delete.values()))} if settings.delete else {}),
        templates=scripts("snapshot.cjs"),
        resources=resources(settings),
        logs=LOGS,
    )


def _send(settings: Settings, backup: BackupOptions, stack: str) -> Task:
    return Task(
        name="send",
        user="1000:1000",
        # Identifies a lock in the bucket as left by a killed run of this stack.
        config=replace(hardened_restic(settings, "send.sh"), hostname=f"{JOB}-{stack}"[:63].rstrip("-")),
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY, read_only=True),
            *on_disk(settings, read_only=False),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "PDS_DATA_DIRECTORY": DATA_DIRECTORY,
            **restic_environment(settings, stack),
            **({"BACKUP_VOLUME": backup.volume} if backup.volume else {}),
            "KEEP_DAYS": str(backup.keep_days),
        },
        templates=(*scripts("send.sh", "restic_open.sh"), opened_by(variable_lines(BACKUP_PATH))),
        resources=resources(settings),
        logs=LOGS,
    )


def _blobs(settings: Settings, backup: BackupOptions, stack: str) -> Task:
    """Copies blobs that the snapshot names and that are in the server's bucket."""
    return Task(
        name="blobs",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=("/local/backup_blobs.cjs",)),
        # The libraries of databases write beside them.
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),
            *on_disk(settings, read_only=False),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "PDS_DATA_DIRECTORY": DATA_DIRECTORY,
            **bucket_environment(settings),
            **restic_environment(settings, stack),
            **({"BACKUP_VOLUME": backup.volume} if backup.volume else {}),
            "KEEP_DAYS": str(backup.keep_days),
        },
        templates=(
            *scripts("backup_blobs.cjs"),
            opened_by(variable_lines(BACKUP_PATH) + variable_lines(BLOBS_PATH)),
        ),
        resources=Resources(cpu=SMALL_MHZ, memory=BLOBS_MIB),
        logs=LOGS,
    )


def _stamp(settings: Settings) -> Task:
    """Records the outcome for the alerts job. The send task may not write to the volume."""
    return Task(
        name="run-status",
        user="1000:1000",
        lifecycle=Lifecycle(hook="poststop"),
        config=hardened(settings, pids_limit=64, command="node", args=("/local/run_status.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={"PDS_DATA_DIRECTORY": DATA_DIRECTORY} | ({"BLOBS_COPIED": "true"} if settings.blobs else {}),
        templates=scripts("run_status.cjs"),
        resources=Resources(cpu=100, memory=128),
        logs=Logs(max_files=1, max_file_size=1),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="backup",
    file="backup.nomad.hcl",
    section="backup",
    render=backup_job,
    is_requested=lambda settings: settings.backup is not None,
    variable_path=BACKUP_PATH,
)
