"""The current state of one PDS, from its stack, its own HTTP interface and its Nomad. Changes nothing.

An unknown value is None, with one note about the reason. No secret is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli.cluster import hosts
from cli.errors import CommandError
from cli.lib.nomad_exec import TruncatedOutputError, nomad_access, nomad_api, run_in_container, running_allocation
from cli.lib.stack import Stack, StackError
from cli.stacks.stack_files import KnownStack
from components.clients import pds_admin
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.render.jobs.alerts import patience
from components.render.jobs.backup import JOB as BACKUP_JOB
from components.render.jobs.drill import JOB as DRILL_JOB
from components.render.jobs.pds import JOB
from components.settings.fields.images import package_of_health

USAGE_SCRIPT = Path(__file__).with_name("container_usage.sh")
MIB, GIB = 1024**2, 1024**3
_TIMEOUT = 10.0  # seconds for one request to the PDS
_TRIES = 5


@dataclass(frozen=True)
class Usage:
    """How much of how much, in bytes."""

    used: int | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """The findings. Times are RFC 3339."""

    state: str
    """The stack's output, or 'no stack', 'no up yet', '-'."""
    version: str | None = None
    accounts: int | None = None
    disk: Usage = field(default_factory=Usage)
    memory: Usage = field(default_factory=Usage)
    backup: str | None = None
    """When the last successful backup began or, if it left a status, ended; 'none yet', or 'none' if backups are not
    configured."""
    drill: str | None = None
    notes: tuple[str, ...] = ()
    """Why a value is unknown, and what needs a look, a line each."""


def inspect_stack(stack: Stack, known: KnownStack, disk_limit: int | None) -> StackStatus:
    """Inspect a stack; `disk_limit` is its limit in bytes, if known."""
    if not known.created:
        return StackStatus(state="no stack")
    try:
        outputs = stack.outputs()
    except StackError as error:
        return StackStatus(state="-", notes=(str(error),))
    if "state" not in outputs:
        return _cluster(stack) if "hosts" in outputs else StackStatus(state="no up yet")
    notes: list[str] = [known.fault] if known.fault else []
    state = str(outputs["state"])
    version, count = str(outputs["package_version"]), None
    if state != "paused":
        try:
            server = pds_admin.Server(outputs["url"], outputs["ipv4"], outputs["admin_password"], _TIMEOUT)
            version = package_of_health(str(server.query("_health")["version"]))
            count = len(pds_admin.hosted(server))
        except ServiceError as error:
            notes.append(str(error))
    disk, memory, ended = Usage(None, disk_limit), Usage(), {}
    try:
        nomad = nomad_access(outputs)
        api = nomad_api(nomad)
        if known.settings is None or known.settings.backup:
            ended = {name: last_run(api, name) for name in (BACKUP_JOB, DRILL_JOB)}
        allocation = running_allocation(api)
        if allocation:
            used = usage(nomad, allocation, disk_limit)
            notes += _usage_notes(used, stack.name)
            memory, disk = (
                Usage(used["memory"], used["memory_limit"]),
                Usage(used["disk"], disk_limit),
            )
            ended = {
                name: used[name.removeprefix("pds-")] or ended.get(name) or "none yet"
                for name in (BACKUP_JOB, DRILL_JOB)
            }
        elif state != "paused":
            notes.append(f"job {JOB} does not run, so neither disk nor memory is known.")
        else:
            notes.append("it is paused, so neither disk nor memory is known.")
    except ServiceError as error:
        notes.append(str(error))
    if known.settings and not known.settings.backup:
        ended = dict.fromkeys((BACKUP_JOB, DRILL_JOB), "none")
    elif known.settings:
        notes += _late(ended, stack.name, patience(known.settings), datetime.now(UTC))
    return StackStatus(
        state=state,
        version=version,
        accounts=count,
        disk=disk,
        memory=memory,
        backup=ended.get(BACKUP_JOB),
        drill=ended.get(DRILL_JOB),
        notes=tuple(notes),
    )


def _usage_notes(used: Mapping[str, Any], name: str) -> Iterator[str]:
    """What needs a look in the output of `container_usage.sh`."""
    if used["disk"] is None:
        yield "it has more files than can be counted in 20 s."
    if used["findings"]:
        yield f"its backup has {used['findings']} findings about accounts: ./pds check {name}"
    if used["uploads"]:
        mib = used["uploads_kib"] / 1024
        yield f"{used['uploads']} uploads that no record names take {mib:.1f} MiB: ./pds usage {name}"


def _late(ended: Mapping[str, str | None], name: str, hours_of: Mapping[str, str], now: datetime) -> Iterator[str]:
    """Which last success of backup and drill is too old, by the same hours as the alerts."""
    for job, key in ((BACKUP_JOB, "ALERTS_BACKUP_HOURS"), (DRILL_JOB, "ALERTS_DRILL_HOURS")):
        text, hours = ended.get(job), int(hours_of[key])
        if text is None or text.startswith("none"):
            continue
        at, run = datetime.fromisoformat(text), job.removeprefix("pds-")
        if now - at > timedelta(hours=hours):
            shown = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            yield f"its last good {run} is of {shown}, more than {hours} hours ago: ./pds check {name}"


def _cluster(stack: Stack) -> StackStatus:
    """A cluster has no PDS: its hosts, spares and servers are notes."""
    try:
        return StackStatus(state="cluster", notes=tuple(f"{line}." for line in hosts.lines(hosts.Cluster.of(stack))))
    except (CommandError, ServiceError) as error:
        return StackStatus(state="cluster", notes=(str(error),))


def last_run(api: NomadApi, job: str) -> str | None:
    """Return the start of the newest successful run of a periodic job; None if Nomad has none: it deletes runs after a
    day. Raises ServiceError."""
    runs = api.get(f"/v1/jobs?prefix={job}/") or []
    good = [run["SubmitTime"] for run in runs if _went_well(run)]
    return datetime.fromtimestamp(max(good) / 1e9, UTC).isoformat(timespec="seconds") if good else None


def _went_well(run: Mapping[str, Any]) -> bool:
    groups = ((run.get("JobSummary") or {}).get("Summary") or {}).values()
    return run["Status"] == "dead" and any(group["Complete"] for group in groups)


def usage(nomad: Mapping[str, str], allocation: str, limit: int | None) -> Mapping[str, Any]:
    """Memory, disk usage and uploads of a server (`container_usage.sh`): bytes, uploads in KiB. Raises ServiceError."""
    command = ["sh", "-c", USAGE_SCRIPT.read_text(), "usage", str((limit or 0) // 1024)]
    for _ in range(_TRIES - 1):
        try:
            return dict(run_in_container(nomad, allocation, command, "its memory and disk"))
        except TruncatedOutputError:
            continue
    return dict(run_in_container(nomad, allocation, command, "its memory and disk"))
