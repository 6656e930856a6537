"""Checks whether the relays receive events from this server. Only on request: they are a third party.

A relay's status of a host does not show whether it receives new events. Its cursor does: the last event that it has. A
cursor that the server has not reached yet is "from the future" (com.atproto.sync.subscribeRepos). The server refuses
the relay, the relay marks the host idle, and no post is visible.
"""

from typing import Any, Literal

import httpx
import libipld
from websockets.exceptions import ConnectionClosed, WebSocketException

from cli.check.site import Site
from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped

RelayPosition = Literal["level", "behind", "ahead"]
"""A relay's position, compared with the server."""

SILENCE = 3.0
"""Seconds without an event after which the relay lacks none; older ones are sent at once."""
_PATH = "/xrpc/com.atproto.sync.subscribeRepos"


def relays(subject: Subject) -> CheckVerdict:
    """Return each relay's status of this server, and the remedy."""
    crawlers = [url for url in subject.environment.get("PDS_CRAWLERS", "").split(",") if url]
    if not subject.relay:
        return skipped("skipped: --relay queries the relays about this server")
    if not crawlers:
        return skipped("the stack names no relay")
    healthy, faults = [], []
    for crawler in crawlers:
        answer = httpx.get(
            f"{crawler}/xrpc/com.atproto.sync.getHostStatus",
            params={"hostname": subject.hostname},
            timeout=20.0,
            trust_env=False,
        )
        name = crawler.partition("//")[2]
        status: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        if fault := _fault(subject, name, status, answer.status_code):
            faults.append(fault)
        else:
            healthy.append(
                f"{name}: {status['status']}, {status.get('accountCount', 'unknown')} accounts, nothing missed"
            )
    return failed("; ".join(faults) + ".") if faults else passed("; ".join(healthy))


def _fault(subject: Subject, name: str, answer: dict[str, Any], code: int) -> str | None:
    """Return the fault at the relay `name`, with its remedy; None if it receives new events."""
    status, crawl = answer.get("status"), "POST com.atproto.sync.requestCrawl there with the hostname"
    match status:
        case None:
            return f"{name} does not know it ({code}): the next post announces it, or: {crawl}"
        case "banned":
            return f"{name} has banned it: only that relay's operators can lift that. requestCrawl does not help"
        case "throttled":
            return f"{name} throttles it: ask there for a higher limit of accounts (the first is 100)"
        case "active" | "idle":
            pass
        case _:
            return f"{name} reports {status}: when the server answers, {crawl}"
    number = answer.get("seq")
    if number is None:
        return None if status == "active" else f"{name} reports {status} without a number: {crawl}"
    place = relay_position(subject.site, int(number))
    if place == "ahead":
        return (
            f"{name} has events up to {number}, beyond this server's newest, so it ignores new ones, and no "
            f"post is visible. requestCrawl does not help. `./pds backup {subject.stack}`, then "
            f"`./pds restore {subject.stack} --sequence {number}` brings the server's numbers above it"
        )
    if place == "behind" and status == "idle":
        return f"{name} is not connected, and lacks what came after {number}: {crawl}"
    return None


def relay_position(site: Site, number: int) -> RelayPosition:
    """Return the position of a relay that has events up to `number`. Raises OSError."""
    try:
        with site.stream(f"{_PATH}?cursor={number}") as stream:
            while True:
                try:
                    frame = stream.recv(timeout=SILENCE)
                except TimeoutError:
                    return "level"
                header, body = libipld.decode_dag_cbor_multi(frame.encode() if isinstance(frame, str) else frame)
                if header["op"] != 1:
                    return "ahead" if body.get("error") == "FutureCursor" else "level"
                if body.get("seq", number + 1) > number:  # an #info means that there is more than is kept
                    return "behind"
    except ConnectionClosed:
        return "level"
    except WebSocketException as error:
        raise ConnectionError(f"{_PATH}: {error}") from error
