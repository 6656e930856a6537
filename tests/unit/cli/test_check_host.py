"""`cli/check/host.sh` in a real shell: the container's view of its volume and of the metadata service."""

import base64
import json
import os
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cli.check.subject import HOST_SCRIPT, STORE_SCRIPT
from tests.support.host_machine import tool
from tests.support.serving import LOOPBACK, served


@pytest.mark.parametrize("script", [HOST_SCRIPT, STORE_SCRIPT])
def test_shellcheck_reports_nothing(script: Path) -> None:
    done = subprocess.run(
        [tool("shellcheck", "shellcheck"), "-s", "sh", script],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == ""


def report(data: Path, **environment: str) -> dict[str, Any]:
    """The script's output."""
    base = {"PATH": os.environ["PATH"], "PDS_DATA_DIRECTORY": str(data), "METADATA": "http://127.0.0.1:1/"}
    done = subprocess.run(
        ["sh", "-c", HOST_SCRIPT.read_text()], env={**base, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class _Refuses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_reports_free_space_as_df_does_and_no_run_status_on_a_new_volume(tmp_path: Path) -> None:
    status = report(tmp_path)
    assert status["run_status"] == {}
    assert status["identified"] is None
    whole = os.statvfs(tmp_path)
    assert abs(status["free"] - whole.f_bavail * whole.f_frsize // 1024) < 100_000, "in KiB"
    assert status["used"] > 0


def test_reports_every_run_status_unchanged_under_its_name(tmp_path: Path) -> None:
    (tmp_path / ".run-status").mkdir()
    (tmp_path / ".pds-identity.json").write_text("{}")
    run_status = {"backup": {"good": "2026-11-26T12:00:00.000Z", "lost": ["a 'b' \"c\""]}, "another": {"x": 1}}
    for name, content in run_status.items():
        (tmp_path / ".run-status" / f"{name}.json").write_text(json.dumps(content) + "\n")
    (tmp_path / ".run-status/empty.json").touch()
    status = report(tmp_path)
    assert status["run_status"] == run_status, "a file that a crash left empty is skipped"
    assert status["identified"] > 0


def test_reports_whether_the_volume_can_be_written_to_and_leaves_nothing(tmp_path: Path) -> None:
    assert report(tmp_path)["writable"] is None, "the server has not started yet"
    status = tmp_path / ".run-status"
    status.mkdir()
    assert report(tmp_path)["writable"] is True
    assert list(status.iterdir()) == []
    (status / ".probe").mkdir()
    assert report(tmp_path)["writable"] is False


def test_counts_uploads_without_a_record_of_blobs_on_the_disk_only(tmp_path: Path) -> None:
    uploads = tmp_path / "temp"
    assert report(tmp_path)["uploads"] is None, "blobs are in a bucket"
    there = {"PDS_BLOBSTORE_DISK_TMP_LOCATION": str(uploads)}
    status = report(tmp_path, **there)
    assert (status["uploads"], status["uploads_kib"]) == (0, 0), "none was ever uploaded"
    (uploads / "did:plc:x").mkdir(parents=True)
    for name in ("one", "two"):
        (uploads / "did:plc:x" / name).write_bytes(b"x" * 100_000)
    status = report(tmp_path, **there)
    assert status["uploads"] == 2
    assert 190 < status["uploads_kib"] < 300


@pytest.mark.skipif(not shutil.which("wget"), reason="this machine has no wget")
def test_any_http_status_counts_as_an_answer_of_the_metadata_service(tmp_path: Path) -> None:
    assert report(tmp_path)["metadata"] is False, "a connection that is refused"
    with served(_Refuses) as port:
        assert report(tmp_path, METADATA=f"http://{LOOPBACK}:{port}/")["metadata"] is True, "404 is also an answer"


def test_metadata_is_unknown_without_wget(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "df", "tail", "cat", "stat", "tr"):
        (tools / name).symlink_to(shutil.which(name) or name)
    assert report(tmp_path, PATH=str(tools))["metadata"] is None


@pytest.mark.skipif(not shutil.which("busybox"), reason="this machine has no BusyBox, which VictoriaMetrics' image has")
def test_asks_the_store_for_its_targets_with_its_password(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "nc", "base64", "tr", "tail"):
        (programs / name).symlink_to(shutil.which("busybox") or "")
    with served(_Up) as port:
        done = subprocess.run(
            [programs / "sh", "-c", STORE_SCRIPT.read_text()],
            env={"PATH": str(programs), "METRICS_PASSWORD": "a word", "STORE_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert json.loads(done.stdout) == {"data": {"result": []}}


class _Up(BaseHTTPRequestHandler):
    """A store that requires its password, and has a result without a line end."""

    def do_GET(self) -> None:
        known = base64.b64encode(b"pds:a word").decode()
        found = self.headers["Authorization"] == f"Basic {known}" and self.path.startswith("/api/v1/query?query=up")
        self.send_response(200 if found else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"result": []}} if found else "no").encode())
