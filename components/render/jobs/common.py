"""The common frame of the stack's batch jobs: their placement, and their restart policy."""

from components.render.hcl import write
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobspec import Group, Job, Parameterized, Periodic, Reschedule, Restart, Task, VolumeRequest
from components.render.nomad_scope import nomad_scope
from components.settings.sections.settings import Settings

FAILS_AT_ONCE = Restart(attempts=0, interval="10m", delay="15s", mode="fail")
"""The task reports the failure itself, and can be run again."""

NOWHERE_ELSE = Reschedule(attempts=0, delay=None, delay_function=None, unlimited=False)


def batch_job(
    settings: Settings,
    stack: str,
    name: str,
    *,
    tasks: tuple[Task, ...],
    volumes: tuple[VolumeRequest, ...],
    priority: int | None = None,
    periodic: Periodic | None = None,
    parameterized: Parameterized | None = None,
    restart: Restart = FAILS_AT_ONCE,
    reschedule: Reschedule | None = NOWHERE_ELSE,
) -> str:
    """The job file, HCL: one group of these tasks, in the namespace of the stack's PDS."""
    job = Job(
        name=name,
        namespace=nomad_scope(settings, stack).namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        type="batch",
        priority=priority,
        periodic=periodic,
        parameterized=parameterized,
        group=Group(name=name, volumes=volumes, restart=restart, reschedule=reschedule, tasks=tasks),
    )
    return write(job) + "\n"


def data_volume(settings: Settings, stack: str) -> VolumeRequest:
    """A group's claim on the PDS's data volume."""
    return VolumeRequest(name=PDS_JOB, source=nomad_scope(settings, stack).volume)


def space_remedy(settings: Settings) -> str:
    """What gives the PDS more space for its data, as a clause."""
    on = settings.on
    if on is None:
        return "raise 'volume.size_gib' and run `pulumi up`"
    if on.stack:
        return "raise 'disk_gib' of this club under 'clubs' in the host's stack file and run `pulumi up` there"
    return f"enlarge the host volume '{on.volume}' of its Nomad"


def blobs_served(settings: Settings) -> dict[str, str]:
    """The place of the blobs of a server with a bucket of its own, for programs that copy or restore them."""
    return {"BLOBS_SERVE": settings.blobs.serve} if settings.blobs else {}
