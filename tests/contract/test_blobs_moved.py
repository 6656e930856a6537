"""Blobs are moved to a bucket and back: nothing is lost, whenever the job is killed and whatever is damaged."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.moved_blobs import BlobSite, member_uploads
from tests.contract.moved_blobs import blob_service as blob_service
from tests.contract.snapshots import Data, account_store
from tests.support.s3 import add_key, ask
from tools.trial.node import PDS_LINES

pytestmark = [pytest.mark.contract, pytest.mark.parametrize("line", PDS_LINES[-1:], indirect=True)]

FEW_KILLS = 1
"""A life gets two steps further than the one before, and continues what that one did: six blobs take two or three."""


@pytest.fixture
def site(faulty: Data, blob_service: tuple[str, Iterator[str]]) -> BlobSite:
    """The data of a stopped server with its blobs on the disk, and an empty bucket."""
    url, buckets = blob_service
    return BlobSite(data=faulty, url=url, bucket=next(buckets))


def test_moves_every_blob_there_and_back_and_forgets_old_copies_only_when_told(site: BlobSite) -> None:
    blobs = site.named()
    assert site.on_disk() == blobs
    key = member_uploads(site.data.path, sorted(blobs)[0].partition("/")[0], b"not posted yet")
    output = site.run("copy", "bucket")
    assert f"{len(blobs) + 1} blobs, 0 there before, {len(blobs) + 1} copied" in output
    assert site.recorded() is None, "the server still uses the disk"
    site.run("finish", "bucket")
    assert (site.in_bucket(), site.on_disk(), site.recorded()) == (blobs, blobs, "bucket")
    assert key in ask("GET", f"{site.url}/{site.bucket}?prefix=tmp/"), "the member can still post it"

    output = site.run("forget")
    assert "kept 0" in output
    assert (site.on_disk(), site.in_bucket()) == (set(), blobs)
    site.run("copy", "disk")
    site.run("finish", "disk")
    assert (site.on_disk(), site.in_bucket(), site.recorded()) == (blobs, blobs, "disk")
    site.run("forget")
    assert (site.on_disk(), site.in_bucket()) == (blobs, set())


def test_a_kill_at_any_step_loses_no_blob_and_the_next_run_continues(site: BlobSite) -> None:
    blobs = site.named()
    assert site.killed_everywhere("finish", "bucket") > FEW_KILLS
    assert (site.in_bucket(), site.recorded()) == (blobs, "bucket")
    assert site.killed_everywhere("forget") > FEW_KILLS
    assert site.on_disk() == set()
    assert site.killed_everywhere("finish", "disk") > FEW_KILLS
    assert (site.on_disk(), site.recorded()) == (blobs, "disk")
    assert site.killed_everywhere("forget") > FEW_KILLS
    assert site.in_bucket() == set()
    assert site.on_disk() == blobs


def test_damaged_and_missing_blobs_are_reported_and_stop_the_move(site: BlobSite) -> None:
    damaged, missing, *whole = sorted(site.named())
    site.file(damaged).write_bytes(b"x" * site.file(damaged).stat().st_size)
    site.file(missing).unlink()
    for step in ("copy", "finish"):
        output = site.run(step, "bucket", code=1)
        assert f"blob {damaged.partition('/')[2]} is damaged" in output
        assert f"blob {missing.partition('/')[2]} is missing" in output
        assert "REFUSED: 2 blobs are damaged or missing" in output
        assert (site.recorded(), site.in_bucket()) == (None, set(whole))
    site.run("finish", "bucket", {"NOMAD_META_accept_losses": "yes"})
    output = site.run("forget")
    assert f"KEPT: blocks/{damaged}: the place in use does not have it" in output
    assert site.file(damaged).exists(), "a damaged blob is not deleted"
    assert not site.file(whole[0]).exists()


def test_old_copies_stay_if_the_place_in_use_lost_or_damaged_them(site: BlobSite) -> None:
    lost, damaged, *others = sorted(site.named())
    site.run("finish", "bucket")
    site.run("finish", "disk")
    site.file(lost).unlink()
    site.file(damaged).write_bytes(b"x" * site.file(damaged).stat().st_size)
    output = site.run("forget")
    assert f"removed {len(others)} old copies, kept 2" in output
    assert site.in_bucket() == {lost, damaged}
    output = site.run("repair")
    assert "1 restored from the bucket" in output or "2 restored from the bucket" in output
    assert site.on_disk() == site.named()


@pytest.mark.parametrize("serve", ["bucket", "disk"])
def test_restored_data_on_a_new_volume_start_at_the_place_of_the_settings(site: BlobSite, serve: str) -> None:
    """The backup is of before the move, and the volume has no record. The restore ends with `repair`."""
    restored = replace(site, serve=serve)
    (site.data.path / ".pds-identity.json").unlink(missing_ok=True)
    settings = {name: value for name, value in restored.server.items() if value} if serve == "bucket" else {}
    check = {"PDS_VOLUME_CHECK_ADOPT": "true", "PDS_HOSTNAME": "rooks.test", **settings}
    check["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"] = "41" * 32
    if serve == "disk":
        check["PDS_BLOBSTORE_S3_BUCKET"] = ""
    restored.run("repair", env={"NOMAD_META_only": sorted(site.named())[0].partition("/")[0]})
    assert restored.recorded() is None, "one account says nothing about the others"
    restored.run("repair")
    assert restored.recorded() == serve
    assert (site.in_bucket() if serve == "bucket" else site.on_disk()) == site.named()
    assert "REFUSED" not in restored.program("volume_check.cjs", check)


def test_blobs_deleted_between_copy_and_pause_leave_the_bucket(site: BlobSite) -> None:
    site.run("copy", "bucket")
    deleted = sorted(site.named())[0]
    did, _, cid = deleted.partition("/")
    store = account_store(site.data.path, did)
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("delete from blob where cid = ?", (cid,))
    site.file(deleted).unlink()
    assert "1 that were deleted since" in site.run("finish", "bucket")
    assert deleted not in site.in_bucket()
    assert site.in_bucket() == site.named()


def _taken_down(site: BlobSite, blob: str, hidden: bool) -> None:
    """Take a blob down on the disk, or lift that, as the server does: the row, then the file."""
    did, _, cid = blob.partition("/")
    store = account_store(site.data.path, did)
    with closing(sqlite3.connect(store)) as db, db:
        db.execute('update blob set "takedownRef" = ? where cid = ?', ("a takedown" if hidden else None, cid))
    seen, unseen = site.file(blob), site.file(f"quarantine/{blob}")
    unseen.parent.mkdir(parents=True, exist_ok=True)
    if hidden:
        seen.rename(unseen)
    else:
        unseen.rename(seen)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_blob_is_where_the_database_says_although_the_old_copy_is_of_before(site: BlobSite, hidden: bool) -> None:
    """It was taken down, or that was lifted, between the first copy and the way back."""
    blob = sorted(site.named())[0]
    if not hidden:
        _taken_down(site, blob, True)
    site.run("copy", "bucket")
    _taken_down(site, blob, hidden)
    site.run("repair")
    site.run("finish", "disk")
    places = (site.file(f"quarantine/{blob}"), site.file(blob))
    assert [file.exists() for file in places] == [hidden, not hidden], "else the server does not find it"
    site.run("finish", "bucket")
    listed = ask("GET", f"{site.url}/{site.bucket}?prefix={'quarantine' if hidden else 'blocks'}/")
    assert blob.partition("/")[2] in listed
    assert site.in_bucket() == site.named()


def test_a_blob_that_is_only_at_the_other_name_is_brought_back_from_there(site: BlobSite) -> None:
    blob = sorted(site.named())[0]
    quarantined = site.file(f"quarantine/{blob}")
    quarantined.parent.mkdir(parents=True, exist_ok=True)
    site.file(blob).rename(quarantined)  # and the row says that it is visible
    site.run("repair")
    assert site.file(blob).exists()


def test_refuses_to_finish_while_the_server_runs(site: BlobSite) -> None:
    with closing(sqlite3.connect(site.data.path / "account.sqlite")) as server:
        server.execute("select count(*) from actor").fetchall()  # a connection that stays open, as the server's
        server.execute("begin")
        server.execute("select count(*) from actor").fetchall()
        assert "the server is running on these data" in site.run("finish", "bucket", code=1)
    assert site.recorded() is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PDS_BLOBSTORE_S3_REGION": "fra1"}, "in another region"),
        ({"PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"PDS_BLOBSTORE_S3_ACCESS_KEY_ID": "DO00UNKNOWN"}, "./pds repair STACK"),
        ({"PDS_BLOBSTORE_S3_BUCKET": "theirs"}, "403 AccessDenied"),
        ({"NOMAD_META_to": "tape"}, "there is no place 'tape'"),
        ({"NOMAD_META_step": "burn"}, "there is no step 'burn'"),
    ],
)
def test_wrong_keys_regions_and_parameters_are_refused_with_a_sentence(
    site: BlobSite, change: dict[str, str], reason: str
) -> None:
    output = site.run("copy", "bucket", change, code=1)
    assert last_line(output).startswith("REFUSED: ")
    assert reason in output
    assert "at " not in output.split("REFUSED")[0], "no stack trace"
    assert (site.on_disk(), site.recorded()) == (site.named(), None)


def test_key_of_another_bucket_is_refused(site: BlobSite) -> None:
    add_key(site.url, "DO00OTHER", "of another bucket", [("copies", "readwrite")])
    keys = {"PDS_BLOBSTORE_S3_ACCESS_KEY_ID": "DO00OTHER", "PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY": "of another bucket"}
    assert "The key is another bucket's" in site.run("copy", "bucket", keys, code=1)


def test_full_disk_on_the_way_back_is_refused_before_and_harmless_within(site: BlobSite, tmp_path: Path) -> None:
    blobs = site.named()
    site.run("finish", "bucket")
    site.run("forget")
    output = site.run("copy", "disk", {"PDS_SNAPSHOT_RESERVE_MIB": str(2**40)}, code=1)
    assert "Raise 'volume.size_gib'" in output
    small = tmp_path / "small"
    small.mkdir()
    size = 400 + sum(file.stat().st_size for file in site.data.path.rglob("*") if file.is_file()) // 1024
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", small], check=False, capture_output=True, timeout=600
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        shutil.copytree(site.data.path, small / "pds")
        full = replace(site, data=replace(site.data, path=small / "pds"))
        (small / "others").write_bytes(b"x" * 250_000)
        output = full.run("copy", "disk", {"PDS_SNAPSHOT_RESERVE_MIB": "-1000"}, code=1)
        assert "REFUSED: the volume is full" in output
        assert list((small / "pds" / "blocks").rglob("*.part")) == []
        assert full.on_disk() < blobs
        (small / "others").unlink()
        full.run("finish", "disk", {"PDS_SNAPSHOT_RESERVE_MIB": "0"})
        assert (full.on_disk(), full.recorded()) == (blobs, "disk")
    finally:
        subprocess.run(["umount", "--lazy", small], check=True, timeout=600)


def last_line(output: str) -> str:
    """The last line."""
    return output.strip().splitlines()[-1]
