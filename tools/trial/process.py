"""One server process: started, waited for, stopped.

Owns: a child in a session of its own (Ctrl-C in the terminal reaches only this program, which then stops its children
in order), its log file, the wait for its health address, and the error with the reason why it ended. Only this program
holds the pipe to the child's standard input, so the child also ends if this program is killed.

Does not own: what is run, or with which environment.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tools.trial import LiveError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0
_LAST_LINES = 40
_RANGE = 100
_FIRST = 20_000 + _RANGE * (os.getpid() % 120)
_PORTS = itertools.cycle(range(_FIRST, _FIRST + _RANGE))


class ServerEndedError(LiveError):
    """A server ended, or never answered. `last_lines` is the end of its log, with secret values replaced by names."""

    def __init__(self, text: str, last_lines: str) -> None:
        super().__init__(f"{text}\n{last_lines}" if last_lines else text)
        self.last_lines = last_lines


def free_port(preferred: int = 0) -> int:
    """A TCP port on loopback that is free now: `preferred` if it is, else one of a range of this process's own.

    Seconds pass between this probe and the server's bind. Nothing else takes the port meanwhile: the ranges are below
    the ports that the kernel hands out (32768 and up), and a port comes again only after all others of its range.
    """
    for port in itertools.chain([preferred] if preferred else [], itertools.islice(_PORTS, _RANGE)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise LiveError(f"No free TCP port on {LOOPBACK}. Close some programs that listen there and try again.")


class ServerProcess:
    """A server as a context manager; inside the block it answers at `health`.

    `deadline` is in seconds, `trust` for a `health` by HTTPS. Raises ServerEndedError when the process ends early or
    does not answer in time.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        log: Path,
        health: str,
        deadline: float = 300.0,
        secrets: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._folder = folder
        self._env = dict(env)
        self._health = health
        self._deadline = deadline
        self._secrets = dict(secrets or {})
        self._trust = trust
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of the process."""
        return dict(self._env)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise LiveError(f"The {self.name} has not been started.")
        return self._process.pid

    def check(self) -> None:
        """Raise ServerEndedError if the server has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ServerEndedError(
                f"The {self.name} ended with exit code {code}; its log is {self.log}.", self.last_lines()
            )

    def stop(self) -> int:
        """Stop the server, wait, and kill it only if it does not stop. Returns its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.returncode

    def last_lines(self) -> str:
        """Return the end of the log, with the values of secrets replaced by their names."""
        text = self.log.read_text(errors="replace")
        for name, value in self._secrets.items():
            if value:
                text = text.replace(value, f"<{name}>")
        return "\n".join(text.splitlines()[-_LAST_LINES:])

    def _wait_until_healthy(self) -> None:
        end = time.monotonic() + self._deadline
        with httpx.Client(trust_env=False, timeout=2.0, verify=self._trust or True) as client:
            while time.monotonic() < end:
                self.check()
                try:
                    if client.get(self._health).status_code == httpx.codes.OK:
                        return
                except httpx.HTTPError:
                    pass  # Not listening yet.
                time.sleep(_POLL_SECONDS)
        raise ServerEndedError(
            f"The {self.name} did not answer at {self._health} within {self._deadline:.0f} s; its log is {self.log}.",
            self.last_lines(),
        )
