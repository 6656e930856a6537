"""A restore that is killed, at each step of its swap and at random moments, is finished or repeated by the next run."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from cli.snapshot.verify import IDENTITY_FILE
from tests.contract.lines import one_line
from tests.contract.restores import Restore
from tests.contract.snapshots import Scale
from tests.contract.test_restore import BLOB_PLACE, _content, _uris
from tests.unit.components.render.test_volume_check import Volume

pytestmark = pytest.mark.contract

_AT_EACH_STEP = """
const fs = require("node:fs");
const { cpSync } = fs;
const { COPIES, KILL_AT, PDS_DATA_DIRECTORY } = process.env;
let number = 0;
for (const name of process.send ? [] : ["renameSync", "rmdirSync"]) {
  const original = fs[name];
  fs[name] = (...rest) => {
    if (KILL_AT === String(number)) process.kill(process.pid, "SIGKILL");
    if (COPIES) cpSync(PDS_DATA_DIRECTORY, `${COPIES}/${number}`, { recursive: true });
    number++;
    return original(...rest);
  };
}
"""
"""Loaded into the program: a kill before the step KILL_AT, or a copy of the data before each step, which is what a kill
would leave: the step and all before it are synchronous, and the program has no child at that time."""

_RESTORED = {
    *("account.sqlite", "sequencer.sqlite", "actors", "blocks", IDENTITY_FILE, BLOB_PLACE),
    *(".departures.jsonl", ".pds-restored.json", ".restore", ".snapshot"),
}


def _names(folder: Path) -> set[str]:
    """The path of every file, with the same name for the folder of old data."""
    return {re.sub(r"old-[^/]+", "old", str(path.relative_to(folder))) for path in folder.rglob("*")}


@one_line
def test_restore_killed_at_any_step_of_the_swap_is_finished_by_the_next_run(in_place: Restore, tmp_path: Path) -> None:
    preload = tmp_path / "step.cjs"
    preload.write_text(_AT_EACH_STEP)
    data, whole = in_place.data.path, tmp_path / "whole"
    shutil.copytree(data, whole)
    in_place.run(NODE_OPTIONS=f"--require={preload}", COPIES=str(tmp_path / "copies"))
    outcome = _content(data)
    copies = sorted((tmp_path / "copies").iterdir(), key=lambda folder: int(folder.name))
    swapping = [copy for copy in copies if (copy / ".restore" / "swap.json").exists()]
    assert len(swapping) > 5

    _replace(data, whole)
    with in_place.start(NODE_OPTIONS=f"--require={preload}", KILL_AT=swapping[3].name) as running:
        output, _ = running.communicate(timeout=600)
    assert running.returncode == -signal.SIGKILL, output
    assert _names(data) == _names(swapping[3]), "a copy is what a kill leaves"

    for number, copy in enumerate(copies):
        _replace(data, copy)
        if copy == swapping[3]:
            assert "REFUSED: a restore was cut short" in in_place.data.take(code=1)
            refused = Volume(data).check()
            assert "a restore was cut short" in refused.stderr, "no server may start on a half-done swap"
        if copy in swapping:
            # Any run finishes the swap first. This one restores nothing after it.
            assert "is finished" in in_place.run(NOMAD_META_forget="yes")
            assert _content(data) == outcome, f"step {copy.name}"
            _replace(data, copy)
        if number % 5 == 0 or copy not in swapping:
            again = in_place.run()
            assert ("is finished" in again) == (copy in swapping)
            assert "ready" in again
            # The refused copy has written its run status.
            assert {entry.name for entry in data.iterdir()} - {".run-status"} == _RESTORED
            assert in_place.scenario.written_after not in _uris(data, in_place.scenario.writer.did)
            in_place.data.take()
            assert in_place.data.verify().problems == ()


def _replace(folder: Path, copy: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)


@one_line
def test_restore_killed_at_a_random_moment_can_be_run_again(in_place: Restore, scale: Scale) -> None:
    began = time.monotonic()
    in_place.run()
    seconds = time.monotonic() - began
    in_place.fetch()
    chance, killed = random.Random(5), 0
    for number in range(scale.kills):
        with in_place.start() as running:
            time.sleep((number + chance.random()) / scale.kills * seconds)  # one in each part of the run
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=600)
            killed += running.returncode == -signal.SIGKILL
        in_place.fetch()
        in_place.run()
        in_place.run(NOMAD_META_forget="yes")
        in_place.data.take()
        assert in_place.data.verify().problems == (), f"round {number}"
        in_place.fetch()
    assert killed
