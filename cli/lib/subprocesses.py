"""A child process that ends with the block in which it is used, or at its deadline."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
