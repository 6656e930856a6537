"""The name server of the e2e environment's zones: it answers with the present records of the account.

UDP on loopback, authoritative, no recursion. Only what the program queries: A, AAAA, CAA, CNAME, MX, NS and TXT, and a
wildcard for names without a record.
"""

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.e2e.digitalocean.world import Json

Zones = Callable[[], Json]
"""Zone to its records by id, as in an account's dump."""


@contextmanager
def nameserver(zones: Zones, port: int = 0) -> Iterator[str]:
    """Answer from `zones`; return its address, as `IP:PORT`. Port 0 is a free one."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            packet, socket = self.request
            try:
                question = dns.message.from_wire(packet)
            except dns.exception.DNSException:
                return
            socket.sendto(_answer(question, zones()).to_wire(), self.client_address)

    with socketserver.ThreadingUDPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(600)


def _answer(question: dns.message.Message, zones: Json) -> dns.message.Message:
    answer = dns.message.make_response(question)
    answer.flags |= dns.flags.AA
    query = question.question[0]
    name = query.name.to_text(omit_final_dot=True).lower()
    zone = max((item for item in zones if name == item or name.endswith(f".{item}")), key=len, default=None)
    if zone is None:
        answer.set_rcode(dns.rcode.REFUSED)
        return answer
    host = "@" if name == zone else name.removesuffix(f".{zone}")
    records = list(zones[zone].values())
    exact_records = [item for item in records if item["name"] == host]
    # A name with any record of its own is not covered by a wildcard.
    found = exact_records or [item for item in records if _covers(item["name"], host)]
    if not found:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    kind = dns.rdatatype.to_text(query.rdtype)
    if any(item["type"] == "CNAME" for item in found):
        kind = "CNAME"  # a name with one has nothing else; the client resolves its target
    data = [_text(item) for item in found if item["type"] == kind]
    if data:
        ttl = min(item["ttl"] for item in found if item["type"] == kind)
        answer.answer.append(dns.rrset.from_text(query.name, ttl, "IN", kind, *data))
    return answer


def _covers(wildcard: str, host: str) -> bool:
    if not wildcard.startswith("*"):
        return False
    return host != "@" and (wildcard == "*" or host.endswith(wildcard.removeprefix("*")))


def _text(record: Json) -> str:
    value = str(record["data"])
    match record["type"]:
        case "CAA":
            return f'{record["flags"]} {record["tag"]} "{value}"'
        case "TXT":  # a string has at most 255 bytes (RFC 1035, section 3.3)
            parts = [value[start : start + 255] for start in range(0, len(value), 255)]
            return " ".join('"' + part.replace('"', '\\"') + '"' for part in parts)
        case "MX":
            return f"{record['priority']} {value}."
        case "CNAME" | "NS":
            return f"{value}."
        case _:
            return value
