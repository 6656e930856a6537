"""`./pds token`: what a PDS without mail would have mailed to a member, read in the server's own container.

A token is good for 15 minutes after she asked for it in the app (`assertValidToken` in @atproto/pds). It goes from the
server's database through Nomad's exec endpoint to this terminal; no log and no job holds it.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, WebSocketException

from components import accounts
from components.probes import NomadApi, ProbeError, client_tls
from components.render.pds_job import JOB
from tools.live.websocket import connect
from tools.people import did_of
from tools.stack import Stack

SCRIPT = Path(__file__).with_name("token.cjs")
PURPOSES = {
    "confirm_email": "to confirm her e-mail address",
    "update_email": "to change her e-mail address",
    "reset_password": "to set another password",
    "delete_account": "to delete her account",
    "plc_operation": "to change her identity, which moving to another server needs",
}
"""What the server makes tokens for (account-manager/db/schema/email-token.d.ts)."""

_TIMEOUT = 30  # seconds


@dataclass(frozen=True)
class Token:
    """A token, what it is for, and when it was asked for (RFC 3339)."""

    purpose: str
    token: str
    requested_at: str


def tokens(stack: str, server: accounts.Server, handle: str) -> list[Token]:
    """What was last asked for by the account with `handle`. Raises StackError, UnknownMemberError, ProbeError."""
    found = Stack(stack).outputs()
    nomad = {name.removeprefix("nomad_"): value for name, value in found.items() if name.startswith("nomad_")}
    return read(nomad, did_of(server, handle))


def read(nomad: Mapping[str, str], did: str) -> list[Token]:
    """The account's tokens; `nomad` are address, ca_pem, client_cert_pem, client_key_pem, token and, where it is not
    the default one, namespace. Raises ProbeError."""
    api = NomadApi(
        nomad["address"],
        nomad["ca_pem"],
        nomad["client_cert_pem"],
        nomad["client_key_pem"],
        nomad["token"],
        nomad.get("namespace", "default"),
    )
    running = [item for item in api.get(f"/v1/job/{JOB}/allocations") if item["ClientStatus"] == "running"]
    if not running:
        raise ProbeError("The PDS does not run, so nobody can have asked it for a token. `pulumi up` starts it.")
    said = _exec(nomad, running[0]["ID"], ["node", "-e", SCRIPT.read_text(), did])
    try:
        # The guard, which runs in every Node of the container, has its say first.
        rows = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError) as error:
        # Nomad's Docker driver does not wait for the rest of what a command wrote once that has ended.
        raise ProbeError("Nomad cut off what the server's database said. Run it again.") from error
    return [Token(row["purpose"], row["token"], row["requestedAt"]) for row in rows]


def _exec(nomad: Mapping[str, str], allocation: str, command: list[str]) -> str:
    """Standard output of a command in the server's container (developer.hashicorp.com/nomad/api-docs/allocations)."""
    namespace = nomad.get("namespace", "default")
    query = urlencode({"task": JOB, "tty": "false", "namespace": namespace, "command": json.dumps(command)})
    url = f"{nomad['address'].replace('http', 'ws', 1)}/v1/client/allocation/{allocation}/exec?{query}"
    tls = None
    if url.startswith("wss:"):
        tls = client_tls(nomad["ca_pem"], nomad["client_cert_pem"], nomad["client_key_pem"])
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    try:
        headers = {"X-Nomad-Token": nomad["token"]}
        with connect(url, ssl=tls, additional_headers=headers, open_timeout=_TIMEOUT) as connection:
            with suppress(ConnectionClosed):  # a command that is done already; what it said is still to be read
                connection.send(json.dumps({"stdin": {"close": True}}))  # else Nomad waits for input
            while True:
                frame: dict[str, Any] = json.loads(connection.recv(timeout=_TIMEOUT))
                for stream in said:
                    said[stream] += base64.b64decode((frame.get(stream) or {}).get("data") or "")
                if frame.get("exited"):
                    code = (frame.get("result") or {}).get("exit_code", 0)
                    break
    except (OSError, WebSocketException) as error:
        raise ProbeError(f"Nomad at {nomad['address']} runs nothing in the server's container ({error}).") from error
    if code:
        raise ProbeError(f"The server's database could not be read: {said['stderr'].decode(errors='replace').strip()}")
    return said["stdout"].decode()
