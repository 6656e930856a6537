"""The takeover as a program: repeats passes for ever, and tells a person about each step.

Environment: TAKEOVER_TOKEN (DigitalOcean's), TAKEOVER_HOSTS (JSON: name to volume_id and address), TAKEOVER_TAG (of the
workers), TAKEOVER_AFTER_SECONDS, TAKEOVER_API_URL or empty, NOMAD_TOKEN, NOMAD_ADDR, NOMAD_ALLOC_ID. Optional:
TAKEOVER_NOTIFY_URL, and TAKEOVER_ENDPOINT, the address of several servers.
"""

import http.client
import json
import os
import queue
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping

from components.takeover.decide import DETACH_SECONDS, Rules, Step
from components.takeover.endpoint import Endpoint
from components.takeover.passes import SETTLED, Passes, cluster_of, places_of
from components.takeover.services import API, DigitalOcean, NomadServers, Refused, Unavailable

_PAUSE, _PAUSE_WHILE_MOVING = 5.0, 1.0
"""Least seconds between passes."""
_REQUESTS = 4
"""Requests of a pass to DigitalOcean for each host, if there is nothing to do."""
_AN_HOUR_CALM, _AN_HOUR, _A_MINUTE = 1500, 2500, 200
"""Requests about hosts that are well, about others, and while one is moved, of the 5,000 in an hour and 250 in a minute
that DigitalOcean allows a token (docs.digitalocean.com/reference/api, rate limit). The rest is for the steps of a
takeover."""
_MOVING = frozenset({"retire", "detach", "attach", "assign"})
_WAITING_MESSAGES = 100
"""Messages that wait for the webhook. Each is printed, too."""
_REPEAT = 600.0
"""Seconds after which a message that still holds is sent again."""


_REQUEST_ID = re.compile(r'"request_id":\s*"[^"]*"')
"""DigitalOcean's number of a request, in the answers of refusals."""


class Reporter:
    """Prints each message, and sends those for a person; the same one again only after a while."""

    def __init__(self, cluster: str, send: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._send, self._now = cluster, send, now
        self._last: dict[str, float] = {}
        self._waits: dict[str, float] = {}
        self._done: dict[str, set[str]] = {}

    def report(self, host: str, step: Step) -> None:
        """Report a step of a host; '' is all hosts. What is waited for too long is for a person. A step of a move is
        progress only once: an attach that fails is repeated."""
        if step.kind not in ("wait", "fine"):
            self.tell(step.text, urgent=step.kind in ("ask", "foreign", "refused"))
        now, done = self._now(), self._done.setdefault(host, set())
        if step.kind not in ("wait", *_MOVING):
            self._waits.pop(host, None)
            done.clear()
        elif step.kind in _MOVING and step.text not in done:
            self._waits[host] = now
            done.add(step.text)
        elif now - self._waits.setdefault(host, now) > DETACH_SECONDS:
            self.tell(_no_progress(host, step.text), urgent=True)
        elif step.kind == "wait":
            self._once(step.text, print)

    def tell(self, text: str, *, urgent: bool) -> None:
        """Send `text` to a person."""
        self._once(f"Cluster {self._cluster}{', action required' if urgent else ''}: {text}.", self._printed)

    def _printed(self, text: str) -> None:
        print(text, flush=True)
        self._send(text)

    def _once(self, text: str, do: Callable[[str], None]) -> None:
        now, key = self._now(), _REQUEST_ID.sub("", text)
        self._last = {key: at for key, at in self._last.items() if now - at < _REPEAT}
        if key not in self._last:
            self._last[key] = now
            do(text)


def _no_progress(host: str, text: str) -> str:
    console = ". Check the worker's console" if " node " in text else ""
    what = text.replace(f"host {host}: ", f"host {host}, ", 1)
    return f"no progress for {DETACH_SECONDS // 60} minutes: {what}{console}"


def sender(url: str) -> Callable[[str], None]:
    """Posts a message to `url`; a failure is printed, for nothing may stop a takeover. `url` is a secret."""

    def send(text: str) -> None:
        if not url:
            return
        data = json.dumps({"text": text}).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (the operator's)
        try:
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310
                pass
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The text of an error may contain the URL.
            reason = getattr(error, "code", None) or getattr(error, "reason", None) or type(error).__name__
            print(f"the message could not be sent ({reason})", flush=True)

    return send


def in_background(send: Callable[[str], None]) -> Callable[[str], None]:
    """`send` on a thread of its own, in order: a service that does not answer delays no step of a takeover."""
    waiting: queue.Queue[str] = queue.Queue(_WAITING_MESSAGES)

    def run() -> None:
        while True:  # as long as the program runs
            try:
                send(waiting.get())
            except Exception as error:  # the next message may be sent
                print(f"the message could not be sent ({type(error).__name__})", flush=True)

    def put(text: str) -> None:
        try:
            waiting.put_nowait(text)
        except queue.Full:
            print(f"the message could not be sent ({_WAITING_MESSAGES} wait)", flush=True)

    threading.Thread(target=run, name="messages", daemon=True).start()
    return put


def passes_of(environment: Mapping[str, str]) -> Passes:
    """The passes of this program. Raises KeyError and ValueError for a missing or malformed variable."""
    cloud = DigitalOcean(environment["TAKEOVER_TOKEN"], environment.get("TAKEOVER_API_URL") or API)
    servers = NomadServers(environment.get("NOMAD_ADDR") or "http://127.0.0.1:4646", environment["NOMAD_TOKEN"])
    tag, address = environment["TAKEOVER_TAG"], environment.get("TAKEOVER_ENDPOINT")
    return Passes(
        cloud=cloud,
        servers=servers,
        places=places_of(json.loads(environment["TAKEOVER_HOSTS"])),
        tag=tag,
        endpoint=Endpoint(cloud, servers, address, cluster_of(tag)) if address else None,
        rules=Rules(after_seconds=float(environment["TAKEOVER_AFTER_SECONDS"])),
        holder=environment["NOMAD_ALLOC_ID"],
    )


def pause(hosts: int, *, moving: bool) -> float:
    """Seconds between passes over so many hosts that are away, long enough for DigitalOcean's limits."""
    if moving:
        return max(_PAUSE_WHILE_MOVING, hosts * _REQUESTS * 60 / _A_MINUTE)
    return max(_PAUSE, hosts * _REQUESTS * 3600 / _AN_HOUR)


def calm_seconds(hosts: int) -> float:
    """Seconds between two checks of a healthy host, of so many hosts."""
    return hosts * _REQUESTS * 3600 / _AN_HOUR_CALM


def pause_after(passes: Passes) -> float:
    """Seconds from a pass to the next one."""
    steps = passes.last_steps()
    away = sum(step.kind not in SETTLED for step in steps)
    if any(step.kind in _MOVING or "in progress" in step.text for step in steps):
        return passes.limited_seconds or pause(away, moving=True)
    return max(passes.limited_seconds, pause(away, moving=False))


def main() -> int:
    """Run for ever."""
    passes = passes_of(os.environ)
    send = in_background(sender(os.environ.get("TAKEOVER_NOTIFY_URL", "")))
    reporter = Reporter(cluster_of(passes.tag), send)
    passes.tell, passes.calm_seconds = reporter.report, calm_seconds(len(passes.places))
    print(f"watching {', '.join(place.name for place in passes.places)}", flush=True)
    while True:  # no deadline: it watches as long as the cluster is there
        try:
            passes.once()
        except Unavailable as error:
            reporter.report("", Step("wait", str(error)))
        except Refused as error:
            reporter.tell(str(error), urgent=True)
        sys.stdout.flush()
        time.sleep(pause_after(passes))


if __name__ == "__main__":
    sys.exit(main())
