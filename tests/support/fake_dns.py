"""A name server on loopback that returns a test's records, or stays silent, and records its queries."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest

Records = Mapping[str, list[str]]
"""Name to addresses, or `TYPE NAME` to values of another type."""


def stay_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a silent server after a moment, and let no test query a server outside."""
    patient = dns.query.udp_with_fallback

    def ask(*args: Any, **kwargs: Any) -> Any:
        return patient(*args, **{**kwargs, "timeout": 0.3})

    def none(*_args: Any, **_kwargs: Any) -> Any:
        raise dns.resolver.NoNameservers

    monkeypatch.setattr(dns.query, "udp_with_fallback", ask)
    monkeypatch.setattr(dns.resolver, "resolve", none)


class Wildcard(dict[str, list[str]]):
    """DNS records; `*` covers every name of the zone that has none."""

    def __init__(self, records: dict[str, list[str]], zone: str) -> None:
        super().__init__()
        self.records, self._zone = records, zone

    def get(self, key: str, default: Any = None) -> Any:
        values = self.records.get(key)
        covered = key.endswith(f".{self._zone}") and " " not in key
        return values if values or not covered else self.records.get("*", default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)


@contextmanager
def serve(records: Records | None, asked: list[str] | None = None) -> Iterator[str]:
    """Serve `records`; a missing name is NXDOMAIN. If `records` is None, the server does not answer. Targets of CNAME
    records are not added, as if they were in another zone. Yields IP:PORT.

    Each query is added to `asked` as `TYPE NAME`. Changes of `records` take effect at once.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    endpoint = f"127.0.0.1:{server.getsockname()[1]}"

    def answer() -> None:
        while True:
            data, client = server.recvfrom(4096)
            if data == b"stop":
                return
            if records is None:
                continue
            question = dns.message.from_wire(data)
            name = question.question[0].name
            kind = dns.rdatatype.to_text(question.question[0].rdtype)
            text = name.to_text(omit_final_dot=True).lower()
            if asked is not None:
                asked.append(f"{kind} {text}")
            response = dns.message.make_response(question)
            response.flags |= dns.flags.AA
            values = records.get(text if kind == "A" else f"{kind} {text}")
            alias = records.get(f"CNAME {text}")
            if alias:  # for any type: a name with a CNAME has nothing else (RFC 1034)
                values, kind = alias, "CNAME"
            if values:
                quoted = [f'"{value}"' if kind == "TXT" else value for value in values]
                response.answer.append(dns.rrset.from_text_list(name, 60, "IN", kind, quoted))
            elif not any(key.rpartition(" ")[2] == text for key in records):
                response.set_rcode(dns.rcode.NXDOMAIN)
            server.sendto(response.to_wire(), client)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        host, _, port = endpoint.partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"stop", (host, int(port)))
        thread.join(600)
        server.close()
