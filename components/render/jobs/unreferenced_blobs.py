"""A batch job that removes uploads that no record has named for `pds.unreferenced_blob_days`, once a week.

It runs in the server's own image beside the running server. The script owns what is removed, and why that is safe.
"""

from components.render.jobs.common import batch_job, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened
from components.render.jobspec import Logs, Periodic, Resources, Task, VolumeMount
from components.render.nomad_job import NomadJob
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, plain_environment
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import UNREFERENCED_BLOBS_MIB
from components.settings.sections.settings import Settings

JOB = "pds-unreferenced-blobs"

RUN_STATUS = "unreferenced-blobs"
"""Name of its status below DATA/.run-status, as in the script."""

_WEEKLY = "23 5 * * 1"  # a day after the drill
_PLACES = ("PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_DISK_TMP_LOCATION")
"""The server's variables that locate databases and uploads."""


def unreferenced_blobs_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    environment = plain_environment(settings)
    task = Task(
        name="unreferenced-blobs",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=("/local/unreferenced_blobs.cjs",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _PLACES if name in environment}
        | {"UNREFERENCED_BLOB_DAYS": str(settings.pds.unreferenced_blob_days)},
        templates=scripts("unreferenced_blobs.cjs"),
        resources=Resources(cpu=SMALL_MHZ, memory=UNREFERENCED_BLOBS_MIB),
        logs=Logs(max_files=2, max_file_size=1),
    )
    return batch_job(
        settings,
        stack,
        JOB,
        priority=30,  # as the drill, below the backup's 40
        periodic=Periodic(crons=(_WEEKLY,)),
        volumes=(data_volume(settings, stack),),
        tasks=(task,),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="unreferenced_blobs",
    file="unreferenced-blobs.nomad.hcl",
    section="pds",
    render=unreferenced_blobs_job,
    is_requested=lambda settings: settings.pds.unreferenced_blob_days is not None,
)
