"""Connections to one address, forwarded to another, as a reserved IP leads to a droplet."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Address = tuple[str, int]
_CHUNK = 1 << 16
_CONNECT_SECONDS = 5.0


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


@contextmanager
def forwarded(listen: Address, to: Address) -> Iterator[None]:
    """Forward connections until the block ends, then cut those that are open. If nothing listens at `to`, a connection
    is closed at once."""
    open_sockets: set[socket.socket] = set()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            try:
                server = socket.create_connection(to, _CONNECT_SECONDS)
            except OSError:
                return
            server.settimeout(None)
            with server:
                open_sockets.update((client, server))
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join(_CONNECT_SECONDS)
                open_sockets.difference_update((client, server))

    with _Server(listen, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            for one in list(open_sockets):
                _end(one)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    # One half that ended ends the other: no protocol here uses half-open connections.
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
