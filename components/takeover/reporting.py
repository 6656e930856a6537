"""What a takeover tells a person: messages to a webhook, and pings to a dead man's switch.

A message about a fault that lasts is repeated at growing intervals, and its end is told. Each service gets its requests
on a thread of its own, so that one that does not answer delays neither a step of a takeover nor the other service.
"""

import hashlib
import http.client
import json
import queue
import re
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from components.takeover.decide import DETACH_SECONDS, Step
from components.takeover.endpoint import ENDPOINT
from components.takeover.passes import MOVING, RATE, SILENT
from components.takeover.watch import SPARES

_WAITING = 100
"""Messages and pings that wait for their service. Each message is printed, too."""
_GAPS = (600.0, 3600.0, 21_600.0, 86_400.0)
"""Seconds after which a message that still holds is sent again: for the first time, the second, the third, and each
further one."""
_DAILY = (86_400.0,)
_OVER_SECONDS = 300.0
"""Seconds without a fault until it is over. A fault that comes back sooner is the same one."""
_LONGER, _OVER_LIMIT = 6, 86_400.0
"""After each end that was told, a host's next fault is over only after so many times as long, up to a day: one that
comes and goes would be told for ever."""
_FORGET_SECONDS = 2 * 86_400.0
"""Seconds after which a message that holds no longer is forgotten."""
PING_SECONDS = 60.0
"""Least seconds between two pings."""
_TIMEOUT = 10
_AGAIN_SECONDS = 60.0
"""Seconds until a message that did not arrive is sent again."""
_LONG_SECONDS = 86_400.0
"""Seconds after which another text is sent in its place: the service may refuse this one for ever."""
_FINAL = frozenset({"400", "404", "405", "410", "413", "InvalidURL", "ValueError"})
"""Reasons for which a message is not sent again: the service will not take it, or has no such URL."""
_UNKNOWN = "not found"
"""In an answer with status 200: healthchecks.io's to the URL of a check that was deleted is 'OK (not found)'."""

_REQUEST_ID = re.compile(r'"request_id":\s*"[^"]*"')
"""DigitalOcean's number of a request, in the answers of refusals."""

_ENDS = {
    "": "the takeover looks at the hosts again",
    RATE: "DigitalOcean takes requests again",
    SILENT: "nearly all hosts can be looked at again",
    ENDPOINT: "the servers' address leads to a ready server again",
    SPARES: "all spares are ready again",
}
"""What is told at the end of a fault that is no host's."""


@dataclass
class _Told:
    """A message, how often it was told since the last end, and when last; `seen` is when it last held."""

    host: str
    urgent: bool
    count: int
    at: float
    seen: float
    ends: int = 0
    """How often its end was told."""


class Reporter:
    """Prints each message, and sends those for a person; the same one again only after a while."""

    def __init__(self, cluster: str, send: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._send, self._now = cluster, send, now
        self._told: dict[str, _Told] = {}
        self._waits: dict[str, float] = {}
        self._done: dict[str, set[str]] = {}

    def report(self, host: str, step: Step) -> None:
        """Report a step of a host; '' is all hosts. What is waited for too long is for a person. A step of a move is
        progress only once: an attach that fails is repeated."""
        if step.kind == "silent":
            self._once(step.text, print, _Told(host, False, 0, self._now(), self._now()), _GAPS)
            return
        if step.kind == "fine":
            self._end(host)
        elif step.kind != "wait":
            urgent = step.kind in ("ask", "foreign", "refused", "remind")
            self.tell(step.text, urgent=urgent, host=host, gaps=_DAILY if step.kind == "remind" else _GAPS)
        now, done = self._now(), self._done.setdefault(host, set())
        if step.kind not in ("wait", *MOVING):
            self._waits.pop(host, None)
            done.clear()
        elif step.kind in MOVING and step.text not in done:
            self._waits[host] = now
            done.add(step.text)
        elif now - self._waits.setdefault(host, now) > DETACH_SECONDS:
            self.tell(_no_progress(host, step.text), urgent=True, host=host)
        elif step.kind == "wait":
            self._once(step.text, print, _Told(host, False, 0, now, now), _GAPS)

    def tell(self, text: str, *, urgent: bool, host: str = "", gaps: tuple[float, ...] = _GAPS) -> None:
        """Send `text` about a host to a person; again after each of `gaps` while it holds."""
        message = f"Cluster {self._cluster}{', action required' if urgent else ''}: {text}."
        self._once(message, self._printed, _Told(host, urgent, 0, self._now(), self._now()), gaps)

    def surprise(self, error: Exception) -> None:
        """Tell a person of an error for which there is no rule: once for each kind, which is its class and place, and
        then daily. Its own text may contain a secret, and is left out."""
        text = (
            f"a pass over the hosts ended with {type(error).__name__} in {_place(error)}. While this lasts, a "
            f"host that is down may not be moved. Read `./pds nomad {self._cluster} -- alloc logs -namespace default "
            f"-job pds-takeover`. If a host is down, run `./pds repair {self._cluster}`"
        )

        def show(message: str) -> None:
            print("".join(traceback.format_tb(error.__traceback__)), end="")
            self._printed(message)

        now, message = self._now(), f"Cluster {self._cluster}, action required: {text}."
        self._once(message, show, _Told(f"({_place(error)})", True, 0, now, now), _DAILY)

    def _printed(self, text: str) -> None:
        print(text, flush=True)
        self._send(text)

    def _once(self, text: str, do: Callable[[str], None], new: _Told, gaps: tuple[float, ...]) -> None:
        now, key = self._now(), _REQUEST_ID.sub("", text)
        self._told = {key: told for key, told in self._told.items() if now - told.seen < _FORGET_SECONDS}
        told = self._told.setdefault(key, new)
        told.seen = now
        if told.count == 0 or now - told.at >= gaps[min(told.count, len(gaps)) - 1]:
            told.count, told.at = told.count + 1, now
            do(text)

    def _end(self, host: str) -> None:
        """The host is well. If a person was asked for something, tell that it is over."""
        now = self._now()
        faults = {key: told for key, told in self._told.items() if told.host == host}
        lasting = {key: told for key, told in faults.items() if told.count}
        ends = max((told.ends for told in faults.values()), default=0)
        over = min(_OVER_SECONDS * _LONGER**ends, _OVER_LIMIT)
        if not lasting or any(now - told.seen < over for told in lasting.values()):
            return
        for key, told in lasting.items():
            if told.urgent:
                told.count, told.ends = 0, told.ends + 1
            else:
                del self._told[key]
        if any(told.urgent for told in lasting.values()):
            self._printed(f"Cluster {self._cluster}: {_ENDS.get(host) or f'{_name(host)} is well again'}.")


def _name(host: str) -> str:
    """A host's name, or what is in parentheses in its place."""
    return host.strip("()") if host.startswith("(") else f"host {host}"


def _place(error: Exception) -> str:
    """Where the error was raised in this program: module, line and function."""
    found, frame = "an unknown place", error.__traceback__
    while frame:
        module = str(frame.tb_frame.f_globals.get("__name__", ""))
        if module == "__main__" or module.startswith("components."):
            found = f"{module.rpartition('.')[2]}:{frame.tb_lineno} ({frame.tb_frame.f_code.co_name})"
        frame = frame.tb_next
    return found


def _no_progress(host: str, text: str) -> str:
    console = ". Check the worker's console" if " node " in text else ""
    what = text.replace(f"host {host}: ", f"host {host}, ", 1)
    return f"no progress for {DETACH_SECONDS // 60} minutes: {what}{console}"


class Failures:
    """Why the last message or the last ping failed, as items of the takeover's variable, which `./pds check` reads.

    An item names the URL that failed by a digest: with another one, or with none, it is removed.
    """

    def __init__(self, **urls: str) -> None:
        """`urls` are those of 'notify' and of 'ping'; '' if there is none."""
        self._digests = {kind: hashlib.sha256(url.encode()).hexdigest()[:12] for kind, url in urls.items()}
        self._items: dict[str, str] = {}
        self._begins = True
        self.missed: Callable[[str], None] = lambda _text: None
        """Told once, at the beginning, if a message of an earlier program did not arrive."""

    def note(self, kind: str, why: str) -> None:
        """Remember it; with '' the last one arrived."""
        known = {"at": time.time(), "why": why, "url": self._digests[kind]}
        self._items[_item(kind)] = json.dumps(known) if why else ""  # two threads write, each its own item

    def items(self, before: Mapping[str, str]) -> Mapping[str, str]:
        """The items to write in place of those `before`; '' is no failure. It raises nothing: this is only a note."""
        known = {kind: _known(before.get(_item(kind), "")) for kind in self._digests}
        of_another = {_item(kind): "" for kind, digest in self._digests.items() if known[kind].get("url") != digest}
        if self._begins and known.get("notify") and _item("notify") not in of_another:
            self.missed(
                "a message to you did not arrive before this job was started. Run `./pds check` for the cluster"
            )
        self._begins = False
        return of_another | dict(self._items)


def _known(item: str) -> Mapping[str, object]:
    """What an item says; empty if there is none, or if it is not one of this program's."""
    try:
        found = json.loads(item or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _item(kind: str) -> str:
    return f"{kind}_failed"


def sender(
    url: str, failures: Failures, pause: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.time
) -> Callable[[str], None]:
    """Posts a message to `url`, again each minute until it arrives: to be called on a thread of its own. A failure is
    printed, for nothing may stop a takeover. `url` is a secret."""

    def send(text: str) -> None:
        began, late = now(), ""
        while url:
            why, _answer = _request(url, json.dumps({"text": text + late}).encode())
            if why:
                print(f"the message could not be sent ({why})", flush=True)
            failures.note("notify", why)
            if not why or why in _FINAL:
                return
            pause(_AGAIN_SECONDS)
            late = f" (of {time.strftime('%Y-%m-%d %H:%M', time.gmtime(began))} UTC)"
            if now() - began > _LONG_SECONDS:
                text = f"{text.partition(':')[0]}: a message could not be sent. The takeover's log has it."

    return send


def pinger(url: str, failures: Failures) -> Callable[[], None]:
    """Pings a dead man's switch; a failure is printed. `url` is a secret."""

    def ping() -> None:
        why, answer = _request(url)
        if not why and _UNKNOWN in answer.lower():
            why = "it does not know this URL"
        if why:
            print(f"the dead man's switch could not be pinged ({why})", flush=True)
        failures.note("ping", why)

    return ping


def _request(url: str, data: bytes | None = None) -> tuple[str, str]:
    """Why it failed, '' if it did not, and the beginning of the answer."""
    kind = {"Content-Type": "application/json"} if data else {}
    try:
        request = urllib.request.Request(url, data, kind)  # noqa: S310 (the operator's)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return "", answer.read(300).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The text of an error may contain the URL.
        return str(getattr(error, "code", None) or getattr(error, "reason", None) or type(error).__name__), ""


class DeadMansSwitch:
    """Pings once a minute at most, after passes that looked at everything."""

    def __init__(self, ping: Callable[[], None] | None, now: Callable[[], float] = time.monotonic) -> None:
        self._ping, self._now = ping, now
        self._last = float("-inf")

    def after_pass(self, *, is_complete: bool) -> None:
        """Ping if it is time."""
        if self._ping and is_complete and self._now() - self._last >= PING_SECONDS:
            self._last = self._now()
            self._ping()


def in_background(name: str) -> Callable[[Callable[[], None]], None]:
    """Runs what it is given on a thread of its own, in order: a service that does not answer delays no step of a
    takeover."""
    waiting: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)

    def run() -> None:
        while True:  # as long as the program runs
            try:
                waiting.get()()
            except Exception as error:  # the next one may work
                print(f"a request could not be sent ({type(error).__name__})", flush=True)

    def put(do: Callable[[], None]) -> None:
        try:
            waiting.put_nowait(do)
        except queue.Full:
            print(f"a request could not be sent ({_WAITING} wait)", flush=True)

    threading.Thread(target=run, name=name, daemon=True).start()
    return put
