"""Whether the ingress serves this stack's text: `up` checks it and fails with Caddy's own error if it does not."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from components.clients import caddy
from components.clients.errors import DeadlineError, ServiceError
from components.clients.https import client_tls, connection_to
from tests.support.certificates import Authority, server_context
from tests.support.serving import served

pytestmark = pytest.mark.usefixtures("clock")

SHA256 = "5" * 64


class _Site(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, str]]]
    requested_paths: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.requested_paths.append(self.path)
        status, text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def _require(monkeypatch: pytest.MonkeyPatch, folder: Path, *answers: tuple[int, str]) -> list[str]:
    requested_paths: list[str] = []
    handler = type("Site", (_Site,), {"answers": list(answers), "requested_paths": requested_paths})
    authority = Authority("the public's")
    with served(handler, tls=server_context(authority.issue("noted.at"), folder)) as port:
        connect = connection_to
        trust = client_tls(authority.pem, "", "")

        def connect_to_loopback(url: str, address: str, timeout: float, tls: object) -> object:
            return connect(url.replace("noted.at", f"noted.at:{port}"), "127.0.0.1", timeout, trust)

        monkeypatch.setattr("components.clients.caddy.connection_to", connect_to_loopback)
        caddy.require("noted.at", "203.0.113.10", SHA256, 150)
    return requested_paths


def test_loaded_text_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requested_paths = _require(monkeypatch, tmp_path, (404, ""), (200, "server: of an older host"), (200, "loaded\n"))
    assert requested_paths == [f"/.well-known/pds-ingress/{SHA256}"] * 3, (
        "the template of Nomad is rendered with a delay"
    )


def test_refused_text_fails_up_with_the_error_of_caddy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = "refused: Error: adapting config using caddyfile: line 7: unrecognized directive: foo"
    with pytest.raises(ServiceError, match=r"(?s)unrecognized directive: foo.*ingress\.site_caddyfile"):
        _require(monkeypatch, tmp_path, (200, error))


def test_text_that_caddy_never_loads_fails_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match="does not serve this stack's text yet"):
        _require(monkeypatch, tmp_path, (404, ""))
