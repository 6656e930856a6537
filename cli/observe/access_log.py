"""Caddy's access log: a JSON object for each request (caddyserver.com/docs/logging), as a line for the operator."""

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cli.observe.terminal import printable


class EntryError(Exception):
    """A line is not an entry of the access log; the text says what it lacks."""


@dataclass(frozen=True)
class Request:
    """One request that Caddy has answered."""

    time: datetime
    method: str
    host: str
    path: str
    """As in the request; without the query unless the operator's own log has it."""
    status: int
    seconds: float
    size: int
    """Bytes of the response's body."""
    client: str
    agent: str = ""
    """User agent; empty unless the operator's own log has headers."""

    def __str__(self) -> str:
        time = self.time.strftime("%Y-%m-%d %H:%M:%S.") + f"{self.time.microsecond // 1000:03}Z"
        duration = f"{self.seconds * 1000:,.0f} ms" if self.seconds < 100 else f"{self.seconds:,.0f} s"
        agent = f"  {self.agent}" if self.agent else ""
        return printable(
            f"{time}  {self.method:<7} {self.status:>3} {duration:>10} {self.size:>13,} B  {self.client:<15}  "
            f"{self.host}{self.path}{agent}"
        )


def parse_entry(line: str) -> Request:
    """Return the request of a line. Raises EntryError."""
    try:
        entry = json.loads(line)
        request: Mapping[str, Any] = entry["request"]
        agents = (request.get("headers") or {}).get("User-Agent") or [""]
        return Request(
            time=datetime.fromtimestamp(float(entry["ts"]), UTC),
            method=str(request["method"]),
            host=str(request["host"]),
            path=str(request["uri"]),
            status=int(entry["status"]),
            seconds=float(entry["duration"]),
            size=int(entry["size"]),
            client=str(request.get("client_ip") or request["remote_ip"]),
            agent=str(agents[0]),
        )
    except (ValueError, OverflowError, OSError):
        raise EntryError("it is not JSON with numbers for time, status, duration and size") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise EntryError(f"it lacks {error}") from None


@dataclass(frozen=True)
class RequestFilter:
    """Which requests to show; an empty value admits all."""

    methods: tuple[str, ...] = ()
    path: str = ""
    """The beginning of the path; with `*` at its beginning, a part of it."""
    statuses: tuple[str, ...] = ()
    """For example '404', or '5xx'."""
    client: str = ""
    """An address or a range."""
    host: str = ""
    """A host, or with a leading dot all hosts below it."""
    _network: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Raises ValueError if the client is neither an address nor a range."""
        if self.client:
            object.__setattr__(self, "_network", ipaddress.ip_network(self.client, strict=False))

    def admits(self, request: Request) -> bool:
        """Return whether to show the request."""
        host = request.host.partition(":")[0].lower()
        return (
            (not self.methods or request.method in self.methods)
            and (not self.statuses or any(_has_status(request.status, wanted) for wanted in self.statuses))
            and (request.path.startswith(self.path) if self.path[:1] != "*" else self.path[1:] in request.path)
            and (not self.host or host == self.host or (self.host[0] == "." and host.endswith(self.host)))
            and (self._network is None or self._is_of(request.client))
        )

    def _is_of(self, client: str) -> bool:
        """Return whether the logged address may be one of the wanted: a masked address stands for its network."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        if address.version != self._network.version:
            return False
        prefix = 24 if address.version == 4 else 48
        masked = ipaddress.ip_network((address, prefix), strict=False)
        is_masked = address == masked.network_address
        return address in self._network or (is_masked and masked.overlaps(self._network))


def _has_status(status: int, wanted: str) -> bool:
    return str(status) == wanted or (wanted[1:].lower() == "xx" and str(status)[:1] == wanted[0])
