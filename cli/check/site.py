"""The PDS as the public reaches it: HTTPS to one address, under the hostname's or a handle's name.

The address is the stack's, not that of DNS, so that a check works before DNS does and can't be redirected. No secret is
ever sent. Does not own: the requests, or the meaning of a response.
"""

import base64
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from cli.lib.websocket import connect

_SECONDS = 20.0
_EARLY = 3.0
"""Seconds to wait for a response to the head of an upload before the rest is sent."""
_CHUNK = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Site:
    """`tls` is None for plain HTTP, used only for a server on this machine. `source` is a local address to use."""

    hostname: str
    address: str
    port: int
    tls: ssl.SSLContext | None
    source: str | None = None

    @classmethod
    def at(cls, hostname: str, where: str, ca_file: str | None = None, source: str | None = None) -> "Site":
        """Return the site at the URL `where`; its certificate is checked for `hostname`, against the system's CAs or a
        file.

        Raises OSError if the file cannot be read, ValueError if `where` is no URL.
        """
        url = urlsplit(where)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{where!r} is no URL; write for example https://203.0.113.10.")
        tls = ssl.create_default_context(cafile=ca_file) if url.scheme == "https" else None
        port = url.port or (443 if tls else 80)
        return cls(hostname=hostname, address=url.hostname, port=port, tls=tls, source=source)

    def request(
        self, method: str, path: str, *, host: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Return the response, whatever its status, to a request under the name `host`. Raises httpx.HTTPError."""
        name = host or self.hostname
        transport = httpx.HTTPTransport(
            verify=self.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), local_address=self.source, trust_env=False
        )
        scheme = "https" if self.tls else "http"
        with httpx.Client(
            transport=transport, base_url=f"{scheme}://{self.address}:{self.port}", timeout=_SECONDS, trust_env=False
        ) as client:
            return client.request(
                method, path, headers={"Host": name, **(headers or {})}, extensions={"sni_hostname": name}, **more
            )

    def upload(self, path: str, size: int) -> int:
        """Return the status of a request with `size` bytes; sending stops once a response has come.

        Not by httpx: it would lose the response of a server that answers early and closes while it still writes. Raises
        OSError.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.hostname}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
        )
        with self._connected() as connection:
            connection.sendall(head.encode())
            answer, sent = b"", 0
            while sent < size and not answer:
                # Most answer after the head; an ingress that collects the whole body first gets it.
                connection.settimeout(_EARLY if sent == 0 else 0.001)
                with suppress(TimeoutError):
                    answer = connection.recv(65536)
                connection.settimeout(_SECONDS)
                if not answer:
                    with suppress(ConnectionError):
                        connection.sendall(bytes(min(_CHUNK, size - sent)))
                    sent += _CHUNK
            return _status(connection, answer)

    def _connected(self) -> socket.socket:
        """Return a connection, with TLS if the site has it. Raises OSError, including ssl.SSLError."""
        plain = socket.create_connection((self.address, self.port), timeout=_SECONDS)
        if self.tls is None:
            return plain
        try:
            return self.tls.wrap_socket(plain, server_hostname=self.hostname)
        except OSError:
            plain.close()
            raise

    def certificate(self) -> dict[str, Any]:
        """Return the certificate for the hostname, once it is found valid. Raises OSError, including ssl.SSLError."""
        with self._connected() as connection:
            assert isinstance(connection, ssl.SSLSocket), "plain HTTP has none"
            certificate = connection.getpeercert()
        assert certificate, "a context that verifies has it"
        return dict(certificate)

    def stream(self, path: str) -> ClientConnection:
        """Return an open WebSocket, a context manager. Raises OSError, WebSocketException."""
        plain = socket.create_connection((self.address, self.port), timeout=_SECONDS)
        scheme = "wss" if self.tls else "ws"
        try:
            return connect(
                f"{scheme}://{self.hostname}{path}",
                sock=plain,
                ssl=self.tls,
                open_timeout=_SECONDS,
                **({"server_hostname": self.hostname} if self.tls else {}),
            )
        except (OSError, WebSocketException):
            plain.close()
            raise

    def upgrade(self, path: str) -> int:
        """Return the status of a WebSocket upgrade: 101 if it opens; it is closed again at once.

        Not by a WebSocket library: the one of the tools sometimes waits forever for its own thread if another status
        comes. Raises OSError.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {self.hostname}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        with self._connected() as connection:
            connection.sendall(head.encode())
            return _status(connection, b"")


def _status(connection: socket.socket, answer: bytes) -> int:
    """Return the status in a response of which `answer` has been read. Raises OSError."""
    while b"\r\n" not in answer and (more := connection.recv(65536)):
        answer += more
    words = answer.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError("the connection was closed without an answer")
    return int(words[1])
