"""Agent IO's ingress: the file that names the PDS, and the Nomad job that runs IO.

IO is a closed binary that this project has never run; everything here follows its published pages and examples. Its
keywords were renamed between 2025 and 2026, so both dialects are written (`ingress.dialect`). What reaches IO is the
concatenation of every `io/files/*` variable: several stacks can share one IO, each owning one file.
"""

from components.render.hcl import Raw, quote, write
from components.render.jobspec import (
    DockerConfig,
    Group,
    Job,
    Logs,
    Network,
    Port,
    Reschedule,
    Resources,
    Restart,
    Service,
    Task,
    Template,
    Update,
    Variable,
    VolumeMount,
    VolumeRequest,
)
from components.render.pds_job import JOB as PDS_JOB
from components.settings.settings import Settings

JOB = "io"

FILES = "io/files"
"""Nomad variables below this path are IO's files, one a stack, each with one item `text`."""

LICENSE = "io/license"
"""The variable with IO's licence block, where there is one; item `text`."""

# nomadVarList is sorted by path, so the file does not change when nothing did.
_FILES = f"""\
{{{{ range nomadVarList "{FILES}" }}}}{{{{ with nomadVar .Path }}}}{{{{ .text }}}}
{{{{ end }}}}{{{{ end }}}}
"""
_LICENSE = f"""{{{{ with nomadVar "{LICENSE}" }}}}{{{{ .text }}}}{{{{ end }}}}\n"""


def ingress_file(settings: Settings) -> str:
    """This stack's part of IO's configuration."""
    backend = f"nomad:{PDS_JOB}" if settings.ingress.backend == "nomad" else f"127.0.0.1:{settings.pds.port}"
    text = f"{settings.ingress.dialect} {quote(settings.hostname)} {{\n"
    text += f"  name = {quote(PDS_JOB)}\n  backend = {quote(backend)}\n}}\n"
    return text + (f"\n{settings.ingress.extra_hcl.strip()}\n" if settings.ingress.extra_hcl.strip() else "")


def io_job(settings: Settings) -> str:
    """IO's job file, HCL. Its variable `open` is 1 once the hostname resolves to this host, else 0."""
    gate = Variable(
        name="open",
        type=Raw("number"),
        default=0,
        description="1 once the hostname resolves; a certificate order before that burns the CA's rate limit.",
    )
    return f"{write(gate)}\n\n{write(_job(settings))}\n"


def _job(settings: Settings) -> Job:
    licensed = settings.ingress.license_hcl is not None
    files = Template(destination="local/io.hcl", change_mode="restart", splay="0s", data=_FILES)
    license_file = Template(
        destination="secrets/license.hcl", change_mode="restart", splay="0s", perms="0600", data=_LICENSE
    )
    return Job(
        name=JOB,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        priority=60,  # above the PDS's 50: without its ingress no PDS of the host can be reached
        group=Group(
            name=JOB,
            count=Raw("var.open"),
            shutdown_delay="2s",
            # Host networking takes the ports by itself; naming them here lets Nomad refuse a second taker.
            network=Network(
                ports=(
                    Port(name="http", static=80),
                    Port(name="https", static=443),
                    Port(name="ssh", static=settings.ingress.ssh_port),
                )
            ),
            service=Service(name=JOB, port="https"),
            volumes=(VolumeRequest(name=JOB, source=JOB),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            update=Update(),
            tasks=(
                Task(
                    name=JOB,
                    kill_timeout="30s",
                    # The image's user and privileges are left alone: what IO needs is not published, and a binary with
                    # file capabilities could not bind 80 and 443 under the host's default.
                    config=DockerConfig(
                        image=settings.ingress.image,
                        args=("-c", "/local/io.hcl", *(("-c", "/secrets/license.hcl") if licensed else ())),
                        network_mode="host",
                        force_pull=False,
                        security_opt=("no-new-privileges=false",),
                    ),
                    volume_mounts=(VolumeMount(volume=JOB, destination="/io"),),
                    templates=(files, *((license_file,) if licensed else ())),
                    resources=Resources(cpu=300, memory=settings.ingress.memory_mib),
                    logs=Logs(max_files=5, max_file_size=10),
                ),
            ),
        ),
    )
