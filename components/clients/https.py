"""HTTPS connections: with a client certificate to Nomad, and by address to the PDS.

This module writes no file: certificates and keys reach OpenSSL through pipes. The standard library only.
"""

import http.client
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.clients.errors import ServiceError
from components.clients.wait import until


def client_tls(ca_pem: str, cert_pem: str, key_pem: str) -> ssl.SSLContext:
    """A TLS context that trusts `ca_pem` only and presents the client certificate. No key touches a disk.

    Without `ca_pem` the system's CAs are trusted; without a certificate none is presented. Raises ServiceError if
    certificate and key are not a pair.
    """
    context = ssl.create_default_context(cadata=ca_pem or None)
    if not cert_pem:
        return context
    if ca_pem:
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # the endpoint is ours
    with _pipe(cert_pem) as cert, _pipe(key_pem) as key:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:  # ssl.SSLError too
            raise ServiceError(
                f"The client certificate and its key are not a pair that OpenSSL reads ({error})."
            ) from error
    return context


@contextmanager
def _pipe(text: str) -> Iterator[str]:
    # OpenSSL accepts a certificate by path only. A named pipe is a path that stores nothing.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        os.mkfifo(path, 0o600)

        def feed() -> None:
            with suppress(OSError):  # the reader ended; load_cert_chain reports why
                path.write_text(text)

        writer = threading.Thread(target=feed, daemon=True)
        writer.start()
        try:
            yield str(path)
        finally:
            # Without a reader the writer would wait for ever: open and close the other end.
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            writer.join(5)


def system_tls() -> ssl.SSLContext:
    """A TLS context that trusts the system's CAs, for the connections of one wait. Reading the CAs takes 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def connection_to(
    url: str, address: str, timeout: float, tls: ssl.SSLContext | None = None
) -> http.client.HTTPConnection:
    """An HTTP connection for `url`, directly to `address`, so that a stale DNS cache does not affect the result.

    The certificate is checked for the URL's name. Without `tls` the connection reads the system's CAs.
    """
    target = urlsplit(url)
    assert target.hostname, "the settings build this URL"
    connection: http.client.HTTPConnection
    if target.scheme == "https":
        connection = http.client.HTTPSConnection(target.hostname, target.port, timeout=timeout, context=tls)
    else:
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=timeout)
    connection._create_connection = lambda destination, *rest: _connect((address, destination[1]), *rest)  # type: ignore[attr-defined]
    return connection


def https_health(hostname: str, address: str, seconds: float) -> str | None:
    """None once `https://HOSTNAME/xrpc/_health` at `address` answers 200 with a valid certificate, else why not."""

    tls = system_tls()

    def healthy() -> str | None:
        connection = connection_to(f"https://{hostname}", address, timeout=10, tls=tls)
        try:
            connection.request("GET", "/xrpc/_health")
            status = connection.getresponse().status
            return None if status == 200 else f"it answers {status}"
        except http.client.HTTPException as error:
            return f"{type(error).__name__}"
        finally:
            connection.close()

    try:
        until(healthy, seconds, f"https://{hostname}/xrpc/_health", pause=5)
    except ServiceError as error:
        return str(error)
    return None


def _connect(*arguments: Any) -> Any:
    import socket

    return socket.create_connection(*arguments)
