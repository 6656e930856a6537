"""The present state of one PDS, from its stack, its own HTTP interface and its Nomad. Changes nothing.

An unknown value is None, with one note about the reason. No secret is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components import accounts
from components.probes import NomadApi, ProbeError
from components.render.backup_job import JOB as BACKUP_JOB
from components.render.drill_job import JOB as DRILL_JOB
from components.render.pds_job import JOB
from components.settings.images import package_of_health
from tools.clubs.known import Known
from tools.inside import CutOffError, api_of, ask, nomad_of, running
from tools.stack import Stack, StackError

SCRIPT = Path(__file__).with_name("usage.sh")
MIB, GIB = 1024**2, 1024**3
_TIMEOUT = 10.0  # seconds for one request to the PDS
_TRIES = 5


@dataclass(frozen=True)
class Used:
    """How much of how much, in bytes."""

    used: int | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The findings. Times are RFC 3339."""

    state: str
    """The stack's output, or 'no stack', 'no up yet', '-'."""
    version: str | None = None
    accounts: int | None = None
    disk: Used = field(default_factory=Used)
    memory: Used = field(default_factory=Used)
    backup: str | None = None
    """When the last successful backup began or, if it left a status, ended; 'none yet', or 'none' if backups are not
    configured."""
    drill: str | None = None
    notes: tuple[str, ...] = ()
    """Why a value is unknown, a line each."""


def look(stack: Stack, known: Known, disk_limit: int | None) -> Found:
    """Inspect a stack; `disk_limit` is its limit in bytes, if known."""
    if not known.made:
        return Found(state="no stack")
    try:
        outputs = stack.outputs()
    except StackError as error:
        return Found(state="-", notes=(str(error),))
    if "state" not in outputs:
        return Found(state="no up yet")
    notes: list[str] = [known.fault] if known.fault else []
    state = str(outputs["state"])
    version, count = str(outputs["package_version"]), None
    if state != "paused":
        try:
            server = accounts.Server(outputs["url"], outputs["ipv4"], outputs["admin_password"], _TIMEOUT)
            version = package_of_health(str(server.query("_health")["version"]))
            count = len(accounts.hosted(server))
        except ProbeError as error:
            notes.append(str(error))
    disk, memory, ended = Used(None, disk_limit), Used(), {}
    try:
        nomad = nomad_of(outputs)
        api = api_of(nomad)
        if known.settings is None or known.settings.backup:
            ended = {name: last_run(api, name) for name in (BACKUP_JOB, DRILL_JOB)}
        allocation = running(api)
        if allocation:
            inside = usage(nomad, allocation, disk_limit)
            if inside["disk"] is None:
                notes.append("its files are more than can be counted in 20 s.")
            if inside["findings"]:
                notes.append(f"its backup has {inside['findings']} findings about accounts: ./pds check {stack.name}")
            memory, disk = Used(inside["memory"], inside["memory_limit"]), Used(inside["disk"], disk_limit)
            ended = {
                name: inside[name.removeprefix("pds-")] or ended.get(name) or "none yet"
                for name in (BACKUP_JOB, DRILL_JOB)
            }
        elif state != "paused":
            notes.append(f"job {JOB} does not run, so neither disk nor memory is known.")
        else:
            notes.append("it is paused, and nothing runs that could be asked.")
    except ProbeError as error:
        notes.append(str(error))
    if known.settings and not known.settings.backup:
        ended = dict.fromkeys((BACKUP_JOB, DRILL_JOB), "none")
    return Found(
        state=state,
        version=version,
        accounts=count,
        disk=disk,
        memory=memory,
        backup=ended.get(BACKUP_JOB),
        drill=ended.get(DRILL_JOB),
        notes=tuple(notes),
    )


def last_run(api: NomadApi, job: str) -> str | None:
    """Return the start of the newest successful run of a periodic job; None if Nomad has none: it deletes runs after a
    day. Raises ProbeError."""
    runs = api.get(f"/v1/jobs?prefix={job}/") or []
    good = [run["SubmitTime"] for run in runs if _went_well(run)]
    return datetime.fromtimestamp(max(good) / 1e9, UTC).isoformat(timespec="seconds") if good else None


def _went_well(run: Mapping[str, Any]) -> bool:
    groups = ((run.get("JobSummary") or {}).get("Summary") or {}).values()
    return run["Status"] == "dead" and any(group["Complete"] for group in groups)


def usage(nomad: Mapping[str, str], allocation: str, limit: int | None) -> Mapping[str, Any]:
    """Return memory and disk usage in a server's container (`usage.sh`), in bytes. Raises ProbeError."""
    command = ["sh", "-c", SCRIPT.read_text(), "usage", str((limit or 0) // 1024)]
    for _ in range(_TRIES - 1):
        try:
            return dict(ask(nomad, allocation, command, "its memory and disk"))
        except CutOffError:
            continue
    return dict(ask(nomad, allocation, command, "its memory and disk"))
