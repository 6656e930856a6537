"""A fault of one account during a restore: the others are restored, and a failed restore can be repeated."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from cli.snapshot.verify import MANIFEST, repo_path
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.snapshots import Data
from tests.contract.test_damaged_accounts import key_of, lose_the_tree, store_of
from tests.contract.test_restore import _client, _logged_in, _status
from tests.contract.test_restored_accounts import _fetched

pytestmark = pytest.mark.contract


def two_members(restore: Restore) -> tuple[str, str]:
    """Two members whose accounts are active before and after the snapshot."""
    scenario = restore.scenario
    others = {scenario.deleted.did, scenario.hidden.did, scenario.resting.did, scenario.gone.did}
    one, two, *_ = (member.did for member in scenario.club.members if member.did not in others)
    return one, two


@one_line
def test_two_accounts_with_lost_trees_are_both_rebuilt(in_place: Restore) -> None:
    for did in two_members(in_place):
        lose_the_tree(_fetched(in_place), did)
    in_place.run()
    with in_place.opened() as server:
        for did in two_members(in_place):
            _logged_in(server, in_place, did)
            assert _status(_client(server, in_place), did) == "active"


@one_line
def test_last_copy_of_a_key_is_kept_even_if_newer_old_data_have_a_damaged_one(in_place: Restore) -> None:
    late = in_place.scenario.late.did
    place = in_place.data.path / ".restore"
    for name, key in (("old-1", key_of(in_place.data, late).read_bytes()), ("old-2", os.urandom(16))):
        (place / name / repo_path(late)).mkdir(parents=True)
        (place / name / repo_path(late) / "key").write_bytes(key)
    shutil.rmtree(in_place.data.path / repo_path(late))
    refused = in_place.run(code=1, NOMAD_META_forget="yes")
    assert f"{late}: its signing key is in .restore/old-1 alone" in refused
    assert (place / "old-1").exists(), "it contains the last copy"


@one_line
def test_refuses_an_account_whose_address_is_taken_and_the_server_starts(in_place: Restore) -> None:
    scenario, did = in_place.scenario, in_place.scenario.deleted.did
    snapshot = in_place.data.path / ".restore" / "fetched" / "account.sqlite"
    with closing(sqlite3.connect(snapshot)) as db:
        (taken,) = db.execute("select email from account where did = ?", (did,)).fetchone()
    with closing(sqlite3.connect(in_place.data.path / "account.sqlite")) as db:
        db.execute("update account set email = ? where did = ?", (taken, scenario.late.did))
        db.commit()
    in_place.run(NOMAD_META_only=did)
    refused = in_place.run(code=1, NOMAD_META_only=did, NOMAD_META_step="in")
    assert "another account has the e-mail address" in refused
    with in_place.opened() as server:
        _logged_in(server, in_place, scenario.writer.did)
    assert not store_of(in_place.data, did).exists()
    in_place.fetch()
    in_place.run(NOMAD_META_verify="yes")


@one_line
@pytest.mark.parametrize("member", ["writer", "deleted"])
def test_failed_account_restore_leaves_it_unchanged_and_the_server_starts(in_place: Restore, member: str) -> None:
    did = getattr(in_place.scenario, member).did
    before = key_of(in_place.data, did).stat().st_ino if member == "writer" else None
    rows = _rows_of(in_place, did)
    in_place.plant(
        "restore_server.cjs", "const did = job.only;", 'const did = job.only;\n  throw new Error("planted");'
    )
    in_place.run(NOMAD_META_only=did)
    assert "planted" in in_place.run(code=1, NOMAD_META_only=did, NOMAD_META_step="in")
    with in_place.opened() as server:
        _logged_in(server, in_place, in_place.scenario.late.did)
        if before:
            assert key_of(in_place.data, did).stat().st_ino == before
            _logged_in(server, in_place, did)
    assert _rows_of(in_place, did) == rows


def _rows_of(restore: Restore, did: str) -> list[int]:
    with closing(sqlite3.connect(restore.data.path / "account.sqlite")) as db:
        tables = ("actor", "account", "app_password", "repo_root")
        return [db.execute(f"select count(*) from {name} where did = ?", (did,)).fetchone()[0] for name in tables]  # noqa: S608


@one_line
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("  const { ctx, job } = server;\n  const found", "repaired"),
        ("async function newRevision(ctx, did, seen) {", "revision"),
        ("  const unapplied = [...new Set([...failed,", "applied"),
    ],
    ids=["repair", "revision", "recovery"],
)
def test_account_at_which_the_server_fails_is_named_and_the_others_are_restored(
    in_place: Restore, place: str, message: str
) -> None:
    one, two = two_members(in_place)
    if message == "repaired":
        lose_the_tree(_fetched(in_place), one)
        _break_rebuilding(_fetched(in_place), one)
    elif message == "revision":
        in_place.plant("restore_server.cjs", place, f'{place}\n  if (did === "{one}") throw new Error("planted");')
    else:
        in_place.plant("restore_server.cjs", place, f'{place} ...(job.without.includes("{one}") ? [] : ["{one}"]),')
    output = in_place.run()
    kept = message == "applied"
    named = (
        f"note: {one}: what came while the snapshot was made could not be applied" if kept else f"NOT RESTORED: {one}: "
    )
    assert named in output
    with in_place.opened() as server:
        _logged_in(server, in_place, two)
        _logged_in(server, in_place, in_place.scenario.late.did)
        status = _status(_client(server, in_place), one)
        assert status == "active" if kept else status in ("deactivated", "RepoNotFound")
    assert key_of(in_place.data, one).exists()


def _break_rebuilding(data: Data, did: str) -> None:
    """Write a record path to the table that is invalid in a tree."""
    with closing(sqlite3.connect(store_of(data, did))) as db:
        db.execute("update record set rkey = 'not a path' where uri = (select uri from record limit 1)")
        db.commit()


@one_line
def test_account_is_restored_with_the_flushes_of_the_server(in_place: Restore) -> None:
    did = in_place.scenario.writer.did
    in_place.plant("restore_server.cjs", 'this.pragma("synchronous = off");', 'console.log("WITHOUT FLUSH");')
    in_place.run(NOMAD_META_only=did)
    output = in_place.run(NOMAD_META_only=did, NOMAD_META_step="in")
    assert "WITHOUT FLUSH" not in output, "a power cut could damage the shared account database"


@one_line
def test_damaged_list_or_identity_file_does_not_prevent_a_restore(in_place: Restore) -> None:
    with (in_place.data.path / ".departures.jsonl").open("ab") as file:
        file.write(os.urandom(40).replace(b"\n", b"") + b"\n{}\n")
    (in_place.data.path / ".pds-identity.json").write_bytes(b"")
    manifest = in_place.data.path / ".restore" / "fetched" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["findings"]  # as written by the previous version
    manifest.write_text(json.dumps(content))
    in_place.run()
    with in_place.opened() as server:
        _logged_in(server, in_place, in_place.scenario.writer.did)
        assert _status(_client(server, in_place), in_place.scenario.deleted.did) in ("deleted", "RepoNotFound")


@one_line
def test_unprepared_account_is_not_reported_as_restored(in_place: Restore) -> None:
    one, two = two_members(in_place)
    in_place.run(NOMAD_META_only=one)
    assert "begin again" in in_place.run(code=1, NOMAD_META_only=two, NOMAD_META_step="in")
    in_place.fetch()
    in_place.run()
    refused = in_place.run(code=1, NOMAD_META_only=one, NOMAD_META_step="in")
    assert "nothing of" in refused, "an account prepared before the whole restore must not be put into its result"
