"""A club on a real PDS with a history: a snapshot, later changes, and a relay that received all events.

Owns: the scenario up to the loss of data, and running the restore program as the job does. Does not own: the
expectations.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import httpx
import pytest

from cli.check.plc_documents import directory_data
from cli.snapshot.verify import MANIFEST, from_plc
from components.clients import pds_admin
from offline.mock_engine import ROOT
from tests.contract.club import Club, Member, founded
from tests.contract.relay import Relay
from tests.contract.snapshots import DEADLINE, Data, open_environment
from tests.support.flawed_proxy import Answer, Rule
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.process import free_port

FILES = ROOT / "components" / "render" / "scripts"
ELSEWHERE = "https://rooks.test"
BLOBS_AFTER = (b"a picture after the snapshot", b"another picture after the snapshot")
"""Blobs of the writer that are in no snapshot."""
_MOVE = """
const { createRequire } = require("node:module");
const app = createRequire(process.cwd() + "/x.js");
const { Client } = app("@did-plc/lib");
const { Secp256k1Keypair } = app("@atproto/crypto");
const [url, did, key, endpoint] = process.argv.slice(1);
Secp256k1Keypair.import(key).then((pair) => new Client(url).updatePds(did, pair, endpoint));
"""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The state when the data was lost. The members' roles: `writer` wrote after the snapshot, `deleted`,
    `hidden`, `resting` and `gone` left after it, `late` joined after it."""

    club: Club
    env: Mapping[str, str]
    install: Install
    directory: PlcDirectory
    relay: Relay
    """The state at the end."""
    data: Data
    """The data of the stopped server, with all changes."""
    snapshot: Path
    began: float
    """Start of the snapshot, on the clock of the club's journal."""
    writer: Member
    deleted: Member
    hidden: Member
    resting: Member
    gone: Member
    late: Member
    written_after: str
    """The URI of a post of the writer that is in no snapshot."""


@pytest.fixture(scope="session")
def scenarios(
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Scenario]:
    """One scenario for each requested version line; see `clubs`."""

    @cache
    def scenario_of(line: str) -> Scenario:
        return _tell(quick_installs[line], program_env, directory, line, tmp_path_factory.mktemp("scenario") / "pds")

    return scenario_of


@pytest.fixture(scope="session")
def scenario(scenarios: Callable[[str], Scenario], line: str) -> Scenario:
    """One scenario for each version line; no test changes it."""
    return scenarios(line)


def _tell(install: Install, program_env: Mapping[str, str], directory: PlcDirectory, line: str, path: Path) -> Scenario:
    path.mkdir()
    env = open_environment(program_env, path, directory, line)
    relay = Relay()
    asked = from_plc(directory.url, httpx.Client(trust_env=False))
    data = Data(path=path, install=install, document_key=asked)
    with PdsProcess(install, env, path.with_suffix(".log")) as server:
        club = founded(server.url, env["PDS_HOSTNAME"], members=7, posts=3)
        writer, deleted, hidden, resting, gone, *_others = club.members
        began = time.monotonic()
        data.take()
        snapshot = path.with_name("snapshot")
        shutil.copytree(data.snapshot, snapshot)

        relay.follow(server.url, newest(path))
        admin = pds_admin.Server(server.url, "127.0.0.1", env["PDS_ADMIN_PASSWORD"])
        for content in BLOBS_AFTER:
            club.post_blob(writer, content)
        for number in range(5):
            written_after = club.post(writer, f"after {number}")
        late = club.join()
        pds_admin.delete(admin, deleted.did)
        pds_admin.take_down(admin, hidden.did, applied=True)
        resting.client.procedure("com.atproto.server.deactivateAccount", {})
        _move_away(install, directory, gone, env)
        relay.follow(server.url, newest(path))
    return Scenario(
        club=club, env=env, install=install, directory=directory, relay=relay, data=data, snapshot=snapshot,
        began=began, writer=writer, deleted=deleted, hidden=hidden, resting=resting, gone=gone, late=late,
        written_after=written_after,
    )  # fmt: skip


def _move_away(install: Install, directory: PlcDirectory, member: Member, env: Mapping[str, str]) -> None:
    key = env["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"]
    command = [str(install.node), "-e", _MOVE, directory.url, member.did, key, ELSEWHERE]
    subprocess.run(command, cwd=install.folder, check=True, timeout=DEADLINE)


def names_the_key(directory: PlcDirectory, did: str, key: str) -> Rule:
    """Return a rule of a directory's proxy by which the document of `did` names this signing key."""
    changed = directory_data(directory.url, did) | {"verificationMethods": {"atproto": key}}
    answer = Answer(200, json.dumps(changed).encode(), {"Content-Type": "application/json"})
    return lambda request: answer if request.method.startswith(f"/{did}/") else None


def newest(data: Path) -> int:
    """The number of the newest event."""
    with closing(sqlite3.connect(data / "sequencer.sqlite")) as db:
        return int(db.execute("select coalesce(max(seq), 0) from repo_seq").fetchone()[0])


def restoring(data: Data, programs: Path = FILES, **change: str) -> subprocess.Popen[str]:
    """The restore program on `data`, as the job runs it."""
    compiled = str(data.install.folder.parent / "compiled")
    fixed = {"PATH": os.defpath, "NODE_COMPILE_CACHE": compiled, "PDS_SNAPSHOT_RESERVE_MIB": "1"}
    env = fixed | {"PDS_DATA_DIRECTORY": str(data.path)} | change
    return subprocess.Popen(
        [str(data.install.node), str(programs / "restore.cjs")],
        cwd=data.install.folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclass(frozen=True, kw_only=True)
class Restore:
    """A data directory into which a snapshot is restored."""

    scenario: Scenario
    data: Data
    programs: Path

    @property
    def relay(self) -> Relay:
        """A new copy of the relay at the end of the scenario."""
        return copy.deepcopy(self.scenario.relay)

    def fetch(self, snapshot: Path | None = None) -> None:
        """Copy the snapshot to the volume, as restic does."""
        shutil.copytree(snapshot or self.scenario.snapshot, self.data.path / ".restore" / "fetched", dirs_exist_ok=True)

    def fetch_list(self, data: Path) -> None:
        """Copy the list that is stored beside the snapshots, as restic does."""
        place = self.data.path / ".restore" / "list"
        place.mkdir()
        shutil.copy(data / ".departures.jsonl", place)

    def start(self, **change: str) -> subprocess.Popen[str]:
        """Start the program as the job runs it."""
        known = {"PDS_HOSTNAME": self.scenario.env["PDS_HOSTNAME"], "PDS_DID_PLC_URL": self.scenario.directory.url}
        return restoring(self.data, self.programs, **known | change)

    def run(self, *, code: int = 0, **change: str) -> str:
        """Run it to its end; return its output."""
        with self.start(**change) as running:
            try:
                said, _ = running.communicate(timeout=DEADLINE)
            except subprocess.TimeoutExpired:
                running.kill()  # otherwise this waits for it
                raise
        assert running.returncode == code, said
        return said

    def let_data_be_of_an_earlier_stay(self) -> None:
        """Let the data on the volume have no event that the fetched snapshot lacks, as when a server has moved away."""
        known = json.loads((self.data.path / ".restore" / "fetched" / MANIFEST).read_text())["sequence"]
        with closing(sqlite3.connect(self.data.path / "sequencer.sqlite")) as db:
            db.execute("delete from repo_seq where seq > ?", (known,))
            db.commit()

    def plant(self, name: str, old: str, new: str) -> None:
        """Plant a defect in one of the programs."""
        path = self.programs / name
        text = path.read_text()
        assert text.count(old) == 1, "the defect has one place to be"
        path.write_text(text.replace(old, new))

    def opened(self) -> PdsProcess:
        """The server on the restored data."""
        port = free_port()
        env = dict(self.scenario.env) | {"PDS_PORT": str(port)}
        moved = {name: value.replace(str(self.scenario.data.path), str(self.data.path)) for name, value in env.items()}
        return PdsProcess(self.scenario.install, moved, self.data.path.with_suffix(".log"))


@pytest.fixture
def in_place(scenario: Scenario, tmp_path: Path) -> Restore:
    """A restore with the old data in place."""
    path = tmp_path / "old" / "pds"
    shutil.copytree(scenario.data.path, path)
    return _restore(scenario, path)


@pytest.fixture
def disaster(scenario: Scenario, tmp_path: Path) -> Restore:
    """A restore on a new volume."""
    path = tmp_path / "new" / "pds"
    path.mkdir(parents=True)
    return _restore(scenario, path)


def _restore(scenario: Scenario, path: Path) -> Restore:
    programs = path.with_name("programs")
    programs.mkdir()
    for file in FILES.glob("*.cjs"):
        shutil.copy(file, programs)
    found = Restore(scenario=scenario, data=replace(scenario.data, path=path), programs=programs)
    found.fetch()
    return found
