"""Checks of accounts that query other services: name servers and the PLC directory."""

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
    """A PDS with one account; `named` has the host names for which `/.well-known/atproto-did` was requested."""

    port: int = 0
    named: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    fake = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, path = self.headers["Host"], urlsplit(self.path).path
            answers = {
                "/xrpc/com.atproto.sync.listRepos": {"repos": [{"did": DID}]},
                "/xrpc/com.atproto.repo.describeRepo": {"handle": HANDLE},
                "/xrpc/com.atproto.identity.resolveHandle": {"did": DID} if HANDLE in self.path else None,
            }
            if path == "/.well-known/atproto-did":
                fake.named.append(host)
            text = DID if path == "/.well-known/atproto-did" and host == HANDLE else json.dumps(answers.get(path))
            self.send_response(404 if text == "null" else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with served(Handler) as port:
        fake.port = port
        yield fake


def _subject(server: Server, *nameservers: str, **environment: str) -> Subject:
    lines = {"PDS_SERVICE_HANDLE_DOMAINS": ".my-club.org", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "5d" * 32}
    env = "".join(f"{name}={value}\n" for name, value in {**lines, **environment}.items())
    site = Site.at("pds.my-club.org", f"http://{LOOPBACK}:{server.port}")
    return Subject(stack="dev", outputs={"pds_env": env, "ipv4": IP}, site=site, nameservers=nameservers)


@pytest.mark.parametrize(
    ("records", "ok", "remark", "queries_https"),
    [
        ({f"TXT _atproto.{HANDLE}": [f"did={DID}"]}, True, "by DNS", False),
        ({HANDLE: [IP]}, True, "by HTTPS", True),
        ({HANDLE: ["198.51.100.1"]}, False, "point the name to this host", False),
        ({}, False, f"Create the TXT record _atproto.{HANDLE}", False),
    ],
    ids=["a TXT record", "a name that points here", "a name that points elsewhere", "no name"],
)
def test_queries_https_only_if_dns_has_no_did_and_the_name_points_here(
    server: Server, records: dict[str, list[str]], ok: bool, remark: str, queries_https: bool
) -> None:
    with fake_dns.serve(records) as nameserver:
        result = run_check("handles", _subject(server, nameserver))
    assert result.ok is ok, result
    assert remark in result.remark
    assert (HANDLE in server.named) is queries_https, (
        "for any other name the ingress would order a certificate in vain at each run"
    )


def test_names_the_plc_directory_if_it_does_not_answer(server: Server) -> None:
    result = run_check("DID documents", _subject(server, PDS_DID_PLC_URL="http://127.0.0.1:1"))
    assert result.ok is False
    assert "the directory http://127.0.0.1:1 does not answer" in result.remark
    assert "ingress" not in result.remark
