"""Child processes: one that ends with its block or at its deadline, and one in this terminal that runs to its end."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from cli.errors import CommandError

TERMINATION = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
_GONE = 30.0
"""Seconds for the kernel to remove a killed process."""


@contextmanager
def child(command: Sequence[str | Path], seconds: float, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Start `command` as a process with text pipes; `options` are Popen's.

    It is killed at the block's end, or after `seconds`. Its readers then reach the end of the stream. With
    `start_new_session` its own children are killed, too.
    """
    process = subprocess.Popen(command, text=True, **options)
    late = threading.Timer(seconds, _kill, (process,))
    late.daemon = True
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        _kill(process)
        process.wait(_GONE)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    if os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


@contextmanager
def orderly_end() -> Iterator[None]:
    """Let a termination signal raise SystemExit, so that `finally` runs; at the end of the block the handlers are as
    before."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with handled((signal.SIGHUP, signal.SIGTERM), end):
        yield


@contextmanager
def handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` handle `signals`. At the end of the block the handlers of all termination signals are as before.

    In a thread other than the main one, which handles no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in TERMINATION}
    for number in signals:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def ignore_signals() -> None:
    """From here on no signal ends this process. Functions, not SIG_IGN, which a command would inherit."""
    for number in TERMINATION:
        signal.signal(number, lambda _number, _frame: None)


def run_in_foreground(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run it to its end and return its exit code, 128 and the number if a signal ended it. Raises CommandError.

    The command gets Ctrl-C and the terminal's end from the kernel; a second one would have another meaning for Pulumi.
    A SIGTERM is passed on. Within `orderly_end`, which puts the signals' handlers back.
    """
    ignore_signals()
    try:
        child = subprocess.Popen(command, env=None if environment is None else dict(environment))
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be run: {error}") from None
    signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))
    code = child.wait()  # no deadline: the command decides how long it takes
    return code if code >= 0 else 128 - code
