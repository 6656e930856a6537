"""A WebSocket client whose close always ends.

It repairs a fault of `websockets` (seen in 17.4): the client waits without a limit for the thread that reads, and
closes the socket to end it. Over TLS 1.3 a server sends tickets after the handshake, so that thread is not where the
library expects it, in `select`, but inside of a read, which another thread's close does not end. A client of a silent
server then waited forever. Shutting the connection down ends that read.

The callers define the messages on the connection.
"""

import socket
import threading
from contextlib import suppress
from typing import Any

from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as _connect

_LAST = 10.0
"""Seconds for the thread to see that the connection is shut down."""


class _Connection(ClientConnection):
    def close_socket(self) -> None:
        """Shut the connection down, let the reading thread see it, and only then free its descriptor: a thread that
        still reads would read from the next connection of this process."""
        with suppress(OSError):  # it is not connected any more
            self.socket.shutdown(socket.SHUT_RDWR)
        self.recv_messages.close()  # otherwise it may wait for a reader of its messages
        if threading.current_thread() is not self.recv_events_thread:
            self.recv_events_thread.join(_LAST)
        super().close_socket()


def connect(url: str, **options: Any) -> ClientConnection:
    """`connect` of websockets.sync.client, without a proxy. Raises as that does: OSError, WebSocketException."""
    opened: ClientConnection = _connect(url, proxy=None, create_connection=_Connection, **options)
    return opened
