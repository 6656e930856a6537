"""account.sqlite lost accounts that were not deleted: the backup names them, or refuses and keeps the copy before."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from cli.snapshot.verify import MANIFEST, NOT, WHOLE, repo_path
from components.clients import pds_admin
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.snapshots import Data, Running
from tests.contract.test_damaged_accounts import did_of, key_of, overwrite_pages, status_of
from tests.contract.test_restore import _cid, _logged_in, _uris
from tools.trial.process import ServerEndedError

pytestmark = pytest.mark.contract


def _lose(data: Data, *dids: str) -> list[tuple[str, Any]]:
    """Delete the accounts' rows; return those of the accounts' own tables."""
    rows = []
    with closing(sqlite3.connect(data.path / "account.sqlite")) as db:
        for table in ("account", "actor"):
            for did in dids:
                rows += [(table, row) for row in db.execute(f"select * from {table} where did = ?", (did,))]  # noqa: S608
                db.execute(f"delete from {table} where did = ?", (did,))  # noqa: S608
        db.commit()
    return rows


def _put_back(data: Data, rows: list[tuple[str, Any]]) -> None:
    with closing(sqlite3.connect(data.path / "account.sqlite")) as db:
        for table, row in reversed(rows):
            db.execute(f"insert into {table} values ({','.join('?' * len(row))})", row)  # noqa: S608
        db.commit()


@one_line
def test_backup_refuses_an_account_database_that_lost_most_accounts(running: Running, faulty: Data) -> None:
    """The server makes an empty database if the disk loses it. Nothing but the earlier backups has the passwords."""
    faulty.take()
    before = faulty.manifest()
    rows = _lose(faulty, *before["accounts"])
    for _ in range(2):
        output = faulty.take(code=1)
        assert f"REFUSED: account.sqlite has lost {len(before['accounts'])} of the {len(before['accounts'])}" in output
        assert "`./pds restore STACK`" in status_of(faulty)["why"]
        assert faulty.manifest() == before
    _put_back(faulty, rows)
    faulty.take()
    assert faulty.manifest()["findings"] == {}


@one_line
def test_backup_names_lost_accounts_until_they_are_back_or_listed_for_deletion(running: Running, faulty: Data) -> None:
    back, deleted = did_of(running, 1), did_of(running, 3)
    faulty.take()
    first = faulty.manifest()
    rows = _lose(faulty, back)
    _lose(faulty, deleted)
    found = []
    for _ in range(3):
        assert f"FINDING: {back}: {NOT}: account.sqlite has lost it" in faulty.take()
        found.append(faulty.manifest()["findings"])
    assert found[0] == found[1] == found[2], "it is reported once, and stays"
    assert found[0].keys() == {back, deleted}
    assert f"Backups until {first['started']} have it: `./pds restore STACK --list`" in found[0][back]["what"]
    verdicts = faulty.verify().accounts
    assert {verdicts[did].state for did in verdicts} == {WHOLE}, "their repositories stay in the backups"
    assert verdicts.keys() == set(first["accounts"])

    _put_back(faulty, rows)
    faulty.take(ACCOUNTS_DELETED=f"did:plc:other {deleted}")
    assert faulty.manifest()["findings"] == {}
    faulty.take()
    assert faulty.manifest()["findings"] == {}, "it was acknowledged, and may leave 'delete' again"


@one_line
def test_entry_of_an_earlier_deletion_hides_no_loss(running: Running, faulty: Data) -> None:
    """The member came back after the deletion, and the stack file still has the entry."""
    did = did_of(running, 1)
    faulty.take(ACCOUNTS_DELETED=did)
    rows = _lose(faulty, did)
    for _ in range(2):
        assert f"FINDING: {did}: {NOT}: account.sqlite has lost it" in faulty.take(ACCOUNTS_DELETED=did)
    assert "Remove the entry" in faulty.manifest()["findings"][did]["what"]
    _put_back(faulty, rows)
    faulty.take(ACCOUNTS_DELETED=did)
    assert faulty.manifest()["findings"] == {}

    _lose(faulty, did)
    faulty.take()
    assert did in faulty.manifest()["findings"]
    faulty.take(ACCOUNTS_DELETED=did)
    assert faulty.manifest()["findings"] == {}, "the entry is a new one"


@one_line
def test_backup_refuses_the_loss_of_most_accounts_although_earlier_entries_name_them(faulty: Data) -> None:
    faulty.take()
    dids = faulty.manifest()["accounts"]
    faulty.take(ACCOUNTS_DELETED=" ".join(dids))
    _lose(faulty, *dids)
    assert "REFUSED: account.sqlite has lost" in faulty.take(code=1, ACCOUNTS_DELETED=" ".join(dids))


def test_account_that_a_member_or_the_operator_deletes_is_no_finding(running: Running) -> None:
    club = running.club
    member = club.join()
    running.data.take()
    assert member.did in running.data.manifest()["accounts"]
    pds_admin.delete(pds_admin.Server(running.server.url, "127.0.0.1", running.admin_password), member.did)
    club.members.remove(member)
    del club.journal.accounts[member.did]
    running.data.take()
    assert member.did not in running.data.manifest()["accounts"]
    assert member.did not in running.data.manifest()["findings"]


@one_line
def test_accounts_that_a_restore_left_out_are_findings_and_no_refusal(in_place: Restore) -> None:
    """An older backup may lack most accounts. The restore prints them, and its operator chose it."""
    late = in_place.scenario.late.did
    path = in_place.data.snapshot / MANIFEST
    known = json.loads(path.read_text())
    others = [f"did:plc:{number:024}" for number in range(20)]
    path.write_text(json.dumps(known | {"accounts": [*known["accounts"], late, *others]}))
    in_place.let_data_be_of_an_earlier_stay()
    in_place.run(NOMAD_META_old_data="no")
    for _ in range(2):
        in_place.data.take()
        assert in_place.data.manifest()["findings"].keys() == {late, *others}


@one_line
def test_backup_on_another_volume_keeps_the_older_ones_that_may_have_an_account_whole(disaster: Restore) -> None:
    """A restore leaves an account out that was damaged on its way. Only the bucket knows that it was whole."""
    damaged, never_whole = disaster.scenario.writer.did, "did:plc:" + "2" * 24
    fetched = disaster.data.path / ".restore" / "fetched"
    with (fetched / repo_path(damaged) / "store.sqlite").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(3 * 4096))
    manifest = json.loads((fetched / MANIFEST).read_text())
    manifest["accounts"].append(never_whole)
    manifest["findings"][never_whole] = {"state": NOT, "what": "its folder is gone", "since": manifest["started"]}
    (fetched / MANIFEST).write_text(json.dumps(manifest))
    output = disaster.run(NOMAD_META_sequence="1", NOMAD_META_old_data="no")
    assert f"NOT RESTORED: {damaged}" in output
    for _ in range(2):
        disaster.data.take()
        findings = disaster.data.manifest()["findings"]
        assert findings[damaged]["older"], "else the last backup that has it expires"
        assert "no backup expires" in findings[damaged]["what"]
        assert not findings.get(never_whole, {}).get("older"), "no backup has it"


@one_line
@pytest.mark.parametrize("content", [None, b""])
def test_server_without_its_account_database_waits_for_a_restore(in_place: Restore, content: bytes | None) -> None:
    database = in_place.data.path / "account.sqlite"
    database.unlink()
    if content is not None:
        database.write_bytes(content)
    with pytest.raises(ServerEndedError) as refusal, in_place.opened():
        pass
    assert "REFUSED: account.sqlite is missing or empty" in refusal.value.last_lines
    in_place.run()
    with in_place.opened() as server:
        _logged_in(server, in_place, in_place.scenario.writer.did)


@one_line
def test_lost_account_is_restored_with_its_password_as_the_finding_says(in_place: Restore) -> None:
    """Its repository on the volume is whole, and newer than the backup."""
    did, written = in_place.scenario.writer.did, in_place.scenario.written_after
    before = _uris(in_place.data.path, did)
    assert written in before
    _lose(in_place.data, did)
    in_place.data.take()
    assert f"./pds restore STACK --only {did} --snapshot ID" in in_place.data.manifest()["findings"][did]["what"]
    output = _restored_with(in_place, did)
    assert f"{did}: the repository on the volume is whole and stays" in output
    with in_place.opened() as server:
        _logged_in(server, in_place, did)
        assert _cid(server, in_place, written)
        in_place.data.take()
        assert did not in in_place.data.manifest()["findings"]
    assert _uris(in_place.data.path, did) == before

    in_place.fetch()
    assert "stays" not in _restored_with(in_place, did)
    assert written not in _uris(in_place.data.path, did), "the operator wants the backup, now that the account is back"


@one_line
@pytest.mark.parametrize("damage", ["a damaged repository", "another key"])
def test_lost_account_with_a_damaged_repository_is_restored_from_the_backup(in_place: Restore, damage: str) -> None:
    did, other = in_place.scenario.writer.did, in_place.scenario.late.did
    _lose(in_place.data, did)
    if damage == "another key":
        shutil.copy(key_of(in_place.data, other), key_of(in_place.data, did))
    else:
        overwrite_pages(in_place.data, did)
    assert f"note: {did}: the repository on the volume is not used" in _restored_with(in_place, did)
    with in_place.opened() as server:
        _logged_in(server, in_place, did)
    assert in_place.scenario.written_after not in _uris(in_place.data.path, did)


def _restored_with(restore: Restore, did: str) -> str:
    """The output of both runs that restore one account from the backup that the operator names."""
    runs = [
        restore.run(NOMAD_META_only=did, NOMAD_META_snapshot="1a2b3c4d", NOMAD_META_step=step) for step in ("", "in")
    ]
    return "".join(runs)
