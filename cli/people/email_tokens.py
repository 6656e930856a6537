"""`./pds email-token`: shows what a PDS without mail would have mailed to a member, read in the server's own container.

A token is valid for 15 minutes after the member requested it in the app (`assertValidToken` in @atproto/pds). It goes
from the server's database to this terminal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.lib.nomad_exec import nomad_access, nomad_api, run_in_container, running_allocation
from cli.lib.stack import Stack
from cli.people.members import did_of
from components.clients import pds_admin
from components.clients.errors import ServiceError

TOKEN_SCRIPT = Path(__file__).with_name("email_token.cjs")
PURPOSES = {
    "confirm_email": "to confirm the e-mail address",
    "update_email": "to change the e-mail address",
    "reset_password": "to set another password",
    "delete_account": "to delete the account",
    "plc_operation": "to change the identity, needed to move to another server",
}
"""Purposes of the server's tokens (account-manager/db/schema/email-token.d.ts)."""


@dataclass(frozen=True)
class EmailToken:
    """A token, its purpose, and when it was requested (RFC 3339)."""

    purpose: str
    token: str
    requested_at: str


def tokens(stack: str, server: pds_admin.Server, handle: str) -> list[EmailToken]:
    """Return the newest tokens of the account with `handle`. Raises StackError, UnknownMemberError, ServiceError."""
    return read_tokens(nomad_access(Stack(stack).outputs()), did_of(server, handle))


def read_tokens(nomad: Mapping[str, str], did: str) -> list[EmailToken]:
    """Return the account's tokens; `nomad` is that of `nomad_access`. Raises ServiceError."""
    allocation = running_allocation(nomad_api(nomad))
    if allocation is None:
        raise ServiceError("The PDS does not run, so there can be no token. `pulumi up` starts it.")
    rows = run_in_container(nomad, allocation, ["node", "-e", TOKEN_SCRIPT.read_text(), did], "the server's database")
    return [EmailToken(row["purpose"], row["token"], row["requestedAt"]) for row in rows]
