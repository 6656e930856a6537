"""One account's fault in the middle of a restore: the others come back, and a restore that failed leaves a way out."""

from __future__ import annotations

import os
import shutil

import pytest

from tools.verify import home

from .restores import Restore
from .test_damaged_accounts import key_of, lose_the_tree
from .test_restore import _client, _logged_in, _status
from .test_restored_accounts import _fetched, one_line

pytestmark = pytest.mark.contract


def two_members(restore: Restore) -> tuple[str, str]:
    """Two members who are in use before and after the snapshot."""
    story = restore.story
    others = {story.deleted.did, story.hidden.did, story.resting.did, story.gone.did}
    one, two, *_ = (member.did for member in story.club.members if member.did not in others)
    return one, two


@one_line
def test_two_accounts_whose_trees_are_lost_are_both_rebuilt(in_place: Restore) -> None:
    for did in two_members(in_place):
        lose_the_tree(_fetched(in_place), did)
    in_place.run()
    with in_place.opened() as server:
        for did in two_members(in_place):
            _logged_in(server, in_place, did)
            assert _status(_client(server, in_place), did) == "active"


@one_line
def test_a_key_is_not_forgotten_because_newer_old_data_have_a_damaged_one(in_place: Restore) -> None:
    late = in_place.story.late.did
    place = in_place.data.path / ".restore"
    for name, key in (("old-1", key_of(in_place.data, late).read_bytes()), ("old-2", os.urandom(16))):
        (place / name / home(late)).mkdir(parents=True)
        (place / name / home(late) / "key").write_bytes(key)
    shutil.rmtree(in_place.data.path / home(late))
    refused = in_place.run(code=1, NOMAD_META_forget="yes")
    assert f"{late}: its signing key is in .restore/old-1 alone" in refused
    assert (place / "old-1").exists(), "it holds the last copy"
