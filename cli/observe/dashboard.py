"""The way to the dashboard of a stack's host; `./pds dashboard`.

The store listens on the host's loopback and requires a password. ssh forwards it to a socket in a private directory,
and a server on this machine's loopback adds the password to each request, so that a browser needs none. Web pages of
other origins must not use that: the server answers only requests that a browser made for its own address.
"""

import base64
import http.client
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from cli.lib.stack import Stack
from cli.observe import ssh
from components.render.metrics.job import USER
from components.settings.sections import STORE_PORT
from offline.stackfile import read_settings

PAGE = "/vmui/#/dashboards"
"""The page with the program's dashboards."""

_LOOPBACK = "127.0.0.1"
_LOOK = 0.2
"""Seconds between two looks for ssh's socket."""
_PATIENCE = 60.0
"""Seconds for an answer of the store."""
_HOP = frozenset({"authorization", "connection", "host", "keep-alive", "proxy-authorization", "te", "trailer",
                  "transfer-encoding", "upgrade"})  # fmt: skip
"""Headers of one connection only (RFC 9110, section 7.6.1), and those that this server sets itself."""


def serve(stack: Stack, port: int | None, *, allow_ip: bool) -> int:
    """Serve the dashboard until ssh ends; return ssh's exit code. Raises CommandError."""
    settings = read_settings(stack.name, stack.root)
    ssh.require_own_host(stack.name, settings, "./pds dashboard")
    if not settings.metrics_store:
        raise CommandError(
            f"Pulumi.{stack.name}.yaml has no metrics store. Run `pulumi config set --path "
            f"metrics.store true --stack {stack.name}`, then `pulumi up`."
        )
    password = stack.required_outputs("metrics_password")["metrics_password"]
    endpoint = ssh.host_endpoint(stack)
    folder = Path(tempfile.mkdtemp(prefix="pds-dashboard-"))
    try:
        tunnel = folder / "store"
        with dashboard_server(tunnel, str(password), STORE_PORT if port is None else port) as url:
            note = threading.Thread(target=_announce, args=(tunnel, f"{url}{PAGE}"), daemon=True)
            note.start()
            return ssh.connect(endpoint, (), allow_ip=allow_ip, forward=f"{tunnel}:{_LOOPBACK}:{STORE_PORT}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _announce(tunnel: Path, url: str) -> None:
    """Print the address once ssh has opened the tunnel."""
    while not tunnel.exists():  # no deadline: ssh may prompt for the host key first
        if not tunnel.parent.exists():
            return  # ssh has ended before
        time.sleep(_LOOK)
    print(f"The dashboard: {url}\nCtrl-C ends it.", flush=True)


@contextmanager
def dashboard_server(tunnel: Path, password: str, port: int) -> Iterator[str]:
    """Serve the store behind the socket `tunnel` on loopback during the block, and return its URL. Raises
    CommandError."""
    try:
        server = _Server((_LOOPBACK, port), _Handler)
    except OSError as error:
        raise CommandError(
            f"Port {port} of this machine cannot be used ({error.strerror}). `--port 0` takes a free one."
        ) from None
    server.tunnel = tunnel
    server.authorization = f"Basic {base64.b64encode(f'{USER}:{password}'.encode()).decode()}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://{_LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tunnel: Path
    authorization: str


class _Connection(http.client.HTTPConnection):
    """HTTP through a socket of this machine's file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        if reason := self._refusal():
            self._answer(403, f"{reason}\n", "close")  # its body was not read
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["Authorization"] = self.server.authorization
        connection = _Connection(self.server.tunnel)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = type(error).__name__
            self._answer(502, f"The metrics store does not answer ({reason}). `./pds logs STACK --task metrics`\n")
            return
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refusal(self) -> str | None:
        """Return why the request is not one of this page; None for one that is.

        A name that a stranger's DNS leads here has another `Host`. A stranger's page has another `Origin`, or its
        browser says that it is one (`Sec-Fetch-Site`, w3c.github.io/webappsec-fetch-metadata).
        """
        own = {f"{_LOOPBACK}:{self.server.server_port}", f"localhost:{self.server.server_port}"}
        if self.headers.get("Host") not in own:
            return "This server has another address."
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") or (origin and origin.removeprefix("http://") not in own):
            return "Another web page made this request."
        return None

    def _answer(self, status: int, text: str, connection: str = "keep-alive") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Connection", connection)  # the base class obeys it, too
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal belongs to ssh."""
