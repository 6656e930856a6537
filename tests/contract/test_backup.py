"""The rendered backup job's scripts against restic and an S3 server: what was sent can be fetched, and is whole."""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.lib.subprocesses import child
from cli.snapshot.verify import verify
from components.render.jobs.backup import backup_job
from offline.hcl_reader import job_of, task_of
from tests.contract.bucket import Bucket
from tests.contract.snapshots import Data, Running
from tests.support.programs import BACKUP, settings_of
from tests.support.s3 import BUCKET, s3_server
from tools.trial.node import PDS_LINES

# What sends a copy does not know which server it is of.
pytestmark = [pytest.mark.contract, pytest.mark.parametrize("line", PDS_LINES[-1:], indirect=True)]

_DEADLINE = 120.0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with one empty bucket, and one of another account."""
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET, strangers=("theirs",)) as url:
        yield url


@pytest.fixture
def bucket(s3: str, tmp_path: Path, request: pytest.FixtureRequest) -> Bucket:
    """An empty place in the bucket, for one test."""
    return Bucket(url=s3, place=f"place-{abs(hash(request.node.nodeid))}", folder=tmp_path / "alloc")


def test_what_was_sent_is_fetched_whole(running: Running, bucket: Bucket, tmp_path: Path) -> None:
    with running.club.writing():
        running.data.take()
    said = bucket.send(running.data)
    assert "created restic repository" in said
    assert "no errors were found" in said, "a part of the bucket was read back"
    bucket.restic("restore", "latest", "--target", str(tmp_path / "fetched"))
    report = verify(tmp_path / "fetched", running.data.document_key)
    assert report.problems == ()
    assert report.manifest == running.data.manifest()


def test_another_disk_does_as_well(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    (tmp_path / "disk").mkdir()
    there = str(tmp_path / "disk" / "noted.at")
    assert "created restic repository" in bucket.send(faulty, RESTIC_REPOSITORY=there)
    bucket.fetch(tmp_path / "new", RESTIC_REPOSITORY=there)
    report = verify(tmp_path / "new" / ".restore" / "fetched", faulty.document_key)
    assert (report.problems, report.manifest) == ((), faulty.manifest())


def test_a_second_backup_sends_what_changed_and_no_more(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    faulty.take()
    said = bucket.send(faulty)
    assert "using parent snapshot" in said
    changed = next(line for line in said.splitlines() if line.startswith("Files:"))
    new, modified = (int(changed.split()[index]) for index in (1, 3))
    # The manifest with its times, the mark, and the two databases that are copied each time.
    assert (new, modified) == (0, 4), said
    # Those of one day are thinned out only when two days are over.
    assert len(json.loads(bucket.restic("snapshots", "--json"))) == 2


def test_a_backup_is_gone_when_its_days_are_over(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.restic("backup", "--host", "noted.at", "--tag", "pds", "--time", "2026-01-01 00:00:00", str(faulty.snapshot))
    bucket.send(faulty)
    times = [item["time"][:10] for item in json.loads(bucket.restic("snapshots", "--json"))]
    assert "2026-01-01" not in times, "what a deleted account left behind goes with it"
    assert len(times) == 2


def test_whether_it_went_well_is_left_for_the_job_that_watches(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    assert "the snapshot was not sent" in bucket.run_status(faulty)["why"]
    bucket.send(faulty)
    assert bucket.run_status(faulty).keys() == {"first", "good", "findings"}
    (bucket.folder / "data" / "checked").unlink()  # as where the bucket has lost something
    told = bucket.run_status(faulty)
    assert told.keys() == {"first", "good", "findings", "failed", "why"}, "it was sent, and an operator has to look"
    assert "went wrong" in told["why"]


def test_a_run_that_was_killed_stops_neither_the_next_one_nor_a_restore(
    faulty: Data, bucket: Bucket, tmp_path: Path
) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.leave_a_lock()
    bucket.fetch(tmp_path / "new")
    assert "no errors were found" in bucket.send(faulty), "thinned out and read back as always"


def test_another_host_s_lock_is_respected_and_two_do_not_send_at_once(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    bucket.leave_a_lock("another-host")
    assert "locked" in bucket.send(faulty, code=1)
    bucket.restic("unlock", "--remove-all")
    with child(["flock", str(faulty.snapshot.parent), "cat"], 120, stdin=subprocess.PIPE):
        time.sleep(1)
        assert "another run is sending" in bucket.send(faulty, code=1)


def test_a_bucket_of_another_account_is_named(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
    faulty.take()
    theirs = f"s3:{bucket.url}/theirs/noted.at"
    said = bucket.send(faulty, code=1, RESTIC_REPOSITORY=theirs)
    fetched = bucket.fetch(tmp_path / "new", code=1, RESTIC_REPOSITORY=theirs)
    for text in (said, fetched):
        assert f"FAILED: {theirs} is not open to this stack's key" in text
        assert "Access Denied" in text
        assert "create repository" not in text, "nothing was tried there"


def test_a_wrong_password_is_named_and_nothing_is_written(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    bucket.send(faulty)
    said = bucket.send(faulty, code=1, RESTIC_PASSWORD="another password")
    assert "FAILED: the bucket holds backups under another password" in said
    assert len(json.loads(bucket.restic("snapshots", "--json"))) == 1


# --- the way back


def test_the_newest_snapshot_or_the_one_asked_for_is_fetched(faulty: Data, bucket: Bucket, tmp_path: Path) -> None:
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


def test_the_list_of_who_left_goes_to_the_bucket_and_back_whatever_the_snapshot(
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
    assert "does not give its list of departures" in closed, "a snapshot on the volume needs no bucket that opens"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RESTIC_PASSWORD": "another password"}, "under another password"),
        ({"NOMAD_META_snapshot": "12345678"}, "there is no snapshot 12345678 of noted.at"),
        ({"PDS_HOSTNAME": "chess.at"}, "there is no snapshot latest of chess.at"),
        ({"PDS_SNAPSHOT_RESERVE_MIB": "999999999"}, "Make the volume larger"),
    ],
)
def test_what_cannot_be_fetched_is_named_and_leaves_nothing(
    faulty: Data, bucket: Bucket, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    faulty.take()
    bucket.send(faulty)
    assert says in bucket.fetch(tmp_path / "new", code=1, **change)
    assert not (tmp_path / "new" / ".restore" / "fetched").exists()


def test_of_two_restores_at_once_the_second_is_refused_and_touches_nothing(
    faulty: Data, bucket: Bucket, tmp_path: Path
) -> None:
    faulty.take()
    bucket.send(faulty)
    theirs = tmp_path / "new" / ".restore"
    (theirs / "older").mkdir(parents=True)
    (theirs / "fetched.part").mkdir()
    with (theirs / "fetch.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        for change in ({}, {"NOMAD_META_from": "volume"}, {"NOMAD_META_only": "did:plc:ann"}):
            said = bucket.fetch(tmp_path / "new", code=1, **change)
            assert "FAILED: another restore is fetching a snapshot for this PDS. This one changed nothing." in said
        assert {item.name for item in theirs.iterdir()} == {"fetch.lock", "fetched.part", "older"}
        assert "noted.at" in bucket.fetch(tmp_path / "new", NOMAD_META_show="yes"), "a list touches no files"
    bucket.fetch(tmp_path / "new")
    assert (theirs / "fetched" / "manifest.json").exists()


def test_a_bucket_without_backups_is_named(line: str, bucket: Bucket, tmp_path: Path) -> None:
    assert "holds no backups" in bucket.fetch(tmp_path / "new", code=1)
    bucket.fetch(tmp_path / "new", NOMAD_META_from="volume")  # what is on the volume needs none


def test_without_a_snapshot_nothing_is_sent(faulty: Data, bucket: Bucket) -> None:
    assert "FAILED: there is no snapshot in" in bucket.send(faulty, code=1)


def test_the_password_is_not_in_what_the_task_says(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    said = bucket.send(faulty)
    assert "a password for the tests" not in said
    assert "only a test" not in said


def test_the_snapshot_task_has_no_key_of_the_bucket(line: str) -> None:
    job = job_of(backup_job(settings_of(backup=BACKUP), "dev"), "pds-backup")
    snapshot, send = task_of(job, "snapshot"), task_of(job, "send")
    assert "nomadVar" not in json.dumps(snapshot), "it reads members' data and needs nothing else"
    assert send["volume_mount"][0]["read_only"] is True
