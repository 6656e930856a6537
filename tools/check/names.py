"""Checks at the public name servers: does the name lead here, does each record that the stack needs exist?

The other checks use the stack's own address, so that they work before DNS does. These do not.
"""

import secrets
from collections.abc import Iterator, Mapping

from components import resolving
from components.probes import NotYetError
from tools.check.subject import Subject, Verdict, good, skipped, todo

_SHOWN = 3


def name(subject: Subject) -> Verdict:
    """Check that public DNS leads the hostname to this host."""
    asked = subject.resolves
    if asked is None:
        return skipped(f"Pulumi.{subject.stack}.yaml cannot be read here")
    address = str(subject.outputs["ipv4"])
    fault = resolving.resolves(
        subject.hostname, address, asked["zone"], subject.nameservers, issuer=str(asked.get("issuer") or "")
    )
    if fault:
        rescue = f"A record that this stack made, `./pds rescue {subject.stack}` makes again"
        return todo(f"{fault}. {rescue}; a plain `up` does not see it.")
    return good(f"{subject.hostname} is {address} everywhere")


def records(subject: Subject) -> Verdict:
    """Check that each record of the stack exists, with the wildcards and the members' records."""
    listed = [record for record in subject.outputs.get("records") or [] if _is_known(record)]
    if subject.resolves is None or not listed:
        return skipped("the stack lists none")
    wrong = list(_wrong(subject, listed))
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        made = f"Those that this stack made, `./pds rescue {subject.stack}` makes again; a plain `up` does not see it."
        return todo(f"{'; '.join(wrong[:_SHOWN])}{more}. {made} Others: `pulumi stack output records` lists them.")
    return good(f"all {len(listed)} are there")


def _is_known(record: Mapping[str, str]) -> bool:
    """Return whether its account exists already."""
    return record["type"] != "TXT" or record["value"].startswith("did=")


def _wrong(subject: Subject, listed: list[Mapping[str, str]]) -> Iterator[str]:
    for record in listed:
        whole, kind, value = _whole_name(record), record["type"], record["value"]
        # A name under a wildcard without a record of its own.
        asked = whole.replace("*", f"nobody-{secrets.token_hex(4)}", 1)
        try:
            found = resolving.values(asked, kind, subject.nameservers)
        except NotYetError as error:
            yield str(error)
            continue
        if value not in [text.replace('."', '"') if kind == "CAA" else text for text in found]:
            instead = f", but {', '.join(found)}" if found else ""
            yield f"{whole} has no {kind} {value}{instead}"


def _whole_name(record: Mapping[str, str]) -> str:
    """Return it with its zone, unless it is in a zone that is not ours: then the name is complete already."""
    zone, own = record["zone"], record["name"]
    if "(" in zone:
        return own
    return zone if own == "@" else f"{own}.{zone}"
