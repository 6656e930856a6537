"""A whole session: install, directory, PDS, the owner's first day, and serving until it is stopped.

Owns: the order of these, the folders, one session at a time per data folder, and stopping everything it started, by
process id and in reverse order, on Ctrl-C and on SIGTERM alike. Does not own: the source of the environment.
"""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from cli.check.server import DEFAULT_BLOB_LIMIT
from tools.trial import LiveError, show
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, install
from tools.trial.owner import Step, run_owner_day
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import free_port

Further = Callable[[str], Iterable[Step]]
"""Steps after the owner's, given the running server's URL."""

_PORT = 3000
_WATCH_SECONDS = 1.0


def serve(
    env: Mapping[str, str],
    secrets: frozenset[str],
    data: Path,
    cache: Path,
    line: str,
    check: bool,
    console: Console,
    further: Further = lambda url: (),
) -> int:
    """Run the PDS of version line `line` with `env` and show the owner's first day, then the `further` steps.

    `secrets` are the names in `env` whose values are never shown. Its data are below `data`, downloads below `cache`.
    With `check` it stops after the steps, else it serves until Ctrl-C or SIGTERM. Returns an exit code: 0, 1 if a step
    failed or a server could not run, 130 if interrupted before the steps were done.
    """
    steps: list[Step] = []
    try:
        with _terminate_as_interrupt(), ExitStack() as stack:
            pds = _start(stack, env, secrets, data, cache, line, console, steps, further)
            show.closing(console, steps)
            if not check:
                text = f"\nServing {pds.url}; its log is {pds.log}, its data {data}. Stop with Ctrl-C."
                console.print(Text(text), soft_wrap=True)
                while True:  # no deadline: until Ctrl-C
                    time.sleep(_WATCH_SECONDS)
                    pds.check()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        if not steps:
            return 130
    except LiveError as error:
        console.print(Text(str(error), style="red"), soft_wrap=True)
        return 1
    return 0 if all(step.ok for step in steps) else 1


def _start(
    stack: ExitStack,
    env: Mapping[str, str],
    secrets: frozenset[str],
    data: Path,
    cache: Path,
    line: str,
    console: Console,
    steps: list[Step],
    further: Further,
) -> PdsProcess:
    if line not in PDS_LINES:
        raise LiveError(f"There is no version line {line!r} of the PDS here. Choose one of {', '.join(PDS_LINES)}.")
    stack.enter_context(_alone(data))
    with _progress(console) as progress:
        plc_install = install("plc", cache, progress)
        pds_install = install(f"pds-{line}", cache, progress)
        progress("starting the PLC directory")
        directory = stack.enter_context(PlcDirectory(plc_install, data=data / "plc", log=data / "plc.log"))
        folder = data / "pds"
        folder.mkdir(exist_ok=True)
        changes = differences(env, data=folder, plc_url=directory.url, port=free_port(_PORT), line=line)
        local = applied(env, changes)
        progress("starting the PDS")
        pds = stack.enter_context(PdsProcess(pds_install, local, data / "pds.log", secrets=secrets))
    version = pds_install.version("@atproto/pds")
    console.print(Text(f"@atproto/pds {version} on {pds.url}, a PLC directory on {directory.url}"), soft_wrap=True)
    show.environment(console, env, changes, secrets)
    with _progress(console, plain=False) as progress:
        day = run_owner_day(
            base_url=pds.url,
            hostname=_required(env, "PDS_HOSTNAME"),
            admin_password=_required(env, "PDS_ADMIN_PASSWORD"),
            rotation_key_hex=_required(env, "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"),
            blob_limit=int(env.get("PDS_BLOB_UPLOAD_LIMIT", DEFAULT_BLOB_LIMIT)),
            plc_url=directory.url,
            keep=data,
            starting=progress,
        )
        for step in chain(day, further(pds.url)):
            steps.append(step)
            show.step(console, step)
    return pds


def _required(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise LiveError(f"The environment of the PDS lacks {name}. The rendered job or its variable should set it.")
    return env[name]


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Hold the data folder: two servers on the same SQLite files would damage them."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LiveError(f"Another session uses {data}. Stop it with Ctrl-C, or wait for its end.") from error
        yield


@contextmanager
def _progress(console: Console, *, plain: bool = True) -> Iterator[Callable[[str], None]]:
    """Return a display of the present step; without a terminal plain lines (if `plain`), each printed once."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text))
        return
    said: set[str] = set()

    def say(text: str) -> None:
        head = text.split(",", 1)[0]
        if plain and head not in said:
            said.add(head)
            console.print(Text(head, style="dim"), soft_wrap=True)

    yield say


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the session as Ctrl-C does, so that its processes are stopped.

    SIGINT is set, too: a shell ignores it for background processes, and Python keeps that.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
