"""The Nomad job that marks members' e-mail addresses as confirmed, in the PDS's own image.

It is registered and runs only when `up` dispatches it (`parameterized`). Nomad would forget a plain batch job four
hours after its end, and its next change would then fail. The variable at `DIDS_PATH` lists the accounts: DIDs are known
only after members were created, and no Output enters a job.
"""

from components.render.batch import batch_job, data_volume
from components.render.jobspec import Logs, Parameterized, Resources, Task, Template, VolumeMount
from components.render.pds_job import JOB as PDS_JOB
from components.render.pds_job import hardened
from components.render.scripts import scripts
from components.settings.checks import CONFIRM_MIB
from components.settings.environment import DATA_DIRECTORY, plain_environment
from components.settings.settings import Settings

JOB = "pds-confirm"

DIDS_PATH = f"nomad/jobs/{JOB}"
"""The variable with the item `dids`: DIDs separated by spaces. A run of a job may read its parent's variables."""

_DIDS = f"""\
{{{{ with nomadVar "{DIDS_PATH}" }}}}PDS_CONFIRM_DIDS={{{{ .dids | toJSON }}}}{{{{ end }}}}
"""
_PLACES = ("PDS_DATA_DIRECTORY", "PDS_ACCOUNT_DB_LOCATION")
"""The server's variables that locate its databases."""


def confirm_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    environment = plain_environment(settings)
    task = Task(
        name="confirm",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=("/local/confirm.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _PLACES if name in environment},
        templates=(
            *scripts("confirm.cjs"),
            Template(destination="local/dids.env", env=True, change_mode="noop", data=_DIDS),
        ),
        resources=Resources(cpu=100, memory=CONFIRM_MIB),
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
