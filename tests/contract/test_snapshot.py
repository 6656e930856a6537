"""The snapshot program on a real PDS that is written to all the while, and the verifier on what it made."""

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
from tests.contract.snapshots import Data, Running, Scale
from tools.trial.directory import PlcDirectory

pytestmark = pytest.mark.contract


def _records(snapshot: Path, did: str) -> dict[str, str]:
    with closing(open_unchanged(snapshot / repo_path(did) / "store.sqlite")) as db:
        return dict(db.execute("select uri, cid from record"))


def _nothing_is_lost(running: Running, snapshot: Path, began: float) -> int:
    accounts, records = running.club.journal.before(began)
    manifest = json.loads((snapshot / MANIFEST).read_text())
    assert accounts <= set(manifest["accounts"]), "an account that was acknowledged is not in the copy"
    there: dict[str, str] = {}
    for did in {uri.split("/")[2] for uri in records}:
        there |= _records(snapshot, did)
    assert {uri: cid for uri, cid in records.items() if there.get(uri) != cid} == {}
    return len(records)


def test_nothing_acknowledged_before_a_snapshot_began_is_missing_from_it(running: Running, scale: Scale) -> None:
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
    assert writes[0] >= scale.inside // 2, "the writer wrote while the copies were made"
    running.server.check()


def _take_on_a_slow_host(running: Running, writes: int) -> None:
    """The program gets a moment, then waits for others, in turns, until so many writes came while it copied."""
    journal = running.club.journal
    with running.data.start() as process:
        end = time.monotonic() + 60
        while process.poll() is None and not (running.data.snapshot.with_name("next") / "actors").exists():
            time.sleep(0.001)
        began = len(journal.records)
        for enough in (writes // 2, *range(writes // 2, writes, max(1, writes // 20))):
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGSTOP)
            while len(journal.records) - began < enough:
                assert time.monotonic() < end, "the server answers while a copy is made"
                time.sleep(0.002)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_a_killed_snapshot_leaves_the_one_before_it_or_a_whole_new_one(running: Running, scale: Scale) -> None:
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
                time.sleep(chance.uniform(0, seconds))
                process.send_signal(signal.SIGKILL)
                killed += process.wait(60) == -signal.SIGKILL
        # Killed between the two renames, the one before it has its name again when the next begins.
        whole = running.data.snapshot if running.data.snapshot.exists() else running.data.snapshot.with_name("old")
        report = verify(whole, running.data.document_key)
        assert report.problems == (), f"round {number}"
        assert _nothing_is_lost(running, whole, complete) > 0
    assert killed, "no run was killed in its middle"
    running.data.take()
    assert {entry.name for entry in running.data.snapshot.parent.iterdir()} == {"current", "lock.sqlite"}


def test_only_what_changed_is_copied_again(running: Running) -> None:
    writer, *others = running.club.members
    _settle(running.data)
    first = running.data.manifest()
    kept = running.data.snapshot / repo_path(others[0].did) / "store.sqlite"
    inode = kept.stat().st_ino
    assert "0 repositories copied" in running.data.take(), "nothing was written in between"
    assert kept.stat().st_ino == inode, "a hard link of the copy before"
    # A preference changes no revision, only the database.
    preferences = {"preferences": [{"$type": "app.bsky.actor.defs#adultContentPref", "enabled": True}]}
    writer.client.procedure("app.bsky.actor.putPreferences", preferences)
    assert "1 repositories copied" in running.data.take()
    store = str(repo_path(writer.did) / "store.sqlite")
    assert running.data.manifest()["files"][store] != first["files"][store]
    assert running.data.verify().problems == ()


def test_a_write_just_before_the_copy_and_one_just_after_are_both_noticed(running: Running) -> None:
    member = running.club.members[1]
    for number in range(3):
        running.club.post(member, f"before {number}")
        running.data.take()
        uri = running.club.post(member, f"after {number}")
        running.data.take()
        assert uri in _records(running.data.snapshot, member.did), "the stamp of files just written to is not trusted"


def test_a_deleted_account_leaves_the_next_snapshot(running: Running, faulty: Data) -> None:
    did = running.club.members[2].did
    # What the server does when the mailed token was given: the row first, then the files.
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


def test_the_snapshot_program_never_changes_what_it_copies(still: Data, faulty: Data) -> None:
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


def test_two_snapshots_at_once_are_one_too_many(faulty: Data) -> None:
    (faulty.path / ".snapshot").mkdir()
    status = faulty.path / ".run-status" / "backup.json"
    status.unlink(missing_ok=True)
    with closing(sqlite3.connect(faulty.path / ".snapshot" / "lock.sqlite")) as lock:
        lock.execute("begin exclusive")
        assert "REFUSED: another snapshot is being made." in faulty.take(code=1)
        assert not status.exists(), "the other one is not over"
    faulty.take()


def test_a_volume_without_room_is_refused_before_anything_is_copied(faulty: Data) -> None:
    said = faulty.take(code=1, PDS_SNAPSHOT_RESERVE_MIB=str(10**9))
    assert "REFUSED: the volume has" in said
    assert "volume: {size_gib:" in said
    assert not (faulty.path / ".snapshot" / "next").exists()
    why = _outcome(faulty)["why"]
    assert "Raise 'volume: {size_gib" in why, "the alerts job reports it"


def test_a_volume_that_is_full_all_the_same_gets_its_room_back_and_keeps_the_copy_before(
    faulty: Data, tmp_path: Path
) -> None:
    """As when members fill it while the copy is made: the server's files are as they were, and it can go on writing."""
    place = tmp_path / "small"
    place.mkdir()
    used = sum(file.stat().st_size for file in faulty.path.rglob("*") if file.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * used // 1024}k", "small", str(place)]
    if subprocess.run(mount, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (root may), and a volume that fills up was not tried")
    try:
        small = replace(faulty, path=place / "pds")
        shutil.copytree(faulty.path, small.path)
        small.take(PDS_SNAPSHOT_RESERVE_MIB="0")
        first = small.manifest()
        disk = os.statvfs(place)
        keep = 64 * 1024  # enough to begin, and not for one database
        (place / "members").write_bytes(bytes(disk.f_bavail * disk.f_frsize - keep))
        said = small.take(code=1, PDS_SNAPSHOT_RESERVE_MIB="-100000")
        assert "database or disk is full" in said or "ENOSPC" in said
        assert not (small.path / ".snapshot" / "next").exists()
        assert os.statvfs(place).f_bavail * disk.f_frsize > keep // 2
        assert small.manifest() == first
        assert small.verify().problems == ()
        assert "REFUSED" in said or "FAILED" in said
        assert _outcome(small)["failed"]
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def _outcome(data: Data) -> dict[str, str]:
    found: dict[str, str] = json.loads((data.path / ".run-status" / "backup.json").read_text())
    return found


def test_the_owner_s_verb_says_what_a_folder_holds_and_what_is_wrong_with_it(
    running: Running, faulty: Data, directory: PlcDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.take()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 0
    said = capsys.readouterr().out
    assert "can be restored" in said
    assert f"{len(faulty.manifest()['accounts'])} accounts" in said
    did = faulty.manifest()["accounts"][0]
    (faulty.snapshot / repo_path(did) / "key").unlink()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 1
    shown = capsys.readouterr()
    assert f"{did}: not restorable: it has no signing key" in shown.err
    assert "1 not restorable" in shown.out, "the others can be restored"
    (faulty.snapshot / "account.sqlite").unlink()
    assert app.main(["verify-snapshot", str(faulty.snapshot), "--plc", directory.url]) == 1
    assert "account.sqlite is missing" in capsys.readouterr().err


def test_another_pds_s_snapshot_is_named(faulty: Data) -> None:
    faulty.take()
    mark = json.loads((faulty.path / IDENTITY_FILE).read_text())
    assert faulty.verify(SnapshotIdentity(**mark)).problems == ()
    assert faulty.verify(SnapshotIdentity(**mark | {"hostname": "chess.at"})).problems == (
        "this is the snapshot of another PDS: its hostname is noted.at, not chess.at",
    )
    assert (
        "its rotation_public_key is"
        in faulty.verify(SnapshotIdentity(**mark | {"rotation_public_key": "02"})).problems[0]
    )


# --- faults in the copy: what a torn upload, a bad disk or a hand may do to it


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something done to a finished copy, and what the verifier has to say."""

    name: str
    do: Callable[[Path, str], None]
    says: str


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
        says="{did}: not restorable: it has no",
    ),
    Damage(
        name="database cut",
        do=lambda at, did: os.truncate(at / repo_path(did) / "store.sqlite", 8192),
        says="{did}: not restorable: store.sqlite is damaged",
    ),
    Damage(name="events flipped", do=lambda at, did: _flip(at / "sequencer.sqlite"), says="sequencer.sqlite is"),
    Damage(
        name="events gone", do=lambda at, did: (at / "sequencer.sqlite").unlink(), says="sequencer.sqlite is missing"
    ),
    Damage(name="accounts gone", do=lambda at, did: (at / "account.sqlite").unlink(), says="account.sqlite is missing"),
    Damage(
        name="accounts cut",
        do=lambda at, did: os.truncate(at / "account.sqlite", 8192),
        says="account.sqlite is damaged",
    ),
    Damage(name="blob gone", do=lambda at, did: _only_blob(at, did).unlink(), says="{did}: with losses: blob bafkrei"),
    Damage(name="blob flipped", do=lambda at, did: _flip(_only_blob(at, did)), says="{did}: with losses: blob bafkrei"),
    Damage(name="mark gone", do=lambda at, did: (at / IDENTITY_FILE).unlink(), says=f"{IDENTITY_FILE} cannot be read"),
    Damage(name="no manifest", do=lambda at, did: (at / MANIFEST).unlink(), says=f"{MANIFEST} cannot be read"),
    Damage(
        name="something added",
        do=lambda at, did: (at / "actors" / "note.txt").touch(),
        says="actors/note.txt is not in the manifest",
    ),
    Damage(
        name="repository gone",
        do=lambda at, did: shutil.rmtree(at / repo_path(did)),
        says="{did}: not restorable: it has no repository",
    ),
)


@pytest.mark.parametrize("damage", _DAMAGES, ids=lambda damage: damage.name)
def test_damage_to_the_copy_is_named(running: Running, still: Data, damage: Damage, tmp_path: Path) -> None:
    copied = tmp_path / "snapshot"
    still.take()
    shutil.copytree(still.snapshot, copied)
    did = running.club.members[4].did
    damage.do(copied, did)
    report = verify(copied, still.document_key)
    lines = (*report.problems, *report.notes)
    assert any(damage.says.format(did=did) in line for line in lines), lines


def _settle(data: Data) -> None:
    """Wait until every file is old enough to have a stamp (SETTLED in the program), and take a copy then.

    The server closes a database after it has answered, and only then empties the log into it.
    """
    for _ in range(5):
        time.sleep(2.1)
        data.take()
        if all(entry["stamp"] for entry in data.manifest()["repositories"].values()):
            return
    pytest.fail("some repository changes without a write")
