"""`./pds token`: shows what a PDS without mail would have mailed to a member, read in the server's own container.

A token is valid for 15 minutes after the member requested it in the app (`assertValidToken` in @atproto/pds). It goes
from the server's database to this terminal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components import accounts
from components.probes import ProbeError
from tools.inside import api_of, ask, nomad_of, running
from tools.people import did_of
from tools.stack import Stack

SCRIPT = Path(__file__).with_name("token.cjs")
PURPOSES = {
    "confirm_email": "to confirm the e-mail address",
    "update_email": "to change the e-mail address",
    "reset_password": "to set another password",
    "delete_account": "to delete the account",
    "plc_operation": "to change the identity, needed to move to another server",
}
"""Purposes of the server's tokens (account-manager/db/schema/email-token.d.ts)."""


@dataclass(frozen=True)
class Token:
    """A token, its purpose, and when it was requested (RFC 3339)."""

    purpose: str
    token: str
    requested_at: str


def tokens(stack: str, server: accounts.Server, handle: str) -> list[Token]:
    """Return the newest tokens of the account with `handle`. Raises StackError, UnknownMemberError, ProbeError."""
    return read(nomad_of(Stack(stack).outputs()), did_of(server, handle))


def read(nomad: Mapping[str, str], did: str) -> list[Token]:
    """Return the account's tokens; `nomad` is that of `nomad_of`. Raises ProbeError."""
    allocation = running(api_of(nomad))
    if allocation is None:
        raise ProbeError("The PDS does not run, so there can be no token. `pulumi up` starts it.")
    rows = ask(nomad, allocation, ["node", "-e", SCRIPT.read_text(), did], "the server's database")
    return [Token(row["purpose"], row["token"], row["requestedAt"]) for row in rows]
