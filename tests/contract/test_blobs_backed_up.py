"""Backups cover the blobs in a bucket: copied once, encrypted, kept for `keep_days`, read by drills, restored."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.contract.moved_blobs import COPIES, BlobSite, member_uploads
from tests.contract.moved_blobs import blob_service as blob_service
from tests.contract.restores import FILES
from tests.contract.snapshots import Data, account_store
from tests.support.s3 import KEYS, REGION, ask, put
from tests.support.serving import served
from tools.trial.node import PDS_LINES

pytestmark = [pytest.mark.contract, pytest.mark.parametrize("line", PDS_LINES[-1:], indirect=True)]

DAY = 86400 * 1000
DELETES = Path(__file__).with_name("deletes_after_the_list.cjs")


@pytest.fixture
def site(faulty: Data, blob_service: tuple[str, Iterator[str]]) -> BlobSite:
    """The data of a stopped server, with its blobs in the bucket."""
    url, buckets = blob_service
    site = BlobSite(data=faulty, url=url, bucket=next(buckets), serve="bucket")
    site.run("finish", "bucket")
    shutil.rmtree(faulty.path / "blocks")
    return site


@pytest.fixture
def alloc(tmp_path: Path) -> Path:
    """The folder of an allocation."""
    (tmp_path / "alloc" / "data").mkdir(parents=True)
    return tmp_path / "alloc"


def back_up(site: BlobSite, alloc: Path, **change: str) -> tuple[str, dict[str, object]]:
    """Make a snapshot and copy its blobs, as the job does; return the output and the outcome."""
    site.data.take(BLOBS_SERVE="bucket", PDS_BLOBSTORE_DISK_LOCATION="")
    assert site.data.manifest()["blobs"] == "bucket"
    output = site.program("backup_blobs.cjs", {"NOMAD_ALLOC_DIR": str(alloc), "KEEP_DAYS": "30", **change})
    return output, json.loads((alloc / "data" / "blobs.json").read_text())


def forget_record(site: BlobSite, blob: str) -> None:
    """Delete a blob's row, as the server does with its record."""
    did, _, cid = blob.partition("/")
    store = account_store(site.data.path, did)
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("delete from blob where cid = ?", (cid,))
        db.execute("delete from record_blob where blobCid = ?", (cid,))


def copy_of(site: BlobSite, blob: str) -> str:
    """The URL of a blob's copy."""
    return f"{site.url}/{COPIES}/{site.bucket}.test-blobs/blocks/{quote(blob)}"


def test_copies_each_blob_once_encrypted_and_keeps_it_for_keep_days(site: BlobSite, alloc: Path) -> None:
    blobs = site.named()
    output, outcome = back_up(site, alloc)
    assert f"copied: {len(blobs)} blobs, 0 there before, {len(blobs)} copied" in output
    assert (outcome, site.in_backups()) == ({"problems": [], "findings": {}}, blobs)
    first = sorted(blobs)[0]
    assert sha256(ask_bytes(copy_of(site, first))).digest() != sha256(ask_bytes(bucket_of(site, first))).digest()
    forget_record(site, first)
    ask("DELETE", bucket_of(site, first))
    output, outcome = back_up(site, alloc)
    assert f"{len(blobs) - 1} there before, 0 copied" in output
    assert (outcome["findings"], site.in_backups()) == ({}, blobs), "an older backup names it"
    unneeded = site.data.path / ".snapshot" / "unneeded-blobs.json"
    now = time.time() * 1000
    # The older backup stays over 40 days without another, too.
    for at, days, left in ((now, 30, blobs), (now - 40 * DAY, 65, blobs), (now, 32, blobs - {first})):
        known = json.loads(unneeded.read_text())["since"]
        assert list(known) == [f"blocks/{first}"]
        unneeded.write_text(json.dumps({"at": at, "since": dict.fromkeys(known, now - days * DAY)}))
        back_up(site, alloc)
        assert site.in_backups() == left


def test_copy_does_not_expire_while_no_snapshot_is_sent(site: BlobSite, alloc: Path) -> None:
    """The task that sends may fail for weeks, beside the one that copies. The last snapshot that was sent names it."""
    blobs = site.named()
    back_up(site, alloc)
    forget_record(site, sorted(blobs)[0])
    back_up(site, alloc)
    unneeded = site.data.path / ".snapshot" / "unneeded-blobs.json"

    def later(days: float) -> set[str]:
        known = json.loads(unneeded.read_text())
        moved = {name: since - days * DAY for name, since in known["since"].items()}
        unneeded.write_text(json.dumps({"at": known["at"] - days * DAY, "since": moved}))
        back_up(site, alloc)
        return site.in_backups()

    now = time.time() * 1000
    known = dict.fromkeys(json.loads(unneeded.read_text())["since"], now - 29.5 * DAY)
    unneeded.write_text(json.dumps({"at": now, "since": known}))
    write_status(site, sent=False)
    for _ in range(3):
        assert later(0.9) == blobs
    write_status(site, sent=True)
    assert later(0.1) == blobs
    assert later(0.9) == blobs - {sorted(blobs)[0]}, "the days with a backup count"


def write_status(site: BlobSite, *, sent: bool) -> None:
    """Write what the last task records."""
    good = "2999-01-01T00:00:00.000Z" if sent else "2020-01-01T00:00:00.000Z"
    folder = site.data.path / ".run-status"
    (folder / "backup.json").write_text(json.dumps({"good": good}))


def test_lost_blob_is_a_finding_and_comes_back_from_the_backups(site: BlobSite, alloc: Path) -> None:
    lost, *_ = sorted(site.named())
    back_up(site, alloc)
    ask("DELETE", bucket_of(site, lost))
    output, outcome = back_up(site, alloc)
    did, _, cid = lost.partition("/")
    assert f"FINDING: {did}: with losses: blob {cid} is missing in the bucket. The backups keep it" in output
    assert outcome["problems"] == []
    assert "1 from the backups" in site.run("repair")
    assert site.in_bucket() == site.named()
    assert back_up(site, alloc)[1]["findings"] == {}


def test_blob_that_was_never_copied_is_a_finding(site: BlobSite, alloc: Path) -> None:
    lost, *_ = sorted(site.named())
    ask("DELETE", bucket_of(site, lost))
    _, outcome = back_up(site, alloc)
    assert "The backups have no copy of it" in str(outcome["findings"])
    assert "'blobs': True" in str(outcome["findings"]), "it stays a finding while the copy of the blobs fails"
    assert f"WITH LOSSES: {lost.partition('/')[0]}" in site.run("repair", code=1), "a loss is no success"


@pytest.mark.parametrize("moved", [False, True])
def test_blob_that_disappears_during_the_backup_is_a_finding_if_it_was_not_moved(
    site: BlobSite, alloc: Path, moved: bool
) -> None:
    """As by a `--forget-old` after a move, or by a takedown."""
    gone = sorted(site.named())[0]
    content = ask_bytes(bucket_of(site, gone))
    if moved:
        put(f"{site.url}/{site.bucket}/quarantine/{quote(gone)}", content)
    deletes = {"NODE_OPTIONS": f"--require={DELETES}", "STORES": str(FILES / "blob_stores.cjs")}
    _, outcome = back_up(site, alloc, GONE=f"blocks/{gone}", **deletes)
    assert ("disappeared from the bucket during the backup" in str(outcome["findings"])) is not moved
    assert outcome["problems"] == []


def test_bucket_that_does_not_answer_fails_the_backup_and_not_the_task_beside_it(site: BlobSite, alloc: Path) -> None:
    output, outcome = back_up(site, alloc, PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY="wrong")
    assert "FAULT: the blobs in the bucket were not copied" in output
    (alloc / "data" / "sent").touch()
    (alloc / "data" / "checked").touch()
    env = {"NOMAD_ALLOC_DIR": str(alloc), "BLOBS_COPIED": "true"}
    site.program("run_status.cjs", env, code=1)
    status = json.loads((site.data.path / ".run-status" / "backup.json").read_text())
    assert "SignatureDoesNotMatch" in status["why"]
    assert "good" not in status
    (alloc / "data" / "blobs.json").unlink()
    site.program("run_status.cjs", env, code=1)
    assert "was killed" in json.loads((site.data.path / ".run-status" / "backup.json").read_text())["why"]
    back_up(site, alloc)
    site.program("run_status.cjs", env)
    assert json.loads((site.data.path / ".run-status" / "backup.json").read_text())["good"]
    assert outcome["findings"] == {}


def test_drill_reads_every_copy_and_reports_what_is_damaged_or_missing(site: BlobSite, alloc: Path) -> None:
    blobs = sorted(site.named())
    back_up(site, alloc)
    shutil.copytree(site.data.snapshot, alloc / "data" / "fetched")
    (alloc / "data" / "verdict.json").write_text("{}")

    def drill(code: int = 0, **change: str) -> str:
        return site.program("drill_blobs.cjs", {"NOMAD_ALLOC_DIR": str(alloc), **change}, code=code)

    assert f"read {len(blobs)} of {len(blobs)} blobs" in drill()
    damaged, missing, *_ = blobs
    put(copy_of(site, damaged), b"x" * 100)
    ask("DELETE", copy_of(site, missing))
    output = drill()
    assert f"blob {damaged.partition('/')[2]} is damaged in the backups" in output
    assert f"blob {missing.partition('/')[2]} is missing in the backups" in output
    outcome = json.loads((alloc / "data" / "blobs.json").read_text())
    assert (len(outcome["findings"]), outcome["damaged"]) == (2, [f"blocks/{damaged}"])
    assert "is damaged in the backups" in drill(RESTIC_PASSWORD="another")
    assert "FAULT: the copies of the blobs cannot be read" in drill(1, AWS_SECRET_ACCESS_KEY="wrong")


@pytest.mark.parametrize("change", [{}, {"RESTIC_PASSWORD": "another"}])
def test_copy_that_a_drill_found_damaged_is_made_again(site: BlobSite, alloc: Path, change: dict[str, str]) -> None:
    """By its name and its size it looks whole, as do all copies after a change of the password."""
    blobs = sorted(site.named())
    back_up(site, alloc)
    damaged, gone = blobs[:2]
    damaged_copies = blobs if change else [damaged]
    if not change:
        put(copy_of(site, damaged), ask_bytes(copy_of(site, damaged))[::-1])
    assert "0 copied" in back_up(site, alloc, **change)[0]
    ask("DELETE", bucket_of(site, gone))
    known = site.data.path / ".snapshot" / "damaged-copies.json"
    known.write_text(json.dumps([f"blocks/{blob}" for blob in damaged_copies]))
    output, outcome = back_up(site, alloc, **change)
    lost = [gone] if change else []
    assert f"{len(damaged_copies) - len(lost)} copied" in output
    assert json.loads(known.read_text()) == [f"blocks/{blob}" for blob in lost]
    assert ("The backups have no copy of it" in str(outcome["findings"])) is bool(lost), "its copy has another password"
    shutil.copytree(site.data.snapshot, alloc / "data" / "fetched")
    (alloc / "data" / "verdict.json").write_text("{}")
    output = site.program("drill_blobs.cjs", {"NOMAD_ALLOC_DIR": str(alloc), **change})
    assert f"read {len(blobs) - len(lost)} of {len(blobs)} blobs" in output
    assert "0 copied" in back_up(site, alloc, **change)[0]


def test_restored_account_gets_its_blobs_back_in_an_empty_bucket_or_on_the_disk(
    site: BlobSite, alloc: Path, blob_service: tuple[str, Iterator[str]]
) -> None:
    back_up(site, alloc)
    one = sorted(site.named())[0]
    did = one.partition("/")[0]
    elsewhere = replace(site, bucket=next(blob_service[1]))
    assert "1 from the backups" in elsewhere.run("repair", env={"NOMAD_META_only": did, **site.backups})
    assert elsewhere.in_bucket() == {one}
    assert f"{len(site.named()) - 1} from the backups" in elsewhere.run("repair", env=site.backups)
    assert elsewhere.in_bucket() == site.named()
    on_disk = replace(site, bucket=next(blob_service[1]), serve="disk")
    assert f"{len(site.named())} from the backups" in on_disk.run("repair", env=site.backups)
    assert on_disk.on_disk() == site.named()


def test_restore_refuses_a_backup_whose_blobs_the_stack_cannot_bring_back(site: BlobSite, alloc: Path) -> None:
    back_up(site, alloc)
    fetched = site.data.path / ".restore" / "fetched"
    shutil.copytree(site.data.snapshot, fetched)
    known = {"PDS_HOSTNAME": site.data.manifest()["hostname"], "PDS_DID_PLC_URL": "http://127.0.0.1:1"}
    without = known | {"BLOBS_SERVE": "", "NOMAD_META_verify": "yes"}
    output = site.program("restore.cjs", without, code=1)
    assert "the stack has no 'blobs' to restore them to" in output
    assert "Set 'blobs.bucket'" in output


def test_weekly_job_removes_what_deleted_accounts_and_records_left_in_the_bucket(site: BlobSite) -> None:
    gone, kept, *_others = sorted(site.named())
    did, other = gone.partition("/")[0], kept.partition("/")[0]
    key = member_uploads(site.data.path, other, b"never posted")
    put(f"{site.url}/{site.bucket}/tmp/{quote(other)}/{key}", b"never posted")
    put(f"{site.url}/{site.bucket}/tmp/{quote(did)}/forgotten", b"never posted")
    put(f"{site.url}/{site.bucket}/blocks/did%3Aplc%3Aunknown/{kept.partition('/')[2]}", b"x")

    def sweep(**change: str) -> str:
        with site.locked():
            return site.program("unreferenced_in_bucket.cjs", change)

    assert "removed 0 objects" in sweep(UNREFERENCED_BLOB_DAYS="30"), "nothing is old enough"
    shutil.rmtree(account_store(site.data.path, did).parent)
    with closing(sqlite3.connect(site.data.path / "account.sqlite")) as db, db:
        db.execute("delete from actor where did = ?", (did,))
    assert "removed 0 objects" in sweep(), "nothing announced that the account was deleted"
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"seq": 10**6, "time": now, "did": did, "status": "deleted"}
    (site.data.path / ".departures.jsonl").write_text(json.dumps(line) + "\n")
    output = sweep()
    assert "removed 2 objects" in output
    assert "1 objects of accounts that are neither here nor deleted are kept" in output
    assert site.in_bucket() - {f"did:plc:unknown/{kept.partition('/')[2]}"} == site.named()
    status = json.loads((site.data.path / ".run-status" / "unreferenced-blobs.json").read_text())
    assert status["removed"] == 2


def test_weekly_job_gives_the_lock_back_before_the_server_s_writes_fail(site: BlobSite) -> None:
    """The bucket lists an object that no row names, and never answers its deletion. The server waits 5 s for a lock."""
    did = sorted(site.named())[0].partition("/")[0]
    store = account_store(site.data.path, did)
    asked, over = threading.Event(), threading.Event()
    about = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size>"
    listed = f"<Contents><Key>blocks/{did}/bafkreih</Key>{about}</Contents>"

    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = listed if "blocks" in self.path else ""
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{content}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_DELETE(self) -> None:
            asked.set()
            over.wait(600)

    with site.locked(), served(Hanging) as port, ThreadPoolExecutor() as pool:
        # A name before the endpoint would need DNS.
        env = {"PDS_BLOBSTORE_S3_ENDPOINT": f"http://127.0.0.1:{port}", "PDS_BLOBSTORE_S3_FORCE_PATH_STYLE": "true"}
        sweep = pool.submit(site.program, "unreferenced_in_bucket.cjs", env, code=1)
        try:
            assert asked.wait(600)
            with closing(sqlite3.connect(store, timeout=5)) as server, server:
                server.execute("update repo_root set did = did")
            assert "did not delete blocks" in sweep.result(600)
        finally:
            over.set()
    status = json.loads((site.data.path / ".run-status" / "unreferenced-blobs.json").read_text())
    assert "did not delete blocks" in status["why"]


def bucket_of(site: BlobSite, blob: str) -> str:
    """The URL of a blob in the server's bucket."""
    return f"{site.url}/{site.bucket}/blocks/{quote(blob)}"


def ask_bytes(url: str) -> bytes:
    """The content of an object."""
    request = AWSRequest(method="GET", url=url, headers={})
    S3SigV4Auth(Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]), "s3", REGION).add_auth(request)
    with urlopen(Request(url, headers=dict(request.headers)), timeout=600) as answer:
        body: bytes = answer.read()
        return body
