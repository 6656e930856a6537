"""The progress on one screen: on a terminal the running stacks and the count of finished ones; elsewhere, as in CI, a
line each."""

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

_WIDTH = 100
_WAITS = "waits"


class ProgressDisplay:
    """A context manager; `names` are the stacks to show. Any thread may report."""

    def __init__(self, console: Console, names: Iterable[str]) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._steps = dict.fromkeys(names, _WAITS)
        self._since: dict[str, float] = {}
        self._lines: dict[str, str] = {}
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def wait(self, stack: str) -> None:
        """Report a waiting stack."""
        with self._lock:
            self._steps[stack] = _WAITS

    def begin(self, stack: str, step: str) -> None:
        """Report the present step of a stack."""
        self._set(stack, step, time.monotonic())

    def end(self, stack: str, outcome: str, remark: str = "") -> None:
        """Report the end of a stack, for now."""
        self._set(stack, outcome, None, remark)

    def line(self, stack: str, text: str) -> None:
        """Show the engine's last line about it; only on a terminal, because there are many."""
        if text.strip():
            self._lines[stack] = _short(text)

    def say(self, text: str) -> None:
        """Print a line about all of them."""
        self._console.print(text, markup=False)

    def _set(self, stack: str, step: str, since: float | None, remark: str = "") -> None:
        with self._lock:
            self._steps[stack] = step
            self._lines.pop(stack, None)
            self._since.pop(stack, None)
            if since is not None:
                self._since[stack] = since
            if not self._live:
                self._console.print(f"{stack}: {step}{f' ({_short(remark)})' if remark else ''}", markup=False)

    def __rich__(self) -> Table:
        with self._lock:
            running, now = dict(self._since), time.monotonic()
            waiting = sum(step == _WAITS for step in self._steps.values())
            table = Table.grid(padding=(0, 2))
            done = len(self._steps) - waiting - len(running)
            table.add_row(f"{done} done", f"{len(running)} running", f"{waiting} waiting", "")
            for stack, since in running.items():
                table.add_row(stack, self._steps[stack], f"{now - since:.0f} s", self._lines.get(stack, ""))
            return table


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
