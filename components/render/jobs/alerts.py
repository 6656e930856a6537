"""A batch job that reports volume usage, account count and backup and drill status to a dead man's switch every 15
minutes.

DigitalOcean's monitoring sees the droplet's own disk, not the volume, and knows no accounts. The job runs in the
server's image, which is on the host anyway, and reads the volume. It writes only what it has sent, and its own status,
which also proves that the volume can be written to. Its URL is in a Nomad variable. If the host has a metrics store,
the job also evaluates the alert rules there.
"""

from dataclasses import replace

from components.render.jobs.common import batch_job, data_volume, space_remedy
from components.render.jobs.drill import DAYS as DRILL_DAYS
from components.render.jobs.pds import JOB as PDS_JOB
from components.render.jobs.pds import hardened, variable_lines
from components.render.jobspec import Logs, Periodic, Resources, Restart, Task, Template, VolumeMount
from components.render.metrics.files import file_template, rules_json
from components.render.nomad_job import NomadJob, own_path
from components.render.scripts import scripts
from components.settings.checks.pds_env import DATA_DIRECTORY
from components.settings.sections import ALERTS_MIB, STORE_PORT
from components.settings.sections.settings import Settings

JOB = "pds-alerts"

PING_PATH = own_path(JOB)
"""The variable with the item `PING_URL`. Runs of a periodic job read their parent's (nomad/structs/workload_id.go)."""

VOLUME_PERCENT = 80
"""Volume usage that raises the alarm."""

_EVERY = "*/15 * * * *"


def alerts_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    assert settings.alerts
    task = Task(
        name="alerts",
        user="1000:1000",
        config=replace(
            hardened(settings, pids_limit=64, command="node", args=("/local/alerts.cjs",)),
            # The store listens on the host's loopback only.
            network_mode="host" if settings.metrics_store else None,
        ),
        volume_mounts=(VolumeMount(volume=PDS_JOB, destination=DATA_DIRECTORY),),
        env={
            # It begins each message. The uptime check is off meanwhile, so no alert reports a pause that is left on.
            "PDS_HOSTNAME": f"{settings.hostname}{', which is PAUSED' if settings.pds.paused else ''}",
            "PDS_DATA_DIRECTORY": DATA_DIRECTORY,
            "ALERTS_VOLUME_PERCENT": str(VOLUME_PERCENT),
            "ALERTS_ACCOUNTS": str(settings.alerts.accounts),
            "SPACE_REMEDY": space_remedy(settings),
            **patience(settings),
            **({"ALERTS_METRICS": f"http://127.0.0.1:{STORE_PORT}"} if settings.metrics_store else {}),
        },
        templates=(
            *scripts("alerts.cjs"),
            *((file_template("rules.json", rules_json()),) if settings.metrics_store else ()),
            Template(
                destination="secrets/ping.env",
                env=True,
                change_mode="noop",
                perms="0600",
                data=variable_lines(PING_PATH),
            ),
        ),
        resources=Resources(cpu=100, memory=ALERTS_MIB),
        logs=Logs(max_files=1, max_file_size=1),
    )
    return batch_job(
        settings,
        stack,
        JOB,
        periodic=Periodic(crons=(_EVERY,)),
        volumes=(data_volume(settings, stack),),
        # The next run is the next try. A switch that receives nothing meanwhile raises the alarm, as it should.
        restart=Restart(attempts=1, interval="10m", delay="15s", mode="fail"),
        reschedule=None,
        tasks=(task,),
    )


def patience(settings: Settings) -> dict[str, str]:
    """Hours that may pass without a good backup, and without a due drill."""
    if settings.backup is None:
        return {}
    # Two failures may be an unreachable bucket; the third needs an operator.
    hours = max(2, -(-3 * settings.backup.interval_minutes // 60))
    return {"ALERTS_BACKUP_HOURS": str(hours), "ALERTS_DRILL_HOURS": str(24 * (DRILL_DAYS + 1))}


ENTRY = NomadJob(
    job_id=JOB,
    role="alerts",
    file="alerts.nomad.hcl",
    section="alerts",
    render=alerts_job,
    is_requested=lambda settings: bool(settings.alerts and settings.alerts.ping_url),
    variable_path=PING_PATH,
)
