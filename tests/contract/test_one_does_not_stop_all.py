"""One account's fault in the middle of a restore: the others come back, and a restore that failed leaves a way out."""

from __future__ import annotations

import pytest

from .restores import Restore
from .test_damaged_accounts import lose_the_tree
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
