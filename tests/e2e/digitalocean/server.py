"""The API over HTTP, on loopback: routes, token, request log, faults, and the clock that ends actions.

A request passes through token, fault, route, handler and log, in this order. Everything here answers on loopback only.
Tests read the account and set faults through `Api`, without a request.

The log has a JSON object a line: time, method, path, query, body, status, and the error or fault if there was one.
Bodies are kept, so that a test can search them for secrets; the Authorization header is not.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web

from tests.e2e.digitalocean import account, addresses, alerts, droplets, names, networks, projects, spaces, volumes
from tests.e2e.digitalocean.calls import Answer, Call, Route
from tests.e2e.digitalocean.errors import ApiError, forbidden, refused, too_many, unauthorized, unknown_route
from tests.e2e.digitalocean.faults import Fault, Faults
from tests.e2e.digitalocean.limits import RateLimit
from tests.e2e.digitalocean.scopes import scopes
from tests.e2e.digitalocean.world import Json, World

ROUTES: tuple[Route, ...] = (
    *account.ROUTES,
    *addresses.ROUTES,
    *alerts.ROUTES,
    *droplets.ROUTES,
    *names.ROUTES,
    *networks.ROUTES,
    *projects.ROUTES,
    *spaces.ROUTES,
    *volumes.ROUTES,
)
_TICK = 0.1
_BODY_LIMIT = 1024 * 1024
_PATIENCE = 30.0


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


_COMPILED = [(route, _pattern(route.path)) for route in ROUTES]


def answer(
    world: World,
    method: str,
    path: str,
    query: Mapping[str, str],
    body: Any,
    granted: frozenset[str] | None = None,
) -> Answer:
    """The API's response to a request with a valid token, which has the scopes `granted`, or all; `path` is as sent.
    Raises ApiError."""
    for route, pattern in _COMPILED:
        found = pattern.fullmatch(path)
        if found is None or route.method != method:
            continue
        if granted is not None and not granted.intersection(scopes(method, route.path)):
            raise forbidden()
        unknown = sorted(set(query) - route.query)
        if unknown:
            raise refused(f"{unknown[0]} is no query parameter that this API knows for {method} {route.path}")
        parts = {name: unquote(part) for name, part in found.groupdict().items()}
        return route.handler(Call(world=world, path=parts, query=query, body=body))
    raise unknown_route(method, path)


class _Cut(Exception):  # noqa: N818 (it is no error of ours)
    """The connection ends without a response."""


class Api:
    """One account's API. In a `with` block it answers at `url`; `state` gets the log and the dump.

    Port 0 is a free one. The world changes under a lock: read it through `dump`.
    """

    def __init__(self, world: World, state: Path, port: int = 0) -> None:
        self.world = world
        self.faults = Faults()
        self.rate_limit = RateLimit()
        self.log_file = state / "requests.jsonl"
        self.dump_file = state / "account.json"
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="digitalocean", daemon=True)
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._done = asyncio.Event()
        self._trouble: BaseException | None = None
        state.mkdir(parents=True, exist_ok=True)
        self._log = self.log_file.open("a")
        self.log_file.chmod(0o600)

    @property
    def url(self) -> str:
        """The value of DIGITALOCEAN_API_URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_PATIENCE):
            raise TimeoutError(f"the API does not listen after {_PATIENCE:.0f} s")
        if self._trouble is not None:
            raise self._trouble
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(_PATIENCE)
        self.world.close()
        self.world.write(self.dump_file)
        self._log.close()

    def dump(self, *kinds: str) -> Json:
        """The present account, or these kinds of its resources."""
        with self._lock:
            copied: Json = json.loads(json.dumps(self.world.dump(*kinds)))
        return copied

    def fail(self, method: str, path: str, kind: str, nth: int = 1, seconds: float = 3600) -> None:
        """Make the `nth` matching call fail; see `faults`. Raises ApiError."""
        self.faults.add({"method": method, "path": path, "kind": kind, "nth": nth, "seconds": seconds})

    def fault_rules(self) -> list[Json]:
        """Every rule that was set, and whether its call has failed."""
        return self.faults.shown()

    def clear_faults(self) -> None:
        """Remove every rule."""
        self.faults = replace(self.faults, rules=[])

    def age(self, seconds: float) -> None:
        """Let every action be older by so much."""
        with self._lock:
            self.world.age(seconds)

    @contextmanager
    def without_faults(self) -> Iterator[None]:
        """No call fails in the block, and the rules wait: it is not their subject."""
        waiting, self.faults = self.faults, Faults()
        try:
            yield
        finally:
            self.faults = waiting

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """The response to a request with the account's token, without a connection. Token, limit, faults and log have
        no part in it."""
        parts = urlsplit(path)
        try:
            done = self._answer(method, parts.path, dict(parse_qsl(parts.query)), body, None)
        except ApiError as error:
            done = self._refusal(error)
        return Answer(done.status, json.loads(json.dumps(done.body)))

    def _refusal(self, error: ApiError) -> Answer:
        body = {"id": error.identity, "message": error.message, "request_id": self.world.new_uuid()}
        return Answer(error.status, body)

    def _answer(
        self, method: str, path: str, query: Mapping[str, str], body: Any, granted: frozenset[str] | None
    ) -> Answer:
        with self._lock:
            self.world.settle()
            return answer(self.world, method, path, query, body, granted)

    def requests(self) -> list[Json]:
        """The log so far."""
        self._log.flush()
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        try:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = int(runner.addresses[0][1])
        except OSError as error:
            self._trouble = error
            self._ready.set()
            return
        self._ready.set()
        ticker = asyncio.create_task(self._tick())
        await self._done.wait()
        ticker.cancel()
        await runner.cleanup()

    async def _tick(self) -> None:
        written = 0.0
        while True:
            with self._lock:
                self.world.settle()
                if time.monotonic() - written > 1:
                    self.world.write(self.dump_file)
                    written = time.monotonic()
            await asyncio.sleep(_TICK)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        about: Json = {
            "time": self.world.now(),
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "body": _decoded(text),
        }
        fault: Fault | None = None
        try:
            granted = self._authenticate(request)
            self.rate_limit.count(time.monotonic())
            fault = self.faults.strike(request.method, request.path)
            if fault is not None:
                about["fault"] = fault.kind
                await self._go_wrong(fault, about)
            done = self._answer(request.method, request.rel_url.raw_path, request.query, about["body"], granted)
        except _Cut:
            return self._cut(request)
        except ApiError as error:
            about["error"] = error.message
            return self._answered(about, self._refusal(error), error.headers)
        if fault is not None:
            self._record({**about, "status": None})
            if fault.kind == "held":
                await self._wait(fault.seconds)
            return self._cut(request)
        return self._answered(about, done, {})

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        """No response, and the connection closes."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response()  # the connection is closed already

    def _authenticate(self, request: web.Request) -> frozenset[str] | None:
        """The scopes of the request's token; None for all."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind == "Bearer" and token in self.world.limited_tokens:
            return self.world.limited_tokens[token]
        if kind != "Bearer" or not token or (self.world.token is not None and token != self.world.token):
            raise unauthorized()
        return self.world.scopes

    async def _go_wrong(self, fault: Fault, about: Json) -> None:
        if fault.kind == "500":
            raise ApiError(500, "server_error", "Unexpected server-side error")
        if fault.kind == "429":
            raise too_many(fault.retry_after)
        if fault.kind == "hang":
            self._record({**about, "status": None})
            await self._wait(fault.seconds)
            raise _Cut

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), seconds)

    def _answered(self, about: Json, done: Answer, headers: Mapping[str, str]) -> web.Response:
        self._record({**about, "status": done.status})
        limits = {**self.rate_limit.headers(time.monotonic()), "x-request-id": self.world.new_uuid()}
        if done.body is None:
            return web.Response(status=done.status, headers={**limits, **headers})
        return web.json_response(done.body, status=done.status, headers={**limits, **headers})

    def _record(self, about: Json) -> None:
        self._log.write(json.dumps(about) + "\n")
        self._log.flush()


def _decoded(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
