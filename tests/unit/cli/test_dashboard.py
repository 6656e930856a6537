"""`./pds dashboard`: ssh's command line, and the server on this machine that adds the password."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from cli import app
from cli.lib.stack import Stack
from cli.observe.dashboard import dashboard_server
from tests.support.fake_pulumi import FakePulumi
from tests.support.serving import LOOPBACK, served
from tests.support.unix_tunnel import tunnel
from tests.unit.cli.test_ssh import a_port
from tests.unit.cli.test_ssh import stacks as stacks

PASSWORD = "0123456789abcdef0123456789abcdef"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def host(stacks: FakePulumi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePulumi:
    """Stack `dev` with a store; ssh prints its words, and makes the socket that it would forward."""
    file = stacks.root / "Pulumi.dev.yaml"
    content = json.loads(file.read_text())
    content["config"]["pds:metrics"] = {"store": True}
    file.write_text(json.dumps(content))
    stacks.outputs(ipv4=LOOPBACK, metrics_password=PASSWORD)
    monkeypatch.setattr("cli.commands.dashboard.Stack", lambda name: Stack(name, stacks.root))
    ssh = tmp_path / "programs" / "ssh"
    ssh.write_text(
        '#!/bin/sh\nfor word; do\n  echo "$word"\n  file=${word%%:*}\n  case $file in */store) touch "$file" ;; esac\n'
        "done\nsleep 1\nexit 255\n"
    )
    return stacks


def test_ssh_forwards_a_socket_of_a_private_directory_to_the_store(
    host: FakePulumi, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with a_port(monkeypatch) as port:
        assert app.main(["dashboard", "dev", "--port", "0"]) == 255, "the exit code is ssh's"
    words, _, told = capfd.readouterr().out.partition("The dashboard: ")
    expected = [
        "-p",
        str(port),
        "-o",
        f"HostKeyAlias=pds-dev-4711-{port}",
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
    ]
    assert words.splitlines()[:-2] == expected
    forward, login = words.splitlines()[-2:]
    path, _, target = forward.partition(":")
    assert (target, login) == ("127.0.0.1:8428", f"root@{LOOPBACK}")
    assert not Path(path).parent.exists(), "it goes with the command"
    assert re.match(r"http://127\.0\.0\.1:\d+/vmui/#/dashboards\nCtrl-C ends it\.\n", told)
    assert PASSWORD not in words + told


@pytest.mark.parametrize(
    ("stack", "sentence"),
    [
        ("chess", "chess runs on the host of stack dev. Its operator uses `./pds dashboard dev`.\n"),
        ("guest", "guest runs in the Nomad at http://127.0.0.1:4646. Its operator gives access to that host.\n"),
        (
            "dev",
            "Pulumi.dev.yaml has no metrics store. Run `pulumi config set --path metrics.store true "
            "--stack dev`, then `pulumi up`.\n",
        ),
    ],
)
def test_a_stack_without_a_store_is_refused(
    stacks: FakePulumi, monkeypatch: pytest.MonkeyPatch, stack: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.commands.dashboard.Stack", lambda name: Stack(name, stacks.root))
    assert app.main(["dashboard", stack]) == 2
    assert capsys.readouterr().err == sentence


def test_a_store_that_no_up_has_made_yet_is_refused(host: FakePulumi, capsys: pytest.CaptureFixture[str]) -> None:
    host.outputs(ipv4=LOOPBACK)
    assert app.main(["dashboard", "dev"]) == 2
    assert "has no metrics_password yet. Run `pulumi up --stack dev` first." in capsys.readouterr().err


def test_a_port_in_use_is_said_before_ssh_starts(host: FakePulumi, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        assert app.main(["dashboard", "dev", "--port", str(server.getsockname()[1])]) == 2
    said = capfd.readouterr()
    assert "`--port 0` takes a free one." in said.err
    assert said.out == ""


class _Store(BaseHTTPRequestHandler):
    """A store that requires the password, and repeats a request."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        seen = {"path": self.path, "body": body, "authorization": self.headers["Authorization"]}
        data = json.dumps(seen).encode()
        self.send_response(200 if self.headers["Authorization"] else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.do_POST()


@contextmanager
def dashboard(folder: Path) -> Iterator[httpx.Client]:
    with (
        served(_Store) as port,
        tunnel(folder / "s", port) as path,
        dashboard_server(path, PASSWORD, 0) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=600) as client,
    ):
        yield client


def test_the_page_s_own_requests_reach_the_store_with_the_password(tmp_path: Path) -> None:
    with dashboard(tmp_path) as client:
        seen = client.post("/api/v1/query?a=b", data={"query": "up"}, headers=OWN_PAGE).json()
        assert (seen["path"], seen["body"]) == ("/api/v1/query?a=b", "query=up")
        assert seen["authorization"].startswith("Basic ")
        typed = client.get("/vmui/", headers={"Sec-Fetch-Site": "none", "Authorization": "Basic eDp4"}).json()
        assert typed["authorization"] == seen["authorization"], "not that of the browser"
        assert client.get("/vmui/", headers={"Host": str(client.base_url.netloc, "ascii")}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "stranger.test:8428"},
        {"Host": "stranger.test"},
        {"Origin": "https://stranger.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_web_pages_reach_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    with dashboard(tmp_path) as client:
        for answer in (client.get("/api/v1/export", headers=headers), client.post("/api/v1/query", headers=headers)):
            assert answer.status_code == 403
            assert answer.headers["connection"] == "close", "its body was not read"
            assert "authorization" not in answer.text


def test_a_store_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        port = closed.getsockname()[1]
    with tunnel(tmp_path / "s", port) as path, dashboard_server(path, PASSWORD, 0) as url:
        answer = httpx.get(url, trust_env=False, timeout=600)
    assert answer.status_code == 502
    assert "`./pds logs STACK --task metrics`" in answer.text
