"""The drill's two programs on a real snapshot, the second without a network: what it prints, and what it catches."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.live.directory import PlcDirectory
from tools.live.node import SERVERS, Install
from tools.verify import home

from .restores import FILES
from .snapshots import Data, Running

pytestmark = pytest.mark.contract

_WITHOUT_NETWORK = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@dataclass(frozen=True, kw_only=True)
class Drill:
    """A scratch copy as the bucket gave it back, and the live volume, on which the outcome is left."""

    folder: Path
    live: Path
    install: Install
    directory: PlcDirectory

    @property
    def fetched(self) -> Path:
        """The scratch copy."""
        return self.folder / "data" / "fetched"

    def verify(self, *, code: int = 0, **change: str) -> str:
        """The first half; what it says."""
        return self._run([str(self.install.node), str(FILES / "drill.cjs")], code, **change)

    def serve(self, *, code: int = 0) -> str:
        """The second half, with loopback alone; what it says."""
        assert os.geteuid() == 0, "a container without a network is made by root"
        return self._run([*_WITHOUT_NETWORK, str(self.install.node), str(FILES / "serve.cjs")], code)

    def outcome(self) -> dict[str, str]:
        """What the job that watches reads."""
        found: dict[str, str] = json.loads((self.live / ".stamps" / "drill.json").read_text())
        return found

    def _run(self, command: list[str], code: int, **change: str) -> str:
        env = {
            "PATH": os.environ["PATH"],
            "NOMAD_ALLOC_DIR": str(self.folder),
            "PDS_HOSTNAME": "noted.at",
            "PDS_DATA_DIRECTORY": str(self.live),
            "PDS_DID_PLC_URL": self.directory.url,
            "DRILL_ENTRY": str(SERVERS / "pds.mjs"),
        } | change
        done = subprocess.run(
            command,
            cwd=self.install.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout


@pytest.fixture
def drill(running: Running, still: Data, directory: PlcDirectory, tmp_path: Path) -> Drill:
    still.take()
    made = Drill(
        folder=tmp_path / "alloc", live=tmp_path / "pds", install=still.install, directory=directory
    )  # fmt: skip
    shutil.copytree(still.snapshot, made.fetched)
    (made.folder / "data" / "fetched.json").write_text('{"seconds": 3}\n')
    made.live.mkdir()
    return made


def test_a_good_backup_is_served_whole_by_a_server_without_a_network(running: Running, drill: Drill) -> None:
    said = drill.verify()
    assert f"looked at {len(running.club.members)} accounts" in said
    said = drill.serve()
    assert f"{len(running.club.members)} repositories served by the server on the copy: 0 faults" in said
    assert "recovery point  20" in said
    assert "fetched in 3 s" in said
    assert drill.outcome().keys() == {"first", "good", "of"}
    assert not drill.fetched.exists(), "members' data are not left lying about"
    assert {path.name for path in drill.live.iterdir()} == {".stamps"}


def _key_gone(drill: Drill, did: str) -> None:
    (drill.fetched / home(did) / "key").unlink()


def _flipped(drill: Drill, did: str) -> None:
    blob = next((drill.fetched / "blocks" / did).iterdir())
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _cut(drill: Drill, did: str) -> None:
    os.truncate(drill.fetched / home(did) / "store.sqlite", 8192)


@pytest.mark.parametrize(
    ("damage", "says"), [(_key_gone, "no signing key"), (_flipped, "does not hash"), (_cut, "is damaged")]
)
def test_a_bad_backup_is_named_and_no_server_is_started_on_it(
    running: Running, drill: Drill, damage: Callable[[Drill, str], None], says: str
) -> None:
    damage(drill, running.club.members[4].did)
    said = drill.verify(code=1)
    assert says in said
    assert "served" not in drill.serve(code=1)
    assert f"FAULT: {drill.outcome()['why']}" in said
    assert "good" not in drill.outcome()
    assert not drill.fetched.exists()


def test_an_identity_that_names_another_s_key_is_a_fault_and_an_absent_directory_too(drill: Drill) -> None:
    assert "could not be read" in drill.verify(code=1, PDS_DID_PLC_URL="http://localhost:1")


def test_what_only_the_server_finds_is_a_fault_of_the_second_half(running: Running, drill: Drill) -> None:
    drill.verify()
    did = running.club.members[2].did
    with closing(sqlite3.connect(drill.fetched / home(did) / "store.sqlite")) as db:
        db.execute("delete from repo_block where cid in (select cid from record)")
        db.commit()
    blob = next((drill.fetched / "blocks" / running.club.members[3].did).iterdir())
    blob.unlink()
    said = drill.serve(code=1)
    assert did in said
    assert f"blob {blob.name} is not served" in said


def test_a_server_that_does_not_come_up_is_a_fault(drill: Drill) -> None:
    drill.verify()
    (drill.fetched / "account.sqlite").write_bytes(b"no database")
    assert "FAULT: the server does not come up on the copy" in drill.serve(code=1)


def test_a_first_half_that_was_killed_is_a_failed_drill(drill: Drill) -> None:
    drill.serve(code=1)
    assert "was not looked at" in drill.outcome()["why"]
    assert not drill.fetched.exists()


def test_where_nothing_was_fetched_the_outcome_is_a_failed_drill(drill: Drill) -> None:
    shutil.rmtree(drill.fetched)
    assert "FAULT: nothing was fetched" in drill.verify(code=1)
    drill.serve(code=1)
    assert "nothing was fetched" in drill.outcome()["why"]
