"""The task beside a restore, which has the bucket's key: it answers requests and never ends by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.lib.subprocesses import child
from offline.mock_engine import ROOT

SCRIPT = ROOT / "components" / "render" / "scripts" / "fetch_older.sh"


def _answer(exchange: Path, process: subprocess.Popen[str], *words: str) -> str:
    (exchange / "request.next").write_text(" ".join(words) + "\n")
    (exchange / "request.next").rename(exchange / "request")
    answer = exchange / "answer"
    for _ in range(3000):
        if answer.exists():
            text = answer.read_text().strip()
            answer.unlink()
            return text
        assert process.poll() is None, "Nomad would end the restore, too"
        time.sleep(0.02)
    raise AssertionError("no answer")


@contextmanager
def _running(tmp_path: Path, restic: str, **env: str) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The task beside `restic`, and its exchange."""
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "restic").write_text(f"#!/bin/sh\n{restic}\n")
    (tmp_path / "restic").chmod(0o755)
    (tmp_path / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    (tmp_path / "sleep").chmod(0o755)
    exchange = tmp_path / "older"
    exchange.mkdir()
    env |= {"PATH": f"{tmp_path}:{os.defpath}", "TARGET": str(tmp_path), "PDS_HOSTNAME": "x"}
    with child(["sh", str(tmp_path / SCRIPT.name)], 600, env=env, stderr=subprocess.DEVNULL) as process:
        yield exchange, process


@pytest.mark.parametrize(
    ("manifest", "answer"), [('{"format": 1}', "ok"), (r'{"form\000\000\000\000', "failed"), ("", "failed")]
)
def test_damaged_pack_leaves_the_rest_of_a_backup_to_the_check(tmp_path: Path, manifest: str, answer: str) -> None:
    """restic leaves a file whose only part is lost away, and another one with zeros; and it ends with a failure."""
    (tmp_path / "restic_open.sh").write_text("REPOSITORY=there\n")
    restore = f"""while [ "$1" != --target ]; do shift; done
mkdir -p "$2"
[ '{manifest}' = '' ] || printf '{manifest}' >"$2/manifest.json"
exit 1"""
    with _running(tmp_path, restore) as (exchange, process):
        assert _answer(exchange, process, "get", "1a2b", "actors/aa/did:plc:ann", "did:plc:ann") == answer


def test_repository_without_some_packs_is_tried_twice_only_once(tmp_path: Path) -> None:
    """restic takes minutes to give a lost pack up. A second attempt is for packs that a backup moved meanwhile."""
    (tmp_path / "restic_open.sh").write_text("REPOSITORY=there\n")
    restore = f"""echo "$@" >>{tmp_path}/asked
while [ "$1" != --target ]; do shift; done
mkdir -p "$2"
echo '{{}}' >"$2/manifest.json"
case "$*" in *actors*) exit 1 ;; esac"""
    with _running(tmp_path, restore) as (exchange, process):
        for words in (
            ["manifest", "1a2b"],
            ["get", "1a2b", "actors/a", "did:plc:ann"],
            ["get", "1a2b", "actors/b", "b"],
        ):
            assert _answer(exchange, process, *words) == "ok"
    asked = [("actors/a" in line, "actors/b" in line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == [(False, False), (True, False), (True, False), (False, True)]


@pytest.mark.parametrize(("only", "databases"), [("", 0), ("did:plc:ann", 1)])
def test_account_database_is_fetched_for_a_restore_of_one_account(tmp_path: Path, only: str, databases: int) -> None:
    """The newest backup lacks the row of a deleted account. A restore of all takes no rows from older ones."""
    (tmp_path / "restic_open.sh").write_text("REPOSITORY=there\n")
    with _running(tmp_path, f'echo "$@" >>{tmp_path}/asked', NOMAD_META_only=only) as (exchange, process):
        assert _answer(exchange, process, "get", "1a2b", "actors/aa/did:plc:ann", "did:plc:ann") == "ok"
    asked = (tmp_path / "asked").read_text()
    assert asked.count("--include /actors/aa/did:plc:ann ") == 1
    assert asked.count("--include /account.sqlite") == databases


@pytest.mark.parametrize("meta", ["only", "step", "verify", "forget", "show"])
def test_answers_in_every_run_and_continues_if_the_bucket_is_unreachable(tmp_path: Path, meta: str) -> None:
    (tmp_path / "restic_open.sh").write_text("echo away >&2\nexit 1\n")
    with _running(tmp_path, "echo '[]'", **{f"NOMAD_META_{meta}": "yes"}) as (exchange, process):
        assert _answer(exchange, process, "list") == "failed"
        (tmp_path / "restic_open.sh").write_text("REPOSITORY=there\n")
        assert _answer(exchange, process, "list") == "ok"
        assert (exchange / "list.json").read_text() == "[]\n"
        process.terminate()
        assert process.wait(600) == 0
