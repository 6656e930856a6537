"""`account_events.cjs` in a plain Node: the list of departures continues whatever happens to the server's events."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tests.unit.components.render.test_volume_check import _node as node

_APPEND = """
const { DatabaseSync } = require("node:sqlite");
const [script, list, sequencer] = process.argv.slice(1);
const database = new DatabaseSync(sequencer);
// The server's own SQLite gives a Buffer.
const buffered = (row) => ({ ...row, event: Buffer.from(row.event) });
const prepare = (sql) => ({ all: (...values) => database.prepare(sql).all(...values).map(buffered) });
require(script).append(list, { prepare });
"""
_SINCE = """
const [script, lists, moment] = process.argv.slice(1);
const { merged, since } = require(script);
console.log(JSON.stringify(Object.fromEntries(since(merged(...JSON.parse(lists)), moment))));
"""
_SCRIPT = VOLUME_CHECK.with_name("account_events.cjs")


def _event(status: str) -> bytes:
    """The event of an account, in DAG-CBOR, with the fields that the list takes from it."""
    if status == "active":
        return b"\xa1" + _text("active") + b"\xf5"
    return b"\xa2" + _text("active") + b"\xf4" + _text("status") + _text(status)


def _text(value: str) -> bytes:
    return bytes([0x60 + len(value)]) + value.encode()


def _sequencer(path: Path, *events: tuple[int, str, str], status: str = "deleted") -> None:
    """A sequencer database with an event of this status for each number, time and DID."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table repo_seq (seq integer primary key, did, eventType, event, sequencedAt)")
        rows = [(seq, did, "account", _event(status), time) for seq, time, did in events]
        database.executemany("insert into repo_seq values (?, ?, ?, ?, ?)", rows)


def _listed(folder: Path) -> list[tuple[int, str]]:
    """The number and DID of each line, after the events were appended."""
    list_ = folder / ".departures.jsonl"
    command = [node(), "--no-warnings", "-e", _APPEND, str(_SCRIPT), str(list_), str(folder / "sequencer.sqlite")]
    subprocess.run(command, timeout=600, check=True)
    lines = [json.loads(line) for line in list_.read_text().splitlines()]
    assert {line["status"] for line in lines} == {"deleted"}
    return [(line["seq"], line["did"]) for line in lines]


def test_deletions_are_listed_once_and_in_order(tmp_path: Path) -> None:
    events = [(7, "2026-11-01T10:00:00.000Z", "did:plc:ann"), (9, "2026-11-01T11:00:00.000Z", "did:plc:bob")]
    _sequencer(tmp_path / "sequencer.sqlite", *events)
    assert _listed(tmp_path) == [(7, "did:plc:ann"), (9, "did:plc:bob")]
    _sequencer(tmp_path / "sequencer.sqlite", *events, (12, "2026-11-02T10:00:00.000Z", "did:plc:eve"))
    assert _listed(tmp_path) == [(7, "did:plc:ann"), (9, "did:plc:bob"), (12, "did:plc:eve")]


def test_deletions_are_listed_after_the_events_were_lost_and_numbered_anew(tmp_path: Path) -> None:
    """Otherwise a restore would bring these accounts back."""
    _sequencer(tmp_path / "sequencer.sqlite", (900, "2026-11-01T10:00:00.000Z", "did:plc:ann"))
    _listed(tmp_path)
    anew = [(2, "2026-11-03T10:00:00.000Z", "did:plc:bob")]
    _sequencer(tmp_path / "sequencer.sqlite", *anew)
    assert _listed(tmp_path) == [(900, "did:plc:ann"), (2, "did:plc:bob")], "the list is by time"
    _sequencer(tmp_path / "sequencer.sqlite", *anew, (3, "2026-11-04T10:00:00.000Z", "did:plc:eve"))
    assert _listed(tmp_path)[1:] == [(2, "did:plc:bob"), (3, "did:plc:eve")]


def _line(seq: int, time: str, status: str, did: str = "did:plc:ann") -> dict[str, object]:
    return {"seq": seq, "time": f"2026-11-28T{time}:00.000Z", "did": did, "status": status}


def _since(*lists: list[dict[str, object]], moment: str = "") -> dict[str, str]:
    """The last statuses since a moment in the lists."""
    after = f"2026-11-28T{moment}:00.000Z" if moment else ""
    command = [node(), "-e", _SINCE, str(_SCRIPT), json.dumps(lists), after]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    statuses: dict[str, str] = json.loads(done.stdout)
    return statuses


@pytest.mark.parametrize("first", ["deleted", "takendown", "deactivated"])
def test_a_return_after_the_clock_was_set_back_counts(first: str) -> None:
    """By its time it is before the departure. A restore would delete or hide the account of a member who is back."""
    ahead, back = _line(10, "14:00", first), _line(11, "12:05", "active")
    assert _since([ahead], [back]) == {"did:plc:ann": "active"}
    assert _since([ahead], [ahead, back]) == {"did:plc:ann": "active"}
    assert _since([ahead, back], [ahead]) == {"did:plc:ann": "active"}, "an older copy of the list changes nothing"
    assert _since([ahead], [back], moment="12:30") == {}, "a snapshot of then has the account in use"
    assert _since([ahead], [back], moment="11:30") == {"did:plc:ann": "active"}


def test_a_departure_after_the_clock_was_set_back_counts() -> None:
    """The list has no line for the account's creation, whose time is later."""
    created, gone = _line(10, "14:00", "active"), _line(11, "12:05", "deleted")
    assert _since([gone], [created, gone]) == {"did:plc:ann": "deleted"}


def test_lines_that_a_restored_server_lost_stay_in_their_order() -> None:
    """A restore returns the events to an earlier number, and continues at a higher one."""
    created, gone, back = _line(3, "09:00", "active"), _line(50, "10:00", "deleted"), _line(10050, "11:00", "active")
    assert _since([gone], [created]) == {"did:plc:ann": "deleted"}
    assert _since([gone], [created, back]) == {"did:plc:ann": "active"}


def test_numbers_that_begin_anew_are_ordered_by_time() -> None:
    lost, anew = [_line(900, "10:00", "deleted")], [_line(2, "11:00", "active")]
    assert _since(lost, anew) == {"did:plc:ann": "active"}
    assert _since([_line(900, "10:00", "deactivated")], [_line(2, "11:00", "deleted")]) == {"did:plc:ann": "deleted"}


def test_events_that_the_list_left_out_do_not_return_when_the_clock_was_set_back(tmp_path: Path) -> None:
    """The creation of an account is no departure, and precedes its deletion whatever its time says."""
    sequencer, list_ = tmp_path / "sequencer.sqlite", tmp_path / ".departures.jsonl"
    _sequencer(sequencer, (10, "2026-11-28T14:00:00.000Z", "did:plc:ann"), status="active")
    with closing(sqlite3.connect(sequencer)) as database, database:
        gone = (11, "did:plc:ann", "account", _event("deleted"), "2026-11-28T12:05:00.000Z")
        database.execute("insert into repo_seq values (?, ?, ?, ?, ?)", gone)
    assert _listed(tmp_path) == [(11, "did:plc:ann")]
    before = list_.read_text()
    assert _listed(tmp_path) == [(11, "did:plc:ann")]
    assert list_.read_text() == before
