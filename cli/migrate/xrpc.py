"""Calls to one server as one account: rate limits, sessions that expire, connections that break.

Rate limits are those of @atproto/xrpc-server (`rate-limiter.js`): every limited response has `RateLimit-Remaining` and
`RateLimit-Reset`; 429 is the refusal. Other servers and proxies send `Retry-After`. Does not own: which calls are made,
or why.
"""

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import httpx

from components.clients.errors import ServiceError
from components.takeover.rate_limit import seconds_until_next

Json = Any

ATTEMPTS = 5
LONGEST_WAIT = 900.0
"""Seconds to wait for a rate limit. The limit for all calls is counted over 300 s (@atproto/pds, `index.js`)."""

_TIMEOUT = httpx.Timeout(60.0, connect=20.0)
LONG = httpx.Timeout(1800.0, connect=20.0)
"""For a repository: the server answers only after it has read and indexed all of it."""
_CHUNK = 256 * 1024
_EARLY = 60.0
"""Seconds before the end of a session at which it is renewed."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Clock(Protocol):
    """The functions of `time` that are used here."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


class CallRefusedError(ServiceError):
    """The server refused a call. `error` is the protocol's name for the refusal, `message` the server's text."""

    def __init__(self, host: str, method: str, response: httpx.Response) -> None:
        try:
            body = response.json()
        except ValueError:
            body = {}
        fields = body if isinstance(body, dict) else {}
        self.method, self.status = method, response.status_code
        self.error = str(fields.get("error", ""))
        self.message = str(fields.get("message", "") or response.text[:200].strip())
        super().__init__(f"{host} refuses {method}: {self.message or self.error or self.status}.")


class NoAnswerError(ServiceError):
    """The server gave no usable answer to any attempt. The call may have had its effect, unless nothing `reached` the
    server."""

    def __init__(self, text: str, *, reached: bool = True) -> None:
        self.reached = reached
        super().__init__(text)


class RateLimitError(ServiceError):
    """The server asks for a longer wait than this program makes."""


class TooLargeError(ServiceError):
    """A download is larger than its limit."""


@dataclass
class Session:
    """The tokens of a session. They stay in memory."""

    access: str
    refresh: str
    renew_at: float
    """Monotonic time from which on the next call renews it."""


class AccountClient:
    """A client of the server at `url`, or at `address` under that name. Several threads may use it.

    `say` gets a line when the client waits.
    """

    def __init__(
        self,
        url: str,
        *,
        address: str = "",
        headers: Mapping[str, str] | None = None,
        clock: Clock = time,
        say: Callable[[str], None] = print,
    ) -> None:
        parts = urlsplit(url)
        self.url, self.host = url.rstrip("/"), parts.hostname or url
        self.session: Session | None = None
        self._sessions = self
        self._clock, self._say = clock, say
        self._lock = threading.RLock()
        self._next: dict[str, float] = {}
        port = f":{parts.port}" if parts.port else ""
        base = f"{parts.scheme}://{address}{port}" if address else self.url
        named = {"Host": parts.netloc} if address else {}
        self._extensions = {"sni_hostname": self.host} if address else {}
        proxies = not address and self.host not in LOOPBACK  # of the environment
        self._http = httpx.Client(
            base_url=base,
            headers={**named, **(headers or {})},
            timeout=_TIMEOUT,
            trust_env=proxies,
            # The authorities that the other clients of the stack's PDS trust. httpx has its own without `trust_env`.
            verify=ssl.create_default_context() if address else True,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def query(self, method: str, **params: Json) -> Json:
        """GET; return the JSON. Raises CallRefusedError, NoAnswerError, RateLimitError."""
        return self._json(self.call("GET", method, params=params))

    def procedure(self, method: str, body: Json = None, *, attempts: int = ATTEMPTS, token: str = "") -> Json:
        """POST JSON, or nothing; return the JSON. `token` replaces the session's. Raises as `query`."""
        more = {} if body is None else {"json": body}
        return self._json(self.call("POST", method, attempts=attempts, token=token, **more))

    def upload(self, method: str, content: bytes | Path, kind: str) -> Json:
        """POST bytes or a file of media type `kind`. Raises as `query`."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        headers = {"Content-Type": kind, "Content-Length": str(size)}
        return self._json(self.call("POST", method, described=headers, body=content, timeout=LONG))

    def download(self, method: str, into: IO[bytes], *, limit: int | None = None, **params: Json) -> str:
        """GET bytes into a file, from its start; return their media type. Raises as `query`, and TooLargeError."""

        def read(response: httpx.Response) -> None:
            into.seek(0)
            into.truncate()
            for chunk in response.iter_bytes(_CHUNK):
                into.write(chunk)
                if limit is not None and into.tell() > limit:
                    raise TooLargeError(f"more than {limit:,} bytes")

        response = self.call("GET", method, params=params, read=read, timeout=LONG)
        kind = str(response.headers.get("content-type", "application/octet-stream"))
        return kind.partition(";")[0].strip()

    def log_in(self, identifier: str, password: str, factor: str = "") -> Json:
        """Create a session; return the server's answer without the tokens. Raises as `query`."""
        body = {"identifier": identifier, "password": password} | ({"authFactorToken": factor} if factor else {})
        answer = self._json(self._attempts("POST", "com.atproto.server.createSession", {}, json=body))
        self.use(answer)
        return {key: value for key, value in answer.items() if not key.endswith("Jwt")}

    def use(self, answer: Mapping[str, Json]) -> None:
        """Use the session in the answer to a login, a renewal or a new account."""
        access = str(answer["accessJwt"])
        claims = token_claims(access)
        lifetime = float(claims.get("exp", 0)) - float(claims.get("iat", 0))
        ahead = max(lifetime - _EARLY, 0.0) if lifetime else float("inf")
        self.session = Session(access, str(answer["refreshJwt"]), self._clock.monotonic() + ahead)

    def borrow(self, other: "AccountClient") -> None:
        """Use the session of another server of the same service: large ones have one for sessions and many for data."""
        self._sessions = other

    def call(self, verb: str, method: str, *, token: str = "", **request: Any) -> httpx.Response:
        """Make a call with the session's token, which is renewed if it ends. Raises as `query`."""
        sessions = self._sessions
        if token or sessions.session is None:
            return self._attempts(verb, method, {"Authorization": f"Bearer {token}"} if token else {}, **request)
        used = sessions._token()
        try:
            return self._attempts(verb, method, {"Authorization": f"Bearer {used}"}, **request)
        except CallRefusedError as refusal:
            # A token of a mail ends with the same name; the text of the server's own is another (auth-verifier.js).
            if refusal.error != "ExpiredToken" or refusal.message == "Token is expired":
                raise
        return self._attempts(verb, method, {"Authorization": f"Bearer {sessions._token(used)}"}, **request)

    def _token(self, ended: str = "") -> str:
        """Return a token that is valid for a while, and is not `ended`."""
        with self._lock:
            assert self.session
            if self.session.access == ended or self._clock.monotonic() >= self.session.renew_at:
                self._renew()
            return self.session.access

    def _renew(self) -> None:
        assert self.session
        headers = {"Authorization": f"Bearer {self.session.refresh}"}
        try:
            self.use(self._json(self._attempts("POST", "com.atproto.server.refreshSession", headers)))
        except CallRefusedError as refusal:
            raise ServiceError(
                f"{self.host} does not renew the session ({refusal.message}). Run the command again, which logs in."
            ) from refusal

    def _attempts(
        self, verb: str, method: str, headers: Mapping[str, str], *, attempts: int = ATTEMPTS, **request: Any
    ) -> httpx.Response:
        """Repeat a call that got no answer, after growing pauses. A wait for a rate limit is no attempt."""
        reason, failed, waited, reached = "", 0, 0.0, False
        while failed < attempts:
            if failed:
                self._clock.sleep(2.0 ** (failed - 1))
            self._wait(method)
            try:
                response = self._send(verb, method, headers, **request)
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason, failed = str(error) or type(error).__name__, failed + 1
                reached |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                continue
            reached = True
            delay = self._limited(method, response)
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                waited += delay
                self._refuse_long(method, waited)
            elif response.status_code >= 500:
                reason, failed = str(CallRefusedError(self.host, method, response)).rstrip("."), failed + 1
            elif not response.is_success:
                raise CallRefusedError(self.host, method, response)
            else:
                return response
        times = f" after {attempts} attempts" if attempts > 1 else ""
        text = f"{self.host} does not answer {method}{times} ({reason}). Run the command again."
        raise NoAnswerError(text, reached=reached)

    def _send(
        self,
        verb: str,
        method: str,
        headers: Mapping[str, str],
        *,
        body: bytes | Path | None = None,
        described: Mapping[str, str] | None = None,
        read: Callable[[httpx.Response], None] | None = None,
        **request: Any,
    ) -> httpx.Response:
        sent = {**headers, **(described or {})}
        with _Body(body) as content:
            more = {"content": content} if body is not None else {}
            with self._http.stream(
                verb,
                f"/xrpc/{method}",
                headers=sent,
                extensions=self._extensions,
                follow_redirects=read is not None,  # a blob or a repository may be elsewhere; httpx keeps the token
                **more,
                **request,
            ) as response:
                if read and response.is_success:
                    read(response)
                else:
                    response.read()
                return response

    def _limited(self, method: str, response: httpx.Response) -> float:
        """Note when the next call of `method` is allowed; return the seconds until then."""
        refused = response.status_code == httpx.codes.TOO_MANY_REQUESTS
        refused = refused or (response.status_code == 503 and "retry-after" in response.headers)
        if not refused and response.headers.get("ratelimit-remaining") != "0":
            return 0.0
        delay = seconds_until_next(response.headers, self._clock.time())
        if refused:
            delay = 10.0 if delay is None else max(delay, 1.0)
        delay = delay or 0.0
        with self._lock:
            self._next[method] = self._clock.monotonic() + delay
        return delay

    def _wait(self, method: str) -> None:
        with self._lock:
            delay = self._next.get(method, 0.0) - self._clock.monotonic()
        if delay <= 0:
            return
        self._refuse_long(method, delay)
        self._say(f"{self.host} allows the next {method} in {delay:.0f} s. Waiting.")
        self._clock.sleep(delay)

    def _refuse_long(self, method: str, delay: float) -> None:
        if delay > LONGEST_WAIT:
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self._clock.time() + delay))
            raise RateLimitError(
                f"{self.host} allows no further {method} before {when}. Run the command again after that. It continues."
            )

    @staticmethod
    def _json(response: httpx.Response) -> Json:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            url = response.request.url
            raise NoAnswerError(f"{url.host} does not answer {url.path} with JSON. Is it a PDS?") from error


class _Body:
    """A request's body: bytes, or a file that each attempt opens again."""

    def __init__(self, body: bytes | Path | None) -> None:
        self._body = body
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Any:
        if isinstance(self._body, Path):
            self._file = self._body.open("rb")
            return iter(lambda: self._file.read(_CHUNK) if self._file else b"", b"")
        return self._body

    def __exit__(self, *_error: object) -> None:
        if self._file:
            self._file.close()


def token_claims(token: str) -> dict[str, Json]:
    """Return the claims of a JWT, unverified; empty for an opaque token."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
