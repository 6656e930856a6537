"""The drill: once a week, on the host, Nomad fetches the newest backup, checks it, and starts a server on it.

Consecutive tasks, each with minimal access. `fetch` has the bucket's key and no data; `verify` may read the directory
of identities; with blobs in a bucket, `blobs` reads their copies; `serve` runs the pinned server without a network, and
records the outcome for the alerts job. The copy is in the allocation's own folder. Members' data never leave the
host, and no operator's machine has to be on for a drill.
"""

from dataclasses import replace

from components.render.jobs.common import batch_job, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobs.restic import (
    LOGS,
    disk,
    fetched_for_trial,
    on_disk,
    opened_by,
    resources,
    restic_environment,
)
from components.render.jobspec import DockerConfig, Lifecycle, Periodic, Resources, Task, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, plain_environment
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import BLOBS_MIB
from components.settings.sections.settings import Settings

JOB = "pds-drill"

DRILL_PATH = own_path(JOB)
"""The variable with the backups' credentials."""

DAYS = 7
"""Days between drills."""

_WEEKLY = "41 4 * * 0"
FOR_SERVER = ("TZ", "PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL")
"""Environment of the server on the copy: what it needs to serve, without relays, mail and other services."""


def drill_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.backup
    return batch_job(
        settings,
        stack,
        JOB,
        priority=30,  # below the backup's 40
        periodic=Periodic(crons=(_WEEKLY,)),
        volumes=(data_volume(settings, stack), *disk(settings)),
        tasks=(
            fetched_for_trial(settings, stack, DRILL_PATH),
            _verify(settings),
            *((_blobs(settings, stack),) if settings.blobs else ()),
            _serve(settings),
        ),
    )


def _verify(settings: Settings) -> Task:
    return Task(
        name="verify",
        user="1000:1000",
        config=_node(settings, "drill.cjs"),
        env={"PDS_HOSTNAME": settings.hostname, "PDS_DID_PLC_URL": settings.pds.plc_url},
        templates=scripts("drill.cjs"),
        resources=resources(settings),
        logs=LOGS,
    )


def _blobs(settings: Settings, stack: str) -> Task:
    return Task(
        name="blobs",
        user="1000:1000",
        config=_node(settings, "drill_blobs.cjs"),
        volume_mounts=on_disk(settings, read_only=True),
        env={"PDS_HOSTNAME": settings.hostname, **restic_environment(settings, stack)},
        templates=(*scripts("drill_blobs.cjs"), opened_by(variable_lines(DRILL_PATH))),
        resources=Resources(cpu=SMALL_MHZ, memory=BLOBS_MIB),
        logs=LOGS,
    )


def _serve(settings: Settings) -> Task:
    environment = plain_environment(settings)
    return Task(
        name="serve",
        user="1000:1000",
        lifecycle=Lifecycle(hook="poststop"),
        config=replace(_node(settings, "serve.cjs"), network_mode="none"),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in FOR_SERVER if name in environment}
        | {"PDS_DATA_DIRECTORY": DATA_DIRECTORY},
        templates=scripts("serve.cjs"),
        resources=resources(settings),
        logs=LOGS,
    )


def _node(settings: Settings, name: str) -> DockerConfig:
    return hardened(settings, pids_limit=128, command="node", args=(f"/local/{name}",))


ENTRY = NomadJob(
    job_id=JOB,
    role="drill",
    file="drill.nomad.hcl",
    section="backup",
    render=drill_job,
    is_requested=lambda settings: settings.backup is not None,
    variable_path=DRILL_PATH,
)
