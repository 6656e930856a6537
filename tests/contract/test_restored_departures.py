"""Accounts that left and came back, and data that are older than the backup: a restore keeps members, and no account
that was deleted."""

from __future__ import annotations

import json

import pytest

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
