"""The logs of Nomad's allocations, as the agent serves them: `/v1/client/fs/logs/ALLOCATION`.

Status codes, texts and frames are those of hashicorp/nomad 2.0 (command/agent/fs_endpoint.go, client/fs_endpoint.go,
client/lib/streamframer/framer.go): data in base64, 64 KiB a frame at most, an empty frame as a sign of life, an error
after the first byte as text behind the frames. A stream that follows ends with its connection only. The answers were
compared with those of an agent of 2.0.6.
"""

import base64
import json
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

PREFIX = "/v1/client/fs/logs/"
_FRAME = 64 * 1024
_HEARTBEAT = 0.02
"""Seconds; Nomad's is 1."""
_UUID = 36
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
Key = tuple[str, str]
"""Task and stream."""


@dataclass
class _Connection:
    """A client that follows."""

    end: str | None = None
    """Once it is set the connection ends, with this text behind the frames."""


@dataclass
class FakeLogs:
    """The logs of one allocation; `tasks` maps each task to whether it has started."""

    tasks: dict[str, bool]
    namespace: str = "default"
    is_destroyed: bool = False
    files: dict[Key, list[tuple[int, bytes]]] = field(default_factory=dict)
    """Index and content of the files that are left of each log, oldest first."""
    connections: list[_Connection] = field(default_factory=list)
    """Clients that follow, or did."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def write(self, task: str, stream: str, data: bytes) -> None:
        """Let the task write."""
        with self.changed:
            assert self.tasks[task], "a task that has not started writes nothing"
            index, content = self._of(task, stream)[-1]
            self.files[task, stream][-1] = index, content + data
            self.changed.notify_all()

    def rotate(self, task: str, stream: str, keep: int = 1) -> None:
        """Begin a new file, and remove all but the newest `keep`."""
        with self.changed:
            files = self._of(task, stream)
            files.append((files[-1][0] + 1, b""))
            del files[:-keep]
            self.changed.notify_all()

    def cut(self, text: str = "") -> None:
        """End every connection, with this error behind the frames."""
        with self.changed:
            for connection in self.connections:
                connection.end = text
            self.changed.notify_all()

    def wait_for_connections(self, count: int) -> None:
        """Wait until so many clients follow."""
        with self.changed:
            there = self.changed.wait_for(lambda: len(self._open()) >= count, timeout=600)
        assert there, f"{len(self._open())} of {count} clients follow"

    def _open(self) -> list[_Connection]:
        return [item for item in self.connections if item.end is None]

    def _of(self, task: str, stream: str) -> list[tuple[int, bytes]]:
        return self.files.setdefault((task, stream), [(0, b"")])

    def place(self, key: Key, origin: str, offset: int) -> tuple[int, int]:
        """File index and offset in it, as `findClosest` of client/fs_endpoint.go finds them."""
        files = self._of(*key)
        if offset < 0:
            return files[0][0], max(len(files[0][1]) + offset, 0)
        if origin == "end":
            for index, content in reversed(files):
                if offset <= len(content):
                    return index, len(content) - offset
                offset -= len(content)
            return files[0][0], 0
        for index, content in files:
            if offset <= len(content):
                return index, offset
            offset -= len(content)
        return files[-1][0], len(files[-1][1])

    def stream(self, key: Key, origin: str, offset: int, *, follow: bool, plain: bool) -> Generator[bytes, None, None]:
        """Yield the body."""
        connection = _Connection()
        index, at = self.place(key, origin, offset)
        with self.changed:
            self.connections += [connection] if follow else []
            self.changed.notify_all()
        try:
            while True:
                with self.changed:
                    if connection.end is None and follow and self._is_at_end(key, index, at):
                        self.changed.wait(_HEARTBEAT)
                    ended = connection.end
                    data, index, at, is_last = self._next(key, index, at)
                if ended is not None:
                    yield ended.encode()
                    return
                if data:
                    yield data if plain else _frame(data, f"alloc/logs/{'.'.join(key)}.{index}", at)
                elif is_last and not follow:
                    return
                elif is_last and not plain:
                    yield b"{}"
        finally:
            connection.end = connection.end or ""

    def _is_at_end(self, key: Key, index: int, at: int) -> bool:
        newest, content = self._of(*key)[-1]
        return (index, at) == (newest, len(content))

    def _next(self, key: Key, index: int, at: int) -> tuple[bytes, int, int, bool]:
        """Return the data at a place, the place after them, and whether that file is the newest."""
        files = self._of(*key)
        content = dict(files).get(index)
        if content is None:  # rotated away
            index, at, content = files[0][0], 0, files[0][1]
        data = content[at : at + _FRAME]
        later = [number for number, _ in files if number > index]
        if not data and later:
            return b"", later[0], 0, False
        return data, index, at + len(data), not later


def _frame(data: bytes, file: str, offset: int) -> bytes:
    return json.dumps({"Data": base64.b64encode(data).decode(), "File": file, "Offset": offset}).encode()


def answer(
    logs: dict[str, FakeLogs], path: str, namespaces: frozenset[str] | None
) -> tuple[int, str | Generator[bytes, None, None]]:
    """Return status and body of a request. `namespaces` are those whose logs the token may read; None if Nomad does not
    know the token.

    The parameter `namespace` does not matter: the allocation's is the one that counts.
    """
    target = urlsplit(path)
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    allocation, task, stream = target.path.removeprefix(PREFIX), query.get("task", ""), query.get("type", "")
    origin, offset = query.get("origin", "start"), query.get("offset", "0")
    flags = {name: query.get(name, "false") for name in ("follow", "plain")}
    for problem, is_wrong in (
        ("must provide a valid alloc id", not allocation),
        ("must provide task name", not task),
        ("failed to parse follow field to boolean", flags["follow"].lower() not in _BOOLEANS),
        ("failed to parse plain field to boolean", flags["plain"].lower() not in _BOOLEANS),
        ("must provide log type (stdout/stderr)", stream not in ("stdout", "stderr")),
        ("error parsing offset", not offset.removeprefix("-").isdecimal()),
        ("origin must be start or end", origin not in ("start", "end")),
    ):
        if is_wrong:
            return 400, problem
    found = logs.get(allocation)
    if found is None:
        if namespaces is None:
            return 500, "Permission denied"
        if len(allocation) != _UUID:
            return 500, "alloc lookup failed: index error: UUID must be 36 characters"
        return 404, f'Unknown allocation "{allocation}"'
    if found.is_destroyed:
        return 404, f"state for allocation {allocation} not found on client"
    if namespaces is None:
        return 500, "rpc error: Permission denied"
    if found.namespace not in namespaces:
        return 403, "Permission denied"
    if task not in found.tasks:
        return 400, f'unknown task name "{task}"'
    if not found.tasks[task]:
        return 404, f'task "{task}" not started yet. No logs available'
    follow, plain = _BOOLEANS[flags["follow"].lower()], _BOOLEANS[flags["plain"].lower()]
    return 200, found.stream((task, stream), origin, int(offset), follow=follow, plain=plain)
