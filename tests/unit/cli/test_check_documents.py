"""The line `DID documents` of `./pds check`: a fault of one account hides no other account."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest

from cli.check.plc_documents import signature_fault
from cli.check.run import run_check
from cli.check.site import Site
from cli.check.subject import Subject
from cli.snapshot.did_keys import did_key
from tests.support.serving import LOOPBACK, served

ROTATION_KEY, HOST = "5d" * 32, "pds.my-club.org"
ANN, BOB, EVE = (f"did:plc:{name}2urk437ss36eyefp5jgoyw" for name in ("ann", "bob", "eve"))
ED25519 = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"

Faulty = dict[tuple[str, str], tuple[int, dict[str, str]]]
"""Status and body of a method's answers about one account."""


@dataclass
class Server:
    """A PDS with three accounts, and their directory. `faults` replace answers; `limited` requests get a 429."""

    port: int = 0
    faults: Faulty = field(default_factory=dict)
    limited: int = 0
    rotation_keys: dict[str, list[str]] = field(default_factory=dict)

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, object]]:
        """Return status and body."""
        method = path.rpartition(".")[2]
        did = next(iter(query.get("did", query.get("repo", [""]))))
        if path.endswith("/data"):
            did = path.split("/")[1]
            keys = self.rotation_keys.get(did, [did_key(ROTATION_KEY)])
            return 200, {
                "rotationKeys": keys,
                "alsoKnownAs": [f"at://{did[8:11]}.my-club.org"],
                "services": {"atproto_pds": {"endpoint": f"https://{HOST}"}},
                "verificationMethods": {},
            }
        if (method, did) in self.faults:
            status, body = self.faults[method, did]
            return status, dict(body)
        answers: dict[str, dict[str, object]] = {
            "listRepos": {"repos": [{"did": one, "active": True} for one in (ANN, BOB, EVE)]},
            "describeRepo": {"handle": f"{did[8:11]}.my-club.org"},
            "getRecord": {},
        }
        return 200, answers[method]


@pytest.fixture
def server() -> Iterator[Server]:
    fake = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, body = fake.answer(url.path, parse_qs(url.query))
            is_limited = fake.limited > 0 and url.path.startswith("/xrpc/")
            fake.limited -= is_limited
            text = json.dumps({"error": "RateLimitExceeded"} if is_limited else body).encode()
            self.send_response(429 if is_limited else status)
            if is_limited:
                self.send_header("RateLimit-Reset", str(int(time.time()) + 200))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with served(Handler) as port:
        fake.port = port
        yield fake


@pytest.fixture
def documents(server: Server) -> Callable[[], str]:
    """Return the remark of the failed line."""
    url = f"http://{LOOPBACK}:{server.port}"
    lines = {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": ROTATION_KEY, "PDS_DID_PLC_URL": url}
    env = "".join(f"{name}={value}\n" for name, value in lines.items())

    def line() -> str:
        result = run_check("DID documents", Subject(stack="dev", outputs={"pds_env": env}, site=Site.at(HOST, url)))
        assert result.ok is False
        return result.remark

    return line


@pytest.mark.parametrize("method", ["getRecord", "describeRepo"])
def test_an_account_whose_repository_does_not_answer_hides_no_other(
    server: Server, documents: Callable[[], str], method: str
) -> None:
    server.faults[method, ANN] = (500, {"error": "InternalServerError"})
    server.rotation_keys[EVE] = []
    remark = documents()
    assert f"{ANN}: " in remark
    assert f"{method} answers 500" in remark
    assert f"{EVE}: our rotation key" in remark


def test_an_account_that_left_since_the_list_was_made_is_no_fault(server: Server, documents: Callable[[], str]) -> None:
    server.faults["describeRepo", ANN] = (400, {"error": "RepoDeactivated"})
    remark = documents()
    assert ANN not in remark
    assert f"2 of 2 are wrong: {BOB}" in remark


def test_a_repository_that_an_account_has_lost_is_a_fault(server: Server, documents: Callable[[], str]) -> None:
    """The server answers as for an account that left, but still describes this one."""
    server.faults["getRecord", ANN] = (400, {"error": "RepoNotFound"})
    assert f"{ANN}: its newest commit cannot be read" in documents()


def test_waits_until_the_server_s_limit_ends(
    server: Server, documents: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("cli.check.identity.time.sleep", waits.append)
    server.limited = 2
    assert "answers 429" not in documents()
    assert len(waits) == 2, "each refused request waits for the end that the server names"
    assert all(150 < seconds <= 301 for seconds in waits)


def test_a_key_of_another_curve_is_a_fault_of_its_account() -> None:
    fault = signature_fault({"verificationMethods": {"atproto": ED25519}}, ANN, b"", lambda: "3k")
    assert fault is not None
    assert f"{ED25519} is a key of another curve" in fault
