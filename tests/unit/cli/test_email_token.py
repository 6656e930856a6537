"""`./pds email-token`: a command in the server's container through Nomad's exec endpoint, against one on loopback."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.sync.server import ServerConnection, serve

from cli.people import email_tokens as email_token
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"
DID = "did:plc:qo2urk437ss36eyefp5jgoyw"
ALLOCATION = "11111111-0000-0000-0000-000000000000"


def _frame(stream: str, text: str) -> dict[str, Any]:
    return {stream: {"data": base64.b64encode(text.encode()).decode()}}


@contextmanager
def _exec_endpoint(*frames: dict[str, Any]) -> Iterator[tuple[dict[str, str], list[tuple[str, str | None]]]]:
    """Nomad's response to a command; yields the outputs that lead there, and the requests with their tokens."""
    asked: list[tuple[str, str | None]] = []

    def answer(connection: ServerConnection) -> None:
        assert connection.request
        asked.append((connection.request.path, connection.request.headers.get("X-Nomad-Token")))
        assert json.loads(connection.recv(timeout=30)) == {"stdin": {"close": True}}, "Nomad would wait for input"
        for frame in frames:
            connection.send(json.dumps(frame))

    with serve(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        nomad = dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem"), "")
        try:
            yield {**nomad, "address": f"http://127.0.0.1:{server.socket.getsockname()[1]}", "token": TOKEN}, asked
        finally:
            server.shutdown()
            thread.join(30)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running PDS, after one that has ended."""
    found = [{"ID": "old", "ClientStatus": "complete"}, {"ID": ALLOCATION, "ClientStatus": "running"}]
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: found)


@pytest.mark.usefixtures("runs")
def test_the_tokens_are_read_in_the_server_s_container_with_our_token() -> None:
    rows = json.dumps([{"purpose": "plc_operation", "token": "ABCDE-FGHIJ", "requestedAt": "2026-06-01T12:00:00.000Z"}])
    said = (_frame("stdout", "the volume is that of noted.at\n" + rows[:20]), _frame("stdout", rows[20:] + "\n"))
    with _exec_endpoint(*said, {"exited": True, "result": {"exit_code": 0}}) as (nomad, asked):
        found = email_token.read_tokens(nomad, DID)
    assert found == [email_token.EmailToken("plc_operation", "ABCDE-FGHIJ", "2026-06-01T12:00:00.000Z")]
    [(path, token)] = asked
    where = urlsplit(path)
    assert where.path == f"/v1/client/allocation/{ALLOCATION}/exec"
    query = parse_qs(where.query)
    assert (query["task"], token) == (["pds"], TOKEN)
    assert json.loads(query["command"][0]) == ["node", "-e", email_token.TOKEN_SCRIPT.read_text(), DID]


@pytest.mark.usefixtures("runs")
def test_a_command_that_fails_and_an_endpoint_that_is_gone_are_sentences() -> None:
    frames = (
        _frame("stderr", "SqliteError: unable to open database file"),
        {"exited": True, "result": {"exit_code": 1}},
    )
    with _exec_endpoint(*frames) as (nomad, _asked), pytest.raises(ServiceError, match="unable to open database file"):
        email_token.read_tokens(nomad, DID)
    with pytest.raises(ServiceError, match="cannot run a command in the server's container"):
        email_token.read_tokens(nomad, DID)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("said", ["", "the volume is that of noted.at\n", '[{"purpose": "plc_op'])
def test_an_answer_that_is_cut_off_is_a_sentence(said: str) -> None:
    frames = (_frame("stdout", said), {"exited": True, "result": {"exit_code": 0}})
    with (
        _exec_endpoint(*frames) as (nomad, _asked),
        pytest.raises(ServiceError, match=r"truncated .* Repeat the command"),
    ):
        email_token.read_tokens(nomad, DID)


def test_a_pds_that_does_not_run_has_no_tokens_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: [{"ID": "old", "ClientStatus": "complete"}])
    nomad = dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem", "token"), "")
    with pytest.raises(ServiceError, match="The PDS does not run"):
        email_token.read_tokens({**nomad, "address": "http://127.0.0.1:1"}, DID)
