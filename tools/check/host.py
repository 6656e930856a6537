"""Checks at the host, through its Nomad: unchanged jobs, disk space, backups.

Uses Nomad's API, and the server's container for what only it sees (`host.sh`). Changes nothing. A further file that a
job of the host writes to DATA/.stamps is `Host.stamps["its name"]`: a new check reads it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from components.probes import NomadApi
from components.render.watch_job import VOLUME_PERCENT, patience
from tools import nomad_jobs
from tools.check.subject import Subject, Verdict, good, skipped, todo
from tools.inside import CutOffError, api_of, ask, nomad_of, running

SCRIPT = Path(__file__).with_name("host.sh")
_LONGEST = timedelta(hours=6)
"""No backup or drill lasts this long."""
_NAMED = 5  # findings in one line
_TRIES = 5


@dataclass(frozen=True)
class Host:
    """A stack's Nomad and the container of its server, queried once. Raises ProbeError if they do not answer."""

    outputs: Mapping[str, Any]

    @cached_property
    def api(self) -> NomadApi:
        """Nomad, with the program's own token."""
        return api_of(nomad_of(self.outputs))

    @cached_property
    def seen(self) -> Mapping[str, Any]:
        """Return the output of `host.sh`; empty while no server runs."""
        allocation = running(self.api)
        if allocation is None:
            return {}
        command = ["sh", "-c", SCRIPT.read_text()]
        for _ in range(_TRIES - 1):
            try:
                return dict(ask(nomad_of(self.outputs), allocation, command, "its volume"))
            except CutOffError:
                continue
        return dict(ask(nomad_of(self.outputs), allocation, command, "its volume"))

    @property
    def stamps(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the files that jobs of the host wrote to DATA/.stamps, by name."""
        stamps: Mapping[str, Mapping[str, Any]] = self.seen.get("stamps", {})
        return stamps


def _host(subject: Subject) -> Host | None:
    """Return None if no `up` has succeeded yet."""
    return subject.host if subject.host and subject.host.outputs.get("nomad_address") else None


_NO_UP = "no `up` of this stack has come to its end"
_NOT_RUNNING = "no server runs that could look"


def nomad(subject: Subject) -> Verdict:
    """Check that Nomad answers, accepts this stack's tokens, and has its node."""
    host = _host(subject)
    if host is None:
        return skipped(_NO_UP)
    tokens = {"the program's": subject.outputs["nomad_token"]}
    if management := subject.outputs.get("nomad_management_token"):
        tokens["the management"] = management
    lost = [name for name, token in tokens.items() if host.api.accessor(str(token)) is None]
    if lost:
        return todo(
            f"it does not know {' and '.join(lost)} token: it has lost its state, or the token was deleted. "
            f"{_rescue(subject)}"
        )
    return good("it answers, and knows this stack's tokens")


def _rescue(subject: Subject) -> str:
    """Return the remedy; for a club it concerns its host's stack."""
    stack = subject.settings.on.stack if subject.settings and subject.settings.on else None
    return f"Run `./pds rescue {stack or subject.stack}`; a plain `up` does not see it."


def jobs(subject: Subject) -> Verdict:
    """Check that the jobs in Nomad are those that the stack registered."""
    host = _host(subject)
    if host is None or subject.state is None:
        return skipped(_NO_UP)
    every = subject.state.of("Job")
    wrong = [f"{item.id}: {'; '.join(found)}" for item in every if (found := nomad_jobs.differences(host.api, item))]
    if wrong:
        return todo(
            f"changed outside: {'. '.join(wrong)}. `./pds rescue {subject.stack}` registers the stack's own again; a "
            "plain `up` does not see it."
        )
    return good(f"{len(every)} are as the stack registered them") if every else skipped(_NO_UP)


def disk(subject: Subject) -> Verdict:
    """Check the free space on the volume."""
    host = _host(subject)
    seen = host.seen if host else {}
    if not seen:
        return skipped(_NOT_RUNNING)
    space, files = _percent(seen["used"], seen["free"]), _percent(seen["files_used"], seen["files_free"])
    kind = "'clubs' in the host's stack file: 'disk_gib'" if _is_club(subject) else "'volume.size_gib'"
    advice = f"Raise {kind}, then `pulumi up`; a full one stops every write and every backup."
    if space is not None and space >= VOLUME_PERCENT:
        return todo(f"the volume is {space} % full. {advice}")
    if files is not None and files >= VOLUME_PERCENT:
        return todo(f"{files} % of the volume's files are used. {advice}")
    return good(f"{space} % of the volume is used")


def _percent(used: int | None, free: int | None) -> int | None:
    """Return what `df` reports; None if it reports nothing."""
    if used is None or free is None or used + free == 0:
        return None
    return -(-100 * used // (used + free))


def _is_club(subject: Subject) -> bool:
    return bool(subject.settings and subject.settings.on and subject.settings.on.stack)


def backup(subject: Subject) -> Verdict:
    """Check that there is a backup, and that it is recent enough."""
    run = f"`./pds backup {subject.stack}` makes one now and shows what it says."
    if subject.settings is None:
        return skipped(_no_file(subject))
    if subject.settings.backup is None:
        return todo("none is configured: what happens to the volume happens to every post. Add 'backup'.")
    hours = patience(subject.settings)["WATCH_BACKUP_HOURS"]
    return _fresh(subject, "backup", int(hours), run)


def drill(subject: Subject) -> Verdict:
    """Check that a recent drill restored a backup."""
    if subject.settings is None:
        return skipped(_no_file(subject))
    if subject.settings.backup is None:
        return skipped("without backups there is nothing to drill")
    hours = patience(subject.settings)["WATCH_DRILL_HOURS"]
    return _fresh(subject, "drill", int(hours), f"`./pds drill {subject.stack}` makes one now and shows what it says.")


def _no_file(subject: Subject) -> str:
    return f"Pulumi.{subject.stack}.yaml cannot be read here"


def _fresh(subject: Subject, name: str, hours: int, run: str) -> Verdict:
    host = _host(subject)
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    stamp = host.stamps.get(name, {})
    well, failed = stamp.get("good"), stamp.get("failed")
    why = f" The one of {shown(failed)} failed: {str(stamp.get('why', '')).rstrip('.')}." if failed else ""
    if began := _killed(stamp):
        why = f" The one that began at {shown(began)} never ended: it was killed. If Nomad names memory, raise "
        why += "'backup.memory_mib'."
        failed = began
    if not well:
        return todo(f"none has gone well yet.{why} {run}")
    if datetime.now(UTC) - datetime.fromisoformat(well) > timedelta(hours=hours):
        return todo(f"the last good one is of {shown(well)}, more than {hours} hours ago.{why} {run}")
    if failed and datetime.fromisoformat(failed) >= datetime.fromisoformat(well):
        return todo(f"the last good one is of {shown(well)}.{why} {run}")
    return good(f"the last one went well at {shown(well)}")


def _killed(stamp: Mapping[str, Any]) -> str | None:
    """Return the start of a run that has not ended for longer than any lasts."""
    began = stamp.get("began")
    return began if began and datetime.now(UTC) - datetime.fromisoformat(began) > _LONGEST else None


def accounts(subject: Subject) -> Verdict:
    """Check for damaged accounts that a backup or a drill found."""
    host = _host(subject)
    if not host or not host.seen:
        return skipped(_NOT_RUNNING)
    if not host.stamps.get("backup", {}).get("good"):
        return skipped("no backup has looked at them yet")
    found = {**host.stamps.get("drill", {}).get("findings", {}), **host.stamps["backup"].get("findings", {})}
    if not found:
        return good("the last backup and drill found none damaged")
    lines = [f"{did}: {finding['state']}: {finding['what']}" for did, finding in list(found.items())[:_NAMED]]
    more = f" And {len(found) - _NAMED} more." if len(found) > _NAMED else ""
    return todo(
        f"{len(found)} damaged. {' '.join(line.rstrip('.') + '.' for line in lines)}{more}".replace(
            "STACK", subject.stack
        )
    )


def shown(time: str) -> str:
    """Return a time of the host's, to the minute."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def metadata(subject: Subject) -> Verdict:
    """Check that containers cannot reach the address that serves user_data."""
    host = _host(subject)
    seen = host.seen if host else {}
    if not seen:
        return skipped(_NOT_RUNNING)
    if subject.settings and subject.settings.on and not subject.settings.on.stack:
        return skipped("the host is its owner's")
    if seen["metadata"] is None:
        return skipped("the server's image has no wget to ask with")
    if seen["metadata"]:
        unit = "`systemctl restart pds-metadata docker`"
        return todo(
            "169.254.169.254 answers the server's container: any process in it reads user_data, with the key of "
            f"Nomad's endpoint. On the host: {unit}; its rules come back at each boot. Neither `up` nor `rescue` looks "
            f"at them."
        )
    return good("a container cannot reach user_data")
