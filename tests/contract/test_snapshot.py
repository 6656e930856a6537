"""The snapshot program on a real PDS under constant writes, and the verifier on its result."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cli import app
from cli.snapshot.repository import open_unchanged
from cli.snapshot.verify import IDENTITY_FILE, MANIFEST, SnapshotIdentity, repo_path, verify
from tests.contract.lines import one_line
from tests.contract.snapshots import Data, Running, Scale
from tools.trial.directory import PlcDirectory

pytestmark = pytest.mark.contract


def _records(snapshot: Path, did: str) -> dict[str, str]:
    with closing(open_unchanged(snapshot / repo_path(did) / "store.sqlite")) as db:
        return dict(db.execute("select uri, cid from record"))


def _nothing_is_lost(running: Running, snapshot: Path, began: float) -> int:
    accounts, records = running.club.journal.before(began)
    manifest = json.loads((snapshot / MANIFEST).read_text())
    assert accounts <= set(manifest["accounts"]), "the copy lacks an acknowledged account"
    copied_records: dict[str, str] = {}
    for did in {uri.split("/")[2] for uri in records}:
        copied_records |= _records(snapshot, did)
    assert {uri: cid for uri, cid in records.items() if copied_records.get(uri) != cid} == {}
    return len(records)


def test_snapshot_contains_everything_acknowledged_before_it_began(running: Running, scale: Scale) -> None:
    journal = running.club.journal
    inside: list[tuple[int, int]] = []
    for number in range(scale.rounds):
        with running.club.writing():
            began, written, joined = time.monotonic(), len(journal.records), len(journal.accounts)
            _take_on_a_slow_host(running, scale.inside)
            inside.append((len(journal.records) - written, len(journal.accounts) - joined))
        report = running.data.verify()
        assert report.problems == (), f"round {number}"
        assert _nothing_is_lost(running, running.data.snapshot, began) > 0
    writes, joins = (sorted(column) for column in zip(*inside, strict=True))
    print(f"in each copy {writes[0]} to {writes[-1]} writes, {joins[0]} to {joins[-1]} new accounts")
    assert writes[0] >= scale.inside // 2, "the writer must write during the copies"
    running.server.check()


def _take_on_a_slow_host(running: Running, writes: int) -> None:
    """Stop and continue the program in turns until so many writes arrive while it copies."""
    journal = running.club.journal
    with running.data.start() as process:
        end = time.monotonic() + 600
        while process.poll() is None and not (running.data.snapshot.with_name("next") / "actors").exists():
            time.sleep(0.001)
        began = len(journal.records)
        for enough in (writes // 2, *range(writes // 2, writes, max(1, writes // 20))):
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGSTOP)
            while len(journal.records) - began < enough:
                assert time.monotonic() < end, "the server must answer during a copy"
                time.sleep(0.002)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def test_killed_snapshot_leaves_the_previous_one_or_a_whole_new_one(running: Running, scale: Scale) -> None:
    began = time.monotonic()
    running.data.take()
    seconds = time.monotonic() - began
    chance = random.Random(11)
    killed = 0
    for number in range(scale.kills):
        with running.club.writing():
            complete = time.monotonic()
            running.data.take()
            with running.data.start() as process:
                if number:  # the first at once: the others can all end before, if the run above was a slow one
                    time.sleep((number + chance.random()) / scale.kills * seconds)
                process.send_signal(signal.SIGKILL)
                killed += process.wait(600) == -signal.SIGKILL
        # If it is killed between the two renames, the next run renames the previous copy back.
        whole = running.data.snapshot if running.data.snapshot.exists() else running.data.snapshot.with_name("old")
        report = verify(whole, running.data.document_key)
        assert report.problems == (), f"round {number}"
        assert _nothing_is_lost(running, whole, complete) > 0
    assert killed, "no run was killed while it ran"
    running.data.take()
    assert {entry.name for entry in running.data.snapshot.parent.iterdir()} == {"current", "lock.sqlite"}


def test_copies_only_changes_again(running: Running) -> None:
    writer, *others = running.club.members
    _settle(running.data)
    first = running.data.manifest()
    kept = running.data.snapshot / repo_path(others[0].did) / "store.sqlite"
    inode = kept.stat().st_ino
    assert "0 repositories copied" in running.data.take(), "nothing was written in between, so nothing may be copied"
    assert kept.stat().st_ino == inode, "it must be a hard link to the previous copy"
    # A preference changes no revision, only the database.
    preferences = {"preferences": [{"$type": "app.bsky.actor.defs#adultContentPref", "enabled": True}]}
    writer.client.procedure("app.bsky.actor.putPreferences", preferences)
    assert "1 repositories copied" in running.data.take()
    store = str(repo_path(writer.did) / "store.sqlite")
    assert running.data.manifest()["files"][store] != first["files"][store]
    assert running.data.verify().problems == ()


def test_notices_a_write_just_before_and_just_after_the_copy(running: Running) -> None:
    member = running.club.members[1]
    for number in range(3):
        running.club.post(member, f"before {number}")
        running.data.take()
        uri = running.club.post(member, f"after {number}")
        running.data.take()
        assert uri in _records(running.data.snapshot, member.did), (
            "the stamp of a recently written file must not be trusted"
        )


def test_deleted_account_is_not_in_the_next_snapshot(running: Running, faulty: Data) -> None:
    did = running.club.members[2].did
    # As the server deletes an account: the rows first, then the files.
    with closing(sqlite3.connect(faulty.path / "account.sqlite")) as db:
        for table in ("account", "actor", "repo_root"):
            db.execute(f"delete from {table} where did = ?", (did,))  # noqa: S608
        db.commit()
    shutil.rmtree(faulty.path / repo_path(did))
    shutil.rmtree(faulty.path / "blocks" / did)
    faulty.take()
    assert did not in faulty.manifest()["repositories"]
    assert [path for path in faulty.snapshot.rglob("*") if did in str(path)] == []
    assert faulty.verify().problems == ()


def test_snapshot_program_never_changes_what_it_copies(still: Data, faulty: Data) -> None:
    def content(path: Path) -> dict[str, str]:
        return {
            str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in path.rglob("*")
            if file.is_file()
            and not {".snapshot", ".run-status"} & set(file.parts)
            and not file.name.endswith(("-wal", "-shm"))
        }

    faulty.take()
    assert content(faulty.path) == content(still.path)


@one_line
def test_refuses_a_second_snapshot_at_the_same_time(faulty: Data) -> None:
    (faulty.path / ".snapshot").mkdir()
    status = faulty.path / ".run-status" / "backup.json"
    status.unlink(missing_ok=True)
    with closing(sqlite3.connect(faulty.path / ".snapshot" / "lock.sqlite")) as lock:
        lock.execute("begin exclusive")
        assert "REFUSED: another snapshot is being made." in faulty.take(code=1)
        assert not status.exists(), "the other run is not finished"
    faulty.take()


@one_line
def test_refuses_a_volume_without_space_before_copying(faulty: Data) -> None:
    remedy = {"SPACE_REMEDY": "raise 'disk_gib' of this club"}
    output = faulty.take(code=1, PDS_SNAPSHOT_RESERVE_MIB=str(10**9), **remedy)
    assert "REFUSED: the volume has" in output
    assert not (faulty.path / ".snapshot" / "next").exists()
    why = _outcome(faulty)["why"]
    assert why.endswith("to the server: raise 'disk_gib' of this club."), "the alerts job reports this text"


@one_line
def test_full_volume_is_cleaned_up_and_the_previous_copy_is_kept(faulty: Data, tmp_path: Path) -> None:
    """As when members fill the volume during a copy: the server's files are unchanged, and it can continue to write."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    used = sum(file.stat().st_size for file in faulty.path.rglob("*") if file.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * used // 1024}k", "small", str(mount_point)]
    if subprocess.run(mount, capture_output=True, timeout=600, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (only root can), so a full volume cannot be tested")
    try:
        small = replace(faulty, path=mount_point / "pds")
        shutil.copytree(faulty.path, small.path)
        small.take(PDS_SNAPSHOT_RESERVE_MIB="0")
        first = small.manifest()
        disk = os.statvfs(mount_point)
        keep = 64 * 1024  # enough to begin, but not for one database
        (mount_point / "members").write_bytes(bytes(disk.f_bavail * disk.f_frsize - keep))
        output = small.take(code=1, PDS_SNAPSHOT_RESERVE_MIB="-100000")
        assert "database or disk is full" in output or "ENOSPC" in output
        assert not (small.path / ".snapshot" / "next").exists()
        assert os.statvfs(mount_point).f_bavail * disk.f_frsize > keep // 2
        assert small.manifest() == first
        assert small.verify().problems == ()
        assert "REFUSED" in output or "FAILED" in output
        assert _outcome(small)["failed"]
    finally:
        subprocess.run(["umount", str(mount_point)], check=True, timeout=600)


def _outcome(data: Data) -> dict[str, str]:
    found: dict[str, str] = json.loads((data.path / ".run-status" / "backup.json").read_text())
    return found


@one_line
def test_verify_snapshot_command_prints_the_content_and_the_faults(
    running: Running, faulty: Data, directory: PlcDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.take()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 0
    output = capsys.readouterr().out
    assert "can be restored" in output
    assert f"{len(faulty.manifest()['accounts'])} accounts" in output
    did = faulty.manifest()["accounts"][0]
    (faulty.snapshot / repo_path(did) / "key").unlink()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 1
    shown = capsys.readouterr()
    assert f"{did}: not restorable: it has no signing key" in shown.err
    assert "1 not restorable" in shown.out, "the other accounts can be restored"
    (faulty.snapshot / "account.sqlite").unlink()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 1
    assert "account.sqlite is missing" in capsys.readouterr().err


@one_line
def test_names_the_snapshot_of_another_pds(faulty: Data) -> None:
    faulty.take()
    identity = json.loads((faulty.path / IDENTITY_FILE).read_text())
    assert faulty.verify(SnapshotIdentity(**identity)).problems == ()
    assert faulty.verify(SnapshotIdentity(**identity | {"hostname": "chess.at"})).problems == (
        "this is the snapshot of another PDS: its hostname is noted.at, not chess.at",
    )
    assert (
        "its rotation_public_key is"
        in faulty.verify(SnapshotIdentity(**identity | {"rotation_public_key": "02"})).problems[0]
    )


# --- faults in the copy: by a torn upload, a bad disk or a person


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Damage to a finished copy, and the message of the verifier."""

    name: str
    do: Callable[[Path, str], None]
    message: str


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _only_blob(snapshot: Path, did: str) -> Path:
    return next((snapshot / "blocks" / did).iterdir())


_DAMAGES = (
    Damage(
        name="key gone",
        do=lambda at, did: (at / repo_path(did) / "key").unlink(),
        message="{did}: not restorable: it has no",
    ),
    Damage(
        name="database cut",
        do=lambda at, did: os.truncate(at / repo_path(did) / "store.sqlite", 8192),
        message="{did}: not restorable: store.sqlite is damaged",
    ),
    Damage(name="events flipped", do=lambda at, did: _flip(at / "sequencer.sqlite"), message="sequencer.sqlite is"),
    Damage(
        name="events gone", do=lambda at, did: (at / "sequencer.sqlite").unlink(), message="sequencer.sqlite is missing"
    ),
    Damage(
        name="accounts gone", do=lambda at, did: (at / "account.sqlite").unlink(), message="account.sqlite is missing"
    ),
    Damage(
        name="accounts cut",
        do=lambda at, did: os.truncate(at / "account.sqlite", 8192),
        message="account.sqlite is damaged",
    ),
    Damage(
        name="blob gone", do=lambda at, did: _only_blob(at, did).unlink(), message="{did}: with losses: blob bafkrei"
    ),
    Damage(
        name="blob flipped", do=lambda at, did: _flip(_only_blob(at, did)), message="{did}: with losses: blob bafkrei"
    ),
    Damage(
        name="identity file gone",
        do=lambda at, did: (at / IDENTITY_FILE).unlink(),
        message=f"{IDENTITY_FILE} cannot be read",
    ),
    Damage(name="no manifest", do=lambda at, did: (at / MANIFEST).unlink(), message=f"{MANIFEST} cannot be read"),
    Damage(
        name="something added",
        do=lambda at, did: (at / "actors" / "note.txt").touch(),
        message="actors/note.txt is not in the manifest",
    ),
    Damage(
        name="repository gone",
        do=lambda at, did: shutil.rmtree(at / repo_path(did)),
        message="{did}: not restorable: it has no repository",
    ),
)


@one_line
@pytest.mark.parametrize("damage", _DAMAGES, ids=lambda damage: damage.name)
def test_names_damage_to_the_copy(running: Running, still: Data, damage: Damage, tmp_path: Path) -> None:
    copied = tmp_path / "snapshot"
    still.take()
    shutil.copytree(still.snapshot, copied)
    did = running.club.members[4].did
    damage.do(copied, did)
    report = verify(copied, still.document_key)
    lines = (*report.problems, *report.notes)
    assert any(damage.message.format(did=did) in line for line in lines), lines


def _settle(data: Data) -> None:
    """Wait until every file is old enough to have a stamp (SETTLED in the program), then take a copy.

    The server closes a database after its response, and only then writes the log into it.
    """
    for _ in range(5):
        time.sleep(2.1)
        data.take()
        if all(entry["stamp"] for entry in data.manifest()["repositories"].values()):
            return
    pytest.fail("a repository changes without a write")
