"""The last task of a backup, run by a real Node: which findings it keeps."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from offline.mock_engine import ROOT
from tools.trial.node import wheel_folder

SCRIPT = ROOT / "components" / "render" / "scripts" / "run_status.cjs"
BEGAN, FINISHED = "2026-11-28T04:00:00.000Z", "2026-11-28T04:01:00.000Z"
EVE = {"did:plc:eve": {"state": "not restorable", "what": "its folder is gone"}}
BOB = {"did:plc:bob": {"state": "with losses", "what": "blob bafkrei is missing in the bucket", "blobs": True}}


@pytest.mark.parametrize(
    ("problems", "kept"), [(["the bucket answers 403"], BOB), ([], {})], ids=["blobs not copied", "blobs copied"]
)
def test_a_failed_copy_of_the_blobs_keeps_only_findings_about_blobs(
    tmp_path: Path, problems: list[str], kept: dict[str, Any]
) -> None:
    """The snapshot of this run has the account whole that was restored meanwhile."""
    files = {
        ".run-status/backup.json": {"good": BEGAN, "findings": EVE | BOB, "began": BEGAN},
        ".snapshot/current/manifest.json": {"finished": FINISHED, "findings": {}},
        "alloc/data/blobs.json": {"problems": problems, "findings": {}},
        "alloc/data/sent": "repository",
        "alloc/data/checked": "",
    }
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    environment = {
        "PDS_DATA_DIRECTORY": str(tmp_path),
        "NOMAD_ALLOC_DIR": str(tmp_path / "alloc"),
        "BLOBS_COPIED": "true",
    }
    node = str(wheel_folder() / "bin" / "node")
    done = subprocess.run(
        [node, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (int(bool(problems)), "")
    assert json.loads((tmp_path / ".run-status" / "backup.json").read_text())["findings"] == kept
