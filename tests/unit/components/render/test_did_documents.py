"""`did_documents.cjs` in a plain Node, against a directory that limits queries or fails for a while.

`tests/contract/test_restore_directory.py` has what a restore makes of the answers.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.render.scripts import script
from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tests.unit.components.render.test_volume_check import _node as node

PROGRAM = Path(__file__).with_name("flawed_directory.cjs")


def _asked(count: int, flaw: str) -> dict[str, Any]:
    """What the program finds of `count` accounts at a directory with a flaw."""
    script_path = VOLUME_CHECK.with_name("did_documents.cjs")
    command = [node(), str(PROGRAM), str(script_path), str(count), flaw]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("header", ["seconds", "date", "reset", "none"])
def test_every_account_is_asked_although_the_directory_limits_queries(header: str) -> None:
    found = _asked(450, f"limited-{header}")
    assert (found["answered"], found["failed"]) == (450, 0)
    assert header == "none" or found["requests"] <= 450 + 5 * 8, "no query is sent before the time that was requested"


def test_directory_that_blocks_this_host_is_given_up() -> None:
    found = _asked(100, "blocked")
    assert (found["answered"], found["failed"]) == (0, 100)
    assert found["requests"] < 100, "it is asked no more than it can bear"
    assert "answers 429" in found["why"]


def test_accounts_are_asked_again_after_a_short_outage() -> None:
    assert _asked(100, "outage")["failed"] == 0


def test_single_fault_does_not_stop_the_others() -> None:
    found = _asked(50, "broken")
    assert (found["answered"], found["failed"]) == (45, 5)
    assert "answers 500" in found["why"]


def test_account_that_the_directory_does_not_know_is_gone_at_once() -> None:
    found = _asked(20, "unknown")
    assert (found["gone"], found["requests"]) == (20, 20)


def test_the_script_needs_no_other_file() -> None:
    assert "require(" not in script("did_documents.cjs"), "this test runs it alone"
