"""An HTTP server on loopback for the duration of a `with` block."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: tests expect clients that fail the handshake."""


@contextmanager
def served(
    handler: type[BaseHTTPRequestHandler], *, address: str = LOOPBACK, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Serve `handler` without a log; yields the port."""
    quiet = type(handler.__name__, (handler,), {"log_message": lambda *_: None})
    server = (_Server if tls else ThreadingHTTPServer)((address, 0), quiet)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(600)
