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
from tests.contract.lines import one_line
from tests.contract.restores import restoring
from tests.contract.snapshots import DEADLINE, Data, Scale, open_environment
from tests.contract.test_drill import Drill
from tests.support.s3 import BUCKET, s3_server
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.process import free_port
from tools.trial.xrpc import Client

pytestmark = [pytest.mark.contract, one_line]


@dataclass(kw_only=True)
class KillableServer:
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
def killable(
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    repository: Mapping[str, bytes],
    line: str,
    scale: Scale,
    tmp_path: Path,
) -> Iterator[KillableServer]:
    path = tmp_path / "live" / "pds"
    path.mkdir(parents=True)
    env = open_environment(program_env, path, directory, line)
    document_key = from_plc(directory.url, httpx.Client(trust_env=False))
    data = Data(path=path, install=quick_installs[line], document_key=document_key)
    with s3_server(tmp_path, BUCKET) as url, ExitStack() as lives:
        server = KillableServer(
            install=quick_installs[line],
            env=env,
            data=data,
            bucket=Bucket(url=url, place="killed", folder=tmp_path / "alloc").prepare(repository),
            directory=directory,
            lives=lives,
        )
        server.live()
        server.club = founded(server.server.url, env["PDS_HOSTNAME"], scale.members, scale.posts)
        yield server


def test_kills_lose_nothing_acknowledged_and_nothing_torn_passes(
    killable: KillableServer, scale: Scale, tmp_path: Path
) -> None:
    began = time.monotonic()
    killable.timed("copy", killable.data.take)
    begun = {killable.data.manifest()["started"]: began}
    killable.timed("send", lambda: killable.bucket.send(killable.data))
    with _volume(tmp_path / "first") as folder:
        killable.timed("fetch", lambda: killable.bucket.fetch(folder))
        killable.timed("restore", lambda: _restored(killable, folder))
    for number in range(scale.lives):
        club = killable.club
        print(f"life {number}: {len(club.members)} members, {len(club.journal.records)} records", flush=True)
        with killable.club.writing(patient=True, joining=1.0):
            began = time.monotonic()
            _one_dies_while_it_is_copied(killable, copy_too=number % 2 == 1)
            _nothing_torn_passes(killable, began)
        whole = killable.data.snapshot if killable.data.snapshot.exists() else killable.data.snapshot.with_name("old")
        report = verify(whole, killable.data.document_key)
        assert report.problems == (), f"life {number}"
        begun.setdefault(report.manifest["started"], began)
        if whole != killable.data.snapshot:  # killed between two renames: the next copy repairs it
            began = time.monotonic()
            killable.data.take()
            begun[killable.data.manifest()["started"]] = began
        killable.killed["sending"] += killable.bucket.send_killed(killable.data, killable.some_moment("send"))
        killable.bucket.send(killable.data)
        with _volume(tmp_path / str(number)) as folder:
            killable.killed["fetching"] += killable.bucket.fetch_killed(folder, killable.some_moment("fetch"))
            killable.bucket.fetch(folder)
            manifest = _drilled(killable, folder)
            _all_is_in(killable, folder / ".restore" / "fetched", begun[manifest])
            with _restore(killable, folder) as restore:
                time.sleep(killable.some_moment("restore"))
                restore.send_signal(signal.SIGKILL)
                restore.communicate(timeout=DEADLINE)
                killable.killed["restoring"] += restore.returncode == -signal.SIGKILL
            if (folder / ".restore" / "fetched").exists():
                _restored(killable, folder)
            _all_is_in(killable, folder, begun[manifest])
            _served(killable, folder, begun[manifest])
    print(f"killed in {scale.lives} lives: {dict(killable.killed)}")
    assert killable.killed["server"] == scale.lives
    assert killable.killed.total() > 2 * scale.lives, "most must be killed while they run"


def _one_dies_while_it_is_copied(killable: KillableServer, *, copy_too: bool) -> None:
    """Kill the server, with `copy_too` the copying program, too; restart the server and wait for new writes."""
    time.sleep(killable.chance.uniform(0, 0.5))
    ends = {"server": killable.some_moment("copy")} | ({"copying": killable.some_moment("copy")} if copy_too else {})
    with killable.data.start() as process:
        began = time.monotonic()
        for victim in sorted(ends, key=lambda name: ends[name]):
            time.sleep(max(0.0, began + ends[victim] - time.monotonic()))
            if victim == "copying":
                killable.killed["copying"] += process.poll() is None
                process.send_signal(signal.SIGKILL)
            else:
                os.kill(killable.server.pid, signal.SIGKILL)
                killable.killed["server"] += 1
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode in ((0, -signal.SIGKILL) if copy_too else (0,)), output
    killable.live()
    written = len(killable.club.journal.records)
    for _ in range(600):
        if len(killable.club.journal.records) >= written + 5:
            return
        time.sleep(0.1)
    pytest.fail("the restarted server accepts no writes")


def _nothing_torn_passes(killable: KillableServer, began: float) -> None:
    """What a killed program left is either not whole, or complete because it was killed just before it finished."""
    left = killable.data.snapshot.with_name("next")
    if not left.exists():
        return
    if verify(left, killable.data.document_key).problems:
        killable.killed["torn copies"] += 1
    else:
        _all_is_in(killable, left, began)


def _all_is_in(killable: KillableServer, folder: Path, began: float) -> None:
    accounts, records = killable.club.journal.before(began)
    assert accounts
    with closing(open_unchanged(folder / "account.sqlite")) as db:
        assert accounts <= {did for (did,) in db.execute("select did from actor")}
    copied: dict[str, str] = {}
    for did in accounts:
        with closing(open_unchanged(folder / repo_path(did) / "store.sqlite")) as db:
            copied |= dict(db.execute("select uri, cid from record"))
    assert {uri: cid for uri, cid in records.items() if copied.get(uri) != cid} == {}


def _drilled(killable: KillableServer, folder: Path) -> str:
    """Drill what was fetched; return the start time in its manifest."""
    alloc, live = (folder.with_name(name) for name in ("alloc-of-drill", "live-of-drill"))
    drill = Drill(folder=alloc, live=live, install=killable.install, directory=killable.directory)
    fetched = folder / ".restore" / "fetched"
    shutil.copytree(fetched, drill.fetched)
    shutil.copy(folder / ".restore" / "fetched.json", drill.folder / "data")
    drill.live.mkdir()
    assert ": 0 faults" in drill.verify()
    assert "served by the server on the copy: 0 faults" in drill.serve()
    started: str = verify(fetched, killable.data.document_key).manifest["started"]
    return started


@contextmanager
def _volume(folder: Path) -> Iterator[Path]:
    """A volume in its own folder."""
    volume = folder / "pds"
    volume.mkdir(parents=True)
    yield volume
    shutil.rmtree(folder)


def _restore(killable: KillableServer, folder: Path) -> subprocess.Popen[str]:
    return restoring(
        replace(killable.data, path=folder),
        PDS_HOSTNAME=killable.env["PDS_HOSTNAME"],
        PDS_DID_PLC_URL=killable.directory.url,
        NOMAD_META_sequence="1000000",
    )


def _restored(killable: KillableServer, folder: Path) -> None:
    with _restore(killable, folder) as running:
        output, _ = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, output
    assert "ready" in output or "is finished" in output


def _served(killable: KillableServer, folder: Path, began: float) -> None:
    """The server on the restored data accepts a member's password."""
    port = free_port()
    env = {name: value.replace(str(killable.data.path), str(folder)) for name, value in killable.env.items()}
    did = killable.chance.choice(sorted(killable.club.journal.before(began)[0]))
    with PdsProcess(killable.install, env | {"PDS_PORT": str(port)}, folder.with_suffix(".log")) as server:
        client = Client(server.url, killable.env["PDS_HOSTNAME"])
        client.procedure("com.atproto.server.createSession", {"identifier": did, "password": PASSWORD})
