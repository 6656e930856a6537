"""The job that removes uploads without a record, beside a real PDS that continues to serve, and `./pds usage`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cli.lib.subprocesses import child
from cli.observe.usage import USAGE_SCRIPT, AccountUsage, UsageReport, report_of
from tests.contract.club import Club, Member, cid_of
from tests.contract.snapshots import DEADLINE, PROGRAM, Data, Running, account_store, paused
from tools.trial.xrpc import RefusedError

pytestmark = pytest.mark.contract

SCRIPT = PROGRAM.with_name("unreferenced_blobs.cjs")
PAUSES = Path(__file__).with_name("pauses_at_an_upload.cjs")
DAYS = 30
OLD = time.time() - 40 * 86400


@dataclass(frozen=True)
class Upload:
    """A blob that was uploaded, and the key of its file."""

    blob: dict[str, Any]
    cid: str
    key: str


@dataclass(frozen=True)
class Site:
    """A new member of the running club, and their files."""

    data: Data
    club: Club
    member: Member

    @property
    def uploads(self) -> Path:
        """The folder of uploads without a record."""
        return self.data.path / "temp" / self.member.did

    def blob_file(self, upload: Upload) -> Path:
        """The file of a blob that a record names."""
        return self.data.path / "blocks" / self.member.did / upload.cid

    def query(self, text: str, *values: object) -> list[Any]:
        """Rows of the account's database, which the server has open too."""
        with closing(sqlite3.connect(account_store(self.data.path, self.member.did))) as db, db:
            return db.execute(text, values).fetchall()

    def upload(self, content: bytes) -> Upload:
        """Upload a blob."""
        blob = self.member.client.upload_blob([content], len(content))
        cid = blob["ref"]["$link"]
        [(key,)] = self.query("select tempKey from blob where cid = ?", cid)
        return Upload(blob, cid, key)

    def old_upload(self, content: bytes) -> Upload:
        """Upload a blob that is 40 days old afterwards."""
        upload = self.upload(content)
        self.query("update blob set createdAt = '2026-01-01T00:00:00.000Z' where cid = ?", upload.cid)
        os.utime(self.uploads / upload.key, (OLD, OLD))
        return upload

    def rows(self) -> set[str]:
        """CIDs of the account's blobs."""
        return {cid for (cid,) in self.query("select cid from blob")}

    def files(self) -> set[str]:
        """Names of the files of uploads."""
        return {file.name for file in self.uploads.iterdir()}

    @contextmanager
    def job(self, **change: str) -> Iterator[subprocess.Popen[str]]:
        """The job, as Nomad runs it, with standard input."""
        env = {
            "PATH": os.defpath,
            "PDS_DATA_DIRECTORY": str(self.data.path),
            "PDS_BLOBSTORE_DISK_TMP_LOCATION": str(self.data.path / "temp"),
            "UNREFERENCED_BLOB_DAYS": str(DAYS),
        }
        command = [str(self.data.install.node), str(SCRIPT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with child(command, DEADLINE, cwd=self.data.install.folder, env=env | change, **pipes) as running:
            yield running

    def run(self, code: int = 0, **change: str) -> str:
        """Run the job to its end; return its output."""
        with self.job(**change) as running:
            output, _ = running.communicate(timeout=DEADLINE)
        assert running.returncode == code, output
        return output

    @contextmanager
    def paused(self, step: str, upload: Upload) -> Iterator[None]:
        """The job, paused at this step of an upload until the block ends; then it succeeds."""
        with paused(self.job(**pausing(step, upload))):
            yield

    def report(self) -> UsageReport:
        """The output of `./pds usage`, as in the server's container."""
        done = subprocess.run(
            [str(self.data.install.node), "-e", USAGE_SCRIPT.read_text(), "1000"],
            cwd=self.data.install.folder,
            env={
                "PDS_DATA_DIRECTORY": str(self.data.path),
                "PDS_BLOBSTORE_DISK_TMP_LOCATION": str(self.data.path / "temp"),
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        return report_of(json.loads(done.stdout))

    def usage(self) -> AccountUsage:
        """The member's line of it."""
        [account] = [account for account in self.report().accounts if account.did == self.member.did]
        return account

    def snapshot_is_whole(self) -> None:
        """Assert that a backup made now has this account without a finding, and verifies."""
        self.data.take()
        assert self.member.did not in self.data.manifest()["findings"]
        report = self.data.verify()
        assert not [problem for problem in report.problems if self.member.did in str(problem)]


def pausing(step: str, upload: Upload) -> dict[str, str]:
    """The job's environment that pauses it."""
    return {"NODE_OPTIONS": f"--require={PAUSES}", "PAUSE_AT": step, "PAUSE_KEY": upload.key}


@pytest.fixture
def site(running: Running) -> Site:
    club = running.club
    return Site(running.data, club, club.join())


def test_removes_only_old_uploads_that_no_record_names(site: Site) -> None:
    site.run()  # what other tests left to other members
    named = site.upload(b"named by a record")
    site.club.refer(site.member, named.blob)
    old = site.old_upload(b"old")
    young = site.upload(b"young")
    new_file = site.old_upload(b"of an old row, but written lately")
    os.utime(site.uploads / new_file.key)
    taken_down = site.old_upload(b"taken down")
    site.query("update blob set takedownRef = 'mod' where cid = ?", taken_down.cid)
    imported = site.old_upload(b"named by a record that came before it")
    site.query("insert into record_blob values (?, 'at://x/y/z')", imported.cid)
    new_row = site.old_upload(b"of an old file, but uploaded lately")
    site.query("update blob set createdAt = '2999-01-01T00:00:00.000Z' where cid = ?", new_row.cid)
    kept = [young, new_file, taken_down, imported, new_row]

    site.run()
    assert site.files() == {upload.key for upload in kept}
    assert site.rows() == {upload.cid for upload in kept} | {named.cid}
    assert site.blob_file(named).read_bytes() == b"named by a record"
    assert old.cid not in site.rows()
    status = json.loads((site.data.path / ".run-status" / "unreferenced-blobs.json").read_text())
    assert (status["removed"], status["bytes"]) == (1, len(b"old"))
    site.snapshot_is_whole()


def test_a_later_upload_of_the_same_blob_stays_and_the_replaced_file_goes(site: Site) -> None:
    first = site.old_upload(b"uploaded twice")
    again = site.upload(b"uploaded twice")
    assert (again.cid, again.key == first.key) == (first.cid, False)
    assert site.usage().leftover_bytes == len(b"uploaded twice")
    site.run()
    assert site.files() == {again.key}
    site.club.refer(site.member, again.blob)
    assert site.blob_file(again).read_bytes() == b"uploaded twice"


def test_keeps_a_blob_whose_record_arrives_after_the_job_has_listed_it(site: Site) -> None:
    upload = site.old_upload(b"a record arrives")
    with site.paused("listed", upload):
        uri = site.club.refer(site.member, upload.blob)
    assert site.blob_file(upload).read_bytes() == b"a record arrives"
    assert site.rows() == {upload.cid}
    assert b"".join(site.member.client.stream_blob(site.member.did, upload.cid)) == b"a record arrives"
    assert cid_of(site.member.client, uri)
    site.snapshot_is_whole()


def test_refuses_a_record_that_arrives_while_its_upload_is_removed(site: Site) -> None:
    upload = site.old_upload(b"too late")
    refusals: list[RefusedError] = []

    def refer() -> None:
        try:
            site.club.refer(site.member, upload.blob)
        except RefusedError as error:
            refusals.append(error)

    record = threading.Thread(target=refer, daemon=True)
    with site.paused("locked", upload):
        record.start()
    record.join(DEADLINE)
    assert "BlobNotFound" in str(refusals[0]), "no record names a blob that is gone"
    assert (site.rows(), site.files()) == (set(), set())
    assert site.query("select * from record_blob") == []
    site.club.refer(site.member, site.upload(b"too late").blob)
    assert site.blob_file(upload).read_bytes() == b"too late", "another upload of the same blob is accepted"


def test_an_upload_of_the_same_blob_before_the_file_is_deleted_is_untouched(site: Site) -> None:
    first = site.old_upload(b"once more")
    with site.paused("committed", first):
        again = site.upload(b"once more")
        site.club.refer(site.member, again.blob)
    assert site.blob_file(again).read_bytes() == b"once more"
    assert site.files() == set()


def test_a_run_killed_before_it_deletes_the_file_leaves_no_row_and_the_next_run_ends_it(site: Site) -> None:
    upload = site.old_upload(b"killed")
    site.run(code=-signal.SIGKILL, **pausing("committed", upload), PAUSE_KILLS="1")
    assert (site.rows(), site.files()) == (set(), {upload.key}), "never a row without a file"
    site.snapshot_is_whole()
    site.run()
    assert site.files() == set()


def test_a_run_killed_inside_the_transaction_changes_nothing(site: Site) -> None:
    upload = site.old_upload(b"rolled back")
    site.run(code=-signal.SIGKILL, **pausing("locked", upload), PAUSE_KILLS="1")
    assert (site.rows(), site.files()) == ({upload.cid}, {upload.key})
    site.club.refer(site.member, upload.blob)
    assert site.blob_file(upload).read_bytes() == b"rolled back"


def test_a_damaged_account_fails_the_run_and_stops_no_other(site: Site) -> None:
    upload = site.old_upload(b"of a whole account")
    damaged = "did:plc:damaged"
    folder = site.data.path / "temp" / damaged
    store = site.data.path / "actors" / sha256(damaged.encode()).hexdigest()[:2] / damaged / "store.sqlite"
    store.parent.mkdir(parents=True)
    folder.mkdir()
    try:
        store.write_bytes(b"no database" * 100)
        (folder / "key").write_bytes(b"x")
        os.utime(folder / "key", (OLD, OLD))
        assert f"{damaged}: its uploads could not be removed" in site.run(code=1)
        assert (folder / "key").exists()
    finally:
        store.unlink()
        store.parent.rmdir()
        (folder / "key").unlink()
        folder.rmdir()
    assert upload.key not in site.files()
    status = json.loads((site.data.path / ".run-status" / "unreferenced-blobs.json").read_text())
    assert "damaged" in status["why"]
    site.run()


def test_removes_nothing_of_blobs_in_a_bucket(site: Site) -> None:
    upload = site.old_upload(b"in a bucket")
    assert "nothing is removed" in site.run(PDS_BLOBSTORE_DISK_TMP_LOCATION="")
    assert (site.rows(), site.files()) == ({upload.cid}, {upload.key})


def test_refuses_to_run_without_a_number_of_days_or_during_a_restore(site: Site) -> None:
    upload = site.old_upload(b"kept")
    for days in ("", "0", "None"):
        assert "UNREFERENCED_BLOB_DAYS" in site.run(code=1, UNREFERENCED_BLOB_DAYS=days)
    swap = site.data.path / ".restore" / "swap.json"
    swap.parent.mkdir()
    try:
        swap.touch()
        assert "a restore was cut short" in site.run(code=1)
    finally:
        swap.unlink()
        swap.parent.rmdir()
    assert site.files() == {upload.key}


def test_usage_counts_records_and_blobs_and_lists_those_that_no_record_names(site: Site) -> None:
    site.club.post_blob(site.member, b"x" * 1000)
    upload = site.upload(b"y" * 300)
    account = site.usage()
    assert account.handle
    assert (account.records, account.blobs, account.blob_bytes) == (1, 2, 1300)
    assert (account.unreferenced, account.unreferenced_bytes, account.leftover_bytes) == (1, 300, 0)
    assert account.database > 0
    [listed] = [blob for blob in site.report().blobs if blob.did == site.member.did]
    assert (listed.cid, listed.size) == (upload.cid, 300)
