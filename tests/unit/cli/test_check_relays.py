"""How the check reads a relay's status and cursor, against an event stream on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libipld
import pytest
from websockets.sync.server import ServerConnection, serve

from cli.check import relays
from cli.check.run import run_check
from cli.check.site import Site
from cli.check.subject import Subject
from tests.support.serving import LOOPBACK, served

LAST = 500
"""The newest event of the server."""


def _frame(header: dict[str, Any], body: dict[str, Any]) -> bytes:
    return bytes(libipld.encode_dag_cbor(header)) + bytes(libipld.encode_dag_cbor(body))


def _events(connection: ServerConnection) -> None:
    """Answers a cursor as @atproto/pds does (com.atproto.sync.subscribeRepos)."""
    assert connection.request
    cursor = int(parse_qs(urlsplit(connection.request.path).query)["cursor"][0])
    if cursor > LAST:
        connection.send(_frame({"op": -1}, {"error": "FutureCursor", "message": "Cursor in the future."}))
        return
    for number in range(cursor + 1, LAST + 1):
        connection.send(_frame({"op": 1, "t": "#identity"}, {"seq": number, "did": "did:plc:a"}))
    for _message in connection:  # until the client disconnects
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serve(_events, LOOPBACK, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Site.at("noted.at", f"http://{LOOPBACK}:{server.socket.getsockname()[1]}")
        server.shutdown()
        thread.join(600)


@contextmanager
def relay(status: int, body: dict[str, Any]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with served(Handler) as port:
        yield f"http://{LOOPBACK}:{port}"


CRAWL, OPERATORS, SEQUENCE = "requestCrawl there", "operators can lift", "--sequence 501"
CASES: dict[str, tuple[int, dict[str, Any], str]] = {
    "active": (200, {"status": "active", "seq": LAST - 3}, ""),
    "active, without a sequence number": (200, {"status": "active"}, ""),
    "idle, and up to date": (200, {"status": "idle", "seq": LAST}, ""),
    "idle, and behind": (200, {"status": "idle", "seq": LAST - 1}, CRAWL),
    "idle, with a cursor from the future": (200, {"status": "idle", "seq": LAST + 1}, SEQUENCE),
    "active, with a cursor from the future": (200, {"status": "active", "seq": LAST + 1}, SEQUENCE),
    "idle, without a sequence number": (200, {"status": "idle"}, CRAWL),
    "offline": (200, {"status": "offline", "seq": LAST}, CRAWL),
    "banned": (200, {"status": "banned", "seq": LAST}, OPERATORS),
    "throttled": (200, {"status": "throttled", "seq": LAST}, "a higher limit"),
    "unknown": (400, {"error": "HostNotFound"}, "does not know it (400)"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_status_of_a_relay_has_its_own_advice(site: Site, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "SILENCE", 0.3)
    status, body, advice = CASES[case]
    with relay(status, body) as url:
        subject = Subject(stack="dev", outputs={"pds_env": f"PDS_CRAWLERS={url}\n"}, site=site, relay=True)
        result = run_check("relay", subject)
    assert result.ok is (not advice), result
    assert advice in result.remark
    if advice in (OPERATORS, SEQUENCE):
        assert "requestCrawl does not help" in result.remark


def test_queries_no_relay_without_the_relay_option(site: Site) -> None:
    outputs = {"pds_env": "PDS_CRAWLERS=http://127.0.0.1:1\n"}
    assert run_check("relay", Subject(stack="dev", outputs=outputs, site=site)).ok is None
