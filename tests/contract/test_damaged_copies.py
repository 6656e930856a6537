"""A damaged copy of an account on the host's own disk: the next check makes it again if the account is intact."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.snapshot.verify import WHOLE
from tests.contract.lines import one_line
from tests.contract.snapshots import Data, Running
from tests.contract.test_damaged_accounts import DAMAGES, did_of, overwrite_pages, set_back

pytestmark = [pytest.mark.contract, one_line]

COPIES = (
    ("pages overwritten", "key cut", "store cut", "blob gone", "blob flipped", "tree gone"),
    ("record gone", "store empty", "record flipped", "key gone", "keys swapped"),
)
"""Damages of `DAMAGES`, each to another account."""


def test_damaged_copy_of_an_intact_account_is_made_again(running: Running, faulty: Data) -> None:
    """The disk damages a copy, and its account is not written to. A restore would replace intact data."""
    named = {damage.name: damage.do for damage in DAMAGES}
    copy = replace(faulty, path=faulty.snapshot)
    faulty.take()
    counts = faulty.manifest()["counts"]
    for names in COPIES:
        for number, name in enumerate(names):
            named[name](copy, did_of(running, number), did_of(running, (number + 1) % 6))
        set_back(faulty, hours=24)
        faulty.take()
        assert faulty.manifest()["findings"] == {}, names
        assert faulty.manifest()["counts"] == counts
        assert faulty.verify().problems == (), names
    assert "0 repositories copied" in faulty.take(), "the new copies are kept like all others"


def test_damaged_copy_of_a_damaged_account_is_not_promised(running: Running, faulty: Data) -> None:
    did = did_of(running, 3)
    faulty.take()
    overwrite_pages(faulty, did)
    faulty.take()
    assert "The backups keep its copy" in faulty.manifest()["findings"][did]["what"]
    overwrite_pages(replace(faulty, path=faulty.snapshot), did)
    for _ in range(2):
        set_back(faulty, hours=24)
        faulty.take()
        assert "There is no whole copy of it in this backup" in faulty.manifest()["findings"][did]["what"]
    assert {one for one, verdict in faulty.verify().accounts.items() if verdict.state != WHOLE} == {did}
