"""The rendered backup job's scripts with restic and an S3 server: what was sent can be fetched whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.lib.subprocesses import child
from cli.snapshot.verify import WHOLE, repo_path, verify
from components.render.jobs.backup import backup_job
from offline.hcl_reader import job_of, task_of
from tests.contract.bucket import Bucket
from tests.contract.cheap_repository import cheap_repository
from tests.contract.lines import one_line
from tests.contract.restores import restoring
from tests.contract.snapshots import Data, Running, account_store
from tests.support.programs import BACKUP, settings_of
from tests.support.s3 import BUCKET, s3_server
from tools.trial.directory import PlcDirectory

# The sending task does not depend on the version line of the server.
pytestmark = [pytest.mark.contract, one_line]

_DEADLINE = 600.0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with one empty bucket, and one of another account."""
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET, strangers=("theirs",)) as url:
        yield url


@pytest.fixture
def empty_bucket(s3: str, tmp_path: Path, request: pytest.FixtureRequest) -> Bucket:
    """An empty place in the bucket, for one test."""
    return Bucket(url=s3, place=f"place-{abs(hash(request.node.nodeid))}", folder=tmp_path / "alloc")


@pytest.fixture
def bucket(empty_bucket: Bucket, repository: Mapping[str, bytes]) -> Bucket:
    """A place with a repository without backups, for one test."""
    return empty_bucket.prepare(repository)


def test_sent_snapshot_is_fetched_whole(running: Running, empty_bucket: Bucket, tmp_path: Path) -> None:
    with running.club.writing():
        running.data.take()
    output = empty_bucket.send(running.data)
    assert "created restic repository" in output
    assert "no errors were found" in output, "restic reads back a part of the bucket"
    empty_bucket.restic("restore", "latest", "--target", str(tmp_path / "fetched"))
    report = verify(tmp_path / "fetched", running.data.document_key)
    assert report.problems == ()
    assert report.manifest == running.data.manifest()


def test_repository_on_a_disk_works_as_well(faulty: Data, empty_bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    (tmp_path / "disk").mkdir()
    repository = str(tmp_path / "disk" / "noted.at")
    assert "created restic repository" in empty_bucket.send(faulty, RESTIC_REPOSITORY=repository)
    empty_bucket.fetch(tmp_path / "new", RESTIC_REPOSITORY=repository)
    report = verify(tmp_path / "new" / ".restore" / "fetched", faulty.document_key)
    assert (report.problems, report.manifest) == ((), faulty.manifest())


def test_refuses_a_place_that_lost_its_backups(
    faulty: Data, bucket: Bucket, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    """restic finds no repository in an emptied bucket, or below a disk that is not mounted. A new one would hide it."""
    disk = tmp_path / "disk" / "noted.at"
    place = {"RESTIC_REPOSITORY": str(disk), "BACKUP_VOLUME": "second-disk"}
    faulty.take()
    _write(disk, repository)
    assert "holds" not in bucket.send(faulty, code=0, **place), "no earlier backup is known"
    bucket.run_status(faulty)
    bucket.send(faulty, code=0, **place)
    elsewhere = disk.rename(tmp_path / "elsewhere")
    output = bucket.send(faulty, code=1, **place)
    assert f"FAILED: {disk} on second-disk holds no backups any more." in output
    assert "./pds backup STACK --new-repository" in output
    assert not disk.exists(), "nothing may be created on the disk below"
    _write(disk, cheap_repository(tmp_path / "theirs"))
    assert "holds other backups than the last good one" in bucket.send(faulty, code=1, **place)
    shutil.rmtree(disk)
    elsewhere.rename(disk)
    bucket.send(faulty, code=0, **place)


def test_begins_new_backups_in_another_place_or_if_asked_to(
    faulty: Data, bucket: Bucket, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    disk = tmp_path / "disk" / "noted.at"
    place = {"RESTIC_REPOSITORY": str(disk), "BACKUP_VOLUME": "second-disk"}
    faulty.take()
    bucket.send(faulty)
    bucket.run_status(faulty)
    assert "created restic repository" in bucket.send(faulty, code=0, **place), "the stack file names another place"
    bucket.run_status(faulty)
    shutil.rmtree(disk)
    _write(disk, repository)
    bucket.send(faulty, code=0, **place | {"BACKUP_VOLUME": "third-disk"})
    bucket.send(faulty, code=1, **place)
    (faulty.path / ".run-status" / "repository").unlink()  # as `--new-repository` does
    bucket.send(faulty, code=0, **place)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_second_backup_sends_only_changes(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    faulty.take()
    output = bucket.send(faulty)
    assert "using parent snapshot" in output
    changed = next(line for line in output.splitlines() if line.startswith("Files:"))
    new, modified = (int(changed.split()[index]) for index in (1, 3))
    # The manifest with its times, the identity file, and the two databases that are copied each time.
    assert (new, modified) == (0, 4), output
    # Snapshots of a day are thinned out only after two days.
    assert len(json.loads(bucket.restic("snapshots", "--json"))) == 2


def _sent_before(bucket: Bucket, data: Data, *days: float) -> None:
    """Send the snapshot as if so many days ago."""
    for count in days:
        time = (datetime.now(UTC) - timedelta(days=count)).strftime("%Y-%m-%d %H:%M:%S")
        bucket.restic("backup", "--host", "noted.at", "--tag", "pds", "--time", time, str(data.snapshot), TZ="UTC")


def _days_ago(bucket: Bucket) -> list[int]:
    """The ages of the snapshots, oldest first, in whole days."""
    times = [item["time"][:19] for item in json.loads(bucket.restic("snapshots", "--tag", "pds", "--json"))]
    now = datetime.now(UTC)
    return [round((now - datetime.fromisoformat(f"{time}+00:00")) / timedelta(days=1)) for time in sorted(times)]


def test_backup_is_deleted_after_keep_days(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    _sent_before(bucket, faulty, 5, 4, 2.9, 2, 1)
    bucket.send(faulty, KEEP_DAYS="3")
    assert _days_ago(bucket) == [3, 2, 1, 0], "data of deleted accounts must be deleted with it"


def test_backups_before_a_long_pause_stay_until_there_are_others(faulty: Data, bucket: Bucket) -> None:
    """The first backup after it may be of damaged data, and by their age all others have expired."""
    faulty.take()
    _sent_before(bucket, faulty, 45, 40, 35)
    bucket.send(faulty, KEEP_DAYS="3")
    assert _days_ago(bucket) == [40, 35, 0]


def test_no_backup_expires_while_one_may_have_the_only_copy_of_an_account(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    did, other = faulty.manifest()["accounts"][:2]
    for name in (did, other):
        account_store(faulty.path, name).write_bytes(b"overwritten")
    faulty.take()
    assert {faulty.manifest()["findings"][name]["state"] for name in (did, other)} == {"not restorable"}
    _sent_before(bucket, faulty, 5, 4, 2, 1)
    assert "no backup expires" not in bucket.send(faulty, KEEP_DAYS="3"), "this one carries a copy of both"
    shutil.rmtree(faulty.snapshot / "actors" / hashlib.sha256(did.encode()).hexdigest()[:2] / did)
    for _ in range(2):
        faulty.take()
        assert "no backup expires" in faulty.manifest()["findings"][did]["what"], "the alerts job reports it"
    _sent_before(bucket, faulty, 5.01, 5)
    output = bucket.send(faulty, KEEP_DAYS="3")
    assert f"note: no backup expires, because an older one may have the only whole copy of {did}\n" in output
    assert _days_ago(bucket).count(5) == 1, "a disk would be full after some weeks"


def test_account_that_was_never_whole_does_not_keep_what_others_deleted(faulty: Data, bucket: Bucket) -> None:
    """A row without a repository on an adopted PDS, or another account's repository that a member imported."""
    with closing(sqlite3.connect(faulty.path / "account.sqlite")) as db, db:
        db.execute("insert into actor (did, handle, createdAt) values ('did:plc:junk', 'junk.noted.at', '2024-01-01')")
        (did,) = db.execute("select did from account limit 1").fetchone()
    account_store(faulty.path, did).write_bytes(b"overwritten")
    for _ in range(2):
        faulty.take()
    assert {faulty.manifest()["findings"][name]["state"] for name in (did, "did:plc:junk")} == {"not restorable"}
    _sent_before(bucket, faulty, 6, 5, 4, 2, 1)
    bucket.send(faulty, KEEP_DAYS="3")
    assert max(_days_ago(bucket)) < 5


def test_killed_run_blocks_neither_the_next_run_nor_a_restore(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.leave_a_lock()
    bucket.fetch(tmp_path / "new")
    assert "no errors were found" in bucket.send(faulty), "it thins out and reads back as usual"


def test_lock_of_another_host_is_respected_and_two_runs_never_send_at_once(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.leave_a_lock("another-host")
    assert "locked" in bucket.send(faulty, code=1)
    bucket.restic("unlock", "--remove-all")
    with child(["flock", str(faulty.snapshot.parent), "cat"], 600, stdin=subprocess.PIPE):
        time.sleep(1)
        assert "another run is sending" in bucket.send(faulty, code=1)


def test_names_a_bucket_of_another_account(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    theirs = f"s3:{bucket.url}/theirs/noted.at"
    output = bucket.send(faulty, code=1, RESTIC_REPOSITORY=theirs)
    fetched = bucket.fetch(tmp_path / "new", code=1, RESTIC_REPOSITORY=theirs)
    for text in (output, fetched):
        assert f"FAILED: {theirs} is not open to this stack's key" in text
        assert "Access Denied" in text
        assert "create repository" not in text, "nothing may be created in it"


def test_names_a_wrong_password_and_writes_nothing(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    output = bucket.send(faulty, code=1, RESTIC_PASSWORD="another password")
    assert "FAILED: the bucket holds backups under another password" in output
    assert len(json.loads(bucket.restic("snapshots", "--json"))) == 1


# --- fetching


def test_fetches_the_newest_or_the_requested_snapshot(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    first = faulty.manifest()["started"]
    bucket.send(faulty)
    faulty.take()
    bucket.send(faulty)
    fetched = tmp_path / "new" / ".restore" / "fetched"
    bucket.fetch(tmp_path / "new")
    assert verify(fetched, faulty.document_key).manifest["started"] == faulty.manifest()["started"]
    older, _newer = json.loads(bucket.restic("snapshots", "--tag", "pds", "--json"))
    assert older["short_id"] in bucket.fetch(tmp_path / "new", NOMAD_META_show="yes")
    bucket.fetch(tmp_path / "new", NOMAD_META_snapshot=older["short_id"])
    report = verify(fetched, faulty.document_key)
    assert (report.problems, report.manifest["started"]) == ((), first)


def test_damaged_pack_loses_only_the_accounts_in_it(
    faulty: Data, bucket: Bucket, directory: PlcDirectory, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    """Older snapshots have the same packs: another one would not help."""
    disk = tmp_path / "disk"
    _write(disk, repository)
    place = {"RESTIC_REPOSITORY": str(disk)}
    faulty.take()
    did = faulty.manifest()["accounts"][0]
    (faulty.path / ".departures.jsonl").write_text("{}\n")
    folder = faulty.snapshot / repo_path(did)
    bucket.restic("backup", "--host", "noted.at", "--tag", "departures", str(folder), code=0, **place)
    packs = [pack for pack in (disk / "data").rglob("*") if pack.is_file()]
    bucket.send(faulty, code=0, **place)
    for pack in packs:
        pack.chmod(0o600)
        pack.write_bytes(os.urandom(pack.stat().st_size))
    new = replace(faulty, path=tmp_path / "new")
    output = bucket.fetch(new.path, code=0, **place)
    assert f"note: {disk} is damaged: not all of snapshot latest could be fetched." in output
    report = verify(new.path / ".restore" / "fetched", faulty.document_key)
    assert {name for name, account in report.accounts.items() if account.state != WHOLE} == {did}
    with restoring(new, PDS_HOSTNAME="noted.at", PDS_DID_PLC_URL=directory.url, NOMAD_META_sequence="1") as restore:
        output = restore.communicate(timeout=_DEADLINE)[0]
    assert restore.returncode == 0, output
    assert f"NOT RESTORED: {did}: " in output
    others = len(faulty.manifest()["accounts"]) - 1
    assert f"{others} accounts in use, 1 not" in output


def test_leaves_nothing_if_the_manifest_is_in_a_damaged_pack(
    faulty: Data, bucket: Bucket, repository: Mapping[str, bytes], tmp_path: Path
) -> None:
    _write(tmp_path / "disk", repository)
    place = {"RESTIC_REPOSITORY": str(tmp_path / "disk")}
    faulty.take()
    (faulty.path / ".departures.jsonl").write_text("{}\n")
    bucket.send(faulty, code=0, **place)
    for pack in [pack for pack in (tmp_path / "disk" / "data").rglob("*") if pack.is_file()]:
        pack.chmod(0o600)
        pack.write_bytes(os.urandom(pack.stat().st_size))
    output = bucket.fetch(tmp_path / "new", code=1, **place)
    assert "FAILED: snapshot latest could not be fetched. Restore another one" in output
    assert {item.name for item in (tmp_path / "new" / ".restore").iterdir()} == {"fetch.lock"}


def test_list_of_departures_is_stored_in_the_bucket_whatever_the_snapshot(
    running: Running, faulty: Data, bucket: Bucket, tmp_path: Path
) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.fetch(tmp_path / "new")
    assert not (tmp_path / "new" / ".restore" / "list").exists(), "no member has left yet"
    line = '{"seq": 99, "time": "2026-06-01T12:00:00.000Z", "did": "did:plc:eve", "status": "deleted"}\n'
    (faulty.path / ".departures.jsonl").write_text(line)
    bucket.send(faulty)
    (oldest, *_rest) = json.loads(bucket.restic("snapshots", "--tag", "pds", "--json"))
    for change in ({"NOMAD_META_snapshot": oldest["short_id"]}, {"NOMAD_META_from": "volume"}):
        bucket.fetch(tmp_path / "new", **change)
        assert (tmp_path / "new" / ".restore" / "list" / ".departures.jsonl").read_text() == line
    closed = bucket.fetch(tmp_path / "new", NOMAD_META_from="volume", RESTIC_PASSWORD="another password")
    assert "does not give its list of departures" in closed, "a snapshot on the volume does not need a readable bucket"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RESTIC_PASSWORD": "another password"}, "under another password"),
        ({"NOMAD_META_snapshot": "12345678"}, "there is no snapshot 12345678 of noted.at"),
        ({"PDS_HOSTNAME": "chess.at"}, "there is no snapshot latest of chess.at"),
        ({"PDS_SNAPSHOT_RESERVE_MIB": "999999999"}, "Make the volume larger"),
    ],
)
def test_names_what_cannot_be_fetched_and_leaves_nothing(
    faulty: Data, bucket: Bucket, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    faulty.take()
    bucket.send(faulty)
    assert message in bucket.fetch(tmp_path / "new", code=1, **change)
    assert not (tmp_path / "new" / ".restore" / "fetched").exists()


def test_refuses_a_second_restore_at_the_same_time(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    bucket.send(faulty)
    theirs = tmp_path / "new" / ".restore"
    (theirs / "older").mkdir(parents=True)
    (theirs / "fetched.part").mkdir()
    with (theirs / "fetch.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        for change in ({}, {"NOMAD_META_from": "volume"}, {"NOMAD_META_only": "did:plc:ann"}):
            output = bucket.fetch(tmp_path / "new", code=1, **change)
            assert "FAILED: another restore is fetching a snapshot for this PDS. This one changed nothing." in output
        assert {item.name for item in theirs.iterdir()} == {"fetch.lock", "fetched.part", "older"}
        assert "noted.at" in bucket.fetch(tmp_path / "new", NOMAD_META_show="yes"), "listing touches no files"
    bucket.fetch(tmp_path / "new")
    assert (theirs / "fetched" / "manifest.json").exists()


def test_names_a_bucket_without_backups(line: str, empty_bucket: Bucket, tmp_path: Path) -> None:
    assert "holds no backups" in empty_bucket.fetch(tmp_path / "new", code=1)
    empty_bucket.fetch(tmp_path / "new", NOMAD_META_from="volume")  # a snapshot on the volume needs no backups


def test_sends_nothing_without_a_snapshot(faulty: Data, empty_bucket: Bucket) -> None:
    assert "FAILED: there is no snapshot in" in empty_bucket.send(faulty, code=1)


def test_output_does_not_contain_the_password(faulty: Data, empty_bucket: Bucket) -> None:
    faulty.take()
    output = empty_bucket.send(faulty)
    assert "a password for the tests" not in output
    assert "only a test" not in output


def test_snapshot_task_has_no_key_of_the_bucket(line: str) -> None:
    job = job_of(backup_job(settings_of(backup=BACKUP), "dev"), "pds-backup")
    snapshot, send = task_of(job, "snapshot"), task_of(job, "send")
    assert "nomadVar" not in json.dumps(snapshot), "it reads members' data and needs no secret"
    assert send["volume_mount"][0]["read_only"] is True
