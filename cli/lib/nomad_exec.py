"""Runs a command in the container of a running task, most often the server's, through Nomad's exec endpoint.

The output goes only to this process; no log and no job holds it.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from cryptography import x509
from websockets.exceptions import ConnectionClosed, WebSocketException

from cli.lib.websocket import connect
from components.clients.errors import ServiceError
from components.clients.https import client_tls
from components.clients.nomad import NomadApi
from components.render.jobs.pds import JOB

_TIMEOUT = 30  # seconds


class TruncatedOutputError(ServiceError):
    """Nomad's Docker driver does not wait for the remaining output of a command that has ended."""


def nomad_access(outputs: Mapping[str, Any]) -> dict[str, str]:
    """Return a stack's way to Nomad from its outputs: address, ca_pem, client_cert_pem, client_key_pem, token and, if
    it is not the default one, namespace."""
    return {name.removeprefix("nomad_"): value for name, value in outputs.items() if name.startswith("nomad_")}


def nomad_api(nomad: Mapping[str, str]) -> NomadApi:
    """Return its API. Raises ServiceError if certificate and key are not a pair."""
    return NomadApi(
        nomad["address"],
        nomad["ca_pem"],
        nomad["client_cert_pem"],
        nomad["client_key_pem"],
        nomad["token"],
        nomad.get("namespace", "default"),
    )


def certificate_end(pem: str) -> datetime | None:
    """Return the end of a certificate; None if the text is no certificate, as for a Nomad without TLS."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    except ValueError:
        return None


def running_allocation(api: NomadApi, job: str = JOB) -> str | None:
    """Return the running allocation of `job`, the server's by default. Raises ServiceError."""
    running = [item["ID"] for item in api.get(f"/v1/job/{job}/allocations") if item["ClientStatus"] == "running"]
    return str(running[0]) if running else None


def run_in_container(
    nomad: Mapping[str, str], allocation: str, command: list[str], subject: str, task: str = JOB
) -> Any:
    """Return the last line of a command's output in the container of `task`, the server's by default, which is JSON.
    `subject` names the content in messages.

    The volume check, which runs in every Node process of the container, prints first. Raises ServiceError, and
    TruncatedOutputError if another try may succeed.
    """
    output = _exec(nomad, allocation, command, subject, task)
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise TruncatedOutputError(f"Nomad truncated the output about {subject}. Repeat the command.") from error


def _exec(nomad: Mapping[str, str], allocation: str, command: list[str], subject: str, task: str) -> str:
    """Return standard output of a command in the container of `task`
    (developer.hashicorp.com/nomad/api-docs/allocations)."""
    namespace = nomad.get("namespace", "default")
    query = urlencode({"task": task, "tty": "false", "namespace": namespace, "command": json.dumps(command)})
    url = f"{nomad['address'].replace('http', 'ws', 1)}/v1/client/allocation/{allocation}/exec?{query}"
    tls = None
    if url.startswith("wss:"):
        tls = client_tls(nomad["ca_pem"], nomad["client_cert_pem"], nomad["client_key_pem"])
    output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    try:
        headers = {"X-Nomad-Token": nomad["token"]}
        with connect(url, ssl=tls, additional_headers=headers, open_timeout=_TIMEOUT) as connection:
            with suppress(ConnectionClosed):  # the command has ended already; its output is still to be read
                connection.send(json.dumps({"stdin": {"close": True}}))  # else Nomad waits for input
            while True:
                frame: dict[str, Any] = json.loads(connection.recv(timeout=_TIMEOUT))
                for stream in output:
                    output[stream] += base64.b64decode((frame.get(stream) or {}).get("data") or "")
                if frame.get("exited"):
                    code = (frame.get("result") or {}).get("exit_code", 0)
                    break
    except (OSError, WebSocketException) as error:
        raise ServiceError(
            f"Nomad at {nomad['address']} cannot run a command in the container of {task} ({error})."
        ) from error
    if code:
        raise ServiceError(
            f"{subject[:1].upper()}{subject[1:]} could not be read: {output['stderr'].decode(errors='replace').strip()}"
        )
    return output["stdout"].decode()
