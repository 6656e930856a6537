"""Servers that belong to others: a member's old server, and those that get an operator's metrics and alerts.

They have public names here, and no public server is reached. In containers an image leads the names to this machine
(`local_pds_image`), and on this machine a proxy does, for commands that use one.
"""

import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue

from offline.stackfile import evaluate_stack
from tests.contract.two_servers import OTHER_SECRETS, Side
from tests.e2e.environment.directory import Directory
from tests.e2e.environment.service import tls_front
from tests.support.certificates import Authority, server_context
from tests.support.serving import LOOPBACK, served
from tests.support.smtp_relay import SmtpRelay
from tools.trial.node import PDS_LINES, install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import free_port
from tools.trial.trial import task_environment
from tools.trial.xrpc import Client

OLD_HOST = "bsky.social"
_PATIENCE = 20.0
"""Seconds for a connection."""


@dataclass(frozen=True, kw_only=True)
class OldServer:
    """A member's old server, of the older version line: itself, and a proxy by which this machine reaches it as
    https://bsky.social, and the directory."""

    side: Side
    proxy: str


@contextmanager
def old_server(
    folder: Path, cache: Path, plc: Directory, authority: Authority, relay: SmtpRelay, address: str
) -> Iterator[OldServer]:
    """Run one with its data in `folder`, which sends its mail by `relay`. `address` is this machine's. Raises E2eError,
    or LiveError if it does not start."""
    data = folder / "pds"
    data.mkdir(parents=True)
    (folder / "ca.pem").write_text(authority.pem)
    line = PDS_LINES[0]
    env = dict(task_environment(evaluate_stack("dev"))[0])
    local = applied(env, differences(env, data=data, plc_url=plc.local_url, port=free_port(), line=line))
    assert relay.login
    more = {
        **OTHER_SECRETS,
        "PDS_HOSTNAME": OLD_HOST,
        "PDS_EMAIL_SMTP_URL": f"smtps://{relay.login[0]}:{relay.login[1]}@{address}:{relay.port}",
        "PDS_EMAIL_FROM_ADDRESS": f"noreply@{OLD_HOST}",
        "NODE_EXTRA_CA_CERTS": str(folder / "ca.pem"),
    }
    installed, port = install(f"pds-{line}", cache), free_port()
    plc_name, _, plc_port = plc.url.removeprefix("https://").partition(":")
    places = {f"{OLD_HOST}:443": (address, port), f"{plc_name}:{plc_port}": (plc.names[plc_name], int(plc_port))}
    with (
        PdsProcess(installed, local | more, folder / "pds.log") as pds,
        tls_front(folder / "tls", authority.issue(OLD_HOST), f"{address}:{port}", pds.url.removeprefix("http://")),
        connect_proxy(places) as proxy,
    ):
        side = Side(OLD_HOST, local | more, installed, pds, Client(pds.url, OLD_HOST))
        with side.client.http:
            yield OldServer(side=side, proxy=proxy)


@contextmanager
def connect_proxy(places: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """The URL of a proxy on loopback that connects `HOST:PORT` to its place, and refuses all others (RFC 9110, section
    9.3.6)."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = _PATIENCE
        rbufsize = 0

        def handle(self) -> None:
            method, _, rest = self.rfile.readline().decode().partition(" ")
            while self.rfile.readline().strip():
                pass
            place = places.get(rest.partition(" ")[0])
            if method != "CONNECT" or place is None:
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(place, _PATIENCE) as far:
                far.settimeout(None)
                self.connection.settimeout(None)
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(far, self.connection), daemon=True)
                back.start()
                _copy(self.connection, far)
                back.join(_PATIENCE)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with Server((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(_PATIENCE)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def receiver(
    address: str, authority: Authority, folder: Path, *names: str
) -> Iterator[tuple[int, "Queue[tuple[str, str, str]]"]]:
    """An HTTPS server that containers reach by address or `names`: its port; and path, `Authorization` and text of each
    POST. The text of a GET is empty."""
    posts: Queue[tuple[str, str, str]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._take(self._body())

        def do_GET(self) -> None:
            self._take(b"")

        def _take(self, body: bytes) -> None:
            posts.put((self.path, self.headers.get("Authorization", ""), body.decode(errors="replace")))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if length := self.headers["Content-Length"]:
                return self.rfile.read(int(length))
            body = b""  # in chunks (RFC 9112, section 7.1)
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            return body

    folder.mkdir()
    tls = server_context(authority.issue(address, *names), folder)
    with served(Handler, address=address, tls=tls) as port:
        yield port, posts
