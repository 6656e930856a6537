"""The engine, the program that it runs, or a Nomad agent, killed with SIGKILL in the middle of a run."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cli.lib.subprocesses import child
from tests.e2e.environment.environment import STACK, E2eEnvironment, Run
from tests.e2e.environment.tools import E2eError

_PATIENCE = 900.0
"""Deadline of a run, in seconds."""
_PROGRAM = "pulumi-language-python-exec"

When = Callable[[str], bool]
"""Whether the moment has come, called repeatedly with the engine's output so far."""
Strike = Callable[[int], None]
"""The action at that moment; it gets the engine's process id."""


def interrupted(running: E2eEnvironment, when: When, strike: Strike, *command: str) -> Run:
    """Run the engine, strike once at the given moment, and wait for its end.

    Its left-over processes are stopped, by process id. Raises E2eError if the moment never came.
    """
    began = time.monotonic()
    lines: list[str] = []
    with child(
        ["pulumi", *command, "--stack", STACK, "--non-interactive"],
        2 * _PATIENCE,
        cwd=running.project,
        env=dict(running.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as engine:
        assert engine.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(engine.stdout,), daemon=True)
        reader.start()
        children: set[int] = set()
        try:
            while not when("".join(lines)):
                if engine.poll() is not None:
                    raise E2eError(f"it ended before it could be struck:\n{''.join(lines)[-6000:]}")
                if time.monotonic() - began > _PATIENCE:
                    raise E2eError(f"the moment did not come:\n{''.join(lines)[-6000:]}")
                time.sleep(0.02)
            children = set(below(engine.pid))
            strike(engine.pid)
            code = engine.wait(_PATIENCE)
        finally:
            for pid in {*children, *below(engine.pid), engine.pid}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reader.join(10)
    return Run(" ".join(command), "".join(lines), code, time.monotonic() - began)


def held(running: E2eEnvironment, method: str, *paths: str) -> When:
    """The moment when the API has executed a call of each of these kinds and responded to none."""
    running.api.clear_faults()
    for path in paths:
        running.api.fail(method, path, "held")

    def when(_said: str) -> bool:
        return all(rule["struck"] for rule in running.api.fault_rules())

    return when


def reported(name: str, doing: str) -> When:
    """The moment when the engine has reported `doing` for the resource of this name."""
    pattern = re.compile(rf"\b{name}\s+{doing}\b")
    return lambda text: pattern.search(text) is not None


def engine(pid: int) -> None:
    """Kill the engine."""
    os.kill(pid, signal.SIGKILL)


def program(pid: int) -> None:
    """Kill the program: the Python process that registers resources. Raises E2eError if there is none."""
    found = [one for one in below(pid) if _PROGRAM in _command_line(one)]
    if not found:
        raise E2eError("the engine runs no program now")
    for one in found:
        os.kill(one, signal.SIGKILL)


def agent(running: E2eEnvironment) -> Strike:
    """Kill the host's Nomad agent, which its service restarts."""

    def strike(_pid: int) -> None:
        [machine] = running.machines.machines()
        assert machine.agent is not None
        assert machine.agent.pid is not None
        os.kill(machine.agent.pid, signal.SIGKILL)

    return strike


def below(pid: int) -> Iterator[int]:
    """The process ids of all descendants."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            # After the name, which stands in brackets and may hold anything: state, then the parent.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    waiting = [pid]
    while waiting:
        for one in parents.get(waiting.pop(), []):
            waiting.append(one)
            yield one


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
