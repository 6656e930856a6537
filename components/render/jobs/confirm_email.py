"""The Nomad job that marks members' e-mail addresses as confirmed, in the PDS's own image.

It is registered and runs only when `up` dispatches it (`parameterized`). Nomad would forget a plain batch job four
hours after its end, and its next change would then fail. The variable at `DIDS_PATH` lists the accounts: DIDs are known
only after members were created, and no Output enters a job.
"""

from components.render.jobs.common import batch_job, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened
from components.render.jobspec import Logs, Parameterized, Resources, Task, Template, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, plain_environment
from components.settings.sections import CONFIRM_EMAIL_MIB
from components.settings.sections.settings import Settings

JOB = "pds-confirm-email"

DIDS_PATH = own_path(JOB)
"""The variable with the item `dids`: DIDs separated by spaces. A run of a job may read its parent's variables."""

_DIDS = f"""\
{{{{ with nomadVar "{DIDS_PATH}" }}}}PDS_CONFIRM_DIDS={{{{ .dids | toJSON }}}}{{{{ end }}}}
"""
_PLACES = ("PDS_DATA_DIRECTORY", "PDS_ACCOUNT_DB_LOCATION")
"""The server's variables that locate its databases."""


def confirm_email_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    environment = plain_environment(settings)
    task = Task(
        name="confirm-email",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=("/local/confirm_email.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _PLACES if name in environment},
        templates=(
            *scripts("confirm_email.cjs"),
            Template(destination="local/dids.env", env=True, change_mode="noop", data=_DIDS),
        ),
        resources=Resources(cpu=100, memory=CONFIRM_EMAIL_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )
    return batch_job(
        settings,
        stack,
        JOB,
        parameterized=Parameterized(),
        volumes=(data_volume(settings, stack),),
        tasks=(task,),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="confirm_email",
    file="confirm-email.nomad.hcl",
    section="members",
    render=confirm_email_job,
    is_requested=lambda settings: any(member.email_verified for member in settings.members),
    variable_path=DIDS_PATH,
)
