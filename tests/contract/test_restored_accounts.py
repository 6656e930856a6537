"""Restores of a server with damaged, lost and newer accounts: what can be saved is restored, and the rest is named.

`test_one_account_restored.py` restores single accounts.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from cli.snapshot.verify import MANIFEST, repo_path
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.snapshots import Data
from tests.contract.test_damaged_accounts import (
    key_of,
    lose_a_blob,
    lose_a_record,
    lose_the_tree,
    overwrite_pages,
    store_of,
)
from tests.contract.test_restore import _cid, _client, _departed, _logged_in, _relay_follows, _status, _uris
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import RefusedError

pytestmark = pytest.mark.contract


def _fetched(restore: Restore) -> Data:
    """The fetched snapshot, as data that a test can damage."""
    path = restore.data.path / ".restore" / "fetched"
    return Data(path=path, install=restore.data.install, document_key=restore.data.document_key)


def _others_are_served(server: PdsProcess, restore: Restore, but: set[str]) -> None:
    """Assert that passwords work and posts acknowledged before the snapshot have their CIDs, except for `but`."""
    scenario = restore.scenario
    members, records = scenario.club.journal.before(scenario.began)
    for did in members - but - _departed(scenario):
        _logged_in(server, restore, did)
    expected = {uri: cid for uri, cid in records.items() if uri.split("/")[2] not in but | _departed(scenario)}
    assert expected
    assert {uri: cid for uri, cid in expected.items() if _cid(server, restore, uri) != cid} == {}


@contextmanager
def _older(restore: Restore, *snapshots: Path, only: bool = False) -> Iterator[list[str]]:
    """Stands for the task beside a restore (fetch_older.sh), with folders as restic's backups, the newest first. For a
    restore of one account (`only`) it adds the account database. Yields the requests."""
    exchange = restore.data.path / ".restore" / "older"
    listed = [
        {"id": f"{number:08x}", "time": json.loads((folder / MANIFEST).read_text())["started"]}
        for number, folder in enumerate(snapshots)
    ]
    over = threading.Event()
    requests: list[str] = []

    def serve() -> None:
        while not over.wait(0.02):
            request = exchange / "request"
            if not request.exists():
                continue
            words = request.read_text().split()
            requests.append(words[0])
            request.unlink()
            if words[0] == "list":
                (exchange / "list.json").write_text(json.dumps(listed))
            elif words[0] == "manifest":
                (exchange / words[1]).mkdir(exist_ok=True)
                shutil.copy(snapshots[int(words[1], 16)] / MANIFEST, exchange / words[1])
            else:
                _copy_account(snapshots[int(words[1], 16)], exchange / words[1], words[2], words[3])
                if only:
                    shutil.copy(snapshots[int(words[1], 16)] / "account.sqlite", exchange / words[1])
            (exchange / "answer.part").write_text("ok\n")
            (exchange / "answer.part").rename(exchange / "answer")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield requests
    over.set()
    thread.join(10)


def _copy_account(snapshot: Path, to: Path, folder: str, did: str) -> None:
    for name in (folder, f"blocks/{did}", f"blocks/quarantine/{did}"):
        if (snapshot / name).exists():
            shutil.copytree(snapshot / name, to / name, dirs_exist_ok=True)
    shutil.copy(snapshot / MANIFEST, to / MANIFEST)


def _relabelled(snapshot: Path, to: Path, started: str) -> Path:
    """The same snapshot with another time."""
    shutil.copytree(snapshot, to)
    manifest = json.loads((to / MANIFEST).read_text())
    (to / MANIFEST).write_text(json.dumps(manifest | {"started": started}))
    return to


def _write_noted(snapshot: Path, name: str, content: bytes) -> None:
    """Write a file of a snapshot, as if the snapshot had been made with it."""
    (snapshot / name).parent.mkdir(exist_ok=True)
    (snapshot / name).write_bytes(content)
    manifest = json.loads((snapshot / MANIFEST).read_text())
    manifest["files"][name] = {"size": len(content), "sha256": sha256(content).hexdigest()}
    (snapshot / MANIFEST).write_text(json.dumps(manifest))


def test_damaged_account_comes_from_the_newest_older_whole_backup(in_place: Restore, tmp_path: Path) -> None:
    scenario, did = in_place.scenario, in_place.scenario.writer.did
    whole = _relabelled(scenario.snapshot, tmp_path / "whole", "2026-01-03T00:00:00.000Z")
    oldest = _relabelled(scenario.snapshot, tmp_path / "oldest", "2026-01-01T00:00:00.000Z")
    damaged = _relabelled(scenario.snapshot, tmp_path / "damaged", "2026-01-04T00:00:00.000Z")
    _write_noted(damaged, f"{repo_path(did)}/key", os.urandom(16))
    overwrite_pages(_fetched(in_place), did)
    relay = in_place.relay
    with _older(in_place, damaged, whole, oldest), relay.answering() as url:
        output = in_place.run(OLDER_BACKUPS="true", PDS_CRAWLERS=url)
    assert f"FROM THE BACKUP OF 2026-01-03T00:00:00.000Z: {did}: store.sqlite is damaged" in output
    with in_place.opened() as server:
        _others_are_served(server, in_place, but=set())
        _relay_follows(server, in_place, relay)


@one_line
def test_account_with_a_lost_part_is_fetched_once_from_the_backups_that_have_the_same_files(
    in_place: Restore, tmp_path: Path
) -> None:
    """restic takes minutes for each request if a pack is lost, and the PDS is paused meanwhile."""
    did = in_place.scenario.writer.did
    scenario = in_place.scenario
    left = {did, *_departed(scenario)}
    other = next(member.did for member in scenario.club.members if member.did not in left)
    for name in (did, other):
        overwrite_pages(_fetched(in_place), name)
    dates = [f"2026-01-0{day}T00:00:00.000Z" for day in (5, 4, 3, 2)]
    older = [_relabelled(in_place.scenario.snapshot, tmp_path / date, date) for date in dates]
    for folder in older:  # all of them share the lost pack
        overwrite_pages(replace(in_place.data, path=folder), did)
    with _older(in_place, *older) as requests:
        output = in_place.run(OLDER_BACKUPS="true")
    assert f"FROM THE BACKUP OF {dates[0]}: {other}" in output
    assert f"FROM THE OLD DATA: {did}" in output
    assert (requests.count("manifest"), requests.count("get")) == (len(older), 2)


@one_line
def test_small_file_that_the_bucket_lost_replaces_no_intact_one(in_place: Restore) -> None:
    """restic leaves it at its full size, with zeros. No check of an account reads reserved keys and `did-op`."""
    fetched, did = _fetched(in_place), in_place.scenario.writer.did
    operation = f"{repo_path(did)}/did-op"
    reserved = {name: f"actors/reserved_keys/{name}" for name in ("did:plc:here", "did:plc:both", "did:plc:gone")}
    written = {name: os.urandom(32) for name in [*reserved.values(), operation]}
    for name, content in written.items():
        (in_place.data.path / name).parent.mkdir(exist_ok=True)
        (in_place.data.path / name).write_bytes(content)
        _write_noted(fetched.path, name, content)
    for name in (reserved["did:plc:here"], operation):
        (fetched.path / name).write_bytes(bytes(32))
    (fetched.path / reserved["did:plc:gone"]).unlink()
    (in_place.data.path / reserved["did:plc:gone"]).unlink()
    output = in_place.run(NOMAD_META_sequence="1000")
    assert "note: the reserved key did:plc:here is damaged in the backup, and comes from the old data" in output
    assert "note: the reserved key did:plc:gone is damaged in the backup, and is lost" in output
    assert f"note: {did}: its did-op is damaged in the backup" in output
    for name in ("did:plc:here", "did:plc:both"):
        assert (in_place.data.path / reserved[name]).read_bytes() == written[reserved[name]]
    assert not (in_place.data.path / operation).exists()


def test_account_without_a_whole_copy_is_named_and_the_others_are_restored(disaster: Restore, tmp_path: Path) -> None:
    did = disaster.scenario.writer.did
    overwrite_pages(_fetched(disaster), did)
    output = disaster.run(NOMAD_META_sequence="1000000")
    assert f"NOT RESTORED: {did}: store.sqlite is damaged" in output
    with disaster.opened() as server:
        _others_are_served(server, disaster, but={did})
        assert _status(_client(server, disaster), did) in ("deactivated", "RepoNotFound"), (
            "it must be announced as inactive"
        )
    assert key_of(disaster.data, did).exists(), "the intact key is kept in case its repository is found"
    disaster.data.take()
    finding = disaster.data.manifest()["findings"][did]
    assert f"./pds restore STACK --only {did}" in finding["what"], "the next backup must name it with the remedy"


@one_line
def test_account_that_is_whole_only_in_the_old_data_comes_from_them(in_place: Restore) -> None:
    did = in_place.scenario.writer.did
    overwrite_pages(_fetched(in_place), did)
    output = in_place.run()
    assert f"FROM THE OLD DATA: {did}: store.sqlite is damaged" in output
    assert in_place.scenario.written_after in _uris(in_place.data.path, did)


@one_line
def test_requested_accounts_are_left_out(in_place: Restore) -> None:
    did = in_place.scenario.writer.did
    output = in_place.run(NOMAD_META_without=did)
    assert f"NOT RESTORED: {did}: you left it out (--without)" in output
    assert not store_of(in_place.data, did).exists()


def test_tree_that_version_0_4_cannot_rebuild_leaves_out_only_its_account(in_place: Restore, line: str) -> None:
    """`rebuild-repo` of 0.4.217 fails ("Uint8Array expected"); upstream fixed it in 0.5.29."""
    did = in_place.scenario.writer.did
    lose_the_tree(_fetched(in_place), did)
    output = in_place.run()
    assert (f"NOT RESTORED: {did}: it could not be repaired" in output) == (line == "0.4")
    with in_place.opened() as server:
        _others_are_served(server, in_place, but={did})
    assert key_of(in_place.data, did).exists()


@pytest.mark.parametrize(
    ("damage", "line"),
    [(lose_a_record, "0.4"), (lose_a_record, "0.5"), (lose_the_tree, "0.5")],
    indirect=["line"],
    ids=["record-0.4", "record-0.5", "tree-0.5"],
)
def test_losses_of_an_account_are_named_and_the_rest_is_restored(
    in_place: Restore, damage: Callable[[Data, str], None]
) -> None:
    scenario, did, relay = in_place.scenario, in_place.scenario.writer.did, in_place.relay
    damage(_fetched(in_place), did)
    with relay.answering() as url:
        output = in_place.run(PDS_CRAWLERS=url)
    assert f"WITH LOSSES: {did}: " in output
    records = {uri: cid for uri, cid in scenario.club.journal.before(scenario.began)[1].items() if did in uri}
    lost = [uri for uri in records if f"record {uri.removeprefix(f'at://{did}/')} is lost" in output]
    assert len(lost) == (1 if damage is lose_a_record else 0)
    with in_place.opened() as server:
        _others_are_served(server, in_place, but={did})
        for uri in records.keys() - set(lost):
            assert _cid(server, in_place, uri) == records[uri]
        for uri in lost:
            with pytest.raises(RefusedError, match="Could not locate record"):
                _cid(server, in_place, uri)
        scenario.club.post(_logged_in(server, in_place, did), "after the restore")
        _relay_follows(server, in_place, relay)
    in_place.data.take()
    assert in_place.data.verify().problems == (), "the restored data must be whole"


def test_lost_blob_is_named_and_everything_else_is_restored(disaster: Restore) -> None:
    did = disaster.scenario.writer.did
    data = _fetched(disaster)
    assert (data.path / "blocks" / did).exists()
    lose_a_blob(data, did)
    output = disaster.run(NOMAD_META_sequence="1")
    assert f"WITH LOSSES: {did}: blob bafkrei" in output
    with disaster.opened() as server:
        _others_are_served(server, disaster, but=set())


# --- accounts that are newer than the snapshot


def test_an_account_on_the_volume_of_an_earlier_stay_does_not_come_back_with_a_move(in_place: Restore) -> None:
    in_place.let_data_be_of_an_earlier_stay()
    late, relay = in_place.scenario.late.did, in_place.relay
    with relay.answering() as url:
        output = in_place.run(PDS_CRAWLERS=url, NOMAD_META_old_data="no")
    assert late not in output
    assert not key_of(in_place.data, late).exists(), "it may have been deleted since"
    with in_place.opened() as server:
        _others_are_served(server, in_place, but={late})


def test_account_newer_than_the_snapshot_is_carried_over_with_its_password(in_place: Restore) -> None:
    late, key = in_place.scenario.late.did, key_of(in_place.data, in_place.scenario.late.did).read_bytes()
    relay = in_place.relay
    with relay.answering() as url:
        output = in_place.run(PDS_CRAWLERS=url)
    assert f"CARRIED OVER: {late}" in output
    assert key_of(in_place.data, late).read_bytes() == key
    with in_place.opened() as server:
        member = _logged_in(server, in_place, late)
        in_place.scenario.club.post(member, "still here")
        assert _status(_client(server, in_place), late) == "active"
        _relay_follows(server, in_place, relay)


@one_line
def test_unreadable_newer_account_is_named_and_its_key_is_kept(in_place: Restore) -> None:
    late = in_place.scenario.late.did
    overwrite_pages(in_place.data, late)
    output = in_place.run()
    assert f"NOT RESTORED: {late}: it was made after the snapshot, and store.sqlite is damaged" in output
    refused = in_place.run(code=1, NOMAD_META_forget="yes")
    assert f"{late}: its signing key is in .restore/old-" in refused
    assert list((in_place.data.path / ".restore").glob("old-*")), "nothing was removed"
    in_place.run(NOMAD_META_forget="yes", NOMAD_META_delete=late)
    assert not list((in_place.data.path / ".restore").glob("old-*"))


@one_line
def test_newer_accounts_are_named_if_the_old_account_database_is_unreadable(in_place: Restore) -> None:
    (in_place.data.path / "account.sqlite").write_bytes(b"no database")
    output = in_place.run()
    assert (
        f"NOT RESTORED: {in_place.scenario.late.did}: it was made after the snapshot, and the old account.sqlite"
        in output
    )
    assert "last copy of a signing key" in in_place.run(code=1, NOMAD_META_forget="yes")


@one_line
def test_email_address_of_two_accounts_is_reported(in_place: Restore) -> None:
    late = in_place.scenario.late.did
    with closing(sqlite3.connect(in_place.data.path / "account.sqlite")) as db:
        (taken,) = db.execute("select email from account where did = ?", (in_place.scenario.writer.did,)).fetchone()
        db.execute("update account set email = 'x' || email where did = ?", (in_place.scenario.writer.did,))
        db.execute("update account set email = ? where did = ?", (taken, late))
        db.commit()
    output = in_place.run()
    assert f"NOT RESTORED: {late}: it was made after the snapshot, which has another account with its e-mail" in output
    assert "its signing key is in" in in_place.run(code=1, NOMAD_META_forget="yes")


@one_line
def test_snapshot_without_events_is_restored_with_events_above_all_known(disaster: Restore) -> None:
    (_fetched(disaster).path / "sequencer.sqlite").write_bytes(os.urandom(8192))
    relay = disaster.relay
    with relay.answering() as url:
        assert "events begin anew" in disaster.run(PDS_CRAWLERS=url)
    with disaster.opened() as server:
        _relay_follows(server, disaster, relay)


@one_line
def test_verifying_a_snapshot_changes_nothing(in_place: Restore) -> None:
    in_place.data.take()
    output = in_place.run(NOMAD_META_verify="yes", NOMAD_META_from="volume")
    assert "0 with losses, 0 not restorable" in output
    assert "it can be restored" in output
    did = in_place.scenario.writer.did
    snapshot = Data(path=in_place.data.snapshot, install=in_place.data.install, document_key=in_place.data.document_key)
    key_of(snapshot, did).unlink()
    refused = in_place.run(code=1, NOMAD_META_verify="yes", NOMAD_META_from="volume")
    assert f"--without {did}" in refused
    in_place.run(NOMAD_META_verify="yes", NOMAD_META_from="volume", NOMAD_META_without=did)


@one_line
def test_whole_old_data_is_preferred_to_an_older_backup_with_losses(in_place: Restore, tmp_path: Path) -> None:
    did = in_place.scenario.writer.did
    lossy = _relabelled(in_place.scenario.snapshot, tmp_path / "lossy", "2026-01-03T00:00:00.000Z")
    lose_a_record(Data(path=lossy, install=in_place.data.install, document_key=in_place.data.document_key), did)
    overwrite_pages(_fetched(in_place), did)
    with _older(in_place, lossy):
        output = in_place.run(OLDER_BACKUPS="true")
    assert f"FROM THE OLD DATA: {did}" in output
    assert in_place.scenario.written_after in _uris(in_place.data.path, did)


@one_line
def test_last_repository_of_an_account_is_kept_even_if_its_key_is_elsewhere(in_place: Restore) -> None:
    did = in_place.scenario.writer.did
    in_place.run(NOMAD_META_without=did)
    assert key_of(in_place.data, did).exists()
    assert f"{did}: its repository is in .restore/old-" in in_place.run(code=1, NOMAD_META_forget="yes")
