"""`make bench`, the part about large accounts: time and memory of each job.

Real PDS and PLC directory, on loopback, each job in a control group as in a container. Nothing is asserted. The counts
of records can be given: `python -m tests.contract.figures_records 10 10000`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from cli.snapshot.verify import from_plc, repo_path
from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.club import founded
from tests.contract.large import enlarge, realistic
from tests.contract.memory import Limit, NoLimitError, limited
from tests.contract.restores import FILES, restoring
from tests.contract.snapshots import Data, open_environment
from tests.contract.test_drill import Drill
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install, install
from tools.trial.pds import PdsProcess
from tools.trial.trial import task_environment

_RECORDS = (10, 10_000, 200_000, 1_000_000)
_LIMITS_MIB = (256, 384, 512, 1024, 2048)
_MEBIBYTE = 1024 * 1024
_PATIENCE = 3600.0
_JOBS = ("snapshot", "verify, drill", "serve, drill", "restore")


def main(counts: tuple[int, ...]) -> int:
    """Print the table row by row."""
    console = Console()
    cache = ROOT / "build" / "cache"
    pds, plc = install(f"pds-{PDS_LINES[-1]}", cache), install("plc", cache)
    env = dict(task_environment(evaluate_stack("dev"))[0])
    with tempfile.TemporaryDirectory(prefix="pds-figures-") as name:
        folder = Path(name)
        path = folder / "club" / "pds"
        path.mkdir(parents=True)
        with PlcDirectory(plc, data=folder / "plc", log=folder / "plc.log") as directory:
            env = open_environment(env, path, directory, PDS_LINES[-1])
            asked = from_plc(directory.url, httpx.Client(trust_env=False))
            with PdsProcess(pds, env, folder / "pds.log") as server:
                did = founded(server.url, env["PDS_HOSTNAME"], members=2, posts=3).members[0].did
            club = Data(path=path, install=pds, document_key=asked, deadline=_PATIENCE)
            title = f"One account by its records: s, MiB held at most, limit in MiB (of {_LIMITS_MIB})"
            table = Table("records", "database, MiB", *_JOBS, title=title)
            try:
                for count in counts:
                    row = list(_Account(club, did, count, folder / str(count), directory).row())
                    print(*row, sep=" | ", flush=True)
                    table.add_row(*row)
            except NoLimitError as error:
                console.print(f"Not measured here, large accounts: {error}")
                return 0
            console.print(table)
    return 0


@dataclass
class _Cost:
    """The costs of one finished job."""

    seconds: float
    held: int
    limit: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f}; {self.held / _MEBIBYTE:.0f}; {self.limit}"


class _Account:
    """A server's data with one large account."""

    def __init__(self, club: Data, did: str, count: int, folder: Path, directory: PlcDirectory) -> None:
        self._count, self._folder, self._directory = count, folder, directory
        shutil.copytree(club.path, folder / "pds")
        enlarge(folder / "pds", did, realistic(did, count))
        self._data = replace(club, path=folder / "pds")
        self._size = (folder / "pds" / repo_path(did) / "store.sqlite").stat().st_size

    def row(self) -> Iterator[str]:
        """All jobs, in the order of their dependencies."""
        yield f"{self._count:,}"
        yield f"{self._size / _MEBIBYTE:.1f}"
        jobs = (
            (self._nothing_copied, self._snapshot),
            (self._fetched, lambda inside: self._drill(inside).verify()),
            (self._verified, lambda inside: self._drill(inside).serve()),
            (self._fetched_to_restore, self._restore),
        )
        for before, job in jobs:
            yield str(_cost(self._data.install, self._folder, before, job))
        shutil.rmtree(self._folder)

    def _nothing_copied(self) -> None:
        shutil.rmtree(self._data.path / ".snapshot", ignore_errors=True)

    def _snapshot(self, inside: Install) -> None:
        with replace(self._data, install=inside).start() as running:
            _over(running)

    def _drill(self, inside: Install) -> Drill:
        folder = self._folder / "drill"
        live = folder / "live"
        return Drill(folder=folder, live=live, install=inside, directory=self._directory, deadline=_PATIENCE)

    def _fetched(self) -> None:
        drill = self._drill(self._data.install)
        shutil.rmtree(drill.folder, ignore_errors=True)
        shutil.copytree(self._data.snapshot, drill.fetched, copy_function=os.link)
        drill.live.mkdir()
        (drill.folder / "data" / "fetched.json").write_text('{"seconds": 3}\n')

    def _verified(self) -> None:
        self._fetched()
        self._drill(self._data.install).verify()

    def _fetched_to_restore(self) -> None:
        shutil.rmtree(self._folder / "restored", ignore_errors=True)
        fetched = self._folder / "restored" / ".restore" / "fetched"
        shutil.copytree(self._data.snapshot, fetched, copy_function=os.link)

    def _restore(self, inside: Install) -> None:
        data = replace(self._data, path=self._folder / "restored", install=inside)
        with restoring(data, FILES, PDS_HOSTNAME="noted.at", PDS_DID_PLC_URL=self._directory.url) as running:
            _over(running)


def _over(running: subprocess.Popen[str]) -> None:
    said, _ = running.communicate(timeout=_PATIENCE)
    assert running.returncode == 0, said


def _cost(server: Install, folder: Path, before: Callable[[], None], job: Callable[[Install], object]) -> _Cost | str:
    """The job with the smallest limit in which it finishes."""
    for mebibytes in _LIMITS_MIB:
        before()
        with limited(mebibytes) as limit, _watched(limit) as most:
            began = time.monotonic()
            try:
                job(limit.node(server, folder))
            except AssertionError:
                if limit.kills == 0:
                    raise
            else:
                return _Cost(seconds=time.monotonic() - began, held=max(most), limit=mebibytes)
    return "killed"


@contextmanager
def _watched(limit: Limit) -> Iterator[list[int]]:
    """The memory in use, polled continuously."""
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            most.append(max(most.pop(), limit.held))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield most
    finally:
        stop.set()
        watching.join(10)


if __name__ == "__main__":
    raise SystemExit(main(tuple(map(int, sys.argv[1:])) or _RECORDS))
