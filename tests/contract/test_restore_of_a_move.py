"""The restore of a move: what it refuses although `./pds restore` does not, since the old host still has everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.contract.lines import one_line
from tests.contract.restores import Restore, newest
from tests.contract.test_restore import _content, _logged_in, _uris

pytestmark = [pytest.mark.contract, one_line]

MOVE = {"NOMAD_META_old_data": "no", "NOMAD_META_without_directory": "yes", "NOMAD_META_sequence": "1"}
"""The parameters of `./pds move`."""


def _refused(restore: Restore, **change: str) -> str:
    before = _content(restore.data.path)
    output = restore.run(code=1, **MOVE | change)
    assert "REFUSED: " in output
    assert _content(restore.data.path) == before, "a refusal must change nothing"
    return output


def test_refuses_a_backup_that_is_older_than_the_data_which_a_server_has_served_here(in_place: Restore) -> None:
    last = newest(in_place.data.path)
    output = _refused(in_place)
    assert f"NEWER DATA: a server has run on the data of this volume. Their last event is number {last}" in output
    assert in_place.scenario.written_after in _uris(in_place.data.path, in_place.scenario.writer.did)


def test_replaces_the_data_that_an_unrecorded_restore_of_the_same_move_left(disaster: Restore) -> None:
    """A command that is killed after the swap does not know that the restore is over."""
    manifest = json.loads((disaster.scenario.snapshot / "manifest.json").read_text())
    disaster.run(**MOVE)
    assert newest(disaster.data.path) > manifest["sequence"], "the restore itself writes events"
    disaster.fetch()
    assert "ready" in disaster.run(**MOVE)


def test_replaces_restored_data_on_which_no_server_ran_before_the_move_went_back(
    disaster: Restore, in_place: Restore, tmp_path: Path
) -> None:
    """The server went on at the old host, with fewer events than the restore had skipped."""
    disaster.run(**MOVE)
    in_place.data.take()
    later = tmp_path / "later"
    shutil.copytree(in_place.data.snapshot, later)
    assert json.loads((later / "manifest.json").read_text())["sequence"] < newest(disaster.data.path)
    disaster.fetch(later)
    disaster.run(**MOVE)
    assert in_place.scenario.written_after in _uris(disaster.data.path, in_place.scenario.writer.did)


def test_refuses_the_same_backup_again_after_the_restored_server_has_run(disaster: Restore) -> None:
    disaster.run(**MOVE)
    with disaster.opened() as server:
        disaster.scenario.club.post(_logged_in(server, disaster, disaster.scenario.writer.did), "on the new host")
    disaster.fetch()
    assert "NEWER DATA" in _refused(disaster)
