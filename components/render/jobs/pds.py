"""The PDS's Nomad job: the post's job, with the additions that a server with members' identities needs.

A pure function of the settings. No Output enters it, so a preview shows the whole job. On the host, a template reads
the secrets from the Nomad variable at `SECRETS_PATH`. docs/differences-from-the-post.md gives the reasons for each
difference.
"""

from components.render.hcl import write
from components.render.jobspec import (
    Check,
    CheckRestart,
    DockerConfig,
    Group,
    Job,
    Lifecycle,
    Logs,
    Mount,
    Network,
    Port,
    Reschedule,
    Resources,
    Restart,
    Service,
    Task,
    Template,
    TmpfsOptions,
    Update,
    VolumeMount,
    VolumeRequest,
)
from components.render.nomad_job import PDS_JOB, NomadJob, own_path
from components.render.nomad_scope import NomadScope, nomad_scope
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, blob_location, plain_environment, telemetry_environment
from components.settings.fields.job_demand import PDS_MHZ, SMALL_MHZ
from components.settings.sections import SERVER_PORT
from components.settings.sections.settings import Settings

JOB = PDS_JOB

SECRETS_PATH = own_path(JOB)
"""A job may read the variable of its own path without a policy (Nomad's documentation, concepts/variables)."""

VOLUME_CHECK_PATH = f"nomad/jobs/{JOB}/{JOB}"
"""Parameters of the volume check. Separate from the job and the secrets, so that a change restarts nothing. The path is
the group's, which both of its tasks may read. A task's own path is closed to other tasks."""

_VOLUME_CHECK = "volume_check.cjs"
"""Runs as a task of its own, and again in the server's process: a changed secret restarts only that task, and a server
with another rotation key must not start on these data."""

_DATA_LOCK = "data_lock.cjs"
"""Preloaded into every server, so that two never write to the same data (decision 20)."""
_DURABLE = "durable.cjs"
"""Preloaded into a server that flushes its writes before it acknowledges them (decision 16)."""

_FOR_VOLUME_CHECK = ("PDS_HOSTNAME", "PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_S3_BUCKET", "PDS_BLOBSTORE_S3_ENDPOINT")

_TELEMETRY = "telemetry.mjs"
"""Preloaded into a server whose telemetry `metrics` asks for. Node loads it after the others: the volume is checked and
locked before telemetry opens a port."""

_MEBIBYTE = 1024 * 1024


def pds_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    return write(_job(settings, nomad_scope(settings, stack))) + "\n"


def volume_check_items(settings: Settings, blobs_moved: str = "") -> dict[str, str]:
    """Items of the variable at `VOLUME_CHECK_PATH`. `blobs_moved` is the place that has all blobs, as the operator says
    (`stack_identity.BLOBS_MOVED`)."""
    place = plain_environment(settings).get("PDS_BLOBSTORE_S3_BUCKET", "disk")
    return {
        "PDS_VOLUME_CHECK_NEW": "true" if settings.pds.new else "false",
        "PDS_VOLUME_CHECK_ADOPT": "true" if settings.volume.adopt else "false",
        **({"PDS_VOLUME_CHECK_BLOBS": place} if blobs_moved == blob_location(settings) else {}),
    }


def _job(settings: Settings, scope: NomadScope) -> Job:
    port = Port(
        name="http",
        static=settings.pds.port if settings.fixed_port else None,
        to=settings.pds.port,
        host_network="loopback",
    )
    health = Check(
        type="http",
        path="/xrpc/_health",
        interval="10s",
        timeout="5s",
        # Nomad counts the grace of a group's service from the allocation's start, including the image's pull and the
        # volume check. A shorter grace would kill a server during its first start if its image took long. A crash
        # begins no new grace, so the delay of the restart and a slow start have to fit into the limit.
        check_restart=CheckRestart(limit=18, grace="15m"),
    )
    return Job(
        name=JOB,
        namespace=scope.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        group=Group(
            name=JOB,
            count=0 if settings.pds.paused else 1,
            shutdown_delay="2s",
            network=Network(ports=(port, *_metrics_ports(settings))),
            service=Service(name=JOB, port="http", check=health),
            volumes=(VolumeRequest(name=JOB, source=scope.volume),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            # No deployment: only a changed job can follow a failed one, never a retry of the same. Nor could one be
            # reverted: an older server must not follow one that has migrated its databases. SQLite has one writer.
            # Nomad starts an allocation after the replaced one has ended.
            update=Update(),
            tasks=(_volume_check(settings), _server(settings)),
        ),
    )


def _metrics_ports(settings: Settings) -> tuple[Port, ...]:
    """The port of the server's metrics, for the store on this host; on loopback, where the store finds it."""
    if not (settings.metrics_store and telemetry_environment(settings)):
        return ()
    return (Port(name="metrics", static=SERVER_PORT, to=SERVER_PORT, host_network="loopback"),)


def _server(settings: Settings) -> Task:
    telemetry = telemetry_environment(settings)
    importing = [f"--import=/local/{_TELEMETRY}"] if telemetry else []
    return Task(
        name=JOB,
        user="1000:1000",
        kill_timeout="60s",
        config=hardened(settings, pids_limit=512, ports=("http", *(port.name for port in _metrics_ports(settings)))),
        volume_mounts=(VolumeMount(volume=JOB, destination=DATA_DIRECTORY),),
        env=plain_environment(settings)
        | telemetry
        | {"NODE_OPTIONS": " ".join([preloading(_VOLUME_CHECK, *server_modules(settings)), *importing])},
        templates=(
            *_volume_check_templates(),
            *scripts(*server_modules(settings)),
            *(scripts(_TELEMETRY) if telemetry else ()),
            Template(
                destination="secrets/pds.env",
                env=True,
                change_mode="restart",
                splay="0s",
                perms="0600",
                data=variable_lines(SECRETS_PATH),
            ),
        ),
        resources=Resources(cpu=PDS_MHZ, memory=settings.pds.memory_mib),
        logs=Logs(max_files=5, max_file_size=10),
    )


def server_modules(settings: Settings) -> tuple[str, ...]:
    """Modules that change how the server itself works, in the order in which Node loads them.

    The lock comes last: it loads the database library, which durable writes observe.
    """
    return (*((_DURABLE,) if settings.pds.durable_writes else ()), _DATA_LOCK)


def preloading(*modules: str) -> str:
    """Node's options that load `modules`, which are files of the task, before the program."""
    return " ".join(f"--require=/local/{name}" for name in modules)


def _volume_check(settings: Settings) -> Task:
    """Checks the volume before the server starts. It fails at once, so that `up` does not wait for a deadline."""
    environment = plain_environment(settings)
    return Task(
        name="volume-check",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        restart=Restart(attempts=0, interval="10m", delay="15s", mode="fail"),
        config=hardened(settings, pids_limit=64, command="node", args=(f"/local/{_VOLUME_CHECK}",)),
        volume_mounts=(VolumeMount(volume=JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _FOR_VOLUME_CHECK if name in environment},
        templates=(
            *_volume_check_templates(),
            Template(
                destination="secrets/pds.env",
                env=True,
                change_mode="noop",
                perms="0600",
                data=variable_lines(SECRETS_PATH),
            ),
        ),
        resources=Resources(cpu=SMALL_MHZ, memory=128),
        logs=Logs(max_files=2, max_file_size=1),
    )


def variable_lines(path: str) -> str:
    """A template that turns each item of the Nomad variable at `path` into an environment variable of the same name.

    An additional secret changes the variable and not the job. toJSON quotes any characters of a password.
    """
    return (
        f'{{{{ with nomadVar "{path}" }}}}{{{{ range .Tuples }}}}{{{{ .K }}}}={{{{ .V | toJSON }}}}\n'
        "{{ end }}{{ end }}\n"
    )


def hardened(
    settings: Settings,
    pids_limit: int,
    ports: tuple[str, ...] = (),
    command: str | None = None,
    args: tuple[str, ...] = (),
) -> DockerConfig:
    """A container in the server's image that may only compute and write to /tmp and its volumes."""
    return DockerConfig(
        image=settings.pds.image,
        command=command,
        args=args,
        ports=ports,
        readonly_rootfs=True,
        cap_drop=("all",),
        security_opt=("no-new-privileges",),
        pids_limit=pids_limit,
        mount=Mount(
            target="/tmp",  # noqa: S108 (inside the container)
            tmpfs_options=TmpfsOptions(size=64 * _MEBIBYTE),
        ),
    )


def _volume_check_templates() -> tuple[Template, ...]:
    """The volume check's program and parameters. A change of either restarts nothing."""
    return (
        *scripts(_VOLUME_CHECK),
        Template(
            destination="secrets/volume-check.env",
            env=True,
            change_mode="noop",
            perms="0600",
            data=variable_lines(VOLUME_CHECK_PATH),
        ),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="pds",
    file="pds.nomad.hcl",
    section="pds",
    render=pds_job,
    is_requested=lambda settings: True,
    variable_path=SECRETS_PATH,
)
