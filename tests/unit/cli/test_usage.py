"""`./pds usage`: the command in the server's container, and what is printed."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cli import app
from cli.lib.stack import Stack
from cli.observe import usage
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from tests.support.fake_exec import exec_endpoint, frame

ALLOCATION = "11111111-0000-0000-0000-000000000000"
SMALL = {
    "did": "did:plc:ann",
    "handle": "ann.noted.at",
    "database": 4096,
    "records": 3,
    "blobs": 2,
    "blob_bytes": 2048,
    "unreferenced": 1,
    "unreferenced_bytes": 1024,
    "leftover_bytes": 512,
}
LARGE = SMALL | {"did": "did:plc:bob", "handle": "bob.noted.at", "blob_bytes": 5 * 1024**3}
DAMAGED = {"did": "did:plc:eve", "handle": None, "database": 10, "error": "file is not a database"}
BLOB = {"did": "did:plc:ann", "cid": "bafkrei", "size": 1024, "created": "2026-01-01T00:00:00.000Z"}
OUTPUT: dict[str, list[dict[str, Any]]] = {"accounts": [SMALL, LARGE, DAMAGED], "blobs": [BLOB]}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    allocations = [{"ID": ALLOCATION, "ClientStatus": "running"}]
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: allocations)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "usage", lambda _stack: usage.report_of(OUTPUT))
    monkeypatch.setattr(Stack, "outputs", lambda _self: {})


@pytest.mark.usefixtures("runs")
def test_reads_the_databases_in_the_server_s_container() -> None:
    frames = (frame("stdout", json.dumps(OUTPUT) + "\n"), {"exited": True, "result": {"exit_code": 0}})
    with exec_endpoint(*frames) as (nomad, requests):
        found = usage.read_usage(nomad)
    assert [account.did for account in found.accounts] == ["did:plc:bob", "did:plc:ann", "did:plc:eve"], "largest first"
    [(path, _token)] = requests
    command: list[Any] = json.loads(parse_qs(urlsplit(path).query)["command"][0])
    assert command == ["node", "-e", usage.USAGE_SCRIPT.read_text(), "1000"]


@pytest.mark.usefixtures("runs")
def test_repeats_a_truncated_output_and_then_gives_up() -> None:
    frames = (frame("stdout", '{"acc'), {"exited": True, "result": {"exit_code": 0}})
    with exec_endpoint(*frames) as (nomad, requests), pytest.raises(ServiceError, match="truncated"):
        usage.read_usage(nomad)
    assert len(requests) == 5


def test_refuses_a_pds_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: [])
    nomad = dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem", "token"), "")
    with pytest.raises(ServiceError, match="The PDS does not run"):
        usage.read_usage({**nomad, "address": "http://127.0.0.1:1"})


@pytest.mark.usefixtures("report")
def test_prints_a_line_for_each_account_their_sum_and_unread_databases(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["usage", "dev"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "account records blobs database blob bytes unreferenced",
        "bob.noted.at 3 2 4 KiB 5 GiB 1: 1.5 KiB",
        "ann.noted.at 3 2 4 KiB 2 KiB 1: 1.5 KiB",
        "did:plc:eve - - 10 B - -",
        "3 accounts 6 4 8 KiB 5 GiB 2: 3 KiB",
        "did:plc:eve: its database cannot be read: file is not a database",
    ]


@pytest.mark.usefixtures("report")
def test_lists_unreferenced_blobs_on_request_and_counts_those_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["usage", "dev", "--blobs"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "Blobs that no record names, the largest first:",
        "did:plc:ann  bafkrei  1 KiB  2026-01-01T00:00:00.000Z",
        "and 1 smaller ones.",
    ]


@pytest.mark.usefixtures("report")
def test_prints_json_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["usage", "dev", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["blobs"] == [BLOB]
    assert printed["accounts"][0]["unreferenced_bytes"] == 1024
