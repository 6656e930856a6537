"""An HTTP proxy on loopback in front of a real server, with the faults of the way: limits, cuts, other answers.

It passes on everything that no rule of the test answers. A rate limit has the headers of @atproto/xrpc-server
(`rate-limiter.js`): the moment of the reset in seconds since the epoch, rounded down.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.support.serving import served

_JSON = "application/json"
_PASSED_ON = ("authorization", "content-type", "x-ratelimit-bypass", "host")


@dataclass(frozen=True)
class Answer:
    """An answer instead of the server's. `cut` sends that many bytes of the body, and closes the connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass(frozen=True)
class Request:
    """A request: the method's name, the token and the body; `real` makes the real call."""

    method: str
    token: str
    body: bytes
    real: Callable[[], httpx.Response]


Rule = Callable[[Request], Answer | None]
"""From a request to an answer; None passes the request on."""


@dataclass
class FlawedProxy:
    """The proxy's state; a test changes `rule` while it runs. `seen` has the methods called."""

    url: str = ""
    rule: Rule | None = None
    seen: list[str] = field(default_factory=list)


def refused(status: int, error: str, message: str) -> Answer:
    """Return a refusal in the protocol's form."""
    return Answer(status, json.dumps({"error": error, "message": message}).encode(), {"Content-Type": _JSON})


def limited(reset: float) -> Answer:
    """Return the refusal of a rate limit that ends at the time `reset`."""
    headers = {"RateLimit-Limit": "3000", "RateLimit-Reset": str(int(reset)), "RateLimit-Remaining": "0"}
    body = b'{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}'
    return Answer(429, body, {**headers, "RateLimit-Policy": "3000;w=300", "Content-Type": _JSON})


@contextmanager
def flawed_proxy(upstream: str) -> Iterator[FlawedProxy]:
    """Serve a proxy of the server at `upstream`."""
    state, lock = FlawedProxy(), threading.Lock()
    client = httpx.Client(base_url=upstream, timeout=600, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            method = urlsplit(self.path).path.rpartition(".")[2]
            headers = {name: value for name, value in self.headers.items() if name.lower() in _PASSED_ON}

            def real() -> httpx.Response:
                return client.request(self.command, self.path, content=body or None, headers=headers)

            with lock:
                state.seen.append(method)
                token = str(self.headers.get("authorization", "")).removeprefix("Bearer ")
                answer = state.rule(Request(method, token, body, real)) if state.rule else None
            if answer is None:
                response = real()
                kept = {
                    name: value
                    for name, value in response.headers.items()
                    if name.startswith("ratelimit") or name == "content-type"
                }
                answer = Answer(response.status_code, response.content, kept)
            self._answer(answer)

        do_GET = do_POST = handle_any  # noqa: N815

        def _answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut])
            self.close_connection = answer.cut is not None

        def log_message(self, *_: Any) -> None: ...

    with client, served(Handler) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state
