"""The Nomad job of the metrics store: one process of VictoriaMetrics that collects, stores and shows.

It is in the host's network, as the ingress is: Nomad and the server show their metrics on loopback only. It listens on
loopback itself and requires a password there, because the texts of clubs reach the ingress, which is on loopback too.
Operators come through SSH (`./pds dashboard`). Its directory on the volume has a quota (`files/volume.sh`), and it
takes no new samples before the quota is used up. Flags: docs.victoriametrics.com, single-server-victoriametrics.
"""

from components.render.hcl import write
from components.render.jobspec import (
    Check,
    CheckRestart,
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
    VolumeMount,
    VolumeRequest,
)
from components.render.metrics.files import dashboards, file_template, scrape_config
from components.render.nomad_job import NomadJob, own_path
from components.render.nomad_scope import nomad_scope
from components.settings.fields.job_demand import SMALL_MHZ
from components.settings.sections import STORE_PORT
from components.settings.sections.settings import Settings

JOB = "pds-metrics"

TASK = "metrics"

METRICS_PATH = own_path(JOB)
"""The variable with the item `METRICS_PASSWORD`."""

USER = "pds"
"""User name that goes with that password."""

VOLUME = "metrics"
"""Host volume of the store, which every host has (`files/agent.hcl`)."""

_OWNER = "1002:1002"
"""The account `metrics` of `files/setup.sh`."""

_DIRECTORY = "/metrics"
_MEBIBYTE = 1024 * 1024
_FREE_MIB = 64
"""What stays free of the quota. Below it the store refuses new samples; without a write it could not even start."""

_SERIES_AN_HOUR, _SERIES_A_DAY = 5_000, 10_000
"""Most time series; 20 clubs had 520 (docs/figures.md). Further ones are dropped, so that memory stays bounded."""

AUTH_VARIABLE = "httpAuth_password"
"""The variable from which the store reads `-httpAuth.password` (docs.victoriametrics.com, "Environment variables"). Not
`%{NAME}` in the flag: Nomad's agent reads a task's config as a template of its own and refuses it. Not `${NAME}`: Nomad
would put the password on the command line."""

_PASSWORD = f"""\
{{{{ with nomadVar "{METRICS_PATH}" }}}}METRICS_PASSWORD={{{{ .METRICS_PASSWORD | toJSON }}}}
{AUTH_VARIABLE}={{{{ .METRICS_PASSWORD | toJSON }}}}{{{{ end }}}}
"""


def metrics_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    port = Port(name="http", static=STORE_PORT, host_network="loopback")
    health = Check(
        type="http", path="/health", interval="30s", timeout="5s", check_restart=CheckRestart(limit=6, grace="5m")
    )
    job = Job(
        name=JOB,
        namespace=nomad_scope(settings, stack).namespace,
        datacenters=(settings.nomad.datacenter,),
        region=settings.nomad.region,
        priority=20,  # below every job of the PDS
        group=Group(
            name=JOB,
            network=Network(ports=(port,)),
            service=Service(name=JOB, port="http", check=health),
            volumes=(VolumeRequest(name=VOLUME, source=VOLUME),),
            restart=Restart(attempts=10, interval="10m", delay="15s", mode="delay"),
            reschedule=Reschedule(),
            # One process at a time may open the store's directory.
            update=Update(),
            tasks=(_store(settings),),
        ),
    )
    return write(job) + "\n"


def flags(settings: Settings) -> tuple[str, ...]:
    """The store's flags."""
    assert settings.metrics
    return (
        f"-httpListenAddr=127.0.0.1:{STORE_PORT}",
        f"-httpAuth.username={USER}",
        "-envflag.enable",
        "-http.disableCORS",
        f"-storageDataPath={_DIRECTORY}/data",
        f"-retentionPeriod={settings.metrics.retention_days}d",
        f"-storage.minFreeDiskSpaceBytes={_FREE_MIB * _MEBIBYTE}",
        f"-storage.maxHourlySeries={_SERIES_AN_HOUR}",
        f"-storage.maxDailySeries={_SERIES_A_DAY}",
        f"-memory.allowedBytes={settings.metrics.memory_mib * _MEBIBYTE // 3}",
        "-search.maxConcurrentRequests=2",
        "-promscrape.config=/local/scrape.yaml",
        "-vmui.customDashboardsPath=/local/dashboards",
    )


def _store(settings: Settings) -> Task:
    assert settings.metrics
    return Task(
        name=TASK,
        user=_OWNER,
        kill_timeout="60s",
        config=DockerConfig(
            image=settings.metrics.image,
            args=flags(settings),
            network_mode="host",
            readonly_rootfs=True,
            cap_drop=("all",),
            security_opt=("no-new-privileges",),
            pids_limit=128,
        ),
        volume_mounts=(VolumeMount(volume=VOLUME, destination=_DIRECTORY),),
        env={"GOMEMLIMIT": f"{settings.metrics.memory_mib * 3 // 4}MiB"},
        templates=(
            file_template("scrape.yaml", scrape_config(settings)),
            *(file_template(f"dashboards/{name}", text) for name, text in dashboards().items()),
            Template(
                destination="secrets/metrics.env",
                env=True,
                change_mode="restart",
                splay="0s",
                perms="0600",
                data=_PASSWORD,
            ),
        ),
        resources=Resources(cpu=SMALL_MHZ, memory=settings.metrics.memory_mib),
        logs=Logs(max_files=2, max_file_size=1),
    )


ENTRY = NomadJob(
    job_id=JOB,
    role="metrics",
    file="metrics.nomad.hcl",
    section="metrics",
    render=metrics_job,
    is_requested=lambda settings: settings.metrics_store,
    variable_path=METRICS_PATH,
)
