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
    "nomad": 'case "$1 $2" in "var get") echo "Variable not found" >&2; exit 1 ;; "operator snapshot") >"$4" ;; '
    '"var put") shift 4; printf "%s\\n" "$@" >"$NOMAD_ALLOC_DIR/record" ;; esac',
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


PINGED: dict[str, tuple[int, str, str | None]] = {
    "the switch knows the URL": (200, "OK", None),
    "no answer's text": (200, "", None),
    "two lines": (200, "OK\n404", None),
    "a deleted check": (200, "OK (not found)", "it does not know this URL"),
    "a page that shows the URL": (200, "/secret-of-the-switch not found", "it does not know this URL"),
    "too many pings": (200, "OK (rate limited)", "it takes no more pings of this URL for now"),
    "no such page": (404, "no such check /secret-of-the-switch", "404"),
    "a fault of the service": (503, "", "503"),
}


def _record(folder: Path) -> dict[str, str]:
    """The items of the variable that the run wrote last."""
    lines = (folder / "alloc" / "record").read_text().splitlines()
    assert lines[0] == "nomad/jobs/pds-nomad-snapshots/repository"
    return dict(line.split("=", 1) for line in lines[1:])


@pytest.mark.parametrize(("status", "answer", "why"), PINGED.values(), ids=PINGED.keys())
def test_a_ping_that_counts_for_nothing_is_in_the_record_and_repeats_no_snapshot(
    tmp_path: Path, status: int, answer: str, why: str | None
) -> None:
    """hc-ping.com answers 200 for a deleted check, which raises no alarm when the snapshots end. A run that fails is
    repeated whole: it saves, sends and checks everything again."""

    class Switch(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

    with served(Switch) as port:
        done = run(tmp_path, f"http://{LOOPBACK}:{port}/secret-of-the-switch")
    assert done.returncode == 0, done.stderr
    record = {"repository": "s3:https://s3.test/bucket/nomad-fleet 5af1c2"}
    assert _record(tmp_path) == record | ({"ping_failed": why} if why else {})
    assert "secret-of-the-switch" not in done.stdout + done.stderr
    assert ("could not be pinged" in done.stdout) == bool(why)
    assert "saved:" in done.stdout


def test_a_switch_that_does_not_answer_repeats_no_snapshot(tmp_path: Path) -> None:
    done = run(tmp_path, f"http://{LOOPBACK}:1/secret-of-the-switch")
    assert done.returncode == 0
    assert _record(tmp_path)["ping_failed"] == "no answer, curl's code 7"
    assert "secret-of-the-switch" not in done.stdout + done.stderr


def test_no_switch_is_pinged_without_its_address(tmp_path: Path) -> None:
    assert run(tmp_path, "").returncode == 0
    assert "ping_failed" not in _record(tmp_path)
