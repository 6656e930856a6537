"""Errors in the API's form: `{"id", "message", "request_id"}` (digitalocean/openapi, shared/models/error.yml).

Messages are the API's own if a public report shows one; otherwise the e2e environment's own text states the rule of the
specification.
"""

from collections.abc import Mapping


class ApiError(Exception):
    """An error response."""

    def __init__(self, status: int, identity: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {identity}: {message}")
        self.status = status
        self.identity = identity
        self.message = message
        self.headers = dict(headers or {})


def unauthorized() -> ApiError:
    """No token, or not the account's."""
    return ApiError(401, "unauthorized", "Unable to authenticate you.")


def forbidden() -> ApiError:
    """The token is the account's but lacks the scope."""
    return ApiError(403, "forbidden", "You are not authorized to perform this operation")


def not_found() -> ApiError:
    """The resource in the path does not exist."""
    return ApiError(404, "not_found", "The resource you requested could not be found.")


def refused(message: str) -> ApiError:
    """The request is understood and not allowed."""
    return ApiError(422, "unprocessable_entity", message)


def conflict(message: str, identity: str = "conflict") -> ApiError:
    """The request contradicts the present state."""
    return ApiError(409, identity, message)


def too_many(retry_after: int) -> ApiError:
    """The rate limit; `retry_after` is in seconds."""
    return ApiError(429, "too_many_requests", "API rate limit exceeded.", {"Retry-After": str(retry_after)})


def pending() -> ApiError:
    """A droplet runs one action at a time."""
    return refused("Droplet already has a pending event.")


def unknown_route(method: str, path: str) -> ApiError:
    """Not 404, which a client would interpret as a deleted resource."""
    return ApiError(501, "not_implemented", f"this API does not know {method} {path}; add it to tests/e2e/digitalocean")
