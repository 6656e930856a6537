"""The script that saves Nomad's state, with stand-ins for nomad and restic, and its ping of a dead man's switch.

`tests/e2e/test_nomad_snapshots.py` runs it with the real programs.
"""

import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from tests.support.serving import LOOPBACK, served

SCRIPTS = ROOT / "components" / "render" / "scripts"
STANDS = {
    "nomad": 'case "$1 $2" in "var get") echo "Variable not found" >&2; exit 1 ;; "operator snapshot") >"$4" ;; esac',
    "restic": 'case $1 in cat) echo "{\\"id\\": \\"5af1c2\\"}" ;; esac',
}


def run(folder: Path, ping_url: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the job does."""
    (folder / "alloc" / "data").mkdir(parents=True)
    for name, body in STANDS.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    for name in ("nomad_snapshot.sh", "restic_open.sh"):
        shutil.copy(SCRIPTS / name, folder)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "NOMAD_ALLOC_DIR": str(folder / "alloc"),
        "CLUSTER": "fleet",
        "RECORD": "nomad/jobs/pds-nomad-snapshots/repository",
        "RESTIC_REPOSITORY": "s3:https://s3.test/bucket/nomad-fleet",
        "KEEP_DAYS": "30",
        "PING_URL": ping_url,
    }
    return subprocess.run(
        ["sh", folder / "nomad_snapshot.sh"], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(
    ("status", "answer", "problem"),
    [
        (200, "OK", None),
        (200, "", None),
        (200, "OK (not found)", "the dead man's switch ignored the ping: OK (not found)"),
        (404, "no such check", "the dead man's switch could not be pinged"),
    ],
)
def test_a_ping_that_counts_for_nothing_fails_the_run(
    tmp_path: Path, status: int, answer: str, problem: str | None
) -> None:
    """hc-ping.com answers 200 for a deleted check, which raises no alarm when the snapshots end."""

    class Switch(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

    with served(Switch) as port:
        done = run(tmp_path, f"http://{LOOPBACK}:{port}/secret-of-the-switch")
    assert done.returncode == (1 if problem else 0), done.stderr
    assert (problem or "") in done.stderr
    assert "secret-of-the-switch" not in done.stdout + done.stderr
    assert "saved:" in done.stdout, "the snapshot was sent before"


def test_no_switch_is_pinged_without_its_address(tmp_path: Path) -> None:
    assert run(tmp_path, "").returncode == 0
