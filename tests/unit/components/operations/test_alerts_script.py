"""The script of the alerts job, run by a real Node against a dead man's switch on loopback."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.render.scripts import needed, script
from offline.mock_engine import ROOT
from tools.trial.node import wheel_folder

SCRIPT = ROOT / "components" / "render" / "scripts" / "alerts.cjs"


@pytest.mark.parametrize("name", needed("alerts.cjs"))
def test_script_contains_no_nomad_template_action(name: str) -> None:
    text = script(name)
    assert "{{" not in text, "Nomad's template engine would read it as an action"
    assert "}}" not in text


class Switch:
    """A dead man's switch on loopback: records its pings, and answers with `code` and `answer`. It notifies a person as
    Healthchecks does: when its status changes, and not when a new check becomes up."""

    def __init__(self) -> None:
        self.pings: list[tuple[str, str]] = []
        """Path and text."""
        self.messages: list[tuple[str, str]] = []
        """What a person was notified of: the new status and the text of its ping."""
        self.code, self.answer, self.fail_code, self.status = 200, "OK", 200, "new"
        switch = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                code = switch.take(self.path, body)
                self.send_response(code)
                self.send_header("Content-Length", str(len(switch.answer)))
                self.end_headers()
                self.wfile.write(switch.answer.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-of-the-switch"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def take(self, path: str, text: str) -> int:
        """Take a ping in; return the code of the answer."""
        self.pings.append((path, text))
        is_failure = path.endswith("/fail")
        code = self.fail_code if is_failure and self.code == 200 else self.code
        if code == 200 and self.answer == "OK":
            self.change("down" if is_failure else "up", text)
        return code

    def change(self, status: str, text: str) -> None:
        """Change the status, as a ping does or its absence."""
        if status != self.status and (self.status, status) != ("new", "up"):
            self.messages.append((status, text))
        self.status = status

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(600)


@pytest.fixture
def switch() -> Iterator[Switch]:
    dead_mans_switch = Switch()
    yield dead_mans_switch
    dead_mans_switch.close()


def make_account(volume: Path, number: int) -> None:
    (volume / "actors" / f"{number % 256:02x}" / f"did:plc:{number:024d}").mkdir(parents=True)


def run_alerts(
    volume: Path, url: str, percent: int = 101, accounts: int = 80, script: Path = SCRIPT, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as the job does. No volume is 101 % full, so by default none is above the limit."""
    environment = {
        "PDS_HOSTNAME": "noted.at",
        "PDS_DATA_DIRECTORY": str(volume),
        "ALERTS_VOLUME_PERCENT": str(percent),
        "ALERTS_ACCOUNTS": str(accounts),
        "SPACE_REMEDY": "raise 'volume.size_gib'",
        "PING_URL": url,
    } | more
    node = str(wheel_folder() / "bin" / "node")
    done = subprocess.run(
        [node, str(script)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert "secret-of-the-switch" not in done.stdout + done.stderr, "the URL is enough to silence the alarm"
    return done


def test_pings_if_the_volume_is_healthy(tmp_path: Path, switch: Switch) -> None:
    for number in range(3):
        make_account(tmp_path, number)
    (tmp_path / "actors" / "reserved_keys" / "not-an-account").mkdir(parents=True)
    done = run_alerts(tmp_path, switch.url)
    assert done.returncode == 0, done.stderr
    ((path, body),) = switch.pings
    assert path == "/secret-of-the-switch"
    assert body.startswith("noted.at: volume ")
    assert body.endswith("3 accounts"), "a directory of keys is not an account"
    assert {path.name for path in tmp_path.iterdir()} == {"actors", ".run-status"}, "it writes nowhere else"


def test_pings_for_a_new_server_without_accounts(tmp_path: Path, switch: Switch) -> None:
    assert run_alerts(tmp_path, switch.url).returncode == 0
    assert switch.pings[0][1].endswith("0 accounts")


def test_reports_a_volume_above_the_limit_as_a_failure(tmp_path: Path, switch: Switch) -> None:
    assert run_alerts(tmp_path, switch.url, percent=0).returncode == 0
    path, body = switch.pings[-1]
    assert path == "/secret-of-the-switch/fail"
    assert "raise 'volume.size_gib'" in body, "the message must name the remedy"


def test_volume_usage_equals_that_of_df(tmp_path: Path, switch: Switch) -> None:
    run_alerts(tmp_path, switch.url)
    found = os.statvfs(tmp_path)
    used = found.f_blocks - found.f_bfree
    percent = 100 * used / (used + found.f_bavail)
    reported = int(switch.pings[0][1].split("volume ")[1].split(" %")[0])
    assert abs(reported - percent) <= 2, "other processes write to this disk in between, but less than 2 %"


@pytest.mark.parametrize(("count", "path"), [(4, "/secret-of-the-switch"), (5, "/secret-of-the-switch/fail")])
def test_reports_the_account_count_as_a_failure_from_the_limit_on(
    tmp_path: Path, switch: Switch, count: int, path: str
) -> None:
    for number in range(count):
        make_account(tmp_path, number)
    assert run_alerts(tmp_path, switch.url, accounts=5).returncode == 0
    assert switch.pings[-1][0] == path
    assert f"{count} accounts" in switch.pings[-1][1]


# --- backups and drills


def ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


def with_run_statuses(
    volume: Path, url: str, statuses: Mapping[str, Mapping[str, Any]], identity_age: float = 1000, code: int = 0
) -> None:
    """Check a volume whose identity file is this many hours old, with these status files."""
    identity = volume / ".pds-identity.json"
    identity.touch()
    os.utime(identity, (time.time() - identity_age * 3600,) * 2)
    (volume / ".run-status").mkdir()
    for name, content in statuses.items():
        (volume / ".run-status" / f"{name}.json").write_text(json.dumps(content))
    assert run_alerts(volume, url, ALERTS_BACKUP_HOURS="2", ALERTS_DRILL_HOURS="192").returncode == code


GOOD: dict[str, dict[str, Any]] = {
    "backup": {"first": ago(900), "good": ago(0.2)},
    "drill": {"first": ago(700), "good": ago(20)},
}


@pytest.mark.parametrize(
    ("statuses", "problem"),
    [
        (GOOD, None),
        (GOOD | {"backup": {"good": ago(1), "failed": ago(0.1), "why": "eve has no key"}}, "failed: eve has no key"),
        (GOOD | {"backup": {"good": ago(3), "failed": ago(0.1), "why": "disk full"}}, "disk full"),
        (GOOD | {"drill": {"good": ago(200)}}, "no good drill since"),
        (GOOD | {"drill": {"good": ago(24), "failed": ago(1), "why": "did:plc:eve has no key"}}, "eve has no key"),
        ({}, "no good backup since"),
        # The first drill is due a week after the first backup.
        ({"backup": {"first": ago(24), "good": ago(0.2)}}, None),
        ({"backup": {"first": ago(200), "good": ago(0.2)}}, "no good drill since"),
    ],
)
def test_reports_an_overdue_or_failed_backup_or_drill(
    tmp_path: Path, switch: Switch, statuses: dict[str, dict[str, str]], problem: str | None
) -> None:
    with_run_statuses(tmp_path, switch.url, statuses)
    path, body = switch.pings[-1]
    assert path.endswith("/fail") == (problem is not None), body
    assert problem is None or problem in body


def test_reports_a_run_that_has_not_ended_for_hours(tmp_path: Path, switch: Switch) -> None:
    with_run_statuses(tmp_path, switch.url, GOOD | {"drill": {"good": ago(20), "began": ago(7)}})
    assert "it was killed, or it hangs. See ./pds nomad STACK -- job status pds-drill" in switch.pings[0][1], (
        "a run that hangs blocks all later ones"
    )
    (tmp_path / ".run-status" / "drill.json").write_text(json.dumps({"good": ago(20), "began": ago(0.1)}))
    run_alerts(tmp_path, switch.url, ALERTS_BACKUP_HOURS="2", ALERTS_DRILL_HOURS="192")
    assert switch.pings[-1][1].endswith("ended less than an hour ago: drill"), "a run in progress is not a failure"


def test_a_late_backup_does_not_hide_a_failed_drill(tmp_path: Path, switch: Switch) -> None:
    drill = {"first": ago(700), "good": ago(30), "failed": ago(3), "why": "a blob is served as something else"}
    with_run_statuses(tmp_path, switch.url, {"backup": {"first": ago(900), "good": ago(9)}, "drill": drill})
    assert "no good backup since" in switch.pings[0][1]
    assert "failed: a blob is served as something else" in switch.pings[0][1]


def test_a_success_in_the_future_counts_as_none(tmp_path: Path, switch: Switch) -> None:
    """The host's clock was ahead: until that time no backup would be overdue."""
    with_run_statuses(tmp_path, switch.url, GOOD | {"backup": {"first": ago(900), "good": ago(-8760)}})
    path, body = switch.pings[-1]
    assert path.endswith("/fail")
    assert "no good backup since" in body
    assert "the host's clock was ahead" in body


def test_new_pds_has_hours_for_its_first_backup(tmp_path: Path, switch: Switch) -> None:
    with_run_statuses(tmp_path, switch.url, {}, identity_age=1)
    assert not switch.pings[0][0].endswith("/fail")


def test_reports_an_unreadable_volume_as_a_failure(tmp_path: Path, switch: Switch) -> None:
    run_alerts(tmp_path / "nothing", switch.url)
    path, body = switch.pings[-1]
    assert path.endswith("/fail")
    assert "cannot be read: ENOENT" in body


def test_fails_if_the_switch_refuses_the_ping(tmp_path: Path, switch: Switch) -> None:
    switch.code = 404
    done = run_alerts(tmp_path, switch.url)
    assert (done.returncode, done.stderr) == (1, "the ping was answered with 404\n"), "Nomad shows a failed run"


def test_fails_if_the_switch_is_unreachable(tmp_path: Path, switch: Switch) -> None:
    switch.close()
    done = run_alerts(tmp_path, switch.url)
    assert (done.returncode, done.stderr) == (1, "the ping did not arrive: ECONNREFUSED\n")


def test_log_contains_the_reported_text(tmp_path: Path, switch: Switch) -> None:
    assert run_alerts(tmp_path, switch.url).stdout == switch.pings[0][1] + "\n"
