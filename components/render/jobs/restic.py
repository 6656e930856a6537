"""restic in the jobs that send or fetch backups: their location, their credentials, and the task that fetches."""

from dataclasses import replace

from components.render.jobs.pds import hardened, variable_lines
from components.render.jobspec import (
    DockerConfig,
    Lifecycle,
    Logs,
    Resources,
    Task,
    Template,
    VolumeMount,
    VolumeRequest,
)
from components.render.scripts import scripts
from components.settings.checks.endpoints import SPACES_REGION, spaces_endpoint
from components.settings.fields.job_demand import BACKUP_MHZ
from components.settings.sections.settings import Settings

LOGS = Logs(max_files=2, max_file_size=1)
"""For each task that handles backups."""

_DISK = "/backups"
"""Path of the disk with the backups in these tasks, if backups go to a disk."""

_WHATEVER = "sh /local/fetch.sh || true"
"""Nomad runs no further task after a failed first task, and a later one may have to report the failure."""


def resources(settings: Settings, *, cpu: int = BACKUP_MHZ) -> Resources:
    """Limits of each task that handles backups; `cpu` in MHz, below the server's 500."""
    assert settings.backup
    return Resources(cpu=cpu, memory=settings.backup.memory_mib)


def bucket_name(settings: Settings, stack: str) -> str:
    """Name of the bucket: as configured, else made from stack and hostname, 63 characters at most."""
    assert settings.backup
    return settings.backup.bucket or f"{stack}-{settings.hostname.replace('.', '-')}"[:56].rstrip("-") + "-backup"


def repository(settings: Settings, stack: str) -> str:
    """restic's address of the backups. Several PDSes can share a bucket, or a disk."""
    assert settings.backup
    if settings.backup.volume:
        return f"{_DISK}/{settings.hostname}"
    endpoint = settings.backup.endpoint or spaces_endpoint(settings.backup.region or SPACES_REGION)
    return f"s3:{endpoint.rstrip('/')}/{bucket_name(settings, stack)}/{settings.hostname}"


def restic_environment(settings: Settings, stack: str) -> dict[str, str]:
    """Location of the backups as restic's environment, without credentials."""
    assert settings.backup
    return {"RESTIC_REPOSITORY": repository(settings, stack)} | region_environment(settings)


def region_environment(settings: Settings) -> dict[str, str]:
    """The region that requests are signed for. For another service it comes only from the stack file: a wrong one is
    refused with 400, and without one restic queries the service."""
    assert settings.backup
    if settings.backup.volume:
        return {}
    region = settings.backup.region or (None if settings.backup.endpoint else SPACES_REGION)
    return {"AWS_DEFAULT_REGION": region} if region else {}


def disk(settings: Settings) -> tuple[VolumeRequest, ...]:
    """A group's claim on the disk with the backups, if they are on one."""
    volume = settings.backup.volume if settings.backup else None
    return (VolumeRequest(name="backups", source=volume),) if volume else ()


def on_disk(settings: Settings, *, read_only: bool) -> tuple[VolumeMount, ...]:
    """A task's mount of that disk."""
    return tuple(VolumeMount(volume=claim.name, destination=_DISK, read_only=read_only) for claim in disk(settings))


def opened_by(lines: str) -> Template:
    """The credentials as environment, from the `lines` of a template. They override the task's own environment."""
    return Template(destination="secrets/backup.env", env=True, change_mode="noop", perms="0600", data=lines)


def hardened_restic(settings: Settings, name: str) -> DockerConfig:
    """restic's image, running the script `name`."""
    assert settings.backup
    config = hardened(settings, pids_limit=128)
    return replace(config, image=settings.backup.image, entrypoint=("/bin/sh", f"/local/{name}"))


def fetched_for_trial(settings: Settings, stack: str, path: str) -> Task:
    """A first task that fetches the newest backup into the allocation's own folder, with the credentials in the
    variable at `path`. It never fails: later tasks check the result."""
    return Task(
        name="fetch",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=replace(hardened_restic(settings, "fetch.sh"), entrypoint=("/bin/sh", "-c", _WHATEVER)),
        volume_mounts=on_disk(settings, read_only=True),
        env={"PDS_HOSTNAME": settings.hostname, **restic_environment(settings, stack)},
        templates=(*scripts("fetch.sh", "restic_open.sh"), opened_by(variable_lines(path))),
        resources=resources(settings),
        logs=LOGS,
    )
