"""`account_events.cjs` in a plain Node: the list of departures continues whatever happens to the server's events."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

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


def _deletion() -> bytes:
    """The event of an account's deletion, in DAG-CBOR, with the fields that the list takes from it."""
    return b"\xa2" + _text("active") + b"\xf4" + _text("status") + _text("deleted")


def _text(value: str) -> bytes:
    return bytes([0x60 + len(value)]) + value.encode()


def _sequencer(path: Path, *events: tuple[int, str, str]) -> None:
    """A sequencer database with a deletion for each number, time and DID."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table repo_seq (seq integer primary key, did, eventType, event, sequencedAt)")
        rows = [(seq, did, "account", _deletion(), time) for seq, time, did in events]
        database.executemany("insert into repo_seq values (?, ?, ?, ?, ?)", rows)


def _listed(folder: Path) -> list[tuple[int, str]]:
    """The number and DID of each line, after the events were appended."""
    script, list_ = VOLUME_CHECK.with_name("account_events.cjs"), folder / ".departures.jsonl"
    command = [node(), "--no-warnings", "-e", _APPEND, str(script), str(list_), str(folder / "sequencer.sqlite")]
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
