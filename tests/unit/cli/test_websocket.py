"""The WebSocket client has a deadline, so that a silent server cannot block it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.lib.websocket import connect
from tests.support.certificates import Authority, server_context

HOST = "noted.at"


@contextmanager
def _silent(folder: Path) -> Iterator[tuple[socket.socket, ssl.SSLContext]]:
    """A connection to a TLS server that neither answers nor closes, and the CA to trust."""
    authority, finished = Authority(), threading.Event()
    context = server_context(authority.issue(HOST), folder)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with context.wrap_socket(server.accept()[0], server_side=True):
                finished.wait(600)

        threading.Thread(target=serve, daemon=True).start()
        yield socket.create_connection(server.getsockname(), timeout=600), authority.trusted()
        finished.set()


@pytest.mark.timeout(60)
def test_connect_times_out_if_the_server_does_not_answer(tmp_path: Path) -> None:
    with _silent(tmp_path) as (sock, trust), pytest.raises(TimeoutError, match="handshake response"):
        connect(f"wss://{HOST}", sock=sock, ssl=trust, open_timeout=0.5)
