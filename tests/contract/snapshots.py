"""The snapshot program on a real PDS with a club: the fixtures of the tests about snapshots.

Owns: running the program as the job does, and stopped data for faults. Does not own: the expectations.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.lib.subprocesses import child
from cli.snapshot.verify import MANIFEST, DocumentKey, SnapshotIdentity, SnapshotReport, from_plc, verify
from offline.mock_engine import ROOT
from tests.contract.club import Club, founded
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import free_port

PROGRAM = ROOT / "components" / "render" / "scripts" / "snapshot.cjs"
DEADLINE = 600.0
"""Seconds after which a program counts as hung; a busy machine takes ten times as long as an idle one."""


def account_store(data: Path, did: str) -> Path:
    """The database of an account in a server's data directory (actor-store.js of @atproto/pds)."""
    return data / "actors" / sha256(did.encode()).hexdigest()[:2] / did / "store.sqlite"


@contextmanager
def paused(program: AbstractContextManager[subprocess.Popen[str]]) -> Iterator[None]:
    """A program that writes "paused" and waits for input: paused until the block ends, then it succeeds."""
    with program as running:
        assert running.stdin
        assert running.stdout
        assert running.stdout.readline() == "paused\n"
        yield
        output, _ = running.communicate("x", timeout=DEADLINE)
    assert running.returncode == 0, output


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a test run."""

    members: int
    posts: int
    rounds: int
    kills: int
    inside: int
    """Minimum of writes during a copy."""
    lives: int
    """Lives of a server that is killed repeatedly."""


SMALL = Scale(members=6, posts=4, rounds=3, kills=3, inside=20, lives=2)
SOAK = Scale(members=50, posts=40, rounds=50, kills=50, inside=200, lives=50)


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    """`make soak` runs the large one."""
    return SOAK if request.config.getoption("--soak") else SMALL


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data directory, and the snapshot program on it."""

    path: Path
    install: Install
    document_key: DocumentKey
    deadline: float = DEADLINE
    """Seconds for one run of the program."""

    @property
    def snapshot(self) -> Path:
        """The folder of the finished copy."""
        return self.path / ".snapshot" / "current"

    def start(
        self, programs: str = str(PROGRAM.parent), **change: str
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start the program as the job runs it: with the server's install and only its environment."""
        env = {
            "PATH": os.defpath,
            "PDS_DATA_DIRECTORY": str(self.path),
            "PDS_BLOBSTORE_DISK_LOCATION": str(self.path / "blocks"),
            "PDS_SNAPSHOT_RESERVE_MIB": "1",
        } | change
        return child(
            [str(self.install.node), f"{programs}/{PROGRAM.name}"],
            self.deadline,
            cwd=self.install.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def take(self, *, code: int = 0, **change: str) -> str:
        """Run it to its end; return its output."""
        with self.start(**change) as running:
            said, _ = running.communicate(timeout=self.deadline)
        assert running.returncode == code, said
        return said

    def verify(self, whose: SnapshotIdentity | None = None) -> SnapshotReport:
        """Verify the finished copy, with queries to the local directory."""
        return verify(self.snapshot, self.document_key, whose)

    def manifest(self) -> dict[str, Any]:
        """The manifest of the finished copy."""
        found: dict[str, Any] = json.loads((self.snapshot / MANIFEST).read_text())
        return found


@dataclass(frozen=True, kw_only=True)
class Running:
    """A club, its server's data, the server, and the first stopped copy of the data."""

    club: Club
    data: Data
    server: PdsProcess
    still: Data
    admin_password: str


def open_environment(program_env: Mapping[str, str], data: Path, directory: PlcDirectory, line: str) -> dict[str, str]:
    """The rendered environment for a server that has its data here, accepts every sign-up and has no rate limits:
    the tests send hundreds of writes a minute from one address."""
    changes = differences(program_env, data=data, plc_url=directory.url, port=free_port(), line=line)
    return applied(program_env, changes) | {"PDS_RATE_LIMITS_ENABLED": "false", "PDS_INVITE_REQUIRED": "false"}


@pytest.fixture(scope="session")
def clubs(
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    scale: Scale,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Running]]:
    """A server with a club for each requested version line. They run side by side until the end: pytest would end the
    previous one whenever `line` changes, and a worker of a parallel run changes it often."""
    with ExitStack() as servers:

        @cache
        def club_of(line: str) -> Running:
            path = tmp_path_factory.mktemp("club") / "pds"
            path.mkdir()
            env = open_environment(program_env, path, directory, line)
            server = servers.enter_context(PdsProcess(quick_installs[line], env, path.with_suffix(".log")))
            club = founded(server.url, env["PDS_HOSTNAME"], scale.members, scale.posts)
            data = Data(path=path, install=quick_installs[line], document_key=_asked_once(directory.url))
            data.take()
            still = replace(data, path=tmp_path_factory.mktemp("still") / "pds")
            shutil.copytree(data.snapshot, still.path)
            (still.path / MANIFEST).unlink()
            return Running(club=club, data=data, server=server, still=still, admin_password=env["PDS_ADMIN_PASSWORD"])

        yield club_of


@pytest.fixture(scope="session")
def running(clubs: Callable[[str], Running], line: str) -> Running:
    """A server with a club, for all tests of one version line."""
    return clubs(line)


def _asked_once(url: str) -> DocumentKey:
    """The directory's answers, cached, since no key changes."""
    return cache(from_plc(url, httpx.Client(trust_env=False)))


@pytest.fixture(scope="session")
def still(running: Running) -> Data:
    """A copy of the club's first data that no server has open, for faults."""
    return running.still


@pytest.fixture
def faulty(still: Data, tmp_path: Path) -> Data:
    """The same, for one fault."""
    path = tmp_path / "pds"
    shutil.copytree(still.path, path, ignore=shutil.ignore_patterns(".snapshot"))
    return replace(still, path=path)
