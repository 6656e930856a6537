"""The weekly job on blobs in a bucket, beside a real PDS that continues to serve: what it removes, and what arrives
meanwhile. `test_unreferenced_blobs.py` has the same for blobs on the volume."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.lib.subprocesses import child
from tests.contract.club import Club, Member, cid_in
from tests.contract.moved_blobs import BlobSite
from tests.contract.moved_blobs import blob_service as blob_service
from tests.contract.snapshots import DEADLINE, Data, account_store, open_environment, paused
from tests.support.s3 import age
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import RefusedError

pytestmark = pytest.mark.contract

PAUSES = Path(__file__).with_name("pauses_in_a_transaction.cjs")
PROGRAM = "unreferenced_in_bucket.cjs"
DAYS = 30


@dataclass(frozen=True)
class MemberInBucket:
    """A new member of a club whose blobs are in a bucket."""

    site: BlobSite
    club: Club
    member: Member

    @property
    def store(self) -> Path:
        """The account's database, which the server has open too."""
        return account_store(self.site.data.path, self.member.did)

    def query(self, text: str, *values: object) -> list[Any]:
        """Rows of the account's database."""
        with closing(sqlite3.connect(self.store)) as db, db:
            return db.execute(text, values).fetchall()

    def upload(self, content: bytes, days: int = 0) -> dict[str, Any]:
        """Upload a blob that is so many days old afterwards."""
        blob: dict[str, Any] = self.member.client.upload_blob([content], len(content))
        if days:
            [(key,)] = self.query('select "tempKey" from blob where cid = ?', cid_in(blob))
            self.query("update blob set createdAt = '2026-01-01T00:00:00.000Z' where cid = ?", cid_in(blob))
            age(self.site.url, self.site.bucket, f"tmp/{self.member.did}/{key}", days)
        return blob

    def forgotten(self, content: bytes, days: int) -> dict[str, Any]:
        """A blob in the bucket that no database names, so many days old: the server could not delete it."""
        blob = self.upload(content)
        self.club.refer(self.member, blob)
        self.query("delete from blob")
        self.query("delete from record_blob")
        age(self.site.url, self.site.bucket, f"blocks/{self.member.did}/{cid_in(blob)}", days)
        return blob

    def objects(self, place: str) -> set[str]:
        """The last part of the names of the account's objects: keys of uploads in `tmp`, CIDs in `blocks`."""
        return self.site.objects(f"{place}/{self.member.did}/")

    def rows(self) -> set[str]:
        """CIDs of the account's blobs."""
        return {cid for (cid,) in self.query("select cid from blob")}

    def status(self) -> Any:
        """The status of the last run."""
        return json.loads((self.site.data.path / ".run-status" / "unreferenced-blobs.json").read_text())

    def serves(self, blob: dict[str, Any]) -> bytes:
        """The blob as the server sends it."""
        return b"".join(self.member.client.stream_blob(self.member.did, cid_in(blob)))

    @contextmanager
    def paused(self, step: str) -> Iterator[None]:
        """The job, paused in its first write transaction until the block ends; then it succeeds."""
        change = {"UNREFERENCED_BLOB_DAYS": str(DAYS), "NODE_OPTIONS": f"--require={PAUSES}", "PAUSE_AT": step}
        command, options = self.site.started(PROGRAM, change)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with paused(child(command, DEADLINE, **options, **pipes)):
            yield


@pytest.fixture(scope="module")
def running(
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    line: str,
    blob_service: tuple[str, Iterator[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[BlobSite, Club]]:
    """A server with its blobs in a bucket, and its club."""
    path = tmp_path_factory.mktemp("bucket") / "pds"
    path.mkdir()
    install = quick_installs[line]
    data = Data(path=path, install=install, document_key=lambda did: None)
    site = BlobSite(data=data, url=blob_service[0], bucket=next(blob_service[1]), serve="bucket")
    env: Mapping[str, str | None] = {**open_environment(program_env, path, directory, line), **site.server}
    merged = {name: value for name, value in env.items() if value is not None}
    with PdsProcess(install, merged, path.with_suffix(".log")) as server:
        yield site, Club(server.url, merged["PDS_HOSTNAME"])


@pytest.fixture
def account(running: tuple[BlobSite, Club]) -> MemberInBucket:
    site, club = running
    return MemberInBucket(site, club, club.join())


def test_removes_only_old_uploads_and_blobs_that_no_record_names(account: MemberInBucket) -> None:
    named = account.upload(b"named by a record")
    account.club.refer(account.member, named)
    age(account.site.url, account.site.bucket, f"blocks/{account.member.did}/{cid_in(named)}", 400)
    old, young = account.upload(b"old", DAYS + 1), account.upload(b"young", DAYS - 1)
    hidden = account.upload(b"taken down", DAYS + 1)
    account.query("update blob set takedownRef = 'mod' where cid = ?", cid_in(hidden))
    assert "removed 0 objects" in account.site.program(PROGRAM, {}), "uploads go only if the owner says so"
    assert "removed 1 objects of 3 bytes" in account.site.program(PROGRAM, {"UNREFERENCED_BLOB_DAYS": str(DAYS)})
    assert account.rows() == {cid_in(blob) for blob in (named, young, hidden)}
    assert len(account.objects("tmp")) == 2
    status = account.status()
    assert (status["uploads"], status["uploads_kib"]) == (len(account.site.objects("tmp/")), 1), "for `./pds check`"
    assert account.serves(named) == b"named by a record"
    assert cid_in(old) not in account.rows()


def test_removes_a_blob_that_no_database_names_after_a_week(account: MemberInBucket) -> None:
    lately, long_ago = account.forgotten(b"lately", 6), account.forgotten(b"long ago", 8)
    assert account.objects("blocks") == {cid_in(lately), cid_in(long_ago)}
    account.site.program(PROGRAM, {})
    assert account.objects("blocks") == {cid_in(lately)}


def test_removes_nothing_beside_data_without_a_server(account: MemberInBucket, tmp_path: Path) -> None:
    """As on the host that a PDS comes back to: until the restore, the data of its earlier stay are there."""
    account.club.refer(account.member, account.upload(b"before the move"))
    former = tmp_path / "former"
    shutil.copytree(account.site.data.path, former)
    blob = account.upload(b"posted since")
    account.club.refer(account.member, blob)
    age(account.site.url, account.site.bucket, f"blocks/{account.member.did}/{cid_in(blob)}", 8)
    status = account.status()
    there = replace(account.site, data=replace(account.site.data, path=former))
    assert "no server runs on these data" in there.program(PROGRAM, {"UNREFERENCED_BLOB_DAYS": str(DAYS)})
    assert account.serves(blob) == b"posted since"
    (former / ".run-status" / "server-lock.sqlite").unlink()
    assert "no server runs on these data" in there.program(PROGRAM, {}), "none ever ran there"
    assert json.loads((former / ".run-status" / "unreferenced-blobs.json").read_text()) == status
    assert "removed 0 objects" in account.site.program(PROGRAM, {}), "beside the live server it goes on"


def test_keeps_a_blob_whose_record_arrives_after_the_job_has_listed_it(account: MemberInBucket) -> None:
    blob = account.upload(b"a record arrives", DAYS + 1)
    with account.paused("listed"):
        account.club.refer(account.member, blob)
    assert account.rows() == account.objects("blocks") == {cid_in(blob)}
    assert account.serves(blob) == b"a record arrives"


def test_refuses_a_record_that_arrives_while_its_upload_is_removed(account: MemberInBucket) -> None:
    blob = account.upload(b"too late", DAYS + 1)
    refusals: list[RefusedError] = []

    def refer() -> None:
        try:
            account.club.refer(account.member, blob)
        except RefusedError as error:
            refusals.append(error)

    record = threading.Thread(target=refer, daemon=True)
    with account.paused("locked"):
        record.start()
    record.join(DEADLINE)
    assert "BlobNotFound" in str(refusals[0]), "no record names a blob that is gone"
    assert (account.rows(), account.objects("tmp"), account.objects("blocks")) == (set(), set(), set())
    account.club.refer(account.member, account.upload(b"too late"))
    assert account.serves(blob) == b"too late", "another upload of the same blob is accepted"


@pytest.mark.parametrize("step", ["listed", "locked", "committed"])
def test_a_blob_that_is_uploaded_again_while_its_old_copy_is_removed_is_served(
    account: MemberInBucket, step: str
) -> None:
    blob = account.forgotten(b"once more", 8)
    failures: list[BaseException] = []

    def post() -> None:
        try:
            account.club.refer(account.member, account.upload(b"once more"))
        except (RefusedError, OSError) as error:
            failures.append(error)

    posting = threading.Thread(target=post, daemon=True)
    with account.paused(step):
        posting.start()
        if step != "locked":  # there the server waits for the job's transaction
            posting.join(DEADLINE)
    posting.join(DEADLINE)
    assert failures == []
    assert account.serves(blob) == b"once more"


def test_refuses_to_run_without_a_number_of_days_or_during_a_restore(account: MemberInBucket) -> None:
    account.upload(b"kept", DAYS + 1)
    for days in ("0", "None"):
        output = account.site.program(PROGRAM, {"UNREFERENCED_BLOB_DAYS": days}, code=1)
        assert f"UNREFERENCED_BLOB_DAYS is {'NaN' if days == 'None' else days}" in output
    swap = account.site.data.path / ".restore" / "swap.json"
    swap.parent.mkdir()
    try:
        swap.touch()
        assert "a restore was cut short" in account.site.program(PROGRAM, {"UNREFERENCED_BLOB_DAYS": "30"}, code=1)
        assert "a restore was cut short" in account.status()["why"], "the dead man's switch and `./pds check` have it"
        assert "a restore was cut short" in account.site.run("copy", "disk", code=1), "a move of blobs waits for it too"
    finally:
        swap.unlink()
        swap.parent.rmdir()
    assert len(account.objects("tmp")) == 1
    account.site.program(PROGRAM, {"UNREFERENCED_BLOB_DAYS": "30"})
    assert account.objects("tmp") == set()
