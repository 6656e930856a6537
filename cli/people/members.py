"""`./pds members` and `./pds password`: the accounts on a PDS from the admin API, and a new password for one.

Relays, a third party, are queried only on request.
"""

import http.client
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cli.errors import FailedError
from cli.lib.stack import Stack
from components.clients import dns, pds_admin
from components.clients.https import connection_to
from components.people.members import is_temporary
from components.settings.checks.pds_env import read_env_file
from components.settings.fields.types import is_at_or_below
from components.settings.sections.settings import Settings

_DIGITS = 32
_TIMEOUT = 10  # seconds


class UnknownMemberError(FailedError):
    """No account here has this handle; the text names the existing ones."""


@dataclass(frozen=True)
class MemberRow:
    """An account: how its handle resolves, its repository's revision, whether its address is confirmed, whether it is
    in the stack file, and the relays' status of it (None if they were not queried)."""

    handle: str
    did: str
    resolves: str
    confirmed: bool
    revision: str
    listed: bool
    relays: str | None = None


def server_of(stack: str) -> pds_admin.Server:
    """Return the stack's PDS. Raises StackError."""
    outputs = Stack(stack).required_outputs("url", "ipv4", "admin_password")
    return pds_admin.Server(outputs["url"], outputs["ipv4"], outputs["admin_password"])


def relays_of(stack: str) -> list[str]:
    """Return the URLs of the relays that the stack's PDS notifies. Raises StackError."""
    return relays_in(Stack(stack).outputs())


def relays_in(outputs: Mapping[str, Any]) -> list[str]:
    """The same, from a stack's outputs."""
    named = read_env_file(str(outputs.get("pds_env", ""))).get("PDS_CRAWLERS", "")
    return [url for url in named.split(",") if url]


def rows(
    server: pds_admin.Server,
    listed: Mapping[str, Any],
    relays: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> list[MemberRow]:
    """Return every account on the PDS, by handle; `listed` is the stack's output `members`, `relays` those to query.

    A member who still has a temporary handle is shown under the one in the stack file. Raises ServiceError.
    """
    handles_in_file = {member["did"]: handle for handle, member in listed.items()}
    result = []
    for account in pds_admin.hosted(server):
        handle = handles_in_file.get(account.did, account.handle)
        waits = handle != account.handle and is_temporary(account.handle, handle)
        name = handle if waits else account.handle
        result.append(
            MemberRow(
                f"{name} (waits as {account.handle})" if waits else name,
                account.did,
                resolves_by(server, name, account.did, _nameservers(settings, name)),
                account.confirmed,
                account.revision,
                account.did in handles_in_file,
                None if relays is None else "; ".join(seen_by(relay, account) for relay in relays) or _NO_RELAY,
            )
        )
    return sorted(result, key=lambda row: row.handle)


_NO_RELAY = "the stack names none"


def _nameservers(settings: Settings | None, handle: str) -> Sequence[str]:
    """Return those of the stack file, for a handle in its zone."""
    ours = settings and is_at_or_below(handle, settings.zone)
    return settings.dns.nameservers if settings and ours else ()


def seen_by(relay: str, account: pds_admin.Account) -> str:
    """Return 'yes', 'behind' or 'no', or a relay's own status of an account whose events it does not pass on
    ('throttled', 'deactivated', 'desynchronized', …); com.atproto.sync.getRepoStatus."""
    try:
        answer = httpx.get(
            f"{relay}/xrpc/com.atproto.sync.getRepoStatus",
            params={"did": account.did},
            timeout=_TIMEOUT,
            trust_env=False,
        )
        status = answer.json()
    except (httpx.HTTPError, ValueError):
        return "no answer"
    if not isinstance(status, dict) or answer.status_code != httpx.codes.OK:
        unknown = isinstance(status, dict) and status.get("error") in ("RepoNotFound", "NotFound", "AccountNotFound")
        return "no" if unknown else f"it answers {answer.status_code}"
    if not status.get("active"):
        return str(status.get("status") or "inactive")
    return "behind" if str(status.get("rev") or account.revision) < account.revision else "yes"


def resolves_by(server: pds_admin.Server, handle: str, did: str, nameservers: Sequence[str] = ()) -> str:
    """Return 'DNS', 'HTTPS', 'neither' or 'another account': how the DID of `handle` is found in public.

    DNS is queried at `nameservers`, or the zone's own; HTTPS at the PDS itself, and only for a name that leads there.
    For any other its ingress would order a certificate that no authority issues.
    """
    fault = dns.names_did(handle, did, list(nameservers))
    if fault is None:
        return "DNS"
    did_by_https = _well_known(server, handle) if dns.leads_to(handle, server.address, nameservers) else ""
    if did_by_https == did:
        return "HTTPS"
    return "another account" if did_by_https.startswith("did:") or "answers did=" in fault else "neither"


def _well_known(server: pds_admin.Server, handle: str) -> str:
    connection = connection_to(f"https://{handle}", server.address, _TIMEOUT)
    try:
        connection.request("GET", "/.well-known/atproto-did")
        answer = connection.getresponse()
        return answer.read(1000).decode(errors="replace").strip() if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def table(members: list[MemberRow]) -> str:
    """Return the rows as text in columns."""
    lines = [["handle", "DID", "resolves by", "e-mail confirmed", "revision", "in the stack file"]]
    lines += [
        [row.handle, row.did, row.resolves, _word(row.confirmed), row.revision, _word(row.listed)] for row in members
    ]
    if any(row.relays is not None for row in members):
        seen_column = ["seen by the relay", *(row.relays or "" for row in members)]
        lines = [[*line, status] for line, status in zip(lines, seen_column, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _word(value: bool) -> str:
    return "yes" if value else "no"


def did_of(server: pds_admin.Server, handle: str) -> str:
    """Return the DID of the account with `handle`. Raises UnknownMemberError, ServiceError."""
    dids = {account.handle: account.did for account in pds_admin.hosted(server)}
    if handle not in dids:
        known = ", ".join(sorted(dids)) or "none"
        raise UnknownMemberError(f"No account of this PDS has the handle {handle}. There are: {known}.")
    return dids[handle]


def new_password(server: pds_admin.Server, handle: str) -> str:
    """Set a new random password for the account with `handle`, and return it. Raises UnknownMemberError,
    ServiceError."""
    did, password = did_of(server, handle), secrets.token_hex(_DIGITS // 2)
    pds_admin.set_password(server, did, password)
    return password
