"""Calls to the PDS over its HTTP interface (XRPC), with responses and refusals as Python values.

Owns: addresses, headers, timeouts, and errors with the server's own message. Does not own: which calls are made, or
why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from tools.trial import LiveError

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_BLOB_TIMEOUT = httpx.Timeout(120.0, connect=5.0)


class RefusedError(LiveError):
    """The server refused. `status` is the HTTP status, `error` the protocol's name of the refusal, if any."""

    def __init__(self, method: str, response: httpx.Response) -> None:
        try:
            body = response.json()
        except ValueError:
            body = {}
        self.status = response.status_code
        self.error = str(body.get("error", ""))
        self.message = str(body.get("message", response.text[:200]))
        super().__init__(f"{method}: HTTP {self.status} {self.error}: {self.message}")


class Client:
    """A client of one PDS on loopback that names the server as the public would (the Host header)."""

    def __init__(self, base_url: str, hostname: str) -> None:
        self.hostname = hostname
        # No proxy of the environment: these calls never leave this machine.
        self.http = httpx.Client(base_url=base_url, headers={"Host": hostname}, timeout=_TIMEOUT, trust_env=False)
        self._token = ""

    def log_in(self, token: str) -> None:
        """Send `token` with every call from now on."""
        self._token = token

    def query(self, method: str, params: Mapping[str, str | int]) -> Any:
        """GET `method`. Raises RefusedError, or httpx.HTTPError if the server does not answer."""
        return self._answer(method, self.http.get(f"/xrpc/{method}", params=dict(params), headers=self._headers()))

    def procedure(self, method: str, body: Mapping[str, Any], *, admin_password: str | None = None) -> Any:
        """POST `body` to `method`, as the account or as the admin. Raises as `query` does."""
        if admin_password is None:
            response = self.http.post(f"/xrpc/{method}", json=body, headers=self._headers())
        else:
            response = self.http.post(f"/xrpc/{method}", json=body, auth=("admin", admin_password))
        return self._answer(method, response)

    def upload_blob(self, content: Iterable[bytes], size: int) -> dict[str, Any]:
        """Upload `size` bytes; returns the reference that a record carries. Raises as `query` does."""
        method = "com.atproto.repo.uploadBlob"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size), **self._headers()}
        response = self.http.post(f"/xrpc/{method}", content=content, headers=headers, timeout=_BLOB_TIMEOUT)
        blob: dict[str, Any] = self._answer(method, response)["blob"]
        return blob

    def stream_blob(self, did: str, cid: str) -> Iterable[bytes]:
        """Return the bytes of a blob as an anonymous client gets them. Raises as `query` does."""
        method = "com.atproto.sync.getBlob"
        params = {"did": did, "cid": cid}
        with self.http.stream("GET", f"/xrpc/{method}", params=params, timeout=_BLOB_TIMEOUT) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise RefusedError(method, response)
            yield from response.iter_bytes()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @staticmethod
    def _answer(method: str, response: httpx.Response) -> Any:
        if response.status_code != httpx.codes.OK:
            raise RefusedError(method, response)
        return response.json() if response.content else None
