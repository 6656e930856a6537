"""The Nomad job that counts members' e-mail addresses as confirmed, in the PDS's own image; pure text.

It waits registered and runs only when `up` asks for it (`parameterized`). A plain batch job would be forgotten by Nomad
four hours after its end, and its next change would fail with it. Which accounts, says the variable at `DIDS_PATH`: DIDs
are known only after members were made, and no Output enters a job.
"""

from functools import cache
from pathlib import Path

from components.render.hcl import write
from components.render.jobspec import (
    Group,
    Job,
    Logs,
    Parameterized,
    Reschedule,
    Resources,
    Restart,
    Task,
    Template,
    VolumeMount,
    VolumeRequest,
)
from components.render.pds_job import JOB as PDS_JOB
from components.render.pds_job import hardened
from components.render.where import where
from components.settings.checks import CONFIRM_MIB
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.settings import Settings

JOB = "pds-confirm"

DIDS_PATH = f"nomad/jobs/{JOB}"
"""The variable with the item `dids`: DIDs with spaces between them. A run of a job reads what its parent may."""

_DIDS = f"""\
{{{{ with nomadVar "{DIDS_PATH}" }}}}PDS_CONFIRM_DIDS={{{{ .dids | toJSON }}}}{{{{ end }}}}
"""
_SCRIPT = "local/confirm.cjs"
_PLACES = ("PDS_DATA_DIRECTORY", "PDS_ACCOUNT_DB_LOCATION")
"""What of the server's environment says where its databases are."""


def confirm_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    environment, here = plain_environment(settings), where(settings, stack)
    task = Task(
        name="confirm",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=(f"/{_SCRIPT}",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _PLACES if name in environment},
        templates=(
            Template(destination=_SCRIPT, change_mode="noop", data=_script()),
            Template(destination="local/dids.env", env=True, change_mode="noop", data=_DIDS),
        ),
        resources=Resources(cpu=100, memory=CONFIRM_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )
    job = Job(
        name=JOB,
        namespace=here.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        type="batch",
        parameterized=Parameterized(),
        group=Group(
            name=JOB,
            volumes=(VolumeRequest(name=PDS_JOB, source=here.volume),),
            # It fails at once, in its own words; the next `up` tries again.
            restart=Restart(attempts=0, interval="10m", delay="15s", mode="fail"),
            reschedule=Reschedule(attempts=0, delay=None, delay_function=None, unlimited=False),
            tasks=(task,),
        ),
    )
    return write(job) + "\n"


@cache
def _script() -> str:
    return Path(__file__).with_name("files").joinpath("confirm.cjs").read_text()
