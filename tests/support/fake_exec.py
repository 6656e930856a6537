"""Nomad's exec endpoint on loopback (developer.hashicorp.com/nomad/api-docs/allocations), which answers in frames."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.server import ServerConnection, serve

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"


def frame(stream: str, text: str) -> dict[str, Any]:
    """A part of the output."""
    return {stream: {"data": base64.b64encode(text.encode()).decode()}}


@contextmanager
def exec_endpoint(*frames: dict[str, Any]) -> Iterator[tuple[dict[str, str], list[tuple[str, str | None]]]]:
    """Nomad's response to a command; yields the outputs that lead there, and the requests with their tokens."""
    asked: list[tuple[str, str | None]] = []

    def answer(connection: ServerConnection) -> None:
        assert connection.request
        asked.append((connection.request.path, connection.request.headers.get("X-Nomad-Token")))
        assert json.loads(connection.recv(timeout=600)) == {"stdin": {"close": True}}, "Nomad would wait for input"
        for each in frames:
            connection.send(json.dumps(each))

    with serve(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        nomad = dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem"), "")
        try:
            yield {**nomad, "address": f"http://127.0.0.1:{server.socket.getsockname()[1]}", "token": TOKEN}, asked
        finally:
            server.shutdown()
            thread.join(600)
