"""A service of a machine: a process that is restarted when it ends, as systemd does with `Restart=always`."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.environment.tools import E2eError
from tests.support.certificates import Pair

_RESTART = 5.0
"""Seconds; RestartSec of the project's units."""
_BEFORE = 120.0
"""Seconds for the command before a start."""
_TLS_START = 10.0
"""Seconds until stunnel listens."""


class Service:
    """`command`, running until `stop`, with its output in `log`.

    If it ends by itself, it is restarted after five seconds, and `deaths` records it. `before` runs before each start,
    and if it fails the start fails too, as with ExecStartPre.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        before: Sequence[str] | None = None,
    ) -> None:
        self.deaths: list[str] = []
        self.log = log
        self._command, self._env, self._before = list(command), dict(env), before
        self._wanted = threading.Event()
        self._wanted.set()
        self._woken = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.poll() is None else None

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 15.0) -> None:
        """Send `number`, wait for `patience` seconds, then kill. It is not started again."""
        self._wanted.clear()
        self._woken.set()
        with self._lock:
            process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(patience)
        self._thread.join(5)

    def _run(self) -> None:
        while self._wanted.is_set():
            with self.log.open("ab") as log:
                self._once(log.fileno())
            if self._wanted.is_set():
                self._woken.wait(_RESTART)

    def _once(self, log: int) -> None:
        def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, start_new_session=True
            )

        if self._before is not None and (code := start(self._before).wait(_BEFORE)):
            self.deaths.append(f"{self._before[0]} refused the start with {code}; see {self.log}")
            return
        with self._lock:
            if not self._wanted.is_set():
                return
            self._process = start(self._command)
        code = self._process.wait()  # no deadline: this thread only waits for it
        if self._wanted.is_set():
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            self.deaths.append(f"{Path(self._command[0]).name} ended with {how}; see {self.log}")


@contextmanager
def tls_front(folder: Path, pair: Pair, accept: str, connect: str) -> Iterator[None]:
    """stunnel, which ends TLS at `accept` (`ADDRESS:PORT`) and connects to `connect`. Raises E2eError if it does not
    listen."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = pair.written(folder, "server.pem")
    certificate.chmod(0o600)
    lines = ("foreground = yes", "pid =", "[tls]", f"accept = {accept}", f"connect = {connect}")
    (folder / "stunnel.conf").write_text("\n".join([*lines, f"cert = {certificate}", ""]))
    program = shutil.which("stunnel")
    assert program, "the e2e environment needs it too"
    service = Service([program, str(folder / "stunnel.conf")], folder / "stunnel.log", {"PATH": os.environ["PATH"]})
    try:
        _wait_for(accept, service)
        yield
    finally:
        service.stop()


def _wait_for(accept: str, service: Service) -> None:
    address, _, port = accept.rpartition(":")
    end = time.monotonic() + _TLS_START
    while time.monotonic() < end:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise E2eError(f"no server answers at {accept}:\n{last_lines(service.log)}")


def last_lines(file: Path, count: int = 20) -> str:
    """The end of a log."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-count:]) if file.exists() else ""
