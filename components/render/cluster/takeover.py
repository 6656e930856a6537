"""The job of a cluster that brings a dead host back on a spare worker: `components/takeover`, as it is, on a server.

It runs with the servers' own Python, so that it needs no image while things fail. Count 1: Nomad starts it on another
server if its own is lost. Two at once do no harm.
"""

import inspect
from types import ModuleType

import components.takeover as package
from components.render.cluster.agents import SERVERS_POOL
from components.render.cluster.user_data import worker_tag
from components.render.hcl import write
from components.render.jobs.pds import variable_lines
from components.render.jobspec import (
    ExecConfig,
    Group,
    Identity,
    Job,
    Logs,
    Reschedule,
    Resources,
    Restart,
    Task,
    Template,
    Update,
)
from components.render.nomad_job import own_path
from components.settings.sections.settings import Settings
from components.takeover import (
    addresses,
    decide,
    endpoint,
    interfaces,
    passes,
    program,
    rate_limit,
    reporting,
    services,
    spares,
    watch,
)

JOB = "pds-takeover"

VARIABLE = own_path(JOB)
"""Its items: `TAKEOVER_TOKEN`, `TAKEOVER_HOSTS`, with several servers `TAKEOVER_ENDPOINT`, and, if given,
`TAKEOVER_NOTIFY_URL` and `TAKEOVER_PING_URL`. No other job may read it."""

_MODULES = (
    package,
    addresses,
    decide,
    endpoint,
    interfaces,
    passes,
    program,
    rate_limit,
    reporting,
    services,
    spares,
    watch,
)

_MIB = 64


def takeover_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    cluster = settings.cluster
    assert cluster
    assert cluster.takeover
    options = cluster.takeover
    environment = {
        "PYTHONPATH": "${NOMAD_TASK_DIR}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NOMAD_ADDR": "http://${attr.unique.advertise.address}",
        "TAKEOVER_TAG": worker_tag(stack),
        "TAKEOVER_AFTER_SECONDS": str(options.after_seconds),
        "TAKEOVER_API_URL": options.api_url,
        "TAKEOVER_SERVERS": str(cluster.servers.count),
        "TAKEOVER_SPARES": str(cluster.workers.spares),
    }
    task = Task(
        name="takeover",
        driver="raw_exec",
        user="daemon",
        config=ExecConfig(command="/usr/bin/python3", args=("-m", "components.takeover.program")),
        identity=Identity(env=True),
        env=environment,
        templates=(
            Template(destination="local/components/__init__.py", change_mode="noop", data="# A package.\n"),
            *(_file(module) for module in _MODULES),
            Template(
                destination="secrets/takeover.env",
                env=True,
                change_mode="restart",
                perms="0600",
                data=variable_lines(VARIABLE),
            ),
        ),
        resources=Resources(cpu=50, memory=_MIB),
        logs=Logs(max_files=3, max_file_size=5),
    )
    job = Job(
        name=JOB,
        datacenters=(settings.nomad.datacenter,),
        node_pool=SERVERS_POOL,
        region=settings.nomad.region,
        priority=80,
        group=Group(
            name=JOB,
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            update=Update(),
            tasks=(task,),
        ),
    )
    return write(job) + "\n"


def _file(module: ModuleType) -> Template:
    """A module of the takeover as a file of the task, under its own name."""
    parts = module.__name__.replace(".", "/")
    path = f"{parts}/__init__.py" if module is package else f"{parts}.py"
    # No template syntax is in these files; other delimiters make sure of it.
    return Template(
        destination=f"local/{path}",
        change_mode="restart",
        left_delimiter="<<<",
        right_delimiter=">>>",
        data=inspect.getsource(module),
    )
