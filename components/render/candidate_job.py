"""The trial of another version of the server, in Nomad, on the host: it waits registered until `./pds upgrade` asks.

Which image is the meta of the run. `fetch` gets the newest backup; `candidate` puts the image's server to work on
throw-away data; `serve` lets it start on the copy of the backup. The latter two have no network, no secret and no
mount: whatever a candidate does, it does to nobody.
"""

from dataclasses import replace

from components.render.backup_job import disk, hardened_restic, on_disk, opened_by, restic_environment
from components.render.drill_job import WHATEVER
from components.render.hcl import Raw, write
from components.render.jobspec import (
    DockerConfig,
    Group,
    Job,
    Lifecycle,
    Logs,
    Parameterized,
    Reschedule,
    Resources,
    Restart,
    Task,
)
from components.render.pds_job import hardened, variable_lines
from components.render.scripts import scripts
from components.render.where import where
from components.settings.checks import BACKUP_MEMORY_MIB
from components.settings.environment import plain_environment
from components.settings.settings import Settings

JOB = "pds-candidate"

CANDIDATE_PATH = f"nomad/jobs/{JOB}"
"""The variable with what opens the backups."""

_RESOURCES = Resources(cpu=200, memory=BACKUP_MEMORY_MIB)
_LOGS = Logs(max_files=2, max_file_size=1)
_FOR_SERVER = ("TZ", "PDS_HOSTNAME", "PDS_SERVICE_HANDLE_DOMAINS", "PDS_DID_PLC_URL")


def candidate_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.backup
    fetch = Task(
        name="fetch",
        user="1000:1000",
        lifecycle=Lifecycle(hook="prestart"),
        config=replace(hardened_restic(settings, "fetch.sh"), entrypoint=("/bin/sh", "-c", WHATEVER)),
        volume_mounts=on_disk(settings, read_only=True),
        env={"PDS_HOSTNAME": settings.hostname, **restic_environment(settings, stack)},
        templates=(*scripts("fetch.sh", "open.sh"), opened_by(variable_lines(CANDIDATE_PATH))),
        resources=_RESOURCES,
        logs=_LOGS,
    )
    tasks = (
        fetch,
        _on_candidate(settings, "candidate", "candidate.cjs", "directory.cjs"),
        _on_candidate(settings, "serve", "serve.cjs", lifecycle=Lifecycle(hook="poststop")),
    )
    here = where(settings, stack)
    job = Job(
        name=JOB,
        namespace=here.namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        type="batch",
        priority=30,
        parameterized=Parameterized(meta_required=("image",)),
        group=Group(
            name=JOB,
            volumes=disk(settings),
            restart=Restart(attempts=0, interval="10m", delay="15s", mode="fail"),
            reschedule=Reschedule(attempts=0, delay=None, delay_function=None, unlimited=False),
            tasks=tasks,
        ),
    )
    return write(job) + "\n"


def _on_candidate(settings: Settings, name: str, *programs: str, lifecycle: Lifecycle | None = None) -> Task:
    environment = plain_environment(settings)
    return Task(
        name=name,
        user="1000:1000",
        lifecycle=lifecycle,
        config=_without_network(settings, programs[0]),
        env={key: environment[key] for key in _FOR_SERVER if key in environment} | {"TRIAL": "candidate"},
        templates=scripts(*programs, "server.cjs", "repository.cjs"),
        resources=_RESOURCES,
        logs=_LOGS,
    )


def _without_network(settings: Settings, program: str) -> DockerConfig:
    config = hardened(settings, pids_limit=128, command="node", args=(f"/local/{program}",))
    # Nomad puts the meta of the run in; for HCL it is text.
    return replace(config, image=Raw('"${NOMAD_META_image}"'), network_mode="none")
