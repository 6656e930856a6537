"""Damage of one account affects no other account: backup, check and drill name it, and continue."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.snapshot.verify import LOSSES, MANIFEST, NOT, WHOLE, repo_path, verify
from tests.contract.lines import one_line
from tests.contract.snapshots import PROGRAM, Data, Running
from tests.contract.test_drill import Drill
from tools.trial.directory import PlcDirectory

pytestmark = [pytest.mark.contract, one_line]


def status_of(data: Data, name: str = "backup") -> dict[str, Any]:
    """The status that the alerts job reads."""
    found: dict[str, Any] = json.loads((data.path / ".run-status" / f"{name}.json").read_text())
    return found


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Damage to the live data of an account, and the state in which a backup finds it."""

    name: str
    do: Callable[[Data, str, str], None]
    """Called with the data, the account, and another account."""
    state: str
    says: str
    """Part of the backup's finding, or of the verdict on the copy."""


def key_of(data: Data, did: str) -> Path:
    """The file with an account's signing key."""
    return data.path / repo_path(did) / "key"


def store_of(data: Data, did: str) -> Path:
    """An account's database."""
    return data.path / repo_path(did) / "store.sqlite"


def overwrite_pages(data: Data, did: str, _other: str = "") -> None:
    """Overwrite three pages in the middle, as a bad disk does."""
    with store_of(data, did).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(3 * 4096))


def lose_a_blob(data: Data, did: str, _other: str = "") -> None:
    """Delete one blob."""
    next((data.path / "blocks" / did).iterdir()).unlink()


def flip_a_blob(data: Data, did: str, _other: str = "") -> None:
    """Flip one bit of a blob and keep its size."""
    blob = next((data.path / "blocks" / did).iterdir())
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.unlink()
    blob.write_bytes(content)


def _swap_keys(data: Data, did: str, other: str) -> None:
    one, two = key_of(data, did), key_of(data, other)
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])


def _leave_a_log(data: Data, did: str, _other: str) -> None:
    """Leave a log with a torn last frame, as a crash does. SQLite applies the whole frames before it: here, none."""
    Path(f"{store_of(data, did)}-wal").write_bytes(os.urandom(4096))


def _in_store(data: Data, did: str, *statements: str) -> None:
    with closing(sqlite3.connect(store_of(data, did))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def lose_a_record(data: Data, did: str, _other: str = "") -> None:
    """Delete one record's block."""
    one = "(select cid from repo_block where cid in (select cid from record) limit 1)"
    _in_store(data, did, f"delete from repo_block where cid = {one}")  # noqa: S608


def _flip_a_record(data: Data, did: str, _other: str) -> None:
    with closing(sqlite3.connect(store_of(data, did))) as db:
        cid, content = db.execute("select b.cid, content from repo_block b join record r on r.cid = b.cid").fetchone()
        db.execute("update repo_block set content = ? where cid = ?", (content[:-1] + bytes([content[-1] ^ 1]), cid))
        db.commit()


def lose_the_tree(data: Data, did: str, _other: str = "") -> None:
    """Delete all nodes of the record tree; keep the newest commit and the records."""
    kept = "select cid from record union select cid from repo_root"
    _in_store(data, did, f"delete from repo_block where cid not in ({kept})")  # noqa: S608


DAMAGES = (
    Damage(name="key gone", do=lambda at, did, _: key_of(at, did).unlink(), state=NOT, says="it has no key"),
    Damage(
        name="key cut", do=lambda at, did, _: os.truncate(key_of(at, did), 16), state=NOT, says="not a secp256k1 key"
    ),
    Damage(name="keys swapped", do=_swap_keys, state=NOT, says="is not signed with the account's key"),
    Damage(
        name="folder gone",
        do=lambda at, did, _: shutil.rmtree(at.path / repo_path(did)),
        state=NOT,
        says="folder is gone",
    ),
    Damage(
        name="store empty",
        do=lambda at, did, _: os.truncate(store_of(at, did), 0),
        state=NOT,
        says="it has no store.sqlite",
    ),
    Damage(name="store cut", do=lambda at, did, _: os.truncate(store_of(at, did), 8192), state=NOT, says="damaged"),
    Damage(name="pages overwritten", do=overwrite_pages, state=NOT, says="store.sqlite is damaged"),
    Damage(name="blob gone", do=lose_a_blob, state=LOSSES, says="blob bafkrei"),
    Damage(name="blob flipped", do=flip_a_blob, state=LOSSES, says="blob bafkrei"),
    Damage(name="record gone", do=lose_a_record, state=LOSSES, says="is lost"),
    Damage(name="record flipped", do=_flip_a_record, state=LOSSES, says="is lost"),
    Damage(name="tree gone", do=lose_the_tree, state=LOSSES, says="made again from the table"),
    Damage(name="log left behind", do=_leave_a_log, state=WHOLE, says=""),
)


def did_of(running: Running, number: int) -> str:
    return running.club.members[number].did


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_backup_names_the_damaged_account_and_copies_the_others(running: Running, faulty: Data, damage: Damage) -> None:
    did, other = did_of(running, 3), did_of(running, 4)
    damage.do(faulty, did, other)
    output = faulty.take()
    findings = faulty.manifest()["findings"]
    concerned = {did} | ({other} if damage.name == "keys swapped" else set())
    if damage.state == WHOLE:
        assert findings == {}
        assert faulty.verify().problems == ()
        return
    assert findings.keys() == concerned
    assert findings[did]["state"] == damage.state
    assert damage.says in findings[did]["what"]
    assert f"FINDING: {did}: {damage.state}" in output
    assert "./pds restore STACK --only" in findings[did]["what"] or "post it again" in findings[did]["what"], "a remedy"
    report = faulty.verify()
    assert report.refusals == ()
    others = {one: verdict.state for one, verdict in report.accounts.items() if one not in concerned}
    assert set(others.values()) == {WHOLE}
    assert len(others) == len(report.manifest["accounts"]) - len(concerned)
    assert report.accounts[did].state == damage.state


@pytest.mark.parametrize(
    "damage", [damage for damage in DAMAGES if damage.state == NOT], ids=lambda damage: damage.name
)
def test_last_whole_copy_of_a_damaged_account_stays_in_the_backups(
    running: Running, faulty: Data, damage: Damage
) -> None:
    did, other = did_of(running, 3), did_of(running, 4)
    faulty.take()
    first = faulty.manifest()
    damage.do(faulty, did, other)
    for _ in range(3):  # the age of the last whole copy counts, not of the last copy
        faulty.take()
        finding = faulty.manifest()["findings"][did]
        assert f"keep its copy of {first['started']}" in finding["what"]
        assert faulty.manifest()["repositories"][did]["of"] == first["started"]
        assert faulty.verify().problems == (), "every account of the copy is whole"
    assert finding["since"] <= faulty.manifest()["started"], (
        "it is reported once: it keeps the time at which it was first seen"
    )


def test_blob_that_the_server_lost_stays_in_the_backups_that_had_it(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    for damage in (lose_a_blob, flip_a_blob):
        faulty.take()
        copied = next((faulty.snapshot / "blocks" / did).iterdir()).read_bytes()
        damage(faulty, did)
        with closing(sqlite3.connect(store_of(faulty, did))) as db:
            db.execute("update repo_root set indexedAt = indexedAt || ' '")  # so that its database is copied again
            db.commit()
        faulty.take()
        assert "missing on the server. The backups keep" in faulty.manifest()["findings"][did]["what"]
        blob = next((faulty.snapshot / "blocks" / did).iterdir())
        assert blob.read_bytes() == copied
        assert faulty.verify().problems == ()
        shutil.copy(blob, faulty.path / "blocks" / did / blob.name)
        faulty.take()
        assert faulty.manifest()["findings"] == {}, "a restored blob must not be a finding"


def test_key_of_a_damaged_account_is_kept(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    overwrite_pages(faulty, did)
    faulty.take()
    assert (faulty.snapshot / repo_path(did) / "key").read_bytes() == key_of(faulty, did).read_bytes()
    assert (faulty.snapshot / repo_path(did) / "store.sqlite.damaged").exists(), (
        "an operator can try to read it by hand"
    )


def test_each_account_is_checked_once_a_day_and_not_all_at_once(running: Running, faulty: Data) -> None:
    faulty.take()
    manifest = faulty.manifest()
    assert all(entry["checked"] for entry in manifest["repositories"].values()), "the first backup checks all"
    set_back(faulty, hours=2)
    faulty.take()
    again = {did for did, entry in faulty.manifest()["repositories"].items() if entry["checked"] > manifest["finished"]}
    assert 0 < len(again) < len(manifest["repositories"]), "two hours of a day check a share of them"
    set_back(faulty, hours=24)
    faulty.take()
    later = faulty.manifest()
    assert all(entry["checked"] > later["started"] for entry in later["repositories"].values())


def set_back(data: Data, hours: int) -> None:
    """Set the time of the last backup back by so many hours."""
    manifest = data.manifest()
    manifest["started"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    (data.snapshot / MANIFEST).write_text(json.dumps(manifest))


def test_server_without_its_events_is_backed_up_with_a_finding(faulty: Data) -> None:
    (faulty.path / "sequencer.sqlite").write_bytes(os.urandom(8192))
    faulty.take()
    assert "A restore begins new events" in faulty.manifest()["findings"]["sequencer.sqlite"]["what"]
    report = faulty.verify()
    assert report.problems == ()
    assert any("events begin anew" in note for note in report.notes)


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_unreadable_account_database_fails_the_backup_and_keeps_the_last(faulty: Data, content: bytes | None) -> None:
    faulty.take()
    before = faulty.manifest()
    (faulty.path / "account.sqlite").unlink()
    if content is not None:
        (faulty.path / "account.sqlite").write_bytes(content)
    assert "REFUSED: account.sqlite cannot be read" in faulty.take(code=1)
    assert "account.sqlite cannot be read" in status_of(faulty)["why"]
    assert faulty.manifest() == before


def test_killed_run_is_a_failed_run(faulty: Data) -> None:
    with faulty.start() as process:
        while not (faulty.path / ".run-status" / "backup.json").exists():
            assert process.poll() is None
        process.kill()
        process.wait(600)
    began = status_of(faulty)["began"]
    faulty.take()
    assert status_of(faulty)["failed"] == began
    assert "it was killed" in status_of(faulty)["why"]


def test_drill_of_a_backup_with_damaged_accounts_serves_the_others(
    running: Running, faulty: Data, directory: PlcDirectory, tmp_path: Path
) -> None:
    broken, pictures, posts = (did_of(running, number) for number in (1, 2, 3))
    overwrite_pages(faulty, broken)
    lose_a_blob(faulty, pictures)
    lose_a_record(faulty, posts)
    faulty.take()
    drill = Drill(folder=tmp_path / "alloc", live=tmp_path / "live", install=faulty.install, directory=directory)
    shutil.copytree(faulty.snapshot, drill.fetched)
    (drill.folder / "data" / "fetched.json").write_text('{"seconds": 3}\n')
    drill.live.mkdir()
    count = drill.accounts
    output = drill.verify()
    assert ": 0 faults" in output
    assert f"FINDING: {broken}: {NOT}" in output
    assert f"{count - 1} repositories served by the server on the copy: 0 faults" in drill.serve()
    outcome: dict[str, Any] = dict(drill.outcome())
    assert "good" in outcome, "the backup can be restored"
    assert {did: finding["state"] for did, finding in outcome["findings"].items()} == {
        broken: NOT, pictures: LOSSES, posts: LOSSES
    }  # fmt: skip
    assert verify(faulty.snapshot, faulty.document_key).accounts[posts].records


def test_unreadable_blob_is_a_finding_about_its_account(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    _in_store(faulty, did, "insert into blob (cid, mimeType, size, createdAt) values ('', 'x', 1, '')")
    blob = next((faulty.path / "blocks" / did).iterdir())
    blob.unlink()
    blob.mkdir()  # reading it fails, as it does on a bad disk
    faulty.take()
    assert {one: found["state"] for one, found in faulty.manifest()["findings"].items()} == {did: LOSSES}
    copied = faulty.snapshot / "blocks" / did / blob.name
    copied.mkdir(parents=True)
    report = faulty.verify()
    assert {one for one, verdict in report.accounts.items() if verdict.state != WHOLE} == {did}


def test_check_that_ends_without_a_verdict_is_a_finding_about_its_account(
    running: Running, faulty: Data, tmp_path: Path
) -> None:
    """The check of one account runs out of memory, or SQLite crashes it."""
    did = did_of(running, 3)
    faulty.take()
    for how in ("SIGKILL", "SIGSEGV"):
        shutil.copytree(PROGRAM.parent, tmp_path / how)
        program = tmp_path / how / "account_check.cjs"
        text = program.read_text()
        place = "function verdictOn(folder, did, expectations) {\n"
        assert text.count(place) == 1
        dying = f'  if (did === "{did}") process.kill(process.pid, "{how}");\n'
        program.write_text(text.replace(place, place + dying))
        set_back(faulty, hours=24)
        with faulty.start(programs=str(tmp_path / how)) as process:
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        manifest = faulty.manifest()
        assert manifest["findings"].keys() == {did}
        assert ("killed" if how == "SIGKILL" else how) in manifest["findings"][did]["what"]
        assert all(entry["checked"] > manifest["started"] for entry in manifest["repositories"].values())


def test_unreadable_folder_of_accounts_is_a_finding_about_them_only(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    shard = (faulty.path / repo_path(did)).parent
    faulty.take()
    shutil.rmtree(shard)
    shard.symlink_to(shard.name)  # opening it is an error, as on a bad disk
    faulty.take()
    findings = faulty.manifest()["findings"]
    assert did in findings
    assert "The backups keep its copy" in findings[did]["what"]
    assert faulty.verify().problems == ()


def test_finding_stays_while_the_account_is_written_to(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    faulty.take()
    lose_a_record(faulty, did)
    set_back(faulty, hours=24)
    faulty.take()
    first = faulty.manifest()["findings"][did]
    for _ in range(2):
        _in_store(faulty, did, "update repo_root set indexedAt = indexedAt || ' '")
        faulty.take()
        assert faulty.manifest()["findings"].get(did) == first
