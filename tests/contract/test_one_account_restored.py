"""`./pds restore --only`: it restores one account from a backup and leaves the others unchanged."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from cli.snapshot.verify import MANIFEST
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.snapshots import DEADLINE, Scale
from tests.contract.test_damaged_accounts import key_of, overwrite_pages
from tests.contract.test_restore import _cid, _client, _logged_in, _relay_follows, _status, _uris
from tests.contract.test_restored_accounts import _fetched, _older, _relabelled

pytestmark = pytest.mark.contract


def _one(restore: Restore, did: str, **change: str) -> str:
    """Both runs of `--only`: while the server runs, then while it is stopped."""
    output = restore.run(code=0, NOMAD_META_only=did, **change)
    return output + restore.run(code=0, NOMAD_META_only=did, NOMAD_META_step="in", **change)


def _state_of_others(restore: Restore, did: str) -> dict[str, str]:
    """Revisions and CIDs of all other repositories."""
    with closing(sqlite3.connect(restore.data.path / "account.sqlite")) as db:
        return dict(db.execute("select did, rev || ' ' || cid from repo_root where did != ?", (did,)))


def test_one_account_is_restored_and_the_others_are_unchanged(in_place: Restore) -> None:
    scenario, did, relay = in_place.scenario, in_place.scenario.writer.did, in_place.relay
    overwrite_pages(in_place.data, did)
    before = _state_of_others(in_place, did)
    events = relay.cursor
    with relay.answering() as url:
        output = _one(in_place, did, PDS_CRAWLERS=url)
    assert f"{did} as of {json.loads((scenario.snapshot / MANIFEST).read_text())['started']}" in output
    assert _state_of_others(in_place, did) == before
    with in_place.opened() as server:
        _logged_in(server, in_place, did)
        _logged_in(server, in_place, scenario.late.did)
        for uri, cid in scenario.club.journal.before(scenario.began)[1].items():
            if did in uri:
                assert _cid(server, in_place, uri) == cid
        with closing(sqlite3.connect(in_place.data.path / "sequencer.sqlite")) as db:
            new = db.execute("select did, eventType from repo_seq where seq > ?", (events,)).fetchall()
        assert new == [(did, "sync")], "only a #sync for that account"
        _relay_follows(server, in_place, relay)


def test_deleted_account_is_restored_with_its_password(in_place: Restore) -> None:
    scenario, did = in_place.scenario, in_place.scenario.deleted.did
    _one(in_place, did)
    with in_place.opened() as server:
        _logged_in(server, in_place, did)
        assert _status(_client(server, in_place), did) == "active"
        _logged_in(server, in_place, scenario.writer.did)


@one_line
def test_account_that_the_newest_backup_lacks_is_restored_with_its_password(in_place: Restore, tmp_path: Path) -> None:
    scenario, did = in_place.scenario, in_place.scenario.deleted.did
    in_place.data.take()
    newest = in_place.data.path / ".restore" / "fetched"
    shutil.rmtree(newest)
    in_place.fetch(in_place.data.snapshot)
    emptied = _relabelled(scenario.snapshot, tmp_path / "emptied", "2026-01-03T00:00:00.000Z")
    shutil.copy(newest / "account.sqlite", emptied)
    with _older(in_place, emptied, only=True):
        output = in_place.run(code=1, NOMAD_META_only=did, OLDER_BACKUPS="true")
    assert f"REFUSED: {did} was deleted, and the account database of the backup of 2026-01-03" in output
    assert "Nothing was changed." in output, "the PDS would be paused for a restore that fails"
    with _older(in_place, scenario.snapshot, only=True):
        _one(in_place, did, OLDER_BACKUPS="true")
    with in_place.opened() as server:
        _logged_in(server, in_place, did)


@one_line
def test_account_that_is_deleted_after_it_was_made_ready_is_refused(in_place: Restore) -> None:
    did = in_place.scenario.writer.did
    in_place.run(NOMAD_META_only=did)
    (in_place.data.path / ".restore" / "only" / "account.sqlite").unlink()  # no backup had its row, the server did
    with closing(sqlite3.connect(in_place.data.path / "account.sqlite")) as db, db:
        db.execute("delete from actor where did = ?", (did,))
    assert "begin again" in in_place.run(code=1, NOMAD_META_only=did, NOMAD_META_step="in")
    assert not (in_place.data.path / ".restore" / "swap.json").exists(), "the server could not start"


@one_line
def test_account_is_prepared_while_the_server_runs(in_place: Restore) -> None:
    scenario, did = in_place.scenario, in_place.scenario.writer.did
    with in_place.opened() as server:
        in_place.run(NOMAD_META_only=did)
        uri = scenario.club.post(_logged_in(server, in_place, did), "meanwhile")
        assert "the server is running" in in_place.run(code=1, NOMAD_META_only=did, NOMAD_META_step="in")
    in_place.run(NOMAD_META_only=did, NOMAD_META_step="in")
    assert uri not in _uris(in_place.data.path, did)
    with in_place.opened() as server:
        _logged_in(server, in_place, did)


@one_line
def test_refuses_an_account_that_moved_away_or_is_in_no_backup(in_place: Restore) -> None:
    gone = in_place.scenario.gone.did
    assert f"REFUSED: {gone}: its DID document names the server rooks.test" in in_place.run(
        code=1, NOMAD_META_only=gone
    )
    late = in_place.scenario.late.did
    assert f"REFUSED: {late} cannot be restored" in in_place.run(code=1, NOMAD_META_only=late)
    overwrite_pages(_fetched(in_place), in_place.scenario.writer.did)
    assert "Nothing was changed" in in_place.run(code=1, NOMAD_META_only=in_place.scenario.writer.did)


@one_line
def test_account_is_restored_from_an_older_backup_if_the_newest_is_damaged(in_place: Restore, tmp_path: Path) -> None:
    did = in_place.scenario.writer.did
    whole = _relabelled(in_place.scenario.snapshot, tmp_path / "whole", "2026-01-03T00:00:00.000Z")
    key_of(_fetched(in_place), did).unlink()
    with _older(in_place, whole):
        output = _one(in_place, did, OLDER_BACKUPS="true")
    assert f"{did} as of 2026-01-03T00:00:00.000Z" in output


@one_line
def test_restore_killed_at_random_leaves_the_account_old_or_restored(in_place: Restore, scale: Scale) -> None:
    scenario, did = in_place.scenario, in_place.scenario.writer.did
    began = time.monotonic()
    _one(in_place, did)
    seconds = time.monotonic() - began
    before = _state_of_others(in_place, did)
    chance, killed = random.Random(7), 0
    for number in range(scale.kills):
        in_place.fetch()
        in_place.run(NOMAD_META_only=did)
        with in_place.start(NOMAD_META_only=did, NOMAD_META_step="in") as running:
            time.sleep((number + chance.random()) / scale.kills * seconds)  # one in each part of the run
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=DEADLINE)
            killed += running.returncode == -signal.SIGKILL
        _until_no_child_is_left(in_place)
        # The operator repeats both runs. Each run of the job fetches first: a run that was killed at its end has
        # already removed what it had fetched.
        in_place.fetch()
        _one(in_place, did)
        assert _state_of_others(in_place, did) == before, f"round {number}"
        in_place.data.take()
        assert in_place.data.verify().problems == (), f"round {number}"
    assert killed
    with in_place.opened() as server:
        _logged_in(server, in_place, did)
        assert _uris(in_place.data.path, did) >= {
            uri for uri in scenario.club.journal.before(scenario.began)[1] if did in uri
        }


def _until_no_child_is_left(restore: Restore) -> None:
    """Wait for child processes to end. A container would end them; here the server's code may run for a moment."""
    for _ in range(6000):
        left = subprocess.run(["pgrep", "-f", str(restore.programs)], capture_output=True, timeout=600, check=False)
        if not left.stdout:
            return
        time.sleep(0.1)
    pytest.fail("a process of a killed restore still runs")
