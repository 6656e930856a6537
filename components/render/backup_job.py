"""The backup as a periodic Nomad job: a snapshot by the server's own image, then restic to a bucket.

A pure function of the settings, as `pds_job.py`. The snapshot's program sees no key of the bucket; restic sees the data
read-only. Secrets come on the host from the variable at `BACKUP_PATH`.
"""

from dataclasses import replace

from components.render.hcl import write
from components.render.jobspec import (
    DockerConfig,
    Group,
    Job,
    Lifecycle,
    Logs,
    Periodic,
    Reschedule,
    Resources,
    Restart,
    Task,
    Template,
    VolumeMount,
    VolumeRequest,
)
from components.render.pds_job import JOB as PDS_JOB
from components.render.pds_job import hardened, variable_lines
from components.render.scripts import scripts
from components.render.where import where
from components.settings.checks import BACKUP_MEMORY_MIB
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.sections import Backup
from components.settings.settings import Settings

JOB = "pds-backup"

BACKUP_PATH = f"nomad/jobs/{JOB}"
"""The variable with the repository's password and the bucket's keys; a job may read that of its own path."""

_DISK = "/backups"
"""Where the tasks that use it see the disk with the backups, if that is where they are."""

_FROM_SNAPSHOT = ("PDS_HOSTNAME", "PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_DISK_LOCATION")


def bucket_name(settings: Settings, stack: str) -> str:
    """Name of the bucket: as asked for, else made of stack and hostname, 63 characters at most."""
    assert settings.backup
    return settings.backup.bucket or f"{stack}-{settings.hostname.replace('.', '-')}"[:56].rstrip("-") + "-backup"


def repository(settings: Settings, stack: str) -> str:
    """restic's address of the backups: several PDSes can share a bucket, or a disk."""
    assert settings.backup
    if settings.backup.volume:
        return f"{_DISK}/{settings.hostname}"
    endpoint = settings.backup.endpoint or f"https://{settings.backup.region}.digitaloceanspaces.com"
    return f"s3:{endpoint.rstrip('/')}/{bucket_name(settings, stack)}/{settings.hostname}"


def backup_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    backup, here = settings.backup, where(settings, stack)
    assert backup
    job = Job(
        name=JOB,
        namespace=here.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        type="batch",
        priority=40,  # below the PDS's 50
        periodic=Periodic(crons=(_cron(backup.interval_minutes),)),
        group=Group(
            name=JOB,
            volumes=(VolumeRequest(name=PDS_JOB, source=here.volume), *disk(settings)),
            # A bucket that is away for a moment; beyond that the next run is the next attempt.
            restart=Restart(attempts=1, interval="10m", delay="30s", mode="fail"),
            reschedule=Reschedule(attempts=0, delay=None, delay_function=None, unlimited=False),
            tasks=(_snapshot(settings), _send(settings, backup, stack), _stamp(settings)),
        ),
    )
    return write(job) + "\n"


def _cron(minutes: int) -> str:
    if minutes < 60:
        return f"*/{minutes} * * * *"
    # Not at the full hour, when everybody's jobs run.
    return f"7 */{minutes // 60} * * *" if minutes < 1440 else "7 3 * * *"


def _snapshot(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="snapshot",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=hardened(settings, pids_limit=128, command="node", args=("/local/snapshot.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FROM_SNAPSHOT if name in environment},
        templates=scripts("snapshot.cjs", "departures.cjs", "repository.cjs", "stamp.cjs"),
        resources=Resources(cpu=200, memory=BACKUP_MEMORY_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )


def _send(settings: Settings, backup: Backup, stack: str) -> Task:
    return Task(
        name="send",
        user="1000:1000",
        # By it a lock in the bucket is known for one that a killed run of this stack left.
        config=replace(hardened_restic(settings, "send.sh"), hostname=f"{JOB}-{stack}"[:63].rstrip("-")),
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY, read_only=True),
            *on_disk(settings, read_only=False),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "PDS_DATA_DIRECTORY": DATA_DIRECTORY,
            **restic_environment(settings, stack),
            "KEEP_DAYS": str(backup.keep_days),
        },
        templates=(*scripts("send.sh", "open.sh"), opened_by(variable_lines(BACKUP_PATH))),
        resources=Resources(cpu=200, memory=BACKUP_MEMORY_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )


def _stamp(settings: Settings) -> Task:
    """Whether it went well, for the job that watches; the send task may not write to the volume."""
    return Task(
        name="stamp",
        user="1000:1000",
        lifecycle=Lifecycle(hook="poststop"),
        config=hardened(settings, pids_limit=64, command="node", args=("/local/stamp.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={"PDS_DATA_DIRECTORY": DATA_DIRECTORY},
        templates=scripts("stamp.cjs"),
        resources=Resources(cpu=100, memory=128),
        logs=Logs(max_files=1, max_file_size=1),
    )


def restic_environment(settings: Settings, stack: str) -> dict[str, str]:
    """Where restic finds the backups, by its own names; what opens them is not in it."""
    assert settings.backup
    found = {"RESTIC_REPOSITORY": repository(settings, stack)}
    return found if settings.backup.volume else found | {"AWS_DEFAULT_REGION": settings.backup.region}


def disk(settings: Settings) -> tuple[VolumeRequest, ...]:
    """A group's claim on the disk with the backups, where they are on one."""
    volume = settings.backup.volume if settings.backup else None
    return (VolumeRequest(name="backups", source=volume),) if volume else ()


def on_disk(settings: Settings, *, read_only: bool) -> tuple[VolumeMount, ...]:
    """A task's mount of it."""
    return tuple(VolumeMount(volume=claim.name, destination=_DISK, read_only=read_only) for claim in disk(settings))


def opened_by(lines: str) -> Template:
    """What opens them, as environment, from the `lines` of a template. It wins over the task's own environment."""
    return Template(destination="secrets/backup.env", env=True, change_mode="noop", perms="0600", data=lines)


def hardened_restic(settings: Settings, name: str) -> DockerConfig:
    """restic's image, running the script `name`."""
    assert settings.backup
    config = hardened(settings, pids_limit=128)
    return replace(config, image=settings.backup.image, entrypoint=("/bin/sh", f"/local/{name}"))
