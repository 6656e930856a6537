"""A batch job that removes uploads that no record has named for `pds.unreferenced_blob_days`, once a week; in the
bucket of `blobs` also what deleted accounts left behind.

It runs in the server's own image beside the running server. The scripts own what is removed, and why that is safe.
"""

from components.render.jobs.common import batch_job, data_volume
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobspec import Logs, Periodic, Resources, Task, Template, VolumeMount
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY, bucket_environment, plain_environment
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import BLOBS_MIB, UNREFERENCED_BLOBS_MIB
from components.settings.sections.settings import Settings

JOB = "pds-unreferenced-blobs"

UNREFERENCED_BLOBS_PATH = own_path(JOB)
"""The variable with the key of the bucket, if blobs are in one."""

RUN_STATUS = "unreferenced-blobs"
"""Name of its status below DATA/.run-status, as in the script."""

_WEEKLY = "23 5 * * 1"  # a day after the drill
_PLACES = ("PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_DISK_TMP_LOCATION")
"""The server's variables that locate databases and uploads."""


def unreferenced_blobs_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    environment = plain_environment(settings)
    bucket = settings.blobs_in_bucket
    program = "unreferenced_in_bucket.cjs" if bucket else "unreferenced_blobs.cjs"
    days = settings.pds.unreferenced_blob_days
    task = Task(
        name="unreferenced-blobs",
        user="1000:1000",
        config=hardened(settings, pids_limit=64, command="node", args=(f"/local/{program}",)),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={name: environment[name] for name in _PLACES if name in environment}
        | (bucket_environment(settings) if bucket else {})
        | ({"UNREFERENCED_BLOB_DAYS": str(days)} if days is not None else {}),
        templates=(*scripts(program), *((_key(),) if bucket else ())),
        resources=Resources(cpu=SMALL_MHZ, memory=BLOBS_MIB if bucket else UNREFERENCED_BLOBS_MIB),
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


def is_requested(settings: Settings) -> bool:
    """Whether the stack has the job."""
    return settings.pds.unreferenced_blob_days is not None or settings.blobs_in_bucket


def _key() -> Template:
    lines = variable_lines(UNREFERENCED_BLOBS_PATH)
    return Template(destination="secrets/blobs.env", env=True, change_mode="noop", perms="0600", data=lines)


ENTRY = NomadJob(
    job_id=JOB,
    role="unreferenced_blobs",
    file="unreferenced-blobs.nomad.hcl",
    section="pds",
    render=unreferenced_blobs_job,
    is_requested=is_requested,
    variable_path=UNREFERENCED_BLOBS_PATH,
)
