"""Checks at the host, through its Nomad: unchanged jobs, disk space, backups.

Uses Nomad's API, and the server's container for what only it sees (`host.sh`). Changes nothing. A further file that a
job of the host writes to DATA/.run-status is `HostStatus.run_statuses["its name"]`: a new check reads it there.
"""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.check.subject import CheckVerdict, HostStatus, Subject, failed, passed, skipped
from cli.drift import job_drift
from cli.drift.missing_variables import missing_variables
from cli.drift.unapplied import unapplied
from cli.lib.nomad_exec import certificate_end, running_allocation
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.render.jobs.alerts import ENTRY as ALERTS
from components.render.jobs.alerts import JOB as ALERTS_JOB
from components.render.jobs.alerts import VOLUME_PERCENT, patience
from components.render.jobs.backup import JOB as BACKUP_JOB
from components.render.jobs.common import space_remedy
from components.render.jobs.drill import JOB as DRILL_JOB
from components.render.jobs.unreferenced_blobs import JOB as UNREFERENCED_BLOBS_JOB
from components.render.jobs.unreferenced_blobs import RUN_STATUS, is_requested
from components.render.metrics.files import targets
from components.render.metrics.job import JOB as METRICS_JOB
from components.render.metrics.job import TASK as METRICS_TASK
from offline.stackfile import StackFileError, read_settings

_LONGEST = timedelta(hours=6)
"""No backup or drill lasts this long."""
_ALERTS_LONGEST = timedelta(hours=1)
"""Four runs of the alerts job."""
_AHEAD = timedelta(hours=1)
"""The clocks of this machine and the host differ by less."""
_CERTIFICATE_DAYS = 30  # it is renewed by an `up` in its last two months (components/host/certificates.py)
_NAMED = 5  # findings in one line
_MIB = 1024  # KiB


def _host(subject: Subject) -> HostStatus | None:
    """Return None if no `up` has succeeded yet."""
    return subject.host if subject.host and subject.host.outputs.get("nomad_address") else None


_NO_UP = "no `up` of this stack has completed"
_NOT_RUNNING = "no server runs, and the check runs in its container"


def nomad(subject: Subject) -> CheckVerdict:
    """Check that Nomad answers, accepts this stack's tokens, and has its variables."""
    host = _host(subject)
    if host is None:
        return skipped(_NO_UP)
    tokens = {"the program's": subject.outputs["nomad_token"]}
    if management := subject.outputs.get("nomad_management_token"):
        tokens["the management"] = management
    lost = [name for name, token in tokens.items() if host.api.accessor(str(token)) is None]
    if lost:
        return failed(
            f"it does not know {' and '.join(lost)} token: it lost its state, or the token was deleted. "
            f"{_remedy(subject)}"
        )
    gone = [str(item.outputs["path"]) for item in (missing_variables(host.api, subject.state) if subject.state else ())]
    if gone:
        return failed(
            f"it lacks {', '.join(gone)}: tasks that read a variable do not start again without it. `./pds repair "
            f"{subject.stack}` writes it again. `up` alone does not detect it."
        )
    return _certificate(subject, host)


def _certificate(subject: Subject, host: HostStatus) -> CheckVerdict:
    """Check when the client certificate ends: every command that asks Nomad fails after that."""
    answers = "it answers, and knows this stack's tokens and variables"
    end = certificate_end(str(host.outputs["nomad_client_cert_pem"]))
    if end is None:
        return passed(answers)
    days = (end - datetime.now(UTC)).days
    if days >= _CERTIFICATE_DAYS:
        return passed(f"{answers}. The client certificate ends on {end:%Y-%m-%d}")
    on = subject.settings.on if subject.settings else None
    remedy = f"`pulumi up --stack {on.stack if on and on.stack else subject.stack}` renews it"
    if on and on.stack:
        remedy += f", and `up` of {subject.stack} takes it over"
    elif on:
        remedy = "Write another one into the stack file ('on'), then `pulumi up`"
    return failed(
        f"the client certificate ends on {end:%Y-%m-%d}, in {days} days. After that no command reaches Nomad, `up` and "
        f"a restore among them. {remedy}."
    )


def _remedy(subject: Subject) -> str:
    """Return the remedy; for a club it concerns its host's stack."""
    stack = subject.settings.on.stack if subject.settings and subject.settings.on else None
    if stack and _is_cluster(stack):
        return f"Run `pulumi refresh --stack {stack}`, then `up` of it and of each club on it."
    return f"Run `./pds repair {stack or subject.stack}`. `up` alone does not detect it."


def _is_cluster(stack: str) -> bool:
    with contextlib.suppress(StackFileError):
        return read_settings(stack).cluster is not None
    return False


def jobs(subject: Subject) -> CheckVerdict:
    """Check that the jobs in Nomad are those that the stack registered."""
    host = _host(subject)
    if host is None or subject.state is None:
        return skipped(_NO_UP)
    registered = subject.state.of("Job")
    changed = [
        f"{item.id}: {'; '.join(differences)}"
        for item in registered
        if (differences := job_drift.job_differences(host.api, item))
    ]
    if changed:
        return failed(
            f"changed outside: {'. '.join(changed)}. `./pds repair {subject.stack}` registers the stack's own again. "
            "`up` alone does not detect it."
        )
    return passed(f"{len(registered)} are as the stack registered them") if registered else skipped(_NO_UP)


def disk(subject: Subject) -> CheckVerdict:
    """Check the free space on the volume."""
    host = _host(subject)
    usage = host.seen if host else {}
    if not usage:
        return skipped(_NOT_RUNNING)
    space, files = _percent(usage["used"], usage["free"]), _percent(usage["files_used"], usage["files_free"])
    remedy = space_remedy(subject.settings) if subject.settings else "give it more space"
    advice = f"{remedy[0].upper()}{remedy[1:]}. A full disk stops every write and every backup."
    dmesg = f"`./pds ssh {subject.stack} -- dmesg` has the errors of its disk."
    if space is None:
        return failed(f"the volume does not answer `df`. {dmesg}")
    if usage.get("writable") is False:
        return failed(
            f"the volume cannot be written to, and {space} % of it is used. Members cannot post, and backups fail. "
            f"{advice if space >= VOLUME_PERCENT else dmesg}"
        )
    if space >= VOLUME_PERCENT:
        return failed(f"the volume is {space} % full. {advice}")
    if files is not None and files >= VOLUME_PERCENT:
        return failed(f"{files} % of the volume's files are used. {advice}")
    return passed(f"{space} % of the volume is used")


def _percent(used: int | None, free: int | None) -> int | None:
    """Return what `df` reports; None if it reports nothing."""
    if used is None or free is None or used + free == 0:
        return None
    return -(-100 * used // (used + free))


def unreferenced_blobs(subject: Subject) -> CheckVerdict:
    """Check the last run of the job that removes uploads without a record, and report their size."""
    host = _host(subject)
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    days = subject.settings.pds.unreferenced_blob_days if subject.settings else None
    status = host.run_statuses.get(RUN_STATUS, {})
    started = _killed(status)
    failure = started or status.get("failed")
    if subject.settings and is_requested(subject.settings) and failure and failure >= status.get("good", ""):
        reason = "it was killed" if started else str(status.get("why", "")).rstrip(".")
        return failed(
            f"the job of {shown(failure)} failed: {reason}. It runs again next week, or with "
            f"`./pds nomad {subject.stack} -- job periodic force {UNREFERENCED_BLOBS_JOB}`."
        )
    # `host.sh` sees the volume. Uploads in the bucket of 'blobs' were counted by the last run.
    counted = host.seen if host.seen["uploads"] is not None else status
    count, kib = counted.get("uploads"), counted.get("uploads_kib")
    if count is None or kib is None:
        return skipped(f"blobs are in a bucket, or could not be counted. `./pds usage {subject.stack}` counts them")
    kept = "'pds.unreferenced_blob_days' is not set: they stay" if days is None else f"removed after {days} days"
    size = f"{kib / 1024:.1f} MiB" if kib >= _MIB else f"{kib} KiB"
    when = "" if counted is host.seen else f" on {shown(status['good'])}"
    remark = f"{count} uploads that no record names take {size}{when}; {kept}. `./pds usage {subject.stack}` lists them"
    return passed(remark if count else f"a record names every upload{when}")


def backup(subject: Subject) -> CheckVerdict:
    """Check that there is a backup, and that it is recent enough."""
    run = f"`./pds backup {subject.stack}` makes one now and shows its output."
    if subject.settings is None:
        return skipped(_no_file(subject))
    if subject.settings.backup is None:
        return failed("none is configured. A lost volume loses every post. Add 'backup'.")
    if verdict := _not_applied(subject, BACKUP_JOB):
        return verdict
    hours = patience(subject.settings)["ALERTS_BACKUP_HOURS"]
    return _fresh(subject, "backup", int(hours), run)


def drill(subject: Subject) -> CheckVerdict:
    """Check that a recent drill restored a backup."""
    if subject.settings is None:
        return skipped(_no_file(subject))
    if subject.settings.backup is None:
        return skipped("without backups there is nothing to restore")
    if verdict := _not_applied(subject, DRILL_JOB):
        return verdict
    hours = patience(subject.settings)["ALERTS_DRILL_HOURS"]
    return _fresh(subject, "drill", int(hours), f"`./pds drill {subject.stack}` makes one now and shows its output.")


def _not_applied(subject: Subject, job: str) -> CheckVerdict | None:
    """Return the verdict on a job that the stack file asks for and no `up` has registered; None if there is one."""
    if subject.state is None or job in subject.state.ids("Job"):
        return None
    return failed(
        f"'backup' is in the stack file and not applied: the state has no job {job}. Run `pulumi up --stack "
        f"{subject.stack}`."
    )


def applied(subject: Subject) -> CheckVerdict:
    """Check that the last `up` applied the stack file and the program as they are now."""
    if subject.program is None:
        return skipped(_no_file(subject))
    if subject.state is None or not subject.state.resources:
        return skipped(_NO_UP)
    names = unapplied(subject.program, subject.state)
    if not names:
        return passed("the last `up` applied the stack file and the program as they are here")
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return failed(f"not applied: {', '.join(names[:_NAMED])}{more}. Run `pulumi up --stack {subject.stack}`.")


def _no_file(subject: Subject) -> str:
    return f"Pulumi.{subject.stack}.yaml cannot be read here"


def _fresh(subject: Subject, name: str, hours: int, run: str) -> CheckVerdict:
    host = _host(subject)
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    status = host.run_statuses.get(name, {})
    succeeded, failure = status.get("good"), status.get("failed")
    reason = f" The one of {shown(failure)} failed: {str(status.get('why', '')).rstrip('.')}." if failure else ""
    if started := _killed(status):
        reason = (
            f" The one that began at {shown(started)} has not ended after {_LONGEST // timedelta(hours=1)} hours: it "
            f"was killed, or it hangs. `./pds nomad {subject.stack} -- job status pds-{name}` shows which. If it "
            "hangs, `job stop` of that run lets the next one begin. If memory ran out, raise 'backup.memory_mib'."
        )
        failure = started
    if succeeded and datetime.fromisoformat(succeeded) > datetime.now(UTC) + _AHEAD:
        reason = f" One is dated {shown(succeeded)}, in the future: the host's clock was ahead.{reason}"
        succeeded = None
    if not succeeded:
        return failed(f"none has succeeded yet.{reason} {run}")
    if datetime.now(UTC) - datetime.fromisoformat(succeeded) > timedelta(hours=hours):
        return failed(f"the last successful one is of {shown(succeeded)}, more than {hours} hours ago.{reason} {run}")
    if failure and datetime.fromisoformat(failure) >= datetime.fromisoformat(succeeded):
        return failed(f"the last successful one is of {shown(succeeded)}.{reason} {run}")
    return passed(f"the last one succeeded at {shown(succeeded)}")


def _killed(status: Mapping[str, Any]) -> str | None:
    """Return the start of a run that has not ended for longer than any lasts."""
    began = status.get("began")
    return began if began and datetime.now(UTC) - datetime.fromisoformat(began) > _LONGEST else None


def damaged_accounts(subject: Subject) -> CheckVerdict:
    """Check for damaged accounts that a backup or a drill found."""
    host = _host(subject)
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    backup_status, drill_status = (host.run_statuses.get(name, {}) for name in ("backup", "drill"))
    if not backup_status.get("good") and not backup_status.get("checked"):
        return skipped("no backup has checked them yet")
    findings = [item for status in (drill_status, backup_status) for item in status.get("findings", {}).items()]
    # A run that fails later has checked the accounts. One that fails at once has not.
    checked: str = backup_status.get("checked") or backup_status["good"]
    behind = bool(backup_status.get("failed") or _killed(backup_status))
    as_of = f", as of {shown(checked)}: backups fail, see above" if behind else ""
    if not findings:
        return passed(f"the last backup and drill found none damaged{as_of}")
    lines = list(
        dict.fromkeys(f"{did}: {found['state']}: {found['what']}".rstrip(".") + "." for did, found in findings)
    )
    more = f" And {len(lines) - _NAMED} more." if len(lines) > _NAMED else ""
    count = len({did for did, _ in findings})
    return failed(f"{count} damaged{as_of}. {' '.join(lines[:_NAMED])}{more}".replace("STACK", subject.stack))


def alerts(subject: Subject) -> CheckVerdict:
    """Check that the dead man's switch accepts the pings of the host."""
    host, settings = _host(subject), subject.settings
    if settings is None:
        return skipped(_no_file(subject))
    if not ALERTS.is_requested(settings):
        return skipped("'alerts.ping_url' is not set")
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    status = host.run_statuses.get("alerts", {})
    good, failure = status.get("good"), status.get("failed")
    if good and abs(datetime.now(UTC) - datetime.fromisoformat(good)) < _ALERTS_LONGEST:
        return passed(f"the dead man's switch accepted a ping at {shown(good)}")
    reason = f" The one of {shown(failure)}: {str(status.get('why', '')).rstrip('.')}." if failure else ""
    log = f"`./pds logs {subject.stack} --task alerts` and `./pds nomad {subject.stack} -- job status {ALERTS_JOB}`"
    if not good and not failure and _submitted(host.api, ALERTS_JOB) > datetime.now(UTC) - _ALERTS_LONGEST:
        return skipped("the job is new, and has not run yet")
    last = f"accepted its last ping at {shown(good)}" if good else "has accepted no ping"
    return failed(
        f"the dead man's switch {last}.{reason} If you got no message about it, its check does not exist any more, "
        f"or it has no recipient. {log} show more."
    )


def _submitted(api: NomadApi, job: str) -> datetime:
    """Return when the stack last registered a job; 1970 if Nomad does not know it."""
    found = api.find(f"/v1/job/{job}")
    return datetime.fromtimestamp(found["SubmitTime"] / 1e9 if found else 0, UTC)


def shown(time: str) -> str:
    """Return a time of the host's, to the minute."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def metadata(subject: Subject) -> CheckVerdict:
    """Check that containers cannot reach the address that serves user_data."""
    host = _host(subject)
    usage = host.seen if host else {}
    if not usage:
        return skipped(_NOT_RUNNING)
    if subject.settings and subject.settings.on and not subject.settings.on.stack:
        return skipped("the host is its owner's")
    if usage["metadata"] is None:
        return skipped("the server's image has no wget")
    if usage["metadata"]:
        unit = "`systemctl restart pds-metadata docker`"
        return failed(
            "169.254.169.254 answers the server's container: any process in it reads user_data, with the key of "
            f"Nomad's endpoint. On the host: {unit}; it sets its rules at each boot. Neither `up` nor `repair` "
            "checks them."
        )
    return passed("a container cannot reach user_data")


def metrics(subject: Subject) -> CheckVerdict:
    """Check that the metrics store runs, answers, and hears from each of its targets."""
    host, settings = _host(subject), subject.settings
    if settings is None:
        return skipped(_no_file(subject))
    if not settings.metrics_store:
        return skipped("'metrics.store' is not set")
    if host is None:
        return skipped(_NO_UP)
    log = f"`./pds logs {subject.stack} --task {METRICS_TASK}` shows the reason."
    allocation = running_allocation(host.api, METRICS_JOB)
    if allocation is None:
        return failed(f"the store does not run. `./pds nomad {subject.stack} -- job status {METRICS_JOB}`, and {log}")
    checks = host.api.get(f"/v1/client/allocation/{allocation}/checks").values()
    if any(check["Status"] != "success" for check in checks):
        return failed(f"the store does not answer. {log}")
    try:
        answering = host.answering(allocation)
    except ServiceError as error:
        return skipped(f"the store answers; which targets answer it is not known: {error}")
    if silent := [name for name in targets(settings) if name not in answering]:
        return failed(
            f"no answer from {', '.join(silent)}: the dashboard lacks them. A host that was built before "
            "'metrics.store' has no nomad and no host: raise 'host.generation'. pds is the server itself."
        )
    return passed(f"the store receives {', '.join(targets(settings))}")
