"""Agent IO's ingress: the file that names the PDS, and the Nomad job that runs IO.

IO is a closed binary that this project has never run; this code follows its published pages and examples. Its keywords
were renamed between 2025 and 2026, so both dialects are supported (`ingress.dialect`). IO reads the concatenation of
all `io/files/*` variables: several stacks can share one IO, and each owns one file.
"""

from components.render.hcl import quote
from components.render.ingress.job import files_template, ingress_job
from components.render.jobspec import DockerConfig, Logs, Port, Resources, Task, Template, VolumeMount
from components.render.nomad_job import PDS_JOB, NomadJob
from components.render.nomad_scope import nomad_scope
from components.settings.fields.job_demand import INGRESS_MHZ
from components.settings.sections.settings import Settings

JOB = "io"

LICENSE = "io/license"
"""The variable with IO's licence block, if there is one; item `text`."""

_LICENSE = f"""{{{{ with nomadVar "{LICENSE}" }}}}{{{{ .text }}}}{{{{ end }}}}\n"""


def ingress_file(settings: Settings, stack: str) -> str:
    """This stack's part of IO's configuration."""
    backend = f"127.0.0.1:{settings.pds.port}" if settings.fixed_port else f"nomad:{PDS_JOB}"
    text = f"{settings.ingress.dialect} {quote(settings.hostname)} {{\n"
    text += f"  name = {quote(nomad_scope(settings, stack).volume)}\n  backend = {quote(backend)}\n}}\n"
    return text + (f"\n{settings.ingress.extra_hcl.strip()}\n" if settings.ingress.extra_hcl.strip() else "")


def io_job(settings: Settings, stack: str) -> str:
    """IO's job file, HCL."""
    return ingress_job(settings, stack, _task(settings), ports=(Port(name="ssh", static=settings.ingress.ssh_port),))


def _task(settings: Settings) -> Task:
    licensed = settings.ingress.license_hcl is not None
    files = Template(destination="local/io.hcl", change_mode="restart", splay="0s", data=files_template(f"{JOB}/files"))
    license_file = Template(
        destination="secrets/license.hcl", change_mode="restart", splay="0s", perms="0600", data=_LICENSE
    )
    return Task(
        name=JOB,
        kill_timeout="30s",
        # The image's user and privileges are unchanged: IO's requirements are not published, and a binary with
        # file capabilities could not bind 80 and 443 under the host's default.
        config=DockerConfig(
            image=settings.ingress.container_image,
            args=("-c", "/local/io.hcl", *(("-c", "/secrets/license.hcl") if licensed else ())),
            network_mode="host",
            force_pull=False,
            security_opt=("no-new-privileges=false",),
        ),
        volume_mounts=(VolumeMount(volume=JOB, destination="/io"),),
        templates=(files, *((license_file,) if licensed else ())),
        resources=Resources(cpu=INGRESS_MHZ, memory=settings.ingress.memory_mib),
        logs=Logs(max_files=5, max_file_size=10),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="ingress",
    file="io.nomad.hcl",
    section="ingress",
    render=io_job,
    is_requested=lambda settings: settings.ingress_is_ours and settings.ingress.kind == JOB,
    variable_path=LICENSE,
)
