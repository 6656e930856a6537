"""`cli/check/host.sh` in a real shell: the container's view of its volume and of the metadata service."""

import json
import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cli.check.host import HOST_SCRIPT
from tests.support.host_machine import tool
from tests.support.serving import LOOPBACK, served


def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [tool("shellcheck", "shellcheck"), "-s", "sh", HOST_SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""


def look(data: Path, **environment: str) -> dict[str, Any]:
    """The script's output."""
    found = {"PATH": os.environ["PATH"], "PDS_DATA_DIRECTORY": str(data), "METADATA": "http://127.0.0.1:1/"}
    done = subprocess.run(
        ["sh", "-c", HOST_SCRIPT.read_text()], env={**found, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class _Refuses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_space_is_what_df_says_and_a_new_volume_has_no_stamps(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found["run_status"] == {}
    assert found["identified"] is None
    whole = os.statvfs(tmp_path)
    assert abs(found["free"] - whole.f_bavail * whole.f_frsize // 1024) < 100_000, "in KiB"
    assert found["used"] > 0


def test_every_stamp_is_passed_on_whole_under_its_name(tmp_path: Path) -> None:
    (tmp_path / ".run-status").mkdir()
    (tmp_path / ".pds-identity.json").write_text("{}")
    run_status = {"backup": {"good": "2026-11-26T12:00:00.000Z", "lost": ["a 'b' \"c\""]}, "another": {"x": 1}}
    for name, stamp in run_status.items():
        (tmp_path / ".run-status" / f"{name}.json").write_text(json.dumps(stamp) + "\n")
    (tmp_path / ".run-status/empty.json").touch()
    found = look(tmp_path)
    assert found["run_status"] == run_status, "one that a crash left empty says nothing"
    assert found["identified"] > 0


@pytest.mark.skipif(not shutil.which("wget"), reason="this machine has no wget")
def test_any_answer_of_the_metadata_service_is_one(tmp_path: Path) -> None:
    assert look(tmp_path)["metadata"] is False, "a connection that is refused"
    with served(_Refuses) as port:
        assert look(tmp_path, METADATA=f"http://{LOOPBACK}:{port}/")["metadata"] is True, "404 is an answer, too"


def test_without_wget_it_is_not_said_that_nothing_answers(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "df", "tail", "cat", "stat", "tr"):
        (tools / name).symlink_to(shutil.which(name) or name)
    assert look(tmp_path, PATH=str(tools))["metadata"] is None
