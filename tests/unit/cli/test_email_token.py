"""`./pds email-token`: a command in the server's container, against a Nomad exec endpoint on loopback."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from cli.people import email_tokens as email_token
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from tests.support.fake_exec import TOKEN, exec_endpoint, frame

DID = "did:plc:qo2urk437ss36eyefp5jgoyw"
ALLOCATION = "11111111-0000-0000-0000-000000000000"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nomad has two allocations of the PDS: one complete, one running."""
    allocations = [{"ID": "old", "ClientStatus": "complete"}, {"ID": ALLOCATION, "ClientStatus": "running"}]
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: allocations)


@pytest.mark.usefixtures("runs")
def test_reads_the_tokens_in_the_server_s_container_with_the_stack_s_nomad_token() -> None:
    rows = json.dumps([{"purpose": "plc_operation", "token": "ABCDE-FGHIJ", "requestedAt": "2026-06-01T12:00:00.000Z"}])
    frames = (frame("stdout", "the volume is that of noted.at\n" + rows[:20]), frame("stdout", rows[20:] + "\n"))
    with exec_endpoint(*frames, {"exited": True, "result": {"exit_code": 0}}) as (nomad, requests):
        tokens = email_token.read_tokens(nomad, DID)
    assert tokens == [email_token.EmailToken("plc_operation", "ABCDE-FGHIJ", "2026-06-01T12:00:00.000Z")]
    [(path, token)] = requests
    url = urlsplit(path)
    assert url.path == f"/v1/client/allocation/{ALLOCATION}/exec"
    query = parse_qs(url.query)
    assert (query["task"], token) == (["pds"], TOKEN)
    assert json.loads(query["command"][0]) == ["node", "-e", email_token.TOKEN_SCRIPT.read_text(), DID]


@pytest.mark.usefixtures("runs")
def test_reports_a_failed_command_and_an_unreachable_endpoint() -> None:
    frames = (
        frame("stderr", "SqliteError: unable to open database file"),
        {"exited": True, "result": {"exit_code": 1}},
    )
    with (
        exec_endpoint(*frames) as (nomad, _requests),
        pytest.raises(ServiceError, match="unable to open database file"),
    ):
        email_token.read_tokens(nomad, DID)
    with pytest.raises(ServiceError, match="cannot run a command in the container of pds"):
        email_token.read_tokens(nomad, DID)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("output", ["", "the volume is that of noted.at\n", '[{"purpose": "plc_op'])
def test_reports_truncated_output(output: str) -> None:
    frames = (frame("stdout", output), {"exited": True, "result": {"exit_code": 0}})
    with (
        exec_endpoint(*frames) as (nomad, _requests),
        pytest.raises(ServiceError, match=r"truncated .* Repeat the command"),
    ):
        email_token.read_tokens(nomad, DID)


def test_refuses_a_pds_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: [{"ID": "old", "ClientStatus": "complete"}])
    nomad = dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem", "token"), "")
    with pytest.raises(ServiceError, match="The PDS does not run"):
        email_token.read_tokens({**nomad, "address": "http://127.0.0.1:1"}, DID)
