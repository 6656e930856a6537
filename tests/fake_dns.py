"""A name server on loopback that answers what a test tells it, or stays silent."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


@contextmanager
def serve(records: Mapping[str, list[str]] | None) -> Iterator[str]:
    """Serve records of whatever type is asked for (name to their texts, addresses mostly); a name that is not there is
    NXDOMAIN; None is silence. Yields IP:PORT."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    where = f"127.0.0.1:{server.getsockname()[1]}"

    def answer() -> None:
        while True:
            data, client = server.recvfrom(4096)
            if data == b"stop":
                return
            if records is None:
                continue
            question = dns.message.from_wire(data)
            response = dns.message.make_response(question)
            response.flags |= dns.flags.AA
            name = question.question[0].name
            addresses = records.get(name.to_text(omit_final_dot=True))
            if addresses is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
            elif addresses:
                response.answer.append(dns.rrset.from_text_list(name, 60, "IN", question.question[0].rdtype, addresses))
            server.sendto(response.to_wire(), client)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield where
    finally:
        host, _, port = where.partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"stop", (host, int(port)))
        thread.join()
        server.close()
