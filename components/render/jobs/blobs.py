"""The job that moves blobs between the volume and the bucket, and repairs them. It is registered, and runs when
`./pds blobs` or `./pds restore` dispatches it.

It runs in the server's own image beside the server. The script owns the steps. On the host, the variable at
`BLOBS_PATH` has the bucket's key, and that of the backups.
"""

from components.render.jobs.common import batch_job, blobs_served, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobs.restic import disk, on_disk, opened_by, restic_environment
from components.render.jobspec import Logs, Parameterized, Resources, Task, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, bucket_environment
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import BLOBS_MIB
from components.settings.sections.settings import Settings

JOB = "pds-blobs"

BLOBS_PATH = own_path(JOB)
"""The variable with the keys of bucket and backups. A run of a job may read its parent's variables."""

OTHER_PATH = f"{BLOBS_PATH}/{JOB}/blobs"
"""The variable with the credentials of another stack's backups while `./pds restore --to` repairs from them."""

META = ("step", "to", "accept_losses", "only")
"""Parameters of a run, as `blobs.cjs` reads them."""


def blobs_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.blobs
    other = f'{{{{ if nomadVarExists "{OTHER_PATH}" }}}}{variable_lines(OTHER_PATH).rstrip()}{{{{ end }}}}\n'
    task = Task(
        name="blobs",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=("/local/blobs.cjs",)),
        volume_mounts=(
            VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),
            *(on_disk(settings, read_only=True) if settings.backup else ()),
        ),
        env={
            "PDS_HOSTNAME": settings.hostname,
            "PDS_DATA_DIRECTORY": DATA_DIRECTORY,
            **blobs_served(settings),
            **bucket_environment(settings),
            **(restic_environment(settings, stack) if settings.backup else {}),
        },
        templates=(*scripts("blobs.cjs"), opened_by(variable_lines(BLOBS_PATH) + (other if settings.backup else ""))),
        resources=Resources(cpu=SMALL_MHZ, memory=BLOBS_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )
    return batch_job(
        settings,
        stack,
        JOB,
        priority=40,  # as the backup, below the PDS's 50
        parameterized=Parameterized(meta_optional=META),
        volumes=(data_volume(settings, stack), *disk(settings)),
        tasks=(task,),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="blobs",
    file="blobs.nomad.hcl",
    section="blobs",
    render=blobs_job,
    is_requested=lambda settings: settings.blobs is not None,
    variable_path=BLOBS_PATH,
)
