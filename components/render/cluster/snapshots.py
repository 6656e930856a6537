"""The job of a cluster that saves Nomad's state: Raft's snapshot, encrypted by restic, in a bucket.

It runs without a container, on one of the servers, as `daemon`. A snapshot holds the keyring and so every secret in
Nomad's variables. The job's own token may take one, write the variable at `RECORD`, and no more
(`acl_policies.SNAPSHOTS`).
"""

from components.render.cluster.agents import SERVERS_POOL
from components.render.hcl import write
from components.render.jobs.pds import variable_lines
from components.render.jobs.restic import LOGS, opened_by, restic_environment
from components.render.jobspec import ExecConfig, Group, Identity, Job, Periodic, Resources, Restart, Task
from components.render.nomad_job import own_path
from components.render.scripts import scripts
from components.settings.cluster_hosts import snapshot_settings
from components.settings.sections.settings import Settings

JOB = "pds-nomad-snapshots"

VARIABLE = own_path(JOB)
"""The variable with the repository's password, the bucket's keys and `PING_URL`."""

RECORD = f"{VARIABLE}/repository"
"""The variable with address and ID of the repository that has the last snapshot, and, if its ping failed, the reason
as `ping_failed`; the job writes it."""

_MIB = 256


def snapshots_job(settings: Settings, stack: str) -> str:
    """The job file, HCL."""
    cluster = settings.cluster
    assert cluster
    assert cluster.snapshots
    of_bucket = snapshot_settings(settings, stack)
    task = Task(
        name="snapshot",
        driver="raw_exec",
        user="daemon",
        config=ExecConfig(command="/bin/sh", args=("local/nomad_snapshot.sh",)),
        identity=Identity(env=True),
        env={
            "NOMAD_ADDR": "http://${attr.unique.advertise.address}",
            "CLUSTER": stack,
            "RECORD": RECORD,
            "SECTION": "cluster.snapshots",
            "KEEP_DAYS": str(cluster.snapshots.keep_days),
            **restic_environment(of_bucket, stack),
        },
        templates=(*scripts("nomad_snapshot.sh", "restic_open.sh"), opened_by(variable_lines(VARIABLE))),
        resources=Resources(cpu=100, memory=_MIB),
        logs=LOGS,
    )
    job = Job(
        name=JOB,
        datacenters=(settings.nomad.datacenter,),
        node_pool=SERVERS_POOL,
        region=settings.nomad.region,
        type="batch",
        priority=40,
        # Not at the full hour, when other jobs usually run.
        periodic=Periodic(crons=(_cron(cluster.snapshots.interval_hours),)),
        group=Group(
            name=JOB,
            # For a bucket that is briefly unreachable. After that, the next run is the next attempt.
            restart=Restart(attempts=1, interval="10m", delay="30s", mode="fail"),
            tasks=(task,),
        ),
    )
    return write(job) + "\n"


def _cron(hours: int) -> str:
    return f"7 */{hours} * * *" if hours < 24 else "7 3 * * *"
