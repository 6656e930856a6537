"""`make bench`, the part about data: the costs of durable writes and backups, and the duration of a restore.

Real PDS, PLC directory, restic and S3 server, on loopback, without Nomad. Nothing is asserted. `--durable` measures
only durable writes.
"""

import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from rich.console import Console
from rich.table import Table

from cli.snapshot.verify import from_plc
from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.bucket import Bucket
from tests.contract.club import Club, cid_of
from tests.contract.restores import FILES
from tests.contract.snapshots import Data, open_environment
from tests.support.s3 import BUCKET, s3_server
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install, install
from tools.trial.pds import PdsProcess
from tools.trial.trial import task_environment

Answer = TypeVar("Answer")

_ACCOUNTS = (10, 50, 200)
_POSTS = 10
_FEW, _PICTURES = 10, 20
"""One member in so many gets so many further blobs of a megabyte, before the last restore."""
_SECONDS = 20.0
_SHORT = 5.0
_ROUNDS = 3
_PATIENCE = 600.0
"""Maximum seconds of a single run."""
_MEBIBYTE = 1024 * 1024


def main() -> int:
    """Print the tables."""
    console = Console()
    cache = ROOT / "build" / "cache"
    pds, plc = install(f"pds-{PDS_LINES[-1]}", cache), install("plc", cache)
    env = dict(task_environment(evaluate_stack("dev"))[0])
    with (
        tempfile.TemporaryDirectory(prefix="pds-figures-") as name,
        PlcDirectory(plc, data=Path(name) / "plc", log=Path(name) / "plc.log") as directory,
    ):
        console.print(_durable(pds, env, directory, Path(name)))
    if "--durable" in sys.argv[1:]:
        return 0
    if not shutil.which("restic"):
        console.print("Not measured here, backups: restic is missing (`apt-get install restic`).")
        return 0
    with tempfile.TemporaryDirectory(prefix="pds-figures-") as name:
        folder = Path(name)
        path = folder / "club" / "pds"
        path.mkdir(parents=True)
        (folder / "s3").mkdir()
        with (
            PlcDirectory(plc, data=folder / "plc", log=folder / "plc.log") as directory,
            s3_server(folder / "s3", BUCKET) as url,
        ):
            env = open_environment(env, path, directory, PDS_LINES[-1])
            asked = from_plc(directory.url, httpx.Client(trust_env=False))
            data = Data(path=path, install=pds, document_key=asked)
            bucket = Bucket(url=url, place="figures", folder=folder / "alloc")
            with PdsProcess(pds, env, folder / "pds.log") as server:
                club = Club(server.url, env["PDS_HOSTNAME"])
                console.print(_cost(club, data, bucket))
                console.print(_latency(club, data))
                console.print(_restore(data, directory.url, folder))
                for member in club.members[::_FEW]:
                    for number in range(_PICTURES):
                        club.post_blob(member, bytes([number]) * 1_000_000)
                data.take()
                console.print(_restore(data, directory.url, folder))
    return 0


def _durable(pds: Install, env: Mapping[str, str], directory: PlcDirectory, folder: Path) -> Table:
    """Writes per second with flushed data and without (`pds.durable_writes`), and commits of plain SQLite."""
    found: dict[str, list[list[float]]] = {}
    flushes = []
    for number in range(_ROUNDS):
        rows: list[dict[str, float]] = []
        for durable in (False, True):
            path = folder / f"durable-{number}-{durable}"
            path.mkdir()
            whole = open_environment(env, path, directory, PDS_LINES[0])
            if not durable:
                whole["NODE_OPTIONS"] = whole["NODE_OPTIONS"].split()[0]  # only the volume check
            with PdsProcess(pds, whole, path.with_suffix(".log")) as server:
                rows.append(_served(Club(server.url, whole["PDS_HOSTNAME"])))
            rows[-1]["SQLite alone, commits"] = _sqlite(path / "alone.sqlite", "FULL" if durable else "NORMAL")
        for what in rows[0]:
            found.setdefault(what, []).append([row[what] for row in rows])
        flushes.append(_flush(folder / "flushed"))
    title = (
        f"Writes a second; a flush of 4 KiB takes {statistics.median(flushes) * 1000:.2f} ms here ({_ROUNDS} rounds)"
    )
    table = Table("what", "durable_writes: false", "true", "ratio", title=title)
    for what, pairs in found.items():
        without, flushed = (statistics.median(column) for column in zip(*pairs, strict=True))
        table.add_row(what, f"{without:.0f}", f"{flushed:.0f}", f"{flushed / without:.2f}")
    return table


def _served(club: Club) -> dict[str, float]:
    one, *others = (club.join() for _ in range(4))
    content = bytes(50_000)
    return {
        "posts, one writer": _rates([lambda: club.post(one, "a post")]),
        "posts, four writers": _rates([partial(club.post, member, "a post") for member in (one, *others)]),
        "pictures of 50 kB with a post": _rates([lambda: club.post_blob(one, os.urandom(8) + content)]),
    }


def _rates(writers: list[Callable[[], object]]) -> float:
    """Calls per second of all writers together."""
    rates: list[float] = []

    def write(step: Callable[[], object]) -> None:
        rates.append(_rate(step))

    threads = [threading.Thread(target=write, args=(step,), daemon=True) for step in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
    return sum(rates)


def _sqlite(file: Path, level: str) -> float:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute(f"pragma synchronous = {level}")
        db.execute("create table post (text text)")
        return _rate(lambda: db.execute("insert into post values ('a post')"))


def _rate(step: Callable[[], object]) -> float:
    end, count = time.monotonic() + _SHORT, 0
    while time.monotonic() < end:
        step()
        count += 1
    return count / _SHORT


def _flush(file: Path) -> float:
    with file.open("wb", buffering=0) as opened:

        def step() -> None:
            opened.write(bytes(4096))
            os.fsync(opened.fileno())

        return 1 / _rate(step)


def _cost(club: Club, data: Data, bucket: Bucket) -> Table:
    """Time and bytes of a first backup, and of a backup after a tenth of the members wrote."""
    title = f"A backup ({_POSTS} posts and a blob of 50 kB each): the first, then after a tenth of the members wrote"
    table = Table(
        "accounts", "copied, MiB", "s", "sent, MiB", "s", "copied again, MiB", "s", "sent, MiB", "s", title=title
    )
    for count in _ACCOUNTS:
        while len(club.members) < count:
            member = club.join()
            for number in range(_POSTS):
                club.post(member, f"post {number}")
            club.post_blob(member, bytes([len(club.members) % 256]) * 50_000)
        shutil.rmtree(data.path / ".snapshot", ignore_errors=True)
        time.sleep(3)  # until no file was written recently
        place = replace(bucket, place=f"figures-{count}")
        row = [*_one(data, place)]
        for member in club.members[: count // 10]:
            club.post(member, "one more")
        time.sleep(3)
        row += _one(data, place)
        table.add_row(str(count), *row)
    return table


def _one(data: Data, bucket: Bucket) -> list[str]:
    copied, copying = _timed(data.take)
    sent, sending = _timed(lambda: bucket.send(data))
    moved = re.search(r"Added to the repo(?:sitory)?: ([0-9.]+) (KiB|MiB|GiB)", sent)
    assert moved, sent
    mib = float(moved[1]) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[moved[2]]
    written = re.search(r"([0-9.]+) MiB written", copied)
    assert written, copied
    return [written[1], f"{copying:.1f}", f"{mib:.1f}", f"{sending:.1f}"]


def _latency(club: Club, data: Data) -> Table:
    """Latency of a member's calls, without a copy and during continuous full copies."""
    table = Table("request", "idle, ms", "while copying, ms", "ratio", title="Medians of requests during a backup")
    member = club.members[0]
    uri = club.post(member, "to read")
    requests: dict[str, Callable[[], object]] = {
        "a record read": lambda: cid_of(member.client, uri),
        "a post written": lambda: club.post(member, "meanwhile"),
    }
    for what, request in requests.items():
        pairs = []
        for _ in range(_ROUNDS):
            idle = _median(request)
            stop = threading.Event()
            copying = threading.Thread(target=_copies, args=(data, stop), daemon=True)
            copying.start()
            busy = _median(request)
            stop.set()
            copying.join(600)
            pairs.append((idle, busy))
        idle, busy = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
        table.add_row(what, f"{idle:.1f}", f"{busy:.1f}", f"{busy / idle:.2f}")
    return table


def _copies(data: Data, stop: threading.Event) -> None:
    while not stop.is_set():
        shutil.rmtree(data.path / ".snapshot", ignore_errors=True)  # so that everything is copied
        data.take()


def _median(request: Callable[[], object]) -> float:
    end, found = time.monotonic() + _SECONDS, []
    while time.monotonic() < end:
        found.append(_timed(request)[1])
    return statistics.median(found)


def _restore(data: Data, plc_url: str, folder: Path) -> Table:
    """The restore program on an existing snapshot, compared with `cp` of the same bytes."""
    snapshot = folder / "snapshot"
    shutil.rmtree(snapshot, ignore_errors=True)
    shutil.copytree(data.snapshot, snapshot)
    size = sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file()) / _MEBIBYTE
    plain, ours = [], []
    for number in range(_ROUNDS):
        copied = folder / f"copied-{number}"
        plain.append(_run(["cp", "-a", str(snapshot), str(copied)]))
        shutil.rmtree(copied)
        volume = folder / f"volume-{number}"
        (volume / ".restore").mkdir(parents=True)
        subprocess.run(["cp", "-a", snapshot, volume / ".restore" / "fetched"], check=True, timeout=_PATIENCE)
        env = {
            "PDS_HOSTNAME": "noted.at",
            "PDS_DATA_DIRECTORY": str(volume),
            "PDS_DID_PLC_URL": plc_url,
            "PDS_SNAPSHOT_RESERVE_MIB": "1",
        }
        command = [str(data.install.node), str(FILES / "restore.cjs")]
        ours.append(_run(command, cwd=data.install.folder, env=env))
        shutil.rmtree(volume)
    least, most = statistics.median(plain), statistics.median(ours)
    title = f"A restore of {_ACCOUNTS[-1]} accounts, {size:.0f} MiB, fetched already ({_ROUNDS} rounds)"
    table = Table("what", "median, s", "ratio", title=title)
    table.add_row("`cp -a` of the same bytes", f"{least:.1f}", "1.00")
    table.add_row("verified, made ready, in place", f"{most:.1f}", f"{most / least:.1f}")
    return table


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> float:
    ran = partial(subprocess.run, command, cwd=cwd, env=env, check=True, capture_output=True, timeout=_PATIENCE)
    return _timed(ran)[1]


def _timed(ask: Callable[[], Answer]) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
