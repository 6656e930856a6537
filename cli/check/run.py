"""The checks in order, and the report."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pulumi

from cli.check import digitalocean, dns, host, identity, mail, project, relays, server
from cli.check.site import Site
from cli.check.subject import CheckVerdict, HostStatus, Subject, failed
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.stack import Stack, StackError, State, digitalocean_token
from components.clients.errors import ServiceError
from components.settings.sections.settings import Settings
from offline.stackfile import StackFileError, evaluate_stack, read_settings

if TYPE_CHECKING:
    from offline.mock_engine import Evaluation

Check = Callable[[Subject], CheckVerdict]

PREREQUISITES: tuple[tuple[str, Check], ...] = (("health", server.health), ("certificate", server.certificate))
"""If one of these fails, the checks over the same way would only repeat it."""

INGRESS_CHECKS: tuple[tuple[str, Check], ...] = (
    ("WebSocket", server.websocket),
    ("OAuth", server.oauth),
    ("handles", identity.handles),
    ("DID documents", identity.documents),
    ("blobs", server.blobs),
    ("blob limit", server.blob_limit),
    ("rate limit", server.rate_limit),
    ("invites", server.invites),
    ("mail", mail.message),
)

INDEPENDENT_CHECKS: tuple[tuple[str, Check], ...] = (
    ("DNS", dns.name),
    ("records", dns.records),
    ("SPF", mail.spf),
    ("DKIM", mail.dkim),
    ("DMARC", mail.dmarc),
    ("firewall", digitalocean.firewall),
    ("account", digitalocean.things),
    ("host", project.host),
    ("applied", host.applied),
    ("escrow", project.escrow_made),
    ("relay", relays.relays),
)


NOMAD_CHECKS: tuple[tuple[str, Check], ...] = (
    ("Nomad", host.nomad),
    ("jobs", host.jobs),
    ("disk", host.disk),
    ("unreferenced blobs", host.unreferenced_blobs),
    ("backup", host.backup),
    ("drill", host.drill),
    ("accounts", host.damaged_accounts),
    ("alerts", host.alerts),
    ("metadata", host.metadata),
    ("metrics", host.metrics),
)
"""If the first fails, the others would only repeat it."""

CHECKS_BY_NAME: dict[str, Check] = dict((*PREREQUISITES, *INGRESS_CHECKS, *INDEPENDENT_CHECKS, *NOMAD_CHECKS))
"""All of them, by name."""


@dataclass(frozen=True)
class CheckResult:
    """One line of the report; `ok` is None for a skipped check."""

    name: str
    ok: bool | None
    remark: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "to do", None: "-"}[self.ok]
        return f"{mark:<6} {self.name}: {self.remark}"


def run_checks(subject: Subject) -> Iterator[CheckResult]:
    """Run every check; raises nothing that a server could cause."""
    open_way = True
    for name, _ask in PREREQUISITES:
        result = run_check(name, subject) if open_way else CheckResult(name, None, _ABOVE)
        open_way = open_way and result.ok is not False
        yield result
    for name, _ask in INGRESS_CHECKS:
        yield run_check(name, subject) if open_way else CheckResult(name, None, _ABOVE)
    for name, _ask in INDEPENDENT_CHECKS:
        yield run_check(name, subject)
    (first, _ask), *others = NOMAD_CHECKS
    yield (answers := run_check(first, subject))
    for name, _ask in others:
        yield run_check(name, subject) if answers.ok is not False else CheckResult(name, None, _ABOVE)


_ABOVE = "skipped: see above"


def run_check(name: str, subject: Subject) -> CheckResult:
    """Return the verdict of the check of this name."""
    ask = CHECKS_BY_NAME[name]
    try:
        verdict = ask(subject)
    except httpx.HTTPStatusError as error:
        verdict = failed(f"{error.request.url.path} answers {error.response.status_code}. Look at the server's log.")
    except (ServiceError, DigitalOceanError) as error:
        verdict = failed(str(error))
    except (httpx.HTTPError, OSError) as error:
        verdict = failed(f"no answer: {str(error) or type(error).__name__}. Try again, then look at the ingress's log.")
    except (KeyError, ValueError, TypeError) as error:
        verdict = failed(f"the response does not have the protocol's form ({type(error).__name__}: {error}).")
    return CheckResult(name, verdict.ok, verdict.remark)


def subject_of(
    stack: Stack, at: str | None, ca_file: str | None, source: str | None, mail: str | None, relay: bool
) -> Subject:
    """Return the subject for `stack`, from the engine and its stack file. Raises StackError."""
    outputs = stack.outputs()
    missing = [name for name in ("url", "ipv4", "pds_env", "escrow") if not outputs.get(name)]
    if missing:
        raise StackError(f"The state of stack {stack.name} has no {', '.join(missing)}. Complete `pulumi up` first.")
    hostname = str(outputs["url"]).removeprefix("https://")
    where = at or f"https://{outputs['ipv4']}"
    try:
        site = Site.at(hostname, where, ca_file)
        second = Site.at(hostname, where, ca_file, source) if source else None
    except (OSError, ValueError) as error:
        raise StackError(f"--at or --ca: {error}") from None
    settings, evaluation = _from_stack_file(stack)
    token = digitalocean_token(stack)
    return Subject(
        stack=stack.name,
        outputs=outputs,
        site=site,
        second=second,
        escrow=settings.pds.escrow if settings else "pending",
        configuration=evaluation.one("pds-server-ready").inputs["configuration"] if evaluation else None,
        nameservers=tuple(settings.dns.nameservers) if settings else (),
        settings=settings,
        resolves=evaluation.one("pds-dns-ready").inputs if evaluation else None,
        program=_resources(evaluation) if evaluation else None,
        state=_state(stack),
        account=DigitalOceanAccount(token) if token else None,
        host=HostStatus(outputs),
        mail=mail,
        relay=relay,
    )


def _state(stack: Stack) -> State | None:
    try:
        return stack.state()
    except StackError:
        return None


def _from_stack_file(stack: Stack) -> "tuple[Settings | None, Evaluation | None]":
    """Return its settings and the program evaluated for it; None if the file cannot be read."""
    try:
        return read_settings(stack.name, stack.root), evaluate_stack(stack.name)
    except (StackFileError, pulumi.RunError, ValueError):
        return None, None


def _resources(evaluation: "Evaluation") -> dict[str, str | None]:
    """Return the names of its resources, with the text of each Nomad job."""
    own = [item for item in evaluation.resources if not item.type.startswith("pulumi:")]
    return {item.name: item.inputs.get("jobspec") for item in own}
