"""The common parts of both ingress jobs: one task on the host's own ports, started once the hostname resolves.

`agent_io.py` and `caddy.py` define the task and its files.
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
from components.render.nomad_scope import nomad_scope
from components.settings.ingress_state import IngressState
from components.settings.sections.settings import Settings


def files_template(folder: str) -> str:
    """A template of every stack's file in the Nomad variables below `folder`, in item `text`."""
    # nomadVarList is sorted by path, so the file changes only with its content.
    return f"""\
{{{{ range nomadVarList "{folder}" }}}}{{{{ with nomadVar .Path }}}}{{{{ .text }}}}
{{{{ end }}}}{{{{ end }}}}
"""


def ingress_job(settings: Settings, stack: str, task: Task, ports: tuple[Port, ...] = ()) -> str:
    """The job file, HCL. Job, service and host volume have the name of `task`; `ports` are those beside 80 and 443.

    Its variable `ingress_state` is OPEN once the hostname resolves to this host. Until then Nomad runs no instance.
    """
    ingress_state = Variable(
        name="ingress_state",
        type=Raw("string"),
        default=IngressState.CLOSED.value,
        description="'open' once the hostname resolves. A certificate order before that uses up the CA's rate limit.",
    )
    job = Job(
        name=task.name,
        namespace=nomad_scope(settings, stack).namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        priority=60,  # above the PDS's 50: without its ingress no PDS of the host can be reached
        group=Group(
            name=task.name,
            count=Raw(f'var.ingress_state == "{IngressState.OPEN}" ? 1 : 0'),
            shutdown_delay="2s",
            # Host networking takes the ports by itself. Nomad refuses a second job that lists the same ports.
            network=Network(ports=(Port(name="http", static=80), Port(name="https", static=443), *ports)),
            service=Service(name=task.name, port="https"),
            volumes=(VolumeRequest(name=task.name, source=task.name),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            update=Update(),
            tasks=(task,),
        ),
    )
    return f"{write(ingress_state)}\n\n{write(job)}\n"
