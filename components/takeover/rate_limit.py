"""When a service that refused a request for its rate takes the next one.

Services differ in the header. `Retry-After` is a number of seconds or a date (RFC 9110). `RateLimit-Reset` is a time in
seconds since the epoch (DigitalOcean, @atproto/xrpc-server), or a number of seconds (an IETF draft).
"""

import email.utils
from typing import Any, Protocol

_EPOCH = 1_000_000_000
"""A larger `RateLimit-Reset` is a time, a smaller one a number of seconds."""


class Headers(Protocol):
    """An answer's headers, by name in any case."""

    def get(self, name: str, default: str, /) -> Any: ...


def seconds_until_next(headers: Headers, now: float) -> float | None:
    """The seconds that the headers ask for, by the service's own clock; None if they name no time. `now` is Unix time,
    for an answer without a date."""
    after, reset = str(headers.get("retry-after", "")).strip(), str(headers.get("ratelimit-reset", "")).strip()
    now = service_time(headers) or now
    if after.isdigit():
        return float(after)
    if moment := _unix(after):
        return max(moment - now, 0.0)
    if not reset.isdigit():
        return None
    # The moment is rounded down to a second, and so is the date.
    return max(float(reset) - now, 0.0) + 1.0 if float(reset) > _EPOCH else float(reset)


def service_time(headers: Headers) -> float | None:
    """When the service answered by its own clock, in Unix time; None if it does not tell."""
    return _unix(headers.get("date", ""))


def _unix(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
