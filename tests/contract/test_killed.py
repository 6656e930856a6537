"""Server, backup and restore are killed repeatedly, at random moments, while members write.

In each life of the server: the server is killed while its data is copied, and in every second life the copying program
is killed, too. Then sending, fetching and restoring are killed and repeated. Every snapshot that passes the drill must
contain what was acknowledged before the copy began, and restore it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from cli.snapshot.repository import open_unchanged
from cli.snapshot.verify import from_plc, repo_path, verify
from tests.contract.bucket import Bucket
from tests.contract.club import PASSWORD, Club, founded
from tests.contract.restores import restoring
from tests.contract.snapshots import DEADLINE, Data, Scale, open_environment
from tests.contract.test_drill import Drill
from tests.support.s3 import BUCKET, s3_server
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install
from tools.trial.pds import PdsProcess
from tools.trial.process import free_port
from tools.trial.xrpc import Client

pytestmark = [pytest.mark.contract, pytest.mark.parametrize("line", PDS_LINES[-1:], indirect=True)]


@dataclass(kw_only=True)
class HostConnection:
    """A server that can be killed and restarted at the same address, with its club, its bucket and its directory."""

    install: Install
    env: Mapping[str, str]
    data: Data
    bucket: Bucket
    directory: PlcDirectory
    lives: ExitStack
    chance: random.Random = field(default_factory=lambda: random.Random(23))
    killed: Counter[str] = field(default_factory=Counter)
    took: dict[str, float] = field(default_factory=dict)
    """Seconds that each operation last took undisturbed."""
    server: PdsProcess = field(init=False)
    club: Club = field(init=False)

    def live(self) -> None:
        """Start the server, or restart it."""
        self.lives.close()
        self.server = self.lives.enter_context(PdsProcess(self.install, self.env, self.data.path.with_suffix(".log")))

    def some_moment(self, what: str) -> float:
        """A random delay in seconds within the duration of the operation, after which to kill it."""
        return self.chance.uniform(0, self.took[what])

    def timed(self, what: str, do: Callable[[], object]) -> None:
        """Run the operation and record its duration."""
        began = time.monotonic()
        do()
        self.took[what] = time.monotonic() - began


@pytest.fixture
def place(
    pds_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    line: str,
    scale: Scale,
    tmp_path: Path,
) -> Iterator[HostConnection]:
    path = tmp_path / "live" / "pds"
    path.mkdir(parents=True)
    env = open_environment(program_env, path, directory, line)
    document_key = from_plc(directory.url, httpx.Client(trust_env=False))
    data = Data(path=path, install=pds_installs[line], document_key=document_key)
    with s3_server(tmp_path, BUCKET) as url, ExitStack() as lives:
        connection = HostConnection(
            install=pds_installs[line],
            env=env,
            data=data,
            bucket=Bucket(url=url, place="killed", folder=tmp_path / "alloc"),
            directory=directory,
            lives=lives,
        )
        connection.live()
        connection.club = founded(connection.server.url, env["PDS_HOSTNAME"], scale.members, scale.posts)
        yield connection


def test_kills_lose_nothing_acknowledged_and_nothing_torn_passes(
    place: HostConnection, scale: Scale, tmp_path: Path
) -> None:
    began = time.monotonic()
    place.timed("copy", place.data.take)
    begun = {place.data.manifest()["started"]: began}
    place.timed("send", lambda: place.bucket.send(place.data))
    with _volume(tmp_path / "first") as folder:
        place.timed("fetch", lambda: place.bucket.fetch(folder))
        place.timed("restore", lambda: _restored(place, folder))
    for number in range(scale.lives):
        print(
            f"life {number}: {len(place.club.members)} members, {len(place.club.journal.records)} records", flush=True
        )
        with place.club.writing(patient=True, joining=1.0):
            began = time.monotonic()
            _one_dies_while_it_is_copied(place, copy_too=number % 2 == 1)
            _nothing_torn_passes(place, began)
        whole = place.data.snapshot if place.data.snapshot.exists() else place.data.snapshot.with_name("old")
        report = verify(whole, place.data.document_key)
        assert report.problems == (), f"life {number}"
        begun.setdefault(report.manifest["started"], began)
        if whole != place.data.snapshot:  # killed between two renames: the next copy repairs it
            began = time.monotonic()
            place.data.take()
            begun[place.data.manifest()["started"]] = began
        place.killed["sending"] += place.bucket.send_killed(place.data, place.some_moment("send"))
        place.bucket.send(place.data)
        with _volume(tmp_path / str(number)) as folder:
            place.killed["fetching"] += place.bucket.fetch_killed(folder, place.some_moment("fetch"))
            place.bucket.fetch(folder)
            manifest = _drilled(place, folder)
            _all_is_in(place, folder / ".restore" / "fetched", begun[manifest])
            with _restore(place, folder) as restore:
                time.sleep(place.some_moment("restore"))
                restore.send_signal(signal.SIGKILL)
                restore.communicate(timeout=DEADLINE)
                place.killed["restoring"] += restore.returncode == -signal.SIGKILL
            if (folder / ".restore" / "fetched").exists():
                _restored(place, folder)
            _all_is_in(place, folder, begun[manifest])
            _served(place, folder, begun[manifest])
    print(f"killed in {scale.lives} lives: {dict(place.killed)}")
    assert place.killed["server"] == scale.lives
    assert place.killed.total() > 2 * scale.lives, "most must be killed while they run"


def _one_dies_while_it_is_copied(place: HostConnection, *, copy_too: bool) -> None:
    """Kill the server, with `copy_too` the copying program, too; restart the server and wait for new writes."""
    time.sleep(place.chance.uniform(0, 0.5))
    ends = {"server": place.some_moment("copy")} | ({"copying": place.some_moment("copy")} if copy_too else {})
    with place.data.start() as process:
        began = time.monotonic()
        for victim in sorted(ends, key=lambda name: ends[name]):
            time.sleep(max(0.0, began + ends[victim] - time.monotonic()))
            if victim == "copying":
                place.killed["copying"] += process.poll() is None
                process.send_signal(signal.SIGKILL)
            else:
                os.kill(place.server.pid, signal.SIGKILL)
                place.killed["server"] += 1
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode in ((0, -signal.SIGKILL) if copy_too else (0,)), output
    place.live()
    written = len(place.club.journal.records)
    for _ in range(600):
        if len(place.club.journal.records) >= written + 5:
            return
        time.sleep(0.1)
    pytest.fail("the restarted server accepts no writes")


def _nothing_torn_passes(place: HostConnection, began: float) -> None:
    """What a killed program left is either not whole, or complete because it was killed just before it finished."""
    left = place.data.snapshot.with_name("next")
    if not left.exists():
        return
    if verify(left, place.data.document_key).problems:
        place.killed["torn copies"] += 1
    else:
        _all_is_in(place, left, began)


def _all_is_in(place: HostConnection, folder: Path, began: float) -> None:
    accounts, records = place.club.journal.before(began)
    assert accounts
    with closing(open_unchanged(folder / "account.sqlite")) as db:
        assert accounts <= {did for (did,) in db.execute("select did from actor")}
    copied: dict[str, str] = {}
    for did in accounts:
        with closing(open_unchanged(folder / repo_path(did) / "store.sqlite")) as db:
            copied |= dict(db.execute("select uri, cid from record"))
    assert {uri: cid for uri, cid in records.items() if copied.get(uri) != cid} == {}


def _drilled(place: HostConnection, folder: Path) -> str:
    """Drill what was fetched; return the start time in its manifest."""
    alloc, live = (folder.with_name(name) for name in ("alloc-of-drill", "live-of-drill"))
    drill = Drill(folder=alloc, live=live, install=place.install, directory=place.directory)
    fetched = folder / ".restore" / "fetched"
    shutil.copytree(fetched, drill.fetched)
    shutil.copy(folder / ".restore" / "fetched.json", drill.folder / "data")
    drill.live.mkdir()
    assert ": 0 faults" in drill.verify()
    assert "served by the server on the copy: 0 faults" in drill.serve()
    started: str = verify(fetched, place.data.document_key).manifest["started"]
    return started


@contextmanager
def _volume(folder: Path) -> Iterator[Path]:
    """A volume in its own folder."""
    volume = folder / "pds"
    volume.mkdir(parents=True)
    yield volume
    shutil.rmtree(folder)


def _restore(place: HostConnection, folder: Path) -> subprocess.Popen[str]:
    return restoring(
        replace(place.data, path=folder),
        PDS_HOSTNAME=place.env["PDS_HOSTNAME"],
        PDS_DID_PLC_URL=place.directory.url,
        NOMAD_META_sequence="1000000",
    )


def _restored(place: HostConnection, folder: Path) -> None:
    with _restore(place, folder) as running:
        output, _ = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, output
    assert "ready" in output or "is finished" in output


def _served(place: HostConnection, folder: Path, began: float) -> None:
    """The server on the restored data accepts a member's password."""
    port = free_port()
    env = {name: value.replace(str(place.data.path), str(folder)) for name, value in place.env.items()}
    did = place.chance.choice(sorted(place.club.journal.before(began)[0]))
    with PdsProcess(place.install, env | {"PDS_PORT": str(port)}, folder.with_suffix(".log")) as server:
        client = Client(server.url, place.env["PDS_HOSTNAME"])
        client.procedure("com.atproto.server.createSession", {"identifier": did, "password": PASSWORD})
