"""The checks in order, and the report."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pulumi

from components.probes import ProbeError
from components.settings.settings import Settings
from tools.account import Account, AccountError
from tools.check import account, host, identity, names, project, relays, server
from tools.check.host import Host
from tools.check.site import Site
from tools.check.subject import Subject, Verdict, todo
from tools.stack import Stack, StackError, State, digitalocean_token
from tools.stackfile import StackFileError, evaluate_stack, read_settings

Check = Callable[[Subject], Verdict]

GATES: tuple[tuple[str, Check], ...] = (("health", server.health), ("certificate", server.certificate))
"""If one of these fails, the checks over the same way would only repeat it."""

THROUGH_THE_INGRESS: tuple[tuple[str, Check], ...] = (
    ("WebSocket", server.websocket),
    ("OAuth", server.oauth),
    ("handles", identity.handles),
    ("DID documents", identity.documents),
    ("blob limit", server.blob_limit),
    ("rate limit", server.rate_limit),
    ("invites", server.invites),
    ("mail", server.mail),
)

BY_THEMSELVES: tuple[tuple[str, Check], ...] = (
    ("DNS", names.name),
    ("records", names.records),
    ("firewall", account.firewall),
    ("account", account.things),
    ("host", project.host),
    ("escrow", project.escrow_made),
    ("relay", relays.relays),
)


THROUGH_NOMAD: tuple[tuple[str, Check], ...] = (
    ("Nomad", host.nomad),
    ("jobs", host.jobs),
    ("disk", host.disk),
    ("backup", host.backup),
    ("drill", host.drill),
    ("accounts", host.accounts),
    ("metadata", host.metadata),
)
"""If the first fails, the others would only repeat it."""

LINES: dict[str, Check] = dict((*GATES, *THROUGH_THE_INGRESS, *BY_THEMSELVES, *THROUGH_NOMAD))
"""All of them, by name."""


@dataclass(frozen=True)
class Result:
    """One line of the report; `ok` is None for a skipped check."""

    name: str
    ok: bool | None
    remark: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "to do", None: "-"}[self.ok]
        return f"{mark:<6} {self.name}: {self.remark}"


def check(subject: Subject) -> Iterator[Result]:
    """Run every check; raises nothing that a server could cause."""
    open_way = True
    for name, _ask in GATES:
        result = asked(name, subject) if open_way else Result(name, None, _ABOVE)
        open_way = open_way and result.ok is not False
        yield result
    for name, _ask in THROUGH_THE_INGRESS:
        yield asked(name, subject) if open_way else Result(name, None, _ABOVE)
    for name, _ask in BY_THEMSELVES:
        yield asked(name, subject)
    (first, _ask), *others = THROUGH_NOMAD
    yield (answers := asked(first, subject))
    for name, _ask in others:
        yield asked(name, subject) if answers.ok is not False else Result(name, None, _ABOVE)


_ABOVE = "not looked at: see above"


def asked(name: str, subject: Subject) -> Result:
    """Return the verdict of the check of this name."""
    ask = LINES[name]
    try:
        verdict = ask(subject)
    except httpx.HTTPStatusError as error:
        verdict = todo(f"{error.request.url.path} answers {error.response.status_code}. Look at the server's log.")
    except (ProbeError, AccountError) as error:
        verdict = todo(str(error))
    except (httpx.HTTPError, OSError) as error:
        verdict = todo(f"no answer: {str(error) or type(error).__name__}. Try again, then look at the ingress's log.")
    except (KeyError, ValueError, TypeError) as error:
        verdict = todo(f"the answer is not of the protocol's form ({type(error).__name__}: {error}).")
    return Result(name, verdict.ok, verdict.remark)


def subject_of(
    stack: Stack, at: str | None, ca_file: str | None, source: str | None, mail: str | None, relay: bool
) -> Subject:
    """Return the subject for `stack`, from the engine and its stack file. Raises StackError."""
    outputs = stack.outputs()
    missing = [name for name in ("url", "ipv4", "pds_env", "escrow") if not outputs.get(name)]
    if missing:
        raise StackError(
            f"The state of stack {stack.name} has no {', '.join(missing)}. Run `pulumi up` to its end first."
        )
    hostname = str(outputs["url"]).removeprefix("https://")
    where = at or f"https://{outputs['ipv4']}"
    try:
        site = Site.at(hostname, where, ca_file)
        second = Site.at(hostname, where, ca_file, source) if source else None
    except (OSError, ValueError) as error:
        raise StackError(f"--at or --ca: {error}") from None
    settings, resolves, configuration = _from_stack_file(stack)
    token = digitalocean_token(stack)
    return Subject(
        stack=stack.name,
        outputs=outputs,
        site=site,
        second=second,
        escrow=settings.pds.escrow if settings else "pending",
        configuration=configuration,
        nameservers=tuple(settings.dns.nameservers) if settings else (),
        settings=settings,
        resolves=resolves,
        state=_state(stack),
        account=Account(token) if token else None,
        host=Host(outputs),
        mail=mail,
        relay=relay,
    )


def _state(stack: Stack) -> State | None:
    try:
        return stack.state()
    except StackError:
        return None


def _from_stack_file(stack: Stack) -> tuple[Settings | None, Mapping[str, Any] | None, str | None]:
    """Return its settings, the program's name servers for the hostname, and the hash of its rendered cloud-init."""
    try:
        settings, evaluation = read_settings(stack.name, stack.root), evaluate_stack(stack.name)
    except (StackFileError, pulumi.RunError, ValueError):
        return None, None, None
    ready, resolves = evaluation.one("pds-ready").inputs, evaluation.one("pds-resolves").inputs
    return settings, resolves, ready["configuration"]
