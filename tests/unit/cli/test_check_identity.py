"""Checks of accounts whose answers come from other services: name servers and the directory of identities."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from cli.check.run import run_check
from cli.check.site import Site
from cli.check.subject import Subject
from tests.support import fake_dns
from tests.support.serving import LOOPBACK, served

DID, HANDLE, IP = "did:plc:qo2urk437ss36eyefp5jgoyw", "ann.my-club.org", "203.0.113.10"


@dataclass
class Server:
    """A PDS with one account; `named` are the names under which its well-known address was requested."""

    port: int = 0
    named: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, path = self.headers["Host"], urlsplit(self.path).path
            answers = {
                "/xrpc/com.atproto.sync.listRepos": {"repos": [{"did": DID}]},
                "/xrpc/com.atproto.repo.describeRepo": {"handle": HANDLE},
                "/xrpc/com.atproto.identity.resolveHandle": {"did": DID} if HANDLE in self.path else None,
            }
            if path == "/.well-known/atproto-did":
                found.named.append(host)
            text = DID if path == "/.well-known/atproto-did" and host == HANDLE else json.dumps(answers.get(path))
            self.send_response(404 if text == "null" else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with served(Handler) as port:
        found.port = port
        yield found


def _subject(server: Server, *nameservers: str, **environment: str) -> Subject:
    lines = {"PDS_SERVICE_HANDLE_DOMAINS": ".my-club.org", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "5d" * 32}
    env = "".join(f"{name}={value}\n" for name, value in {**lines, **environment}.items())
    site = Site.at("pds.my-club.org", f"http://{LOOPBACK}:{server.port}")
    return Subject(stack="dev", outputs={"pds_env": env, "ipv4": IP}, site=site, nameservers=nameservers)


@pytest.mark.parametrize(
    ("records", "ok", "said", "asks"),
    [
        ({f"TXT _atproto.{HANDLE}": [f"did={DID}"]}, True, "by DNS", False),
        ({HANDLE: [IP]}, True, "by HTTPS", True),
        ({HANDLE: ["198.51.100.1"]}, False, "let the name lead here", False),
        ({}, False, f"Make the TXT record _atproto.{HANDLE}", False),
    ],
    ids=["a record", "a name that leads here", "a name that leads elsewhere", "no name"],
)
def test_https_is_asked_where_dns_has_no_answer_and_the_name_leads_here(
    server: Server, records: dict[str, list[str]], ok: bool, said: str, asks: bool
) -> None:
    with fake_dns.serve(records) as nameserver:
        found = run_check("handles", _subject(server, nameserver))
    assert found.ok is ok, found
    assert said in found.remark
    assert (HANDLE in server.named) is asks, "else the ingress orders a certificate that fails, at each run"


def test_a_directory_that_does_not_answer_is_not_blamed_on_the_ingress(server: Server) -> None:
    found = run_check("DID documents", _subject(server, PDS_DID_PLC_URL="http://127.0.0.1:1"))
    assert found.ok is False
    assert "the directory http://127.0.0.1:1 does not answer" in found.remark
    assert "ingress" not in found.remark
