"""An ingress on loopback in front of a plain HTTP server: TLS, the client's address in a header, and planted faults."""

import asyncio
import re
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_HEAD_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Planted:
    """A response that the ingress sends instead of the server's."""

    status: int
    body: str
    content_type: str = "application/json"

    def raw(self) -> bytes:
        """As sent on the wire."""
        body = self.body.encode()
        head = f"HTTP/1.1 {self.status} Planted\r\nContent-Type: {self.content_type}\r\nContent-Length: {len(body)}"
        return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


@dataclass
class Ingress:
    """In a `with` block it serves `url`. A test may change its faults while it runs.

    It serves one request per connection, so that each request has its own head.
    """

    upstream: int
    """Port of the server behind it."""
    tls: ssl.SSLContext | None = None
    forwarded: str = "replace"
    """X-Forwarded-For: `replace` it with the client's address, as an ingress should; `pass` it unchanged; `drop` it."""
    websockets: bool = True
    body_limit: int | None = None
    """Bytes; a longer body is refused by its announced length."""
    planted: dict[str, Planted] = field(default_factory=dict)
    """Host name and path, such as `noted.at/xrpc/_health`, to an answer; `*` stands for any host name."""
    port: int = 0

    @property
    def url(self) -> str:
        """The ingress's URL."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(600), "the ingress did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(600)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        # Some tests have a client that aborts the handshake.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self.tls, limit=_HEAD_LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._done.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await client.readuntil(b"\r\n\r\n")).decode("latin-1")
            refusal = self._refusal(head)
            if refusal:
                answer.write(refusal.raw())
                await answer.drain()
            else:
                await self._pass_on(self._rewritten(head, answer.get_extra_info("peername")[0]), client, answer)
        answer.close()

    def _refusal(self, head: str) -> Planted | None:
        path = head.split(" ", 2)[1].partition("?")[0]
        host = (_header(head, "host") or "").partition(":")[0]
        if f"{host}{path}" in self.planted:
            return self.planted[f"{host}{path}"]
        if f"*{path}" in self.planted:
            return self.planted[f"*{path}"]
        if _header(head, "upgrade") and not self.websockets:
            return Planted(400, "no upgrade here", "text/plain")
        length = int(_header(head, "content-length") or 0)
        if self.body_limit is not None and length > self.body_limit:
            return Planted(413, "too large", "text/plain")
        return None

    def _rewritten(self, head: str, client: str) -> bytes:
        lines = head.removesuffix("\r\n\r\n").split("\r\n")
        dropped = {"replace": ("x-forwarded-for",), "drop": ("x-forwarded-for",), "pass": ()}[self.forwarded]
        upgrade = _header(head, "upgrade") is not None
        if not upgrade:
            dropped = (*dropped, "connection")
        kept = [line for line in lines if line.partition(":")[0].lower() not in dropped]
        if self.forwarded == "replace":
            kept.append(f"X-Forwarded-For: {client}")
        if not upgrade:
            kept.append("Connection: close")
        return ("\r\n".join(kept) + "\r\n\r\n").encode("latin-1")

    async def _pass_on(self, head: bytes, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        server, request = await asyncio.open_connection("127.0.0.1", self.upstream)
        request.write(head)
        upwards = asyncio.create_task(_pump(client, request))
        try:
            await _pump(server, answer)
        finally:
            upwards.cancel()
            request.close()


def _header(head: str, name: str) -> str | None:
    match = re.search(rf"^{name}:\s*(.*?)\s*$", head, re.IGNORECASE | re.MULTILINE)
    return match[1] if match else None


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(64 * 1024):
            sink.write(data)
            await sink.drain()
