"""The task that sends a snapshot, with a stand-in for restic: what it does when the disk of the backups is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from offline.mock_engine import ROOT

_SCRIPTS = ROOT / "components" / "render" / "scripts"
_RESTIC = """#!/bin/sh
echo "$@" >>"$ASKED"
case "$1" in
    cat) echo '{"id": "1a2b"}' ;;
    backup) [ -e "$ROOM" ] || { echo "no space left on device" >&2; exit 1; } ;;
    forget) [ "$5" = departures ] || : >"$ROOM" ;;
esac
"""


@pytest.mark.parametrize(("volume", "commands"), [("", ["backup"]), ("second-disk", ["backup", "forget", "backup"])])
def test_full_disk_is_thinned_out_before_the_snapshot_is_sent_again(
    tmp_path: Path, volume: str, commands: list[str]
) -> None:
    """Expired backups go after one that is sent: a full disk would never get one again. A bucket is never full."""
    for name in ("send.sh", "restic_open.sh"):
        shutil.copy(_SCRIPTS / name, tmp_path)
    (tmp_path / "restic").write_text(_RESTIC)
    (tmp_path / "restic").chmod(0o755)
    snapshot = tmp_path / ".snapshot" / "current"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text("{}\n")
    (tmp_path / "data").mkdir()
    env = {
        "PATH": f"{tmp_path}:{os.defpath}",
        "ASKED": str(tmp_path / "asked"),
        "ROOM": str(tmp_path / "room"),
        "PDS_DATA_DIRECTORY": str(tmp_path),
        "NOMAD_ALLOC_DIR": str(tmp_path),
        "PDS_HOSTNAME": "noted.at",
        "RESTIC_REPOSITORY": "/pds-backup/noted.at",
        "KEEP_DAYS": "30",
        **({"BACKUP_VOLUME": volume} if volume else {}),
    }
    done = subprocess.run(["sh", str(tmp_path / "send.sh")], env=env, check=False, timeout=600, capture_output=True)
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    about = [words for words in asked if words[0] in ("backup", "forget")][: len(commands)]
    assert [words[0] for words in about] == commands
    assert (done.returncode == 0) is bool(volume)
    if volume:
        assert "--max-repack-size" in about[1], "to write a pack again takes room"
