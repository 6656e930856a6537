"""The PDS's Nomad job: the post's job, with the additions that a server of people's identities needs.

A pure function of the settings; no Output enters it, so a preview shows the whole job. On the host, a template reads
the secrets from the Nomad variable at `SECRETS_PATH`. `deviations.py` lists the differences from the post, with
reasons.
"""

from functools import cache
from pathlib import Path

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
from components.render.scripts import scripts
from components.render.where import Where, where
from components.settings.capacity import PDS_MHZ, SMALL_MHZ
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.settings import Settings

JOB = "pds"
"""Job ID and service name, as in the post."""

SECRETS_PATH = f"nomad/jobs/{JOB}"
"""A job may read the variable of its own path without a policy (Nomad's documentation, concepts/variables)."""

GUARD_PATH = f"nomad/jobs/{JOB}/{JOB}"
"""The guard's parameters. Separate from the job and the secrets, so that a change restarts nothing. The path is the
group's, which both of its tasks may read (a task's own path is closed to other tasks)."""

_GUARD_FILE = "/local/guard.cjs"

DURABLE_FILE = "/local/durable.cjs"
"""Preloaded into a server that flushes its writes before it acknowledges them (decision 16)."""

_MEBIBYTE = 1024 * 1024


def pds_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    return write(_job(settings, where(settings, stack))) + "\n"


def guard_items(settings: Settings) -> dict[str, str]:
    """Items of the variable at `GUARD_PATH`."""
    return {
        "PDS_GUARD_NEW": "true" if settings.pds.new else "false",
        "PDS_GUARD_ADOPT": "true" if settings.volume.adopt else "false",
    }


def _job(settings: Settings, here: Where) -> Job:
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
        # guard: a shorter one kills a server during its first start because its image took long. A crash begins no new
        # grace, so the delay of the restart and a slow start have to fit into the limit.
        check_restart=CheckRestart(limit=18, grace="15m"),
    )
    return Job(
        name=JOB,
        namespace=here.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        group=Group(
            name=JOB,
            count=0 if settings.pds.paused else 1,
            shutdown_delay="2s",
            network=Network(ports=(port,)),
            service=Service(name=JOB, port="http", check=health),
            volumes=(VolumeRequest(name=JOB, source=here.volume),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            # No deployment: a failed one can only be followed by a changed job, never by a retry of the same. And none
            # could be reverted: an older server must not follow one that has migrated its databases. SQLite has one
            # writer; Nomad starts an allocation after the replaced one has ended.
            update=Update(),
            tasks=(_guard(settings), _server(settings)),
        ),
    )


def _server(settings: Settings) -> Task:
    return Task(
        name=JOB,
        user="1000:1000",
        kill_timeout="60s",
        config=hardened(settings, pids_limit=512, ports=("http",)),
        volume_mounts=(VolumeMount(volume=JOB, destination=DATA_DIRECTORY),),
        env=plain_environment(settings) | {"NODE_OPTIONS": _preloads(settings)},
        templates=(
            *_guard_templates(),
            *(scripts("durable.cjs") if settings.pds.durable_writes else ()),
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


def _preloads(settings: Settings) -> str:
    """Modules that run in the server's own process before the server.

    The guard runs again here: a changed secret restarts only this task, and a server with another rotation key must not
    start on these data.
    """
    files = (_GUARD_FILE, DURABLE_FILE) if settings.pds.durable_writes else (_GUARD_FILE,)
    return " ".join(f"--require={name}" for name in files)


def _guard(settings: Settings) -> Task:
    """Checks before the server that the volume is ours. It fails at once, so that `up` does not wait for a deadline."""
    return Task(
        name="guard",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        restart=Restart(attempts=0, interval="10m", delay="15s", mode="fail"),
        config=hardened(settings, pids_limit=64, command="node", args=(_GUARD_FILE,)),
        volume_mounts=(VolumeMount(volume=JOB, destination=DATA_DIRECTORY),),
        env={"PDS_HOSTNAME": settings.hostname, "PDS_DATA_DIRECTORY": DATA_DIRECTORY},
        templates=(
            *_guard_templates(),
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

    So an additional secret changes the variable and not the job; toJSON quotes any characters of a password.
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


def _guard_templates() -> tuple[Template, ...]:
    """The guard's program and parameters. A change of either restarts nothing."""
    return (
        Template(destination="local/guard.cjs", change_mode="noop", data=_guard_script()),
        Template(
            destination="secrets/guard.env",
            env=True,
            change_mode="noop",
            perms="0600",
            data=variable_lines(GUARD_PATH),
        ),
    )


@cache
def _guard_script() -> str:
    return Path(__file__).with_name("files").joinpath("guard.cjs").read_text()
