"""The output of Nomad's tasks: its last lines, and every further line as it comes.

Nomad streams a log as frames, JSON objects one after another, whose data are base64. An empty one each second shows
that the connection lives. An error after the first byte is text behind the frames. A stream outlives its task, and
shows neither a restarted agent nor the next allocation. Offsets from the start change when Nomad rotates a file away,
those from the end do not. Source: hashicorp/nomad 2.0, command/agent/fs_endpoint.go, client/fs_endpoint.go.
"""

import base64
import codecs
import http.client
import json
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from components.clients.errors import PendingError, ServiceError
from components.clients.nomad import NomadApi

STREAMS = ("stdout", "stderr")
_LOOK = 2.0
"""Seconds between two looks for a newer allocation."""
_SILENCE = 15.0
"""Seconds without a frame after which a connection is lost."""
_LONGEST_LINE = 256 * 1024
"""Bytes; a longer line is shown in parts."""
_SEEN = 4 * 1024
"""Bytes at the end of what was shown, by which a new stream finds the place to continue."""
_WINDOW = 64 * 1024
"""Bytes before the end of the log from which a new stream starts."""
_BYTES_PER_LINE = 400
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class TaskRun:
    """One task of one allocation."""

    allocation: str
    job: str
    task: str
    started_at: str

    def __str__(self) -> str:
        return f"job {self.job}, task {self.task}, allocation {self.allocation[:8]}, started at {self.started_at}"


@dataclass(frozen=True)
class LogLine:
    """A line of `stream`; a `notice` is of this program instead."""

    stream: str
    text: str
    notice: bool = False


def newest_run(api: NomadApi, task: str) -> TaskRun:
    """Return the newest allocation in the namespace in which `task` has started. Raises ServiceError."""
    allocations = api.get("/v1/allocations?resources=false")
    runs = [item for item in allocations if task in (item.get("TaskStates") or {})]
    if not runs:
        names = sorted({name for item in allocations for name in item.get("TaskStates") or {}})
        raise PendingError(
            f"No allocation in Nomad has a task '{task}'. Tasks that have run: {', '.join(names) or 'none'}."
        )
    # A time that is not set is null in a task that has not started, and the year 1 elsewhere in Nomad's API.
    started = [item for item in runs if not (item["TaskStates"][task].get("StartedAt") or "0001").startswith("0001")]
    if not started:
        events = max(runs, key=_created)["TaskStates"][task].get("Events") or [{}]
        raise PendingError(f"Task {task} has not started yet ({events[-1].get('DisplayMessage') or 'pending'}).")
    newest = max(started, key=_created)
    return TaskRun(newest["ID"], newest["JobID"], task, newest["TaskStates"][task]["StartedAt"])


def _created(allocation: Mapping[str, Any]) -> int:
    return int(allocation["CreateIndex"])


def last_bytes(api: NomadApi, run: TaskRun, stream: str, lines: int) -> bytes:
    """Return at least the last `lines` lines of the log, or all of it. Raises ServiceError."""
    size = max(lines, 1) * _BYTES_PER_LINE
    while True:
        data = _read(api, run, stream, size)
        if len(data) < size or data.count(b"\n") > lines or size >= _MOST_BYTES:
            return data
        size *= 8


def split_lines(data: bytes, lines: int) -> list[str]:
    """Return the last `lines` lines of `data`."""
    whole = data.removesuffix(b"\n").split(b"\n") if data else []
    return [_text(line) for line in whole[-lines:]] if lines else []


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace").removesuffix("\r")


def _path(run: TaskRun, stream: str, **query: str | int) -> str:
    return f"/v1/client/fs/logs/{run.allocation}?{urlencode({'task': run.task, 'type': stream, **query})}"


def _read(api: NomadApi, run: TaskRun, stream: str, size: int) -> bytes:
    try:
        with api.open(_path(run, stream, plain="true", origin="end", offset=size), timeout=_SILENCE) as answer:
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise PendingError(f"Nomad at {api.address} does not answer ({error}).") from None
    if answer.status == 404:
        return b""  # the task has not begun, or Nomad has removed the files
    _refuse(answer.status, data, run)
    return data


def _refuse(status: int, data: bytes, run: TaskRun) -> None:
    if status != 200:
        reason = data.decode(errors="replace").strip()[:200]
        error = PendingError if status >= 500 or status == 404 else ServiceError
        raise error(f"Nomad answered {status} for the log of {run}: {reason}")


def _frames(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the data of each frame; empty for a sign of life. Raises PendingError for an error behind them."""
    decoder, text, utf8 = json.JSONDecoder(), "", codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := answer.read1(_WINDOW):
        text = (text + utf8.decode(chunk)).lstrip()
        while text.startswith("{"):
            try:
                frame, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest of it is still to come
            yield base64.b64decode(frame.get("Data") or "")
            text = text[end:].lstrip()
    if text and not text.startswith("{"):
        raise PendingError(f"Nomad ended the stream: {text.strip()[:200]}")


class _Continuation:
    """Drops what was shown before from the beginning of a new stream of the same log."""

    def __init__(self, seen: bytes) -> None:
        self._seen, self._held = seen, b""
        self.missed = False

    def feed(self, data: bytes) -> bytes:
        """Return what is new in `data`; empty data are a sign of life."""
        if not self._seen:
            return data
        self._held += data
        at = self._held.find(self._seen)  # the first: a repeated line is better than a missing one
        if at < 0 and (data or not self._held) and len(self._held) <= 2 * _WINDOW:
            return b""
        new = self._held[at + len(self._seen) :] if at >= 0 else self._after_rotation()
        self._seen = self._held = b""
        return new

    def _after_rotation(self) -> bytes:
        """Return what is new if the beginning of what was shown is rotated away."""
        lines = self._seen.splitlines(keepends=True)
        for first in range(1, len(lines)):
            if self._held.startswith(left := b"".join(lines[first:])):
                return self._held[len(left) :]
        self.missed = True
        # The window begins within a line, unless it has the whole log.
        return self._held.partition(b"\n")[2] if len(self._held) >= _WINDOW else self._held


@dataclass
class _Stream:
    """A stream of one log, over as many connections as it takes."""

    seen: bytes = b""
    rest: bytes = b""
    connected: bool = False
    continuation: _Continuation | None = None

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are whole now."""
        assert self.continuation, "it is connected"
        new = self.continuation.feed(data)
        self.seen = (self.seen + new)[-_SEEN:]
        *lines, self.rest = (self.rest + new).split(b"\n")
        if len(self.rest) > _LONGEST_LINE:
            lines.append(self.rest)
            self.rest = b""
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """Return a last line without a line end."""
        line, self.rest = self.rest, b""
        return [_text(line)] if line else []


_Inbox = queue.Queue[tuple[str, bytes | Exception]]


def follow(api: NomadApi, run: TaskRun, streams: Sequence[str], lines: int) -> Iterator[LogLine]:
    """Yield the last `lines` lines and every further one, through restarts of the task and into its next allocations.

    Ends never by itself. Raises ServiceError if Nomad refuses.
    """
    logs = {stream: _Stream() for stream in streams}
    for stream, log in logs.items():
        data = last_bytes(api, run, stream, lines)
        yield from (LogLine(stream, text) for text in split_lines(data[: data.rfind(b"\n") + 1], lines))
        log.seen, log.rest = data[-_SEEN:], data[data.rfind(b"\n") + 1 :]
    while True:
        successor = yield from _until_next(api, run, logs)
        for stream, log in logs.items():
            yield from (LogLine(stream, text) for text in log.end())
        yield LogLine("", f"The next one: {successor}", notice=True)
        run, logs = successor, {stream: _Stream() for stream in streams}


def _until_next(api: NomadApi, run: TaskRun, logs: dict[str, _Stream]) -> Generator[LogLine, None, TaskRun]:
    """Yield the lines of `run` until another allocation has its task; return that one."""
    inbox: _Inbox = queue.Queue(maxsize=64)
    over = threading.Event()
    before, trouble = run, ""
    try:
        while True:
            for stream, log in logs.items():
                if not log.connected:
                    log.connected, log.continuation = True, _Continuation(log.seen)
                    threading.Thread(target=_pump, args=(api, run, stream, log.seen, inbox, over), daemon=True).start()
            yield from _arrivals(inbox, logs)
            try:
                newest = newest_run(api, run.task)
            except PendingError as error:
                if str(error) != trouble:
                    yield LogLine("", f"{error} Waiting.", notice=True)
                trouble = str(error)
                continue
            # Twice: what the old one wrote at its end is on the way for a fraction of a second.
            if run.allocation not in (newest.allocation, before.allocation):
                return newest
            before, trouble = newest, ""
    finally:
        over.set()


def _arrivals(inbox: _Inbox, logs: dict[str, _Stream]) -> Iterator[LogLine]:
    """Yield what arrives until the next look for an allocation."""
    end = time.monotonic() + _LOOK
    while (left := end - time.monotonic()) > 0:
        try:
            stream, arrived = inbox.get(timeout=left)
        except queue.Empty:
            return
        log = logs[stream]
        if isinstance(arrived, Exception):
            log.connected = False
            if isinstance(arrived, ServiceError) and not isinstance(arrived, PendingError):
                raise arrived
            continue
        yield from (LogLine(stream, text) for text in log.feed(arrived))
        if log.continuation and log.continuation.missed:
            log.continuation.missed = False
            yield LogLine("", f"The connection was lost, and lines of {stream} may be missing here.", notice=True)


def _pump(api: NomadApi, run: TaskRun, stream: str, seen: bytes, inbox: _Inbox, over: threading.Event) -> None:
    """Put the data of one connection into the inbox, and why it ended."""

    def put(item: bytes | Exception) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                return inbox.put((stream, item), timeout=1)

    place: dict[str, str | int] = {"origin": "end", "offset": _WINDOW} if seen else {"origin": "start", "offset": 0}
    try:
        with api.open(_path(run, stream, follow="true", **place), timeout=_SILENCE) as answer:
            if answer.status != 200:
                _refuse(answer.status, answer.read(1000), run)
            for data in _frames(answer):
                if over.is_set():
                    return
                put(data)
        put(PendingError("The stream ended."))
    except (OSError, ValueError, http.client.HTTPException, ServiceError) as error:
        put(error)
