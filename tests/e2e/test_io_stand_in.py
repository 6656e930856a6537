"""The stand-in for IO: the configurations that it accepts, its service lookups, and the requests that it forwards.

Built with Go and run on loopback. It parses the program's rendered files, so a second HCL parser accepts them.
"""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from cli.lib.subprocesses import child
from cli.lib.websocket import connect
from components.render.ingress.agent_io import ingress_file
from offline.mock_engine import ROOT
from tests.e2e.images.build import io_stand_in
from tests.support.certificates import Authority
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.hcl_texts import HCL_ACCEPTED, HCL_REFUSED
from tests.support.programs import settings_of
from tests.support.serving import LOOPBACK, served

HOST = "noted.at"
GOLDEN = ROOT / "tests/golden/dev/ingress.hcl"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed (https://go.dev/doc/install), so the stand-in for IO cannot be tested.")
    return io_stand_in(tmp_path_factory.mktemp("io"))


def check(program: Path, tmp_path: Path, *texts: str) -> "subprocess.CompletedProcess[str]":
    """Its output for files with these texts."""
    arguments = ["-x"]
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.hcl"
        file.write_text(text)
        arguments += ["-c", str(file)]
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=600)


def rendered(dialect: str, **more: Any) -> str:
    return ingress_file(settings_of(ingress={"dialect": dialect, **more}), "dev")


@pytest.mark.parametrize(("dialect", "year"), [("host", "2025"), ("ingress", "2026")])
@pytest.mark.parametrize("backend", ["nomad", "static"])
def test_rendered_file_is_accepted_in_both_dialects(
    program: Path, tmp_path: Path, dialect: str, year: str, backend: str
) -> None:
    done = check(program, tmp_path, rendered(dialect, backend=backend))
    assert (done.returncode, done.stdout) == (0, f"1 ingresses in the dialect of {year}\n")


def test_golden_file_is_accepted(program: Path, tmp_path: Path) -> None:
    assert check(program, tmp_path, GOLDEN.read_text()).returncode == 0


def test_parser_of_hashicorp_agrees_with_the_settings_about_what_is_hcl(program: Path, tmp_path: Path) -> None:
    """In a `license` block, whose contents the stand-in does not examine."""
    inside = "license {{\n{}\n}}\n".format
    assert check(program, tmp_path, *map(inside, HCL_ACCEPTED)).returncode == 0
    accepted = [text for text, _problem in HCL_REFUSED if check(program, tmp_path, inside(text)).returncode == 0]
    assert accepted == []


@pytest.mark.parametrize("dialect", ["host", "ingress"])
def test_files_of_several_stacks_and_a_licence_are_merged(program: Path, tmp_path: Path, dialect: str) -> None:
    license_hcl = 'license {\n  key = "of-a-licence"\n}\n'
    other = f'{dialect} "club.example" {{\n  backend = "127.0.0.1:3001"\n}}\n'
    done = check(program, tmp_path, license_hcl, other, rendered(dialect))
    assert done.returncode == 0
    assert done.stdout.startswith("2 ingresses")
    assert "`license` is IO's; the stand-in does nothing with it" in done.stdout
    assert "of-a-licence" not in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ingress "a.at" {\n  bakend = "nomad:pds"\n}', r'0\.hcl:2,3-9: .*"bakend".*Did you mean "backend"'),
        ('ingress "a.at" {\n  name = "pds"\n}', r'0\.hcl:1,.*"backend" is required'),
        ('ingress "a.at" {\n  backend = "nomad:pds"\n  headers {}\n}', r'0\.hcl:3,.*"headers" are not expected'),
        ('ingres "a.at" {\n  backend = "nomad:pds"\n}', r'0\.hcl:1,.*"ingres".*Did you mean "ingress"'),
        ("listen = 80\n", r"0\.hcl:1,.*\"listen\" is not expected"),
        ('ingress {\n  backend = "nomad:pds"\n}', r"0\.hcl:1,.*hostname"),
        (
            'ingress "a.at" {\n  backend = "nomad:not a name"\n}',
            r'0\.hcl:2,.*"not a name" is no name of a Nomad service',
        ),
        ('ingress "a.at" {\n  backend = "serving:nomad"\n}', r"0\.hcl:2,.*nomad:SERVICE and HOST:PORT"),
        ('ingress "a.at" {\n  backend = "${x}"\n}', r"0\.hcl:2,.*Variables not allowed"),
        ('ingress "a.at" {\n  backend = "nomad:pds"\n', r"0\.hcl:.*[Uu]nclosed"),
        (
            'ingress "a.at" {\n  backend = "nomad:pds"\n}\ningress "A.at" {\n  backend = "nomad:pds"\n}',
            r"0\.hcl:4,.*Second ingress; a\.at has one already",
        ),
        (
            'host "a.at" {\n  backend = "nomad:pds"\n}\ningress "b.at" {\n  backend = "nomad:pds"\n}',
            r"0\.hcl:4,.*of 2026.*`host` in .*0\.hcl:1,.* of 2025: no IO reads both",
        ),
        ('host "a.at" {\n  backend = "nomad:pds"\n  oauth_client "x" {}\n}', r'0\.hcl:3,.*"oauth_client"'),
    ],
)
def test_refuses_what_io_would_not_know_and_names_the_position(
    program: Path, tmp_path: Path, text: str, message: str
) -> None:
    done = check(program, tmp_path, text)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


def test_error_contains_no_licence(program: Path, tmp_path: Path) -> None:
    done = check(program, tmp_path, 'license "of-a-licence" {\n  key = "of-a-licence"\n}\n')
    assert done.returncode == 1
    assert "of-a-licence" not in done.stdout + done.stderr


class Backend(BaseHTTPRequestHandler):
    """Answers with the request that it received."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name in ("Host", "X-Forwarded-For", "X-Forwarded-Proto"):
            self.send_header(f"Got-{name}", self.headers[name] or "")
        self.send_header("Got-Path", self.path)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="session")
def backend() -> Iterator[tuple[str, int]]:
    with served(Backend) as port:
        yield LOOPBACK, port


@pytest.fixture
def nomad(backend: tuple[str, int]) -> Iterator[FakeNomad]:
    with serve(FakeNomad(services={"pds": backend})) as running:
        yield running


class Running:
    """The stand-in, listening."""

    def __init__(self, plain: str, encrypted: str, authority: Authority) -> None:
        self.plain, self.encrypted = plain, encrypted
        self.trust = authority.trusted()

    def post(self, path: str = "/", body: bytes = b"", host: str = HOST) -> httpx.Response:
        """A request of a client that has resolved `host`."""
        with httpx.Client(verify=self.trust, trust_env=False) as client:
            url = f"https://{self.encrypted}{path}"
            return client.post(url, content=body, headers={"Host": host}, extensions={"sni_hostname": host})


Start = Callable[[str], AbstractContextManager[Running]]


@pytest.fixture
def start(program: Path, nomad: FakeNomad, tmp_path: Path) -> Start:
    authority = Authority()
    environment = {
        "IO_STAND_IN_LISTEN": "127.0.0.1/32",
        "IO_STAND_IN_PORTS": "0,0",
        "IO_STAND_IN_NOMAD": nomad.address,
        "IO_STAND_IN_CA": str(authority.pair().written(tmp_path, "ca.pem")),
    }

    @contextmanager
    def started(text: str) -> Iterator[Running]:
        file = tmp_path / "io.hcl"
        file.write_text(text)
        with child([program, "-c", file], 600, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            found = re.fullmatch(r"http on (\S+), https on (\S+)\n", lines[1])
            assert found, lines
            yield Running(found[1], found[2], authority)
            process.terminate()
            process.stdout.read()
            assert process.wait(20) == 0, "it must exit with 0 on a signal"

    return started


@pytest.mark.parametrize("dialect", ["host", "ingress"])
def test_request_reaches_the_service_that_nomad_names(start: Start, nomad: FakeNomad, dialect: str) -> None:
    with start(rendered(dialect)) as running:
        answer = running.post("/xrpc/some.method?a=%2F", b"x" * 100_000)
    assert (answer.status_code, answer.content) == (200, b"x" * 100_000)
    assert answer.headers["Got-Host"] == HOST
    assert answer.headers["Got-Path"] == "/xrpc/some.method?a=%2F"
    assert answer.headers["Got-X-Forwarded-For"] == "127.0.0.1"
    assert answer.headers["Got-X-Forwarded-Proto"] == "https"
    assert nomad.asked == [("GET", "/v1/service/pds", None)], "IO sends no token"


def test_static_backend_queries_no_service(start: Start, nomad: FakeNomad, backend: tuple[str, int]) -> None:
    with start(f'ingress "{HOST}" {{\n  backend = "{backend[0]}:{backend[1]}"\n}}\n') as running:
        assert running.post(body=b"hello").content == b"hello"
    assert nomad.asked == []


def test_moved_service_is_found_again(start: Start, nomad: FakeNomad, backend: tuple[str, int]) -> None:
    with start(rendered("ingress")) as running:
        nomad.services = {"pds": ("127.0.0.1", 1)}
        assert running.post().status_code == 502
        nomad.services = {"pds": backend}
        assert running.post().status_code == 200


@pytest.mark.parametrize(
    ("services", "message"),
    [({}, "Nomad knows no service pds"), (None, "403 Forbidden .* without a token: Permission denied")],
)
def test_unavailable_service_is_a_502_with_the_reason(
    start: Start, nomad: FakeNomad, services: dict[str, tuple[str, int]] | None, message: str
) -> None:
    nomad.services = services
    with start(rendered("ingress")) as running:
        answer = running.post()
    assert answer.status_code == 502
    assert re.search(message, answer.text)


def test_name_without_an_ingress_gets_no_certificate(start: Start) -> None:
    with start(rendered("ingress")) as running, pytest.raises(httpx.ConnectError):
        running.post(host="alice.noted.at")


def test_plain_http_is_redirected_to_https(start: Start) -> None:
    with start(rendered("ingress")) as running:
        answer = httpx.get(f"http://{running.plain}/a?b=c", headers={"Host": HOST}, trust_env=False)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{HOST}/a?b=c")


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def test_websocket_is_forwarded(start: Start, nomad: FakeNomad) -> None:
    with serve_websocket(_echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        nomad.services = {"pds": server.socket.getsockname()[:2]}
        with start(rendered("ingress")) as running:
            host, port = running.encrypted.split(":")
            through = socket.create_connection((host, int(port)), timeout=600)
            url = f"wss://{HOST}/xrpc/com.atproto.sync.subscribeRepos"
            with connect(url, sock=through, ssl=running.trust, server_hostname=HOST, open_timeout=600) as client:
                for message in (b"\x00" * 1000, b"again"):
                    client.send(message)
                    assert client.recv(timeout=600) == message
        server.shutdown()
        thread.join(600)
