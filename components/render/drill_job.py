"""The drill: once a week the newest backup is fetched, looked at, and a server started on it; in Nomad, on the host.

Three tasks, one after the other, each with the least that it needs. `fetch` has the bucket's key and no data; `verify`
may read the directory of identities; `serve` runs the pinned server without a network, and leaves the outcome for the
job that watches. The copy is in the allocation's own folder. Nothing leaves the host: members' data are not looked at
on anybody's own machine, and none has to be on for it.
"""

from dataclasses import replace

from components.render.backup_job import disk, hardened_restic, on_disk, opened_by, restic_environment
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
    VolumeMount,
    VolumeRequest,
)
from components.render.pds_job import JOB as PDS_JOB
from components.render.pds_job import hardened, variable_lines
from components.render.scripts import scripts
from components.render.where import where
from components.settings.checks import BACKUP_MEMORY_MIB
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.settings import Settings

JOB = "pds-drill"

DRILL_PATH = f"nomad/jobs/{JOB}"
"""The variable with what opens the backups."""

DAYS = 7
"""From one drill to the next."""

_WEEKLY = "41 4 * * 0"
WHATEVER = "sh /local/fetch.sh || true"
"""Nomad runs nothing after a first task that failed, and a last one may have to tell of it."""

_RESOURCES = Resources(cpu=200, memory=BACKUP_MEMORY_MIB)
_LOGS = Logs(max_files=2, max_file_size=1)
_FOR_SERVER = ("TZ", "PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL")
"""What the server on the copy is told: what it needs to serve. Relays, mail and other services are not for it."""


def drill_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.backup
    here = where(settings, stack)
    job = Job(
        name=JOB,
        namespace=here.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        type="batch",
        priority=30,  # below the backup's 40
        periodic=Periodic(crons=(_WEEKLY,)),
        group=Group(
            name=JOB,
            volumes=(VolumeRequest(name=PDS_JOB, source=here.volume), *disk(settings)),
            restart=Restart(attempts=0, interval="10m", delay="15s", mode="fail"),
            reschedule=Reschedule(attempts=0, delay=None, delay_function=None, unlimited=False),
            tasks=(_fetch(settings, stack), _verify(settings), _serve(settings)),
        ),
    )
    return write(job) + "\n"


def _fetch(settings: Settings, stack: str) -> Task:
    return Task(
        name="fetch",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=replace(hardened_restic(settings, "fetch.sh"), entrypoint=("/bin/sh", "-c", WHATEVER)),
        volume_mounts=on_disk(settings, read_only=True),
        env={"PDS_HOSTNAME": settings.hostname, **restic_environment(settings, stack)},
        templates=(*scripts("fetch.sh", "open.sh"), opened_by(variable_lines(DRILL_PATH))),
        resources=_RESOURCES,
        logs=_LOGS,
    )


def _verify(settings: Settings) -> Task:
    return Task(
        name="verify",
        user="1000:1000",
        config=_node(settings, "drill.cjs"),
        env={"PDS_HOSTNAME": settings.hostname, "PDS_DID_PLC_URL": settings.pds.plc_url},
        templates=scripts("drill.cjs", "verify.cjs", "repository.cjs", "documents.cjs"),
        resources=_RESOURCES,
        logs=_LOGS,
    )


def _serve(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="serve",
        user="1000:1000",
        lifecycle=Lifecycle(hook="poststop"),
        config=replace(_node(settings, "serve.cjs"), network_mode="none"),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FOR_SERVER if name in environment}
        | {"PDS_DATA_DIRECTORY": DATA_DIRECTORY},
        templates=scripts("serve.cjs", "server.cjs", "stamp.cjs", "repository.cjs"),
        resources=_RESOURCES,
        logs=_LOGS,
    )


def _node(settings: Settings, name: str) -> DockerConfig:
    return hardened(settings, pids_limit=128, command="node", args=(f"/local/{name}",))
