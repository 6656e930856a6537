"""Checks at the public name servers: does the name lead here, does each record that the stack needs exist?

The other checks use the stack's own address, so that they work before DNS does. These do not.
"""

import secrets
from collections.abc import Iterator, Mapping

from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from components.clients import dns
from components.clients.errors import PendingError
from components.render.records import is_pending, whole_name

_SHOWN = 3


def name(subject: Subject) -> CheckVerdict:
    """Check that public DNS leads the hostname to this host."""
    parameters = subject.resolves
    if parameters is None:
        return skipped(f"Pulumi.{subject.stack}.yaml cannot be read here")
    address = str(subject.outputs["ipv4"])
    fault = dns.resolves(
        subject.hostname, address, parameters["zone"], subject.nameservers, issuer=str(parameters.get("issuer") or "")
    )
    if fault:
        remedy = f"`./pds repair {subject.stack}` creates the record again if this stack made it"
        return failed(f"{fault}. {remedy}. `up` alone does not detect it.")
    return passed(f"{subject.hostname} is {address} everywhere")


def records(subject: Subject) -> CheckVerdict:
    """Check that each record of the stack exists, with the wildcards and the members' records."""
    listed = [row for row in subject.outputs.get("records") or [] if not is_pending(row)]
    if subject.resolves is None or not listed:
        return skipped("the stack lists none")
    wrong = list(_wrong(subject, listed))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        made = f"`./pds repair {subject.stack}` creates this stack's own again. `up` alone does not detect them."
        return failed(f"{'; '.join(wrong[:_SHOWN])}{more}. {made} Others: `pulumi stack output records` lists them.")
    return passed(f"all {len(listed)} exist")


def _wrong(subject: Subject, listed: list[Mapping[str, str]]) -> Iterator[str]:
    for record in listed:
        full_name, kind, value = whole_name(record), record["type"], record["value"]
        # A name under a wildcard without a record of its own.
        name = full_name.replace("*", f"unknown-{secrets.token_hex(4)}", 1)
        try:
            values = dns.values(name, kind, subject.nameservers)
        except PendingError as error:
            yield str(error)
            continue
        if value not in [text.replace('."', '"') if kind == "CAA" else text for text in values]:
            instead = f", but {', '.join(values)}" if values else ""
            yield f"{full_name} has no {kind} {value}{instead}"
