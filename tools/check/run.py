"""The questions in order, and what is printed of the answers."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pulumi

from tools.check import identity, project, server
from tools.check.site import Site
from tools.check.subject import Subject, Verdict, todo
from tools.stack import Stack, StackError
from tools.stackfile import StackFileError, evaluate_stack, read_stack

Check = Callable[[Subject], Verdict]

GATES: tuple[tuple[str, Check], ...] = (("health", server.health), ("certificate", server.certificate))
"""Where one of these is not good, the questions over the same way would only repeat it."""

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
    ("host", project.host),
    ("escrow", project.escrow_made),
    ("relay", identity.relay),
)


@dataclass(frozen=True)
class Result:
    """One line of the report; `ok` is None where nothing was looked at."""

    name: str
    ok: bool | None
    remark: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "to do", None: "-"}[self.ok]
        return f"{mark:<6} {self.name}: {self.remark}"


def check(subject: Subject) -> Iterator[Result]:
    """Every question and its answer; raises nothing that a server could cause."""
    open_way = True
    for name, ask in GATES:
        result = _asked(name, ask, subject) if open_way else Result(name, None, "not looked at: see above")
        open_way = open_way and result.ok is not False
        yield result
    for name, ask in THROUGH_THE_INGRESS:
        yield _asked(name, ask, subject) if open_way else Result(name, None, "not looked at: see above")
    for name, ask in BY_THEMSELVES:
        yield _asked(name, ask, subject)


def _asked(name: str, ask: Check, subject: Subject) -> Result:
    try:
        verdict = ask(subject)
    except httpx.HTTPStatusError as error:
        verdict = todo(f"{error.request.url.path} answers {error.response.status_code}. Look at the server's log.")
    except (httpx.HTTPError, OSError) as error:
        verdict = todo(f"no answer: {str(error) or type(error).__name__}. Try again, then look at the ingress's log.")
    except (KeyError, ValueError, TypeError) as error:
        verdict = todo(f"the answer is not of the protocol's form ({type(error).__name__}: {error}).")
    return Result(name, verdict.ok, verdict.remark)


def subject_of(
    stack: Stack, at: str | None, ca_file: str | None, source: str | None, mail: str | None, relay: bool
) -> Subject:
    """What `stack` is, from the engine and its stack file. Raises StackError."""
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
    escrow, configuration, nameservers = _from_stack_file(stack)
    return Subject(
        stack=stack.name,
        outputs=outputs,
        site=site,
        second=second,
        escrow=escrow,
        configuration=configuration,
        nameservers=nameservers,
        mail=mail,
        relay=relay,
    )


def _from_stack_file(stack: Stack) -> tuple[str, str | None, tuple[str, ...]]:
    """What it says of the escrow, the hash of the cloud-init that it renders to, and the name servers it names."""
    try:
        options = json.loads(read_stack(stack.name, stack.root).values.get("pds:pds", "{}"))
        evaluation = evaluate_stack(stack.name)
    except (StackFileError, pulumi.RunError, ValueError):
        return "pending", None, ()
    nameservers = evaluation.one("pds-resolves").inputs["nameservers"]
    return options.get("escrow", "pending"), evaluation.one("pds-ready").inputs["configuration"], tuple(nameservers)
