"""The restore of a move: what it refuses although `./pds restore` does not, since the old host still has everything."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cli.snapshot.did_keys import did_key
from tests.contract.lines import one_line
from tests.contract.restores import FILES, Restore, names_the_key, newest
from tests.contract.test_damaged_accounts import lose_a_blob, overwrite_pages, store_of
from tests.contract.test_restore import _client, _content, _logged_in, _status, _uris
from tests.contract.test_restored_accounts import _fetched
from tests.support.flawed_proxy import flawed_proxy

pytestmark = [pytest.mark.contract, one_line]

MOVE = {"NOMAD_META_old_data": "no", "NOMAD_META_without_directory": "yes", "NOMAD_META_sequence": "1"}
"""The parameters of `./pds move`, but for `whole`."""

WHOLE = MOVE | {"NOMAD_META_whole": "yes"}


def _refused(restore: Restore, **change: str) -> str:
    before = _content(restore.data.path)
    output = restore.run(code=1, **WHOLE | change)
    assert "REFUSED: " in output
    assert _content(restore.data.path) == before, "a refusal must change nothing"
    return output


def _lock(data: Path) -> None:
    """Leave the lock of a server that ran on these data, which the servers of the scenario do not make."""
    (data / ".run-status").mkdir(mode=0o700, exist_ok=True)
    with closing(sqlite3.connect(data / ".run-status" / "server-lock.sqlite", isolation_level=None)) as db:
        db.execute("begin exclusive")


def test_refuses_a_backup_that_is_older_than_the_data_which_a_server_has_served_here(in_place: Restore) -> None:
    last = newest(in_place.data.path)
    _lock(in_place.data.path)
    output = _refused(in_place)
    assert f"NEWER DATA: a server has run on the data of this volume. Their last event is number {last}" in output
    assert in_place.scenario.written_after in _uris(in_place.data.path, in_place.scenario.writer.did)


def test_replaces_the_data_that_an_unrecorded_restore_of_the_same_move_left(disaster: Restore) -> None:
    """A command that is killed after the swap does not know that the restore is over."""
    manifest = json.loads((disaster.scenario.snapshot / "manifest.json").read_text())
    disaster.run(code=0, **MOVE)
    assert newest(disaster.data.path) > manifest["sequence"], "the restore itself writes events"
    disaster.fetch()
    assert "ready" in disaster.run(code=0, **MOVE)


def test_replaces_restored_data_on_which_no_server_ran_before_the_move_went_back(
    disaster: Restore, in_place: Restore, tmp_path: Path
) -> None:
    """The server went on at the old host, with fewer events than the restore had skipped."""
    disaster.run(code=0, **MOVE)
    in_place.data.take()
    later = tmp_path / "later"
    shutil.copytree(in_place.data.snapshot, later)
    assert json.loads((later / "manifest.json").read_text())["sequence"] < newest(disaster.data.path)
    disaster.fetch(later)
    disaster.run(code=0, **MOVE)
    assert in_place.scenario.written_after in _uris(disaster.data.path, in_place.scenario.writer.did)


@pytest.mark.parametrize("served", [False, True], ids=["no server ran", "a server ran"])
def test_data_of_a_restore_without_a_record_of_its_last_event_are_newer_only_if_a_server_has_run_on_them(
    disaster: Restore, in_place: Restore, tmp_path: Path, served: bool
) -> None:
    """A restore skips thousands of numbers. A former version left no record when a move went back."""
    disaster.run(code=0, **MOVE)
    (disaster.data.path / ".pds-restored.json").unlink()
    in_place.data.take()
    later = tmp_path / "later"
    shutil.copytree(in_place.data.snapshot, later)
    assert json.loads((later / "manifest.json").read_text())["sequence"] < newest(disaster.data.path)
    disaster.fetch(later)
    if served:
        _lock(disaster.data.path)
        assert "NEWER DATA" in _refused(disaster)
        return
    assert "none that are newer than the backup" in disaster.run(code=0, **WHOLE)
    assert in_place.scenario.written_after in _uris(disaster.data.path, in_place.scenario.writer.did)


def test_the_refusal_of_newer_data_names_no_step_that_paused_jobs_prevent(in_place: Restore) -> None:
    """The paused club has its jobs on this host, so its `up` refuses to remove the club."""
    _lock(in_place.data.path)
    output = _refused(in_place)
    assert "pulumi up" not in output
    assert "`pulumi config rm --path move:note.newer --stack STACK`, then go back" in output


def test_refuses_the_same_backup_again_after_the_restored_server_has_run(disaster: Restore) -> None:
    disaster.run(code=0, **MOVE)
    lock = {"NODE_OPTIONS": f"--require={FILES / 'data_lock.cjs'}"}
    served = replace(disaster, scenario=replace(disaster.scenario, env={**disaster.scenario.env, **lock}))
    with served.opened() as server:
        disaster.scenario.club.post(_logged_in(server, disaster, disaster.scenario.writer.did), "on the new host")
    disaster.fetch()
    assert "NEWER DATA" in _refused(disaster)


def test_refuses_to_leave_out_an_account_that_the_old_host_has_unless_its_name_is_given(disaster: Restore) -> None:
    did = disaster.scenario.writer.did
    overwrite_pages(_fetched(disaster), did)
    output = _refused(disaster)
    assert f"{did}: store.sqlite is damaged" in output
    assert f"To move without them: --without {did}\n" in output
    assert f"NOT RESTORED: {did}: you left it out" in disaster.run(code=0, **WHOLE, NOMAD_META_without=did)


def test_refuses_an_account_of_which_the_backup_has_an_older_copy_only(disaster: Restore) -> None:
    did = disaster.scenario.writer.did
    _note_as_of(disaster, did, "2026-01-03T00:00:00.000Z")
    assert f"{did}: the only whole copy is of 2026-01-03T00:00:00.000Z" in _refused(disaster)
    assert f"AS OF 2026-01-03T00:00:00.000Z: {did}" in disaster.run(code=0, **MOVE), "`./pds restore` takes it"


def test_the_check_before_a_move_refuses_an_account_whose_newest_copy_could_not_be_made(in_place: Restore) -> None:
    """The old host's file is damaged, and may still have the newer posts."""
    did, data = in_place.scenario.writer.did, in_place.data
    data.take()
    moment = data.manifest()["started"]
    with closing(sqlite3.connect(store_of(data, did))) as db:
        db.execute("create table later (x)")
        db.commit()
    overwrite_pages(data, did)
    data.take()
    check = {"NOMAD_META_verify": "yes", "NOMAD_META_from": "volume"}
    output = in_place.run(code=1, **check)
    assert f"AS OF {moment}: {did}: store.sqlite is damaged" in output
    assert "would be restored from an older copy, without what was written since" in output
    assert f"To restore without them: --without {did}\n" in output
    assert "it can be restored" in in_place.run(code=0, **check, NOMAD_META_without=did)


@pytest.mark.parametrize("damaged", ["yes", "no"])
def test_refuses_losses_of_the_bucket_and_takes_those_of_the_old_host_along(disaster: Restore, damaged: str) -> None:
    """A blob that the old host has lost as well must not stop a move for ever."""
    did = disaster.scenario.writer.did
    lose_a_blob(_fetched(disaster), did)
    (disaster.data.path / ".restore" / "fetched.json").write_text(json.dumps({"seconds": 1, "damaged": damaged}))
    if damaged == "yes":
        assert f"{did}: the bucket has lost a part of it: blob bafkrei" in _refused(disaster)
    else:
        assert f"WITH LOSSES: {did}: blob bafkrei" in disaster.run(code=0, **WHOLE)


def test_account_that_relays_drop_already_stays_in_use_and_is_named(disaster: Restore) -> None:
    """The old host serves it, and a directory that answers wrongly must not lock out its members."""
    did, other, manifest = disaster.scenario.writer.did, did_key("5d" * 32), disaster.data.path / ".restore"
    last = json.loads((manifest / "fetched" / "manifest.json").read_text())["repositories"][did]["rev"]
    with flawed_proxy(disaster.scenario.directory.url) as proxy:
        proxy.rule = names_the_key(disaster.scenario.directory, did, other)
        output = disaster.run(code=0, **WHOLE, PDS_DID_PLC_URL=proxy.url)
    assert f"note: {did}: its DID document names this server and the key {other}" in output
    assert "It arrives as the old host has it: see docs/guide/members.md#another-signing-key" in output
    assert f"LEFT OUT: {did}" not in output
    with disaster.opened() as server:
        client = _client(server, disaster)
        assert _status(client, did) == "active"
        latest = client.query("com.atproto.sync.getLatestCommit", {"did": did})["rev"]
        assert latest == last, "the move itself must sign nothing that relays drop"


def _note_as_of(restore: Restore, did: str, moment: str) -> None:
    """Let the fetched snapshot have the account as of an earlier backup, as if no newer copy could be made."""
    path = restore.data.path / ".restore" / "fetched" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["repositories"][did]["of"] = moment
    path.write_text(json.dumps(manifest))
