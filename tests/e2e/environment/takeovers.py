"""A takeover that is watched and struck: its program on a server, and the PDSes that run on a club's data meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from cli.lib.subprocesses import child
from tests.contract.club import Club
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.environment import DEADLINE, Stack
from tests.e2e.environment.tools import E2eError
from tests.e2e.environment.watching import meanwhile

_PROGRAM = b"components.takeover.program"
_ALLOCATION = "com.hashicorp.nomad.alloc_id"
_PAUSE = 0.1


def programs(machines: ClusterMachines) -> list[int]:
    """The process ids of the takeover's job."""
    roots = [str(machine.root) for machine in machines.servers().values()]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if _PROGRAM in command and any(str((folder / "cwd").readlink()).startswith(f"{root}/") for root in roots):
                found.append(int(folder.name))
    return found


def kill(machines: ClusterMachines) -> None:
    """Kill the takeover's program, which is running. Nomad starts it again."""
    (program,) = programs(machines)
    os.kill(program, signal.SIGKILL)


def said(machines: ClusterMachines) -> str:
    """All that the job has printed."""
    files = [
        file
        for machine in machines.servers().values()
        for file in machine.root.glob("var/lib/nomad/alloc/*/alloc/logs/takeover.std*")
    ]
    return "".join(file.read_text(errors="replace") for file in sorted(files))


@contextmanager
def repairing(stack: Stack) -> Iterator[list[str]]:
    """`./pds repair`, which has begun to move the hosts that are down. Yields its lines: all of them after the block,
    which waits for its end. Raises E2eError if it moves none, or fails."""
    with child(
        [sys.executable, "-u", "-m", "cli.app", "repair", stack.name, "--yes"],
        DEADLINE,
        cwd=stack.project,
        env=dict(stack.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Down:"):
                break
        else:
            raise E2eError(f"it moves no host:\n{''.join(lines)}")
        yield lines
        lines.extend(process.stdout)
        if process.wait(60):
            raise E2eError(f"`./pds repair` failed:\n{''.join(lines)}")


class Writers:
    """The allocations whose containers had a club's data, as often as Docker could be asked."""

    def __init__(self) -> None:
        self.samples = 0
        self.most: dict[str, set[str]] = {}
        """By data directory: the allocations of the sample with the most."""

    def look(self, docker: httpx.Client) -> None:
        """One sample."""
        filters = json.dumps({"label": [_ALLOCATION], "status": ["running"]})
        containers: list[dict[str, Any]] = docker.get("/containers/json", params={"filters": filters}).json()
        running: dict[str, set[str]] = {}
        for container in containers:
            for mount in container["Mounts"]:
                if mount["Destination"] == "/pds":
                    running.setdefault(mount["Source"], set()).add(container["Labels"][_ALLOCATION])
        self.samples += 1
        for data, allocations in running.items():
            self.most[data] = max(self.most.get(data, set()), allocations, key=len)

    def together(self) -> dict[str, set[str]]:
        """Data directories that more than one allocation had at a moment, with those allocations."""
        return {data: allocations for data, allocations in self.most.items() if len(allocations) > 1}


@contextmanager
def one_writer(docker_host: str) -> Iterator[None]:
    """Assert that at each moment of the block at most one allocation runs on each club's data."""
    writers, failures = Writers(), list[httpx.HTTPError]()
    transport = httpx.HTTPTransport(uds=docker_host.removeprefix("unix://"))

    def watch(ended: threading.Event) -> None:
        with httpx.Client(transport=transport, base_url="http://docker", timeout=30) as docker:
            while not ended.wait(_PAUSE):
                try:
                    writers.look(docker)
                except httpx.HTTPError as error:
                    failures.append(error)

    with meanwhile(watch):
        yield
    assert failures == []
    assert writers.samples > 50
    assert writers.most, "the club's PDS was seen"
    assert writers.together() == {}


def acknowledged_between(club: Club, begin: float, end: float) -> list[str]:
    """The URIs of the writes that were acknowledged between two times of `time.monotonic`."""
    return [uri for uri, (_cid, at) in list(club.journal.records.items()) if begin < at < end]
