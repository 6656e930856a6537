"""The host's verifier and the operator's: two implementations, in two languages, with the same verdicts."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from cli.snapshot.verify import repo_path, verify
from tests.contract.lines import one_line
from tests.contract.restores import FILES
from tests.contract.snapshots import Data, Running
from tests.contract.test_snapshot import _DAMAGES, Damage

pytestmark = pytest.mark.contract

_ASK = """
const { verify, lines } = require(process.argv[1]);
verify(process.argv[2], {}).then(({ refusals, verdicts, keys, notes }) => {
  console.log(JSON.stringify({ problems: [...refusals, ...lines(verdicts)], keys: [...keys.keys()], notes }));
});
"""

# The process that gets the first account answers when the other one has no more to do.
_FIRST_IS_SLOWEST = """
const { EventEmitter } = require("node:events");
const children = [];
let slow = null;
require("node:child_process").fork = () => {
  const child = new EventEmitter();
  child.send = ({ did }) => {
    const answer = () => child.emit("message", { state: "whole", did });
    if (children[0] === child && slow === null) slow = answer;
    else setImmediate(answer);
  };
  child.disconnect = () => { child.emit("exit", 0, null); if (child === children[1]) slow(); };
  children.push(child);
  return child;
};
require("node:os").availableParallelism = () => 2;
const dids = [..."abcdefgh"].map((letter) => `did:plc:${letter.repeat(24)}`);
require(process.argv[1]).checkAll("", dids, { manifest: { repositories: {} } }).then((verdicts) => {
  console.log(JSON.stringify([dids, [...verdicts.keys()], children.length]));
});
"""


def _on_the_host(data: Data, folder: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", _node(data, _ASK, FILES / "verify.cjs", folder))


def _node(data: Data, program: str, *arguments: Path) -> Any:
    command = [str(data.install.node), "-e", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=data.install.folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_both_verifiers_accept_a_whole_snapshot_and_leave_no_files(running: Running, still: Data) -> None:
    still.take()
    before = _names(still.snapshot)
    found = _on_the_host(still, still.snapshot)
    assert found["problems"] == []
    assert sorted(found["keys"]) == still.manifest()["accounts"]
    assert _names(still.snapshot) == before


@one_line
@pytest.mark.parametrize("damage", _DAMAGES, ids=lambda damage: damage.name)
def test_both_verifiers_name_the_same_damage(running: Running, still: Data, damage: Damage, tmp_path: Path) -> None:
    copied = tmp_path / "snapshot"
    still.take()
    shutil.copytree(still.snapshot, copied)
    damage.do(copied, running.club.members[4].did)
    operator_report = verify(copied, lambda did: None)
    host_report = _on_the_host(still, copied)
    assert operator_report.problems or operator_report.notes, "the damage must be found"
    # The messages of SQLite and of the file system differ between the two.
    assert [_without_words(text) for text in host_report["problems"]] == [
        _without_words(text) for text in operator_report.problems
    ]
    about = ("not queried", "moved")
    notes = [text for text in operator_report.notes if not any(part in text for part in about)]
    assert {_without_words(text) for text in host_report["notes"]} == {_without_words(text) for text in notes}


def _without_words(text: str) -> str:
    """The text without the library's message: "did: state: store.sqlite is damaged"."""
    for end in ("is damaged", "cannot be read"):
        text = text.partition(end)[0] + end if end in text else text
    return text


@one_line
def test_both_verifiers_name_a_flipped_block_a_lost_record_and_swapped_keys(running: Running, faulty: Data) -> None:
    flipped, lost, one, two = (member.did for member in running.club.members[:4])
    with closing(sqlite3.connect(faulty.path / repo_path(flipped) / "store.sqlite")) as db:
        cid, content = db.execute("select b.cid, content from repo_block b join record r on r.cid = b.cid").fetchone()
        db.execute("update repo_block set content = ? where cid = ?", (content[:-1] + bytes([content[-1] ^ 1]), cid))
        db.commit()
    with closing(sqlite3.connect(faulty.path / repo_path(lost) / "store.sqlite")) as db:
        cid = db.execute("select cid from repo_block where cid in (select cid from record)").fetchone()[0]
        db.execute("delete from repo_block where cid = ?", (cid,))
        db.commit()
    keys = [faulty.path / repo_path(did) / "key" for did in (one, two)]
    contents = [key.read_bytes() for key in keys]
    for key, content in zip(keys, reversed(contents), strict=True):
        key.write_bytes(content)
    faulty.take()
    operator_report = verify(faulty.snapshot, lambda did: None).problems
    assert {flipped, lost, one, two} == {text.partition(": ")[0] for text in operator_report}, (
        "each account must be named"
    )
    assert _on_the_host(faulty, faulty.snapshot)["problems"] == list(operator_report)


@one_line
def test_verdicts_are_in_the_accounts_order_whichever_process_ends_first(running: Running, still: Data) -> None:
    dids, reported, processes = _node(still, _FIRST_IS_SLOWEST, FILES / "account_check.cjs")
    assert processes == 2
    assert reported == dids
