"""Resources of a DigitalOcean account.

`create` and `delete` are for temporary resources of a command (`temporary_firewall.py`). The engine or the operator
creates and deletes all others.
"""

import os
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from cli.errors import CommandError
from components.takeover.rate_limit import seconds_until_next

Json = dict[str, Any]

API = "https://api.digitalocean.com"
_PER_PAGE = 200
"""The API's maximum (digitalocean/openapi, parameters/per_page.yml)."""
_PATIENCE = 30.0
"""Seconds for a response."""
_RATE_PATIENCE = 65.0
"""Seconds to wait for the rate limit: 250 requests a minute, of all programs with the token."""


class DigitalOceanError(CommandError):
    """The account cannot be read; the text names the cause and the remedy."""


class DigitalOceanAccount:
    """The account of `token`; a context manager. `url` replaces DigitalOcean's API, as in the provider."""

    def __init__(self, token: str | None, url: str | None = None) -> None:
        if not token:
            raise DigitalOceanError(
                "There is no DigitalOcean token. Set DIGITALOCEAN_TOKEN, or "
                "`pulumi config set --secret digitalocean:token`."
            )
        base = url or os.environ.get("DIGITALOCEAN_API_URL") or API
        # No proxy stands between this machine and itself.
        local = urlsplit(base).hostname in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_PATIENCE,
            trust_env=not local,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def list_all(self, path: str, *, key: str = "", **query: str) -> list[Json]:
        """Return all items of a list, from all its pages; `key` is theirs in the response, if it is not the path's last
        part. Raises DigitalOceanError."""
        key = key or (path.rpartition("/")[2] if "/records" not in path else "domain_records")
        items: list[Json] = []
        page = 1
        while True:
            answer = self._ask("GET", path, {**query, "page": str(page), "per_page": str(_PER_PAGE)})
            if answer is None:
                return items
            items += answer[key]
            if not (answer.get("links") or {}).get("pages", {}).get("next"):
                return items
            page += 1

    def get(self, path: str) -> Json | None:
        """Return one item, without the API's key around it, or None if it does not exist. Raises DigitalOceanError."""
        answer = self._ask("GET", path, {})
        return None if answer is None else _item(answer)

    def create(self, path: str, body: Json) -> Json:
        """Create an item. Returned like `get`, without its key. Raises DigitalOceanError."""
        answer = self._ask("POST", path, {}, body)
        if answer is None:
            raise DigitalOceanError(f"DigitalOcean has no {path} (404).")
        return _item(answer)

    def delete(self, path: str) -> None:
        """Remove an item; a missing item is not an error. Raises DigitalOceanError."""
        self._ask("DELETE", path, {})

    def _ask(self, method: str, path: str, query: dict[str, str], body: Json | None = None) -> Json | None:
        answer = self._answer(method, path, query, body)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise DigitalOceanError(
                "DigitalOcean refuses the token (401): it is expired, deleted or misspelt. Create one under API → "
                "Generate New Token and set DIGITALOCEAN_TOKEN."
            )
        if answer.status_code == httpx.codes.FORBIDDEN:
            what = {"GET": "read", "POST": "create", "DELETE": "delete"}[method]
            raise DigitalOceanError(
                f"The DigitalOcean token may not {what} {path} (403): give it the scope to {what} it."
            )
        if not answer.is_success:
            raise DigitalOceanError(
                f"DigitalOcean answered {answer.status_code} to {path}: {answer.text[:200]} Try again."
            )
        found: Json = answer.json() if answer.content else {}
        return found

    def _answer(self, method: str, path: str, query: dict[str, str], body: Json | None) -> httpx.Response:
        """The answer; a request that is one too many is repeated when the API names, up to `_RATE_PATIENCE`."""
        end = time.monotonic() + _RATE_PATIENCE
        while True:
            try:
                answer = self._client.request(method, f"/v2/{path}", params=query, json=body)
            except httpx.HTTPError as error:
                text = f"{type(error).__name__}: {error}"
                raise DigitalOceanError(
                    f"{self._client.base_url} does not answer ({text}). Try again when it does."
                ) from None
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                return answer
            pause = seconds_until_next(answer.headers, time.time()) or 1.0
            if time.monotonic() + pause > end:
                return answer
            time.sleep(pause)


def _item(answer: Json) -> Json:
    item: Json = next(value for name, value in answer.items() if name not in ("links", "meta"))
    return item
