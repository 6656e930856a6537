"""The script that puts the texts of all stacks together, with a real Caddy: a stack's text affects only that stack."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from components.render.ingress.caddy import caddy_job, caddyfile
from components.render.scripts import script
from components.settings.sections.settings import Settings
from offline.hcl_reader import job_of, task_of
from tests.contract.front import ENDS_WITH_US, Ports
from tests.support.host_machine import tool
from tests.support.programs import settings_of
from tests.support.serving import LOOPBACK, served
from tools.trial.process import free_port

pytestmark = pytest.mark.contract

HOST, CLUB = "noted.at", "chess.test"


class _Server(BaseHTTPRequestHandler):
    """Stands for a PDS: returns the requested path."""

    def do_GET(self) -> None:
        body = f"server: {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Machine:
    """A host's ingress task: the rendered template's lines, the script, and Caddy when it was started."""

    def __init__(self, folder: Path, backend: int) -> None:
        self.backend, self.folder, self.ports = backend, folder, Ports.free()
        self.parts: dict[str, dict[str, str]] = {}
        self._caddy: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "caddy.sh").write_text(script("caddy.sh"))
        self.stack("dev")

    def settings(self, hostname: str = HOST, **ingress: str) -> Settings:
        """The settings of a stack with this hostname."""
        zone = {"zone": hostname}
        return settings_of(
            hostname=hostname, dns=zone, ingress={"kind": "caddy", **ingress}, pds={"port": self.backend}
        )

    def stack(self, name: str, hostname: str = HOST, added: str = "", **ingress: str) -> str:
        """Write a stack's file and return the SHA-256 of its text. `added` bypasses the checks of the settings."""
        settings = self.settings(hostname, **ingress)
        text = caddyfile(settings) + added
        self.parts[name] = {"text": text, "plain": caddyfile(settings, plain=True)}
        return hashlib.sha256(self._mapped(text).encode()).hexdigest()

    def _mapped(self, text: str) -> str:
        return text.replace("/local/", f"{self.folder}/").replace(":2020", f":{self.ports.ask}")

    def _write(self) -> None:
        (template,) = [
            item
            for item in task_of(job_of(caddy_job(self.settings(), "dev"), "caddy"), "caddy")["template"]
            if item["destination"] == "local/options"
        ]
        lines = [line for line in template["data"].splitlines() if not line.strip().startswith("acme_ca")]
        ports = f"\thttp_port {self.ports.http}\n\thttps_port {self.ports.https}\n\tdefault_bind {LOOPBACK}\n"
        own = f"{{\n{ports}\tlocal_certs\n\tskip_install_trust\n"
        options = self._mapped("\n".join(lines))
        (self.folder / "options").write_text(own + options.removeprefix("{\n") + "\n")
        coded = [
            f"caddy/files/{name} {key} {base64.b64encode(self._mapped(text).encode()).decode()}\n"
            for name, items in sorted(self.parts.items())
            for key, text in sorted(items.items())
        ]
        (self.folder / "parts").write_text("".join(coded))

    def _environment(self) -> dict[str, str]:
        folders = {
            "PDS_LOCAL": str(self.folder),
            "PDS_KEPT": str(self.folder.parent / "kept"),
            "HOME": str(self.folder),
        }
        caddys = {"XDG_DATA_HOME": str(self.folder.parent / "data"), "XDG_CONFIG_HOME": str(self.folder)}
        return {"PATH": f"{Path(tool('caddy', 'caddy')).parent}:{os.defpath}", **folders, **caddys}

    def start(self) -> None:
        """Start the container's command; return when the stack's site answers."""
        self._write()
        with (self.folder / "caddy.log").open("wb") as log:
            command = [*ENDS_WITH_US, "/bin/sh", str(self.folder / "caddy.sh"), "start"]
            self._caddy = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log)
        for _ in range(200):
            if self._caddy.poll() is not None:
                raise AssertionError((self.folder / "caddy.log").read_text())
            try:
                self.get(HOST, "/xrpc/_health")
                break
            except (OSError, httpx.HTTPError):
                time.sleep(0.1)

    def stop(self) -> None:
        """Kill Caddy, as a host that loses its power does."""
        if self._caddy:
            self._caddy.kill()
            self._caddy.wait(600)
            self._caddy = None

    def reload(self) -> None:
        """Run Nomad's change script."""
        self._write()
        done = subprocess.run(
            ["/bin/sh", str(self.folder / "caddy.sh"), "reload"],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def get(self, host: str, path: str) -> httpx.Response:
        """A response of `https://HOST`. Raises httpx.HTTPError if there is no such site."""
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        with httpx.Client(verify=trust, trust_env=False, timeout=600) as client:
            request = client.build_request(
                "GET", f"https://{LOOPBACK}:{self.ports.https}{path}", headers={"Host": host}
            )
            request.extensions = {**request.extensions, "sni_hostname": host}
            return client.send(request)

    def result(self, host: str, sha256: str) -> str:
        """Caddy's result for a text, as `up` requests it; empty if it has none."""
        answer = self.get(host, f"/.well-known/pds-ingress/{sha256}")
        return answer.text.strip() if answer.status_code == httpx.codes.OK else ""

    def settled(self, host: str, sha256: str) -> str:
        """The same, after Caddy has tried the new texts and has certificates again after a failed load."""
        for _ in range(200):
            with suppress(httpx.HTTPError):
                if found := self.result(host, sha256):
                    return found
            time.sleep(0.1)
        return ""


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    with served(_Server) as port:
        yield port


@pytest.fixture
def machine(tmp_path: Path, backend: int) -> Iterator[Machine]:
    instance = Machine(tmp_path / "local", backend)
    try:
        yield instance
    finally:
        instance.stop()


UNCLOSED = "www.chess.test {\n\trespond hi\n"
NO_DIRECTIVE = "www.chess.test {\n\tserve_my_files\n}\n"


def test_refused_text_keeps_the_previous_text_and_the_other_stacks(machine: Machine) -> None:
    machine.stack("chess", CLUB, extra_caddyfile='www.chess.test {\n\trespond "one"\n}')
    machine.start()
    machine.reload()
    assert machine.get("www.chess.test", "/").text == "one"
    other = machine.stack("dev", extra_caddyfile='www.noted.at {\n\trespond "mine"\n}')
    sha256 = machine.stack("chess", CLUB, NO_DIRECTIVE)
    machine.reload()
    assert machine.get("www.chess.test", "/").text == "one", "the club's last accepted text must be served"
    assert machine.get("www.noted.at", "/").text == "mine", "another stack's new text must be loaded"
    assert machine.result(HOST, other) == "loaded"
    result = machine.result(CLUB, sha256)
    assert result.startswith("refused: ")
    assert "unrecognized directive: serve_my_files" in result
    lines = machine.parts["chess"]["text"].splitlines()
    assert f"line {lines.index(chr(9) + 'serve_my_files') + 1}" in result, (
        "the error must name the line in the operator's text"
    )


@pytest.mark.parametrize("text", [UNCLOSED, NO_DIRECTIVE, "}\n", "{\n\tdebug\n}\n"])
def test_restart_of_caddy_with_a_refused_text_keeps_all_stacks(machine: Machine, text: str) -> None:
    machine.stack("chess", CLUB)
    machine.start()
    machine.reload()
    sha256 = machine.stack("chess", CLUB, text)
    machine.reload()
    assert machine.result(CLUB, sha256).startswith("refused: ")
    machine.stop()
    machine.start()
    assert machine.settled(CLUB, sha256).startswith("refused: "), "the refusal must be reported again"
    assert machine.get(HOST, "/xrpc/_health").text == "server: /xrpc/_health"
    assert machine.get(CLUB, "/xrpc/_health").text == "server: /xrpc/_health"


def test_refused_first_text_leaves_the_site_of_the_program(machine: Machine) -> None:
    sha256 = machine.stack("chess", CLUB, NO_DIRECTIVE)
    machine.start()
    assert machine.settled(CLUB, sha256).startswith("refused: ")
    assert machine.get(CLUB, "/xrpc/_health").text == "server: /xrpc/_health"


def test_address_of_another_stack_is_refused(machine: Machine) -> None:
    machine.start()
    machine.reload()
    sha256 = machine.stack("a-thief", CLUB, f'{HOST} {{\n\trespond "stolen"\n}}\n')
    machine.reload()
    assert machine.get(HOST, "/").text == "server: /"
    assert "ambiguous site definition" in machine.result(CLUB, sha256)


def test_text_that_fails_at_runtime_is_not_kept_for_the_next_start(machine: Machine) -> None:
    with socket.create_server((LOOPBACK, free_port())) as taken:
        machine.start()
        machine.reload()
        sha256 = machine.stack("dev", added=f"http://www.noted.at:{taken.getsockname()[1]} {{\n\trespond hi\n}}\n")
        machine.reload()
        assert "address already in use" in machine.settled(HOST, sha256)
        machine.stop()
        machine.start()
        assert machine.get(HOST, "/xrpc/_health").text == "server: /xrpc/_health"


def test_removed_stack_is_no_longer_served(machine: Machine) -> None:
    machine.stack("chess", CLUB)
    machine.start()
    machine.reload()
    assert machine.get(CLUB, "/").text == "server: /"
    del machine.parts["chess"]
    machine.reload()
    with pytest.raises(httpx.HTTPError):
        machine.get(CLUB, "/")
    assert not (machine.folder.parent / "kept" / "chess").exists(), "a new start must not restore it"


def test_site_lines_are_served_and_other_paths_reach_the_server(machine: Machine) -> None:
    inside = (
        'respond / "our club"\nrespond /robots.txt "User-agent: *\nDisallow: /"\n'
        "@gate path /xrpc/com.atproto.server.createAccount /gate/*\n"
        'handle @gate {\n\trespond "the gatekeeper"\n}\nheader X-Club chess\n'
    )
    sha256 = machine.stack("dev", site_caddyfile=inside)
    machine.start()
    assert machine.settled(HOST, sha256) == "loaded"
    assert machine.get(HOST, "/").text == "our club"
    assert machine.get(HOST, "/robots.txt").text == "User-agent: *\nDisallow: /", "the text must be unchanged"
    assert machine.get(HOST, "/gate/x").text == "the gatekeeper"
    assert machine.get(HOST, "/xrpc/com.atproto.server.createAccount").text == "the gatekeeper"
    for path in (
        "/xrpc/_health",
        "/xrpc/com.atproto.server.describeServer",
        "/oauth/authorize",
        "/.well-known/did.json",
    ):
        answer = machine.get(HOST, path)
        assert answer.text == f"server: {path}"
        assert answer.headers["x-club"] == "chess"
