"""The task that fetches a snapshot, with a stand-in for restic that does not give the list of departures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from offline.mock_engine import ROOT

_SCRIPTS = ROOT / "components" / "render" / "scripts"
_RESTIC = """#!/bin/sh
departures() {
    echo >>"$ASKED"
    [ "$(wc -l <"$ASKED")" -gt "$FAULTS" ] || { echo "connection reset" >&2; exit 1; }
}
case "$*" in
    cat*) echo '{"id": "1a2b"}' ;;
    snapshots*departures*) departures && echo '[{"short_id": "1a2b"}]' ;;
    snapshots*) echo '[{"short_id": "3c4d"}]' ;;
    stats*) echo '{"total_size":1}' ;;
    *departures*) departures && mkdir -p "$TARGET/list" && : >"$TARGET/list/.departures.jsonl" ;;
    restore*)
        mkdir -p "$TARGET/fetched.part"
        : >"$TARGET/fetched.part/manifest.json"
        : >"$TARGET/fetched.part/account.sqlite"
        exit "$LOST"
        ;;
esac
"""
_ALWAYS = "99"


def _fetch(tmp_path: Path, **change: str) -> tuple[bool, str]:
    """Run the task; return whether it succeeded, and its output."""
    for name in ("fetch.sh", "restic_open.sh"):
        shutil.copy(_SCRIPTS / name, tmp_path)
    (tmp_path / "restic").write_text(_RESTIC)
    (tmp_path / "restic").chmod(0o755)
    (tmp_path / "data").mkdir()
    env = {
        "PATH": f"{tmp_path}:{os.defpath}",
        "ASKED": str(tmp_path / "asked"),
        "LOST": "0",
        "NOMAD_ALLOC_DIR": str(tmp_path),
        "TARGET": str(tmp_path / "pds" / ".restore"),
        "PDS_HOSTNAME": "noted.at",
        "PDS_SNAPSHOT_RESERVE_MIB": "1",
        "RESTIC_REPOSITORY": "s3:x/noted.at",
        **change,
    }
    command = ["sh", str(tmp_path / "fetch.sh")]
    done = subprocess.run(command, env=env, check=False, timeout=600, capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def test_list_of_a_bucket_that_failed_for_a_moment_is_fetched_after_the_snapshot(tmp_path: Path) -> None:
    good, output = _fetch(tmp_path, FAULTS="1")
    assert good, output
    assert (tmp_path / "pds" / ".restore" / "list" / ".departures.jsonl").exists()


def test_restore_without_the_list_is_refused_on_a_new_volume(tmp_path: Path) -> None:
    """Members who deleted their accounts since the snapshot would be public again."""
    good, output = _fetch(tmp_path, FAULTS=_ALWAYS)
    assert not good
    assert "FAILED: the list of departures cannot be fetched." in output
    assert "--without-departures" in output
    assert not list((tmp_path / "pds" / ".restore").glob("fetched*"))


@pytest.mark.parametrize(
    "change",
    [
        {"NOMAD_META_without_departures": "yes"},
        {"NOMAD_META_old_data": "no"},  # a move's snapshot is of a stopped server: none left after it
        {"NOMAD_META_only": "did:plc:ann"},
        {"TARGET": ""},  # a drill
        {"LOST": "1"},  # the bucket is damaged
        {"list": "on the volume"},
    ],
)
def test_restore_without_the_list_is_a_note_if_the_operator_or_the_case_allows_it(
    tmp_path: Path, change: dict[str, str]
) -> None:
    if change.pop("list", ""):
        (tmp_path / "pds").mkdir()
        (tmp_path / "pds" / ".departures.jsonl").touch()
    if "TARGET" in change:
        change = {"TARGET": str(tmp_path / "data")}
    good, output = _fetch(tmp_path, FAULTS=_ALWAYS, **change)
    assert good, output
    assert "note: the list of departures cannot be fetched." in output


@pytest.mark.parametrize(("lost", "damaged"), [("0", "no"), ("1", "yes")])
def test_tells_the_restore_of_a_move_whether_the_bucket_gave_all_of_the_snapshot(
    tmp_path: Path, lost: str, damaged: str
) -> None:
    good, output = _fetch(tmp_path, FAULTS="0", LOST=lost)
    assert good, output
    assert json.loads((tmp_path / "pds" / ".restore" / "fetched.json").read_text())["damaged"] == damaged
