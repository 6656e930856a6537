"""The common parts of both ingress jobs: one task on the host's own ports, started once the hostname resolves.

`io.py` and `caddy.py` define the task and its files.
"""

from components.render.hcl import Raw, write
from components.render.jobspec import (
    Group,
    Job,
    Network,
    Port,
    Reschedule,
    Restart,
    Service,
    Task,
    Update,
    Variable,
    VolumeRequest,
)
from components.render.where import where
from components.settings.settings import Settings


def files_template(folder: str) -> str:
    """A template of every stack's file in the Nomad variables below `folder`, in item `text`."""
    # nomadVarList is sorted by path, so the file changes only with its content.
    return f"""\
{{{{ range nomadVarList "{folder}" }}}}{{{{ with nomadVar .Path }}}}{{{{ .text }}}}
{{{{ end }}}}{{{{ end }}}}
"""


def ingress_job(settings: Settings, stack: str, task: Task, ports: tuple[Port, ...] = ()) -> str:
    """The job file, HCL. Job, service and host volume have the name of `task`; `ports` are those beside 80 and 443.

    Its variable `open` is 1 once the hostname resolves to this host, else 0.
    """
    gate = Variable(
        name="open",
        type=Raw("number"),
        default=0,
        description="1 once the hostname resolves; a certificate order before that burns the CA's rate limit.",
    )
    job = Job(
        name=task.name,
        namespace=where(settings, stack).namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        priority=60,  # above the PDS's 50: without its ingress no PDS of the host can be reached
        group=Group(
            name=task.name,
            count=Raw("var.open"),
            shutdown_delay="2s",
            # Host networking takes the ports by itself. Listing them lets Nomad refuse a second job that uses them.
            network=Network(ports=(Port(name="http", static=80), Port(name="https", static=443), *ports)),
            service=Service(name=task.name, port="https"),
            volumes=(VolumeRequest(name=task.name, source=task.name),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            update=Update(),
            tasks=(task,),
        ),
    )
    return f"{write(gate)}\n\n{write(job)}\n"
