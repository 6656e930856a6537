"""Accounts that left and came back, and data that are older than the backup: a restore keeps members, and no account
that was deleted."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from cli.snapshot.verify import repo_path
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.test_restore import _client, _logged_in, _status

pytestmark = pytest.mark.contract


def _list_departures(restore: Restore, *lines: tuple[str, str, str]) -> None:
    """Write the list that was fetched beside the snapshot: time, DID and status of each account event."""
    place = restore.data.path / ".restore" / "list"
    place.mkdir()
    events = [
        {"seq": number, "time": time, "did": did, "status": status}
        for number, (time, did, status) in enumerate(lines, 1)
    ]
    (place / ".departures.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@one_line
def test_member_who_came_back_before_the_backup_is_kept_although_the_stack_file_lists_them(disaster: Restore) -> None:
    did, eve = disaster.scenario.writer.did, "did:plc:qo2urk437ss36eyefp5jgoyw"
    _list_departures(disaster, *(("2026-01-01T00:00:00.000Z", one, "deleted") for one in (did, eve)))
    output = disaster.run(NOMAD_META_sequence="1", NOMAD_META_delete=f"{did} {eve}")
    assert f"note: {did} came back after it was deleted, and is kept; remove it from 'delete'" in output
    assert eve not in output, "the backup does not have her"
    with disaster.opened() as server:
        _logged_in(server, disaster, did)


@one_line
def test_account_that_the_stack_file_deletes_is_restored_if_the_operator_brings_it_back(disaster: Restore) -> None:
    did = disaster.scenario.writer.did
    disaster.run(NOMAD_META_sequence="1", NOMAD_META_delete=did, NOMAD_META_bring_back=did)
    with disaster.opened() as server:
        assert _status(_client(server, disaster), did) == "active"


# --- data on the volume that are older than the backup, as of a volume that was rolled back or an older one


@pytest.fixture
def older_volume(in_place: Restore) -> Restore:
    """The volume has an account of 2020 that the backup does not have."""
    with closing(sqlite3.connect(in_place.data.path / "account.sqlite")) as db:
        made = ("2020-01-01T00:00:00.000Z", in_place.scenario.late.did)
        db.execute('update actor set "createdAt" = ? where did = ?', made)
        db.commit()
    return in_place


def _states(restore: Restore, did: str) -> list[tuple[bool, bool]]:
    """Whether the account is taken down, and whether it is deactivated; nothing if there is no account."""
    with closing(sqlite3.connect(restore.data.path / "account.sqlite")) as db:
        query = 'select "takedownRef" is not null, "deactivatedAt" is not null from actor where did = ?'
        return [(bool(hidden), bool(resting)) for hidden, resting in db.execute(query, (did,))]


@one_line
def test_account_that_was_deleted_long_before_the_backup_is_not_carried_over(older_volume: Restore) -> None:
    late = older_volume.scenario.late.did
    _list_departures(older_volume, ("2020-02-01T00:00:00.000Z", late, "deleted"))
    output = older_volume.run()
    assert f"LEFT OUT: {late}: only the old data have it, and it was deleted on 2020-02-01" in output
    assert _states(older_volume, late) == []
    assert not (older_volume.data.path / repo_path(late)).exists()
    assert "removed: old-" in older_volume.run(NOMAD_META_forget="yes"), "its key is not kept for ever"


@one_line
@pytest.mark.parametrize(
    ("status", "state"), [("takendown", (True, False)), ("deactivated", (False, True)), ("active", (False, False))]
)
def test_carried_over_account_has_the_last_status_that_the_list_has(
    older_volume: Restore, status: str, state: tuple[bool, bool]
) -> None:
    late = older_volume.scenario.late.did
    first, second = "2020-02-01T00:00:00.000Z", "2020-03-01T00:00:00.000Z"
    _list_departures(older_volume, (first, late, "deleted"), (second, late, status))
    output = older_volume.run()
    assert f"CARRIED OVER: {late}: only the old data have it" in output
    assert _states(older_volume, late) == [state]


@one_line
def test_account_that_was_deleted_long_before_the_backup_can_be_brought_back(older_volume: Restore) -> None:
    late = older_volume.scenario.late.did
    _list_departures(older_volume, ("2020-02-01T00:00:00.000Z", late, "deleted"))
    older_volume.run(NOMAD_META_bring_back=late)
    assert _states(older_volume, late) == [(False, False)]


@one_line
def test_member_who_came_back_after_the_backup_is_carried_over(in_place: Restore) -> None:
    """The list of departures has the deletion of before, and the stack file still has the entry."""
    late = in_place.scenario.late.did
    _list_departures(in_place, ("2020-02-01T00:00:00.000Z", late, "deleted"))
    output = in_place.run(NOMAD_META_delete=late)
    assert f"CARRIED OVER: {late}: it was made after the snapshot" in output
    assert f"note: {late} came back after it was deleted, and is kept" in output
    assert _states(in_place, late) == [(False, False)]


# --- an entry of 'delete' that was applied while the account was another server's


@one_line
def test_member_who_came_after_the_entry_was_applied_is_kept(in_place: Restore) -> None:
    """No deletion of them was ever recorded here, and the old data have them."""
    writer, late = in_place.scenario.writer.did, in_place.scenario.late.did
    listed = f"{writer} {late}"
    output = in_place.run(NOMAD_META_delete=listed, NOMAD_META_applied=listed)
    assert f"CARRIED OVER: {late}" in output
    for did in (writer, late):
        assert f"note: {did} came after `up` applied its entry in 'delete', and is kept" in output
        assert _states(in_place, did) == [(False, False)]
    with in_place.opened() as server:
        _logged_in(server, in_place, writer)


@one_line
def test_entry_that_was_not_applied_deletes_accounts_of_the_backup_and_of_the_old_data(in_place: Restore) -> None:
    writer, late = in_place.scenario.writer.did, in_place.scenario.late.did
    output = in_place.run(NOMAD_META_delete=f"{writer} {late}")
    assert f"LEFT OUT: {late}: only the old data have it, and the stack file lists it under 'delete'" in output
    assert f"LEFT OUT: {writer}: it was deleted" in output
    assert _states(in_place, writer) == _states(in_place, late) == []


@one_line
def test_applied_entry_deletes_an_account_that_only_the_backup_has(disaster: Restore) -> None:
    """The list of departures is lost, too. The entry is all that tells of the deletion."""
    did = disaster.scenario.writer.did
    disaster.run(NOMAD_META_sequence="1", NOMAD_META_delete=did, NOMAD_META_applied=did)
    assert _states(disaster, did) == []


@one_line
def test_applied_entry_deletes_an_account_of_an_earlier_stay(in_place: Restore) -> None:
    """A move restores its own backup. What the volume has from before tells nothing of today's members."""
    did = in_place.scenario.writer.did
    in_place.let_data_be_of_an_earlier_stay()
    in_place.run(NOMAD_META_delete=did, NOMAD_META_applied=did, NOMAD_META_old_data="no")
    assert _states(in_place, did) == []
