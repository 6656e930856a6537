"""`./pds members` and `./pds password`: the accounts on a PDS as its admin sees them, and a new password for one."""

import http.client
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components import accounts, probes
from tools.stack import Stack

_DIGITS = 32
_TIMEOUT = 10  # seconds


class UnknownMemberError(Exception):
    """No account here has this handle; the text names those that there are."""


@dataclass(frozen=True)
class Row:
    """An account: by what its handle resolves, whether its address is confirmed, whether the stack file names it."""

    handle: str
    did: str
    resolves: str
    confirmed: bool
    listed: bool


def server_of(stack: str) -> accounts.Server:
    """The stack's PDS. Raises StackError."""
    found = Stack(stack).outputs()
    return accounts.Server(found["url"], found["ipv4"], found["admin_password"])


def rows(server: accounts.Server, listed: Mapping[str, Any]) -> list[Row]:
    """Every account on the PDS, by handle; `listed` is the stack's output `members`. Raises ProbeError."""
    dids = {member["did"] for member in listed.values()}
    return [
        Row(one.handle, one.did, resolves_by(server, one.handle, one.did), one.confirmed, one.did in dids)
        for one in sorted(accounts.hosted(server), key=lambda one: one.handle)
    ]


def resolves_by(server: accounts.Server, handle: str, did: str) -> str:
    """'DNS', 'HTTPS', 'neither' or 'somebody else': how the world finds the DID of `handle`.

    DNS is asked at the zone's own name servers; HTTPS at the PDS itself, which serves the names under its own.
    """
    said = probes.names_did(handle, did, [])
    if said is None:
        return "DNS"
    found = _well_known(server, handle)
    if found == did:
        return "HTTPS"
    return "somebody else" if found.startswith("did:") or "says did=" in said else "neither"


def _well_known(server: accounts.Server, handle: str) -> str:
    connection = probes.connection_to(f"https://{handle}", server.address, _TIMEOUT)
    try:
        connection.request("GET", "/.well-known/atproto-did")
        answer = connection.getresponse()
        return answer.read(1000).decode(errors="replace").strip() if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def table(found: list[Row]) -> str:
    """The rows as text in columns."""
    heading = ("handle", "DID", "resolves by", "e-mail confirmed", "in the stack file")
    lines = [
        heading,
        *((row.handle, row.did, row.resolves, _word(row.confirmed), _word(row.listed)) for row in found),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _word(value: bool) -> str:
    return "yes" if value else "no"


def did_of(server: accounts.Server, handle: str) -> str:
    """The DID of the account with `handle`. Raises UnknownMemberError, ProbeError."""
    there = {one.handle: one.did for one in accounts.hosted(server)}
    if handle not in there:
        known = ", ".join(sorted(there)) or "none"
        raise UnknownMemberError(f"No account of this PDS has the handle {handle}. There are: {known}.")
    return there[handle]


def new_password(server: accounts.Server, handle: str) -> str:
    """Set a new random password for the account with `handle`, and return it. Raises UnknownMemberError, ProbeError."""
    did, password = did_of(server, handle), secrets.token_hex(_DIGITS // 2)
    accounts.set_password(server, did, password)
    return password
