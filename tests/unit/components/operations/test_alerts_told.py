"""Which messages a person gets from the dead man's switch over several runs of the alerts job's script.

The switch notifies at a change of its status only, as Healthchecks does.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from components.render.metrics import files
from tests.support.serving import LOOPBACK, served
from tests.unit.components.operations.test_alerts_script import GOOD, SCRIPT, Switch, ago, make_account, run_alerts
from tests.unit.components.operations.test_alerts_script import switch as switch

EVE = {"did:plc:eve": {"state": "not restorable", "what": "its folder is gone"}}
BOB = {"did:plc:bob": {"state": "with losses", "what": "blob bafkrei is missing"}}
FAILED = {"first": ago(900), "good": ago(1), "failed": ago(0.1), "why": "AccessDenied"}
LATE = FAILED | {"good": ago(400)}
QUARTER = 0.25
"""Hours from one run to the next."""
_TIME = r"\d{4}-\d\d-\d\dT[\d:.]+Z"


class Host:
    """A PDS with an identity, whose last backup and drill are good, and the switch of its alerts."""

    def __init__(self, folder: Path, switch: Switch) -> None:
        self.volume, self.switch = folder, switch
        (folder / ".run-status").mkdir(parents=True)
        (folder / ".pds-identity.json").write_text("{}")
        self.record(**GOOD)

    def status(self, name: str) -> Any:
        """A file of DATA/.run-status."""
        return json.loads((self.volume / ".run-status" / f"{name}.json").read_text())

    def record(self, **statuses: Mapping[str, Any]) -> None:
        """Write statuses as the jobs do."""
        for name, content in statuses.items():
            (self.volume / ".run-status" / f"{name}.json").write_text(json.dumps(content))

    def later(self, hours: float) -> None:
        """Let so much time pass for what the job itself wrote."""
        for name in ("told", "alerts"):
            file = self.volume / ".run-status" / f"{name}.json"
            if not file.exists():
                continue
            written = file.stat().st_mtime - hours * 3600
            file.write_text(re.sub(_TIME, lambda found: _moved(found[0], -hours), file.read_text()))
            os.utime(file, (written, written))

    def run(self, times: int = 1, code: int = 0, hours: float = QUARTER, **options: Any) -> list[tuple[str, str]]:
        """Run the job some times, `hours` after the run before; return the new messages."""
        before = len(self.switch.messages)
        for _ in range(times):
            self.later(hours)
            done = run_alerts(
                self.volume, self.switch.url, ALERTS_BACKUP_HOURS="2", ALERTS_DRILL_HOURS="192", **options
            )
            assert done.returncode == code, done.stdout + done.stderr
        return self.switch.messages[before:]


def _moved(text: str, hours: float) -> str:
    moved = datetime.fromisoformat(text) + timedelta(hours=hours)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def host(tmp_path: Path, switch: Switch) -> Host:
    return Host(tmp_path / "pds", switch)


def test_a_lasting_reason_hides_no_later_one(host: Host) -> None:
    ((status, text),) = host.run(2, percent=0)
    assert status == "down"
    assert "raise 'volume.size_gib'" in text
    host.record(backup=FAILED)
    (up, down) = host.run(4, percent=0)
    assert up[0] == "up"
    assert re.match(r"noted.at: an alarm follows: the backup of \S+ failed: AccessDenied$", up[1]), up
    assert down[0] == "down"
    assert re.match(r"noted.at: the backup of \S+ failed: AccessDenied; the volume is", down[1]), "the new one is first"
    assert len(host.switch.pings) == 8, "one further ping at each new reason"
    host.record(backup=LATE)
    assert "no good backup since" in host.run(3, percent=0)[-1][1], "hours without a backup are worse than one failure"
    host.record(**GOOD)
    assert host.run(3) == []
    assert re.search("; ended less than an hour ago: volume, .*late backup$", host.switch.pings[-1][1])
    assert [status for status, _ in host.run(2)] == ["up"], "no lasting reason is left since an hour"


def test_accounts_near_the_limit_of_relays_are_reported_once(host: Host) -> None:
    for number in range(5):
        make_account(host.volume, number)
    assert [status for status, _ in host.run(3, accounts=5)] == ["down", "up"]
    assert "5 accounts: a relay stops at 100" in host.switch.messages[0][1]
    make_account(host.volume, 5)
    assert host.run(2, accounts=5) == [], "one account more is no news"
    host.record(backup=FAILED | {"findings": EVE})
    ((status, text),) = host.run(2, accounts=5)
    assert status == "down"
    assert "AccessDenied; did:plc:eve: not restorable" in text, "a backup that fails reports what it found"
    assert "accounts:" not in text


def test_a_finding_about_an_account_is_reported_once(host: Host) -> None:
    host.record(backup=GOOD["backup"] | {"findings": BOB})
    assert [status for status, _ in host.run(3)] == ["down", "up"]
    assert "did:plc:bob: with losses: blob bafkrei is missing" in host.switch.messages[0][1]
    assert host.switch.pings[-1][1].endswith("1 findings about accounts (./pds check)")
    written = {file.name for file in (host.volume / ".run-status").iterdir()}
    assert written == {"backup.json", "drill.json", "told.json", "alerts.json"}, "nothing else is written"
    host.record(backup=GOOD["backup"] | {"findings": BOB | EVE})
    (_, text), _up = host.run(2)
    assert "did:plc:eve" in text
    assert "did:plc:bob" not in text, "only new findings are reported"


class _Findings(BaseHTTPRequestHandler):
    """A metrics store in which a club's last backup found damaged accounts."""

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fires = query.startswith("query=pds_run_findings") and query.endswith("%3E+0")
        result = [{"metric": {"club": "club0", "run": "backup"}, "value": [0, "1"]}] if fires else []
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"result": result}}).encode())


def test_a_club_s_damaged_accounts_are_reported_once_a_week(host: Host, tmp_path: Path) -> None:
    """A lost blob has no end, and while the switch is down it does not report a lost host."""
    script = tmp_path / "alerts"
    shutil.copytree(SCRIPT.parent, script)
    (script / "rules.json").write_text(files.rules_json())
    with served(_Findings) as port:
        store = {"ALERTS_METRICS": f"http://{LOOPBACK}:{port}", "METRICS_PASSWORD": "p"}
        options: dict[str, Any] = {"script": script / "alerts.cjs", **store}
        (_, text), (status, _) = host.run(3, **options)
        assert (status, "club0: its last backup found damaged accounts" in text) == ("up", True)
        assert host.run(7, hours=23, **options) == []
        assert [status for status, _ in host.run(2, hours=10, **options)] == ["down", "up"]


def test_a_backup_s_finding_hides_none_of_the_drill_s(host: Host) -> None:
    """A foreign key loses each further post, a missing blob one picture."""
    foreign = {"did:plc:bob": {"state": "with losses", "what": "its DID document names the key K"}}
    host.record(backup=GOOD["backup"] | {"findings": BOB}, drill=GOOD["drill"] | {"findings": foreign})
    (_, text), _up = host.run(3)
    assert "names the key K; did:plc:bob: with losses: blob bafkrei is missing" in text
    host.record(drill=GOOD["drill"] | {"findings": BOB})
    host.run()
    assert host.switch.pings[-1][1].endswith("1 findings about accounts (./pds check)"), "both found the same"


def test_a_finding_that_follows_another_at_once_is_reported_too(host: Host) -> None:
    host.record(backup=GOOD["backup"] | {"findings": BOB})
    host.run()
    host.record(backup=GOOD["backup"] | {"findings": BOB | EVE})
    assert [status for status, _ in host.run()] == ["up", "down"]


def test_a_finding_that_comes_back_a_day_after_a_repair_is_reported_again(host: Host) -> None:
    for findings, hours, sent in ((EVE, QUARTER, ["down", "up"]), ({}, 30, []), (EVE, QUARTER, ["down", "up"])):
        host.record(backup=GOOD["backup"] | {"findings": findings})
        assert [status for status, _ in host.run(2, hours=hours)] == sent


def test_a_finding_of_every_second_backup_is_reported_once(host: Host) -> None:
    """An account whose database is locked, or changes while it is copied."""
    for findings in (BOB, {}) * 4:
        host.record(backup=GOOD["backup"] | {"findings": findings})
        host.run(2, hours=0.5)
    assert [status for status, _ in host.switch.messages] == ["down", "up"]


def test_an_account_that_stays_lost_is_named_in_each_ping_and_reported_again_after_a_week(host: Host) -> None:
    host.record(backup=GOOD["backup"] | {"findings": EVE | BOB})
    (_, (_, text)) = host.run(2)
    assert text.startswith("noted.at: STILL: 1 account not restorable. volume "), "not all is well"
    assert host.run(7, hours=23) == []
    ((status, text), _up) = host.run(2, hours=10)
    assert (status, "did:plc:eve" in text, "did:plc:bob" in text) == ("down", True, False)


def test_a_text_that_differs_by_a_number_is_not_new(host: Host) -> None:
    for count in (3, 4):
        found = {"did:plc:bob": {"state": "with losses", "what": f"blob bafkrei is missing (and {count} more)"}}
        host.record(backup=GOOD["backup"] | {"findings": found})
        host.run(2)
    assert [status for status, _ in host.switch.messages] == ["down", "up"]


@pytest.mark.parametrize("percent", [101, 0])
def test_a_reason_that_comes_and_goes_does_not_turn_the_switch_on_and_off(host: Host, percent: int) -> None:
    """Alone, and beside one that lasts."""
    host.run(percent=percent)
    before = len(host.switch.messages)
    for status in (FAILED, GOOD["backup"]) * 4:
        host.record(backup=status)
        host.run(percent=percent)
    ups = ["up"] if percent == 0 else []
    assert [status for status, _ in host.switch.messages[before:]] == [*ups, "down"]
    host.run(5, percent=percent)
    host.record(backup=FAILED)
    assert [status for status, _ in host.run(percent=percent)][-1] == "down", "after an hour without it, it is new"


def test_next_run_reports_what_could_not_be_sent(host: Host) -> None:
    host.record(backup=GOOD["backup"] | {"findings": EVE})
    host.switch.code = 500
    host.run(code=1)
    host.switch.code = 200
    ((status, text),) = host.run()
    assert (status, "did:plc:eve" in text) == ("down", True)


def test_a_second_ping_that_does_not_arrive_is_repeated_by_the_next_run(host: Host) -> None:
    host.run(percent=0)
    host.record(backup=FAILED)
    host.switch.fail_code = 503
    assert [status for status, _ in host.run(code=1, percent=0)] == ["up"]
    host.switch.fail_code = 200
    ((status, text),) = host.run(percent=0)
    assert (status, "AccessDenied" in text) == ("down", True)


def test_a_reason_is_new_to_a_switch_that_went_down_without_pings(host: Host) -> None:
    """As after an outage of the host."""
    host.run()
    host.switch.change("down", "no ping for 30 minutes")
    host.record(backup=FAILED)
    assert [status for status, _ in host.run(hours=3)] == ["up", "down"]


@pytest.mark.parametrize("told", [None, {"did:plc:eve": "x"}])
def test_a_reason_is_new_to_a_switch_of_unknown_status(host: Host, told: dict[str, str] | None) -> None:
    """After a restore to a new volume the switch is down, and the volume has no record of it or another one."""
    host.switch.status = "down"
    host.record(backup=LATE, **({"told": told} if told else {}))
    up, down = host.run(3)
    assert (up[0], down[0], "no good backup since" in down[1]) == ("up", "down", True)


def test_a_new_check_gets_one_message_for_the_first_reason(host: Host) -> None:
    host.record(backup=LATE)
    assert [status for status, _ in host.run(3)] == ["down"], "a check that becomes up for the first time sends none"


def test_a_service_without_fail_gets_no_success_while_a_reason_lasts(host: Host) -> None:
    """It raises the alarm by the missing ping."""
    host.run()
    host.switch.fail_code = 404
    host.run(3, code=1, percent=0)
    host.record(backup=FAILED)
    host.run(8, code=1, percent=0)
    assert all(path.endswith("/fail") for path, _ in host.switch.pings[1:])


@pytest.mark.parametrize("code", [408, 429, 503])
def test_a_fail_that_is_refused_for_a_moment_hides_no_later_reason(host: Host, code: int) -> None:
    host.run(percent=0)
    host.switch.fail_code = code
    host.run(code=1, percent=0)
    host.switch.fail_code = 200
    host.record(backup=LATE)
    assert [status for status, _ in host.run(percent=0)] == ["up", "down"]


@pytest.mark.parametrize("answer", ["OK (not found)", "OK (rate limited)"])
def test_an_ignored_ping_counts_as_none(host: Host, answer: str) -> None:
    """hc-ping.com answers 200 for a check that was deleted."""
    host.run()
    good = host.status("alerts")["good"]
    host.record(backup=GOOD["backup"] | {"findings": EVE})
    host.switch.answer = answer
    host.run(code=1)
    assert host.status("told")["known"] == {}, "the finding was not sent"
    status = host.status("alerts")
    assert f"the switch ignored the ping: {answer[4:-1]}" in status["why"]
    assert status["good"] < _moved(good, 0), "`./pds check` reports how old the last good ping is"
    host.switch.answer = "OK"
    assert [status for status, _ in host.run()] == ["down"]


def test_any_other_answer_of_another_service_is_accepted(host: Host) -> None:
    host.switch.answer = '{"ok":true}'
    host.run()
    assert host.status("alerts").keys() == {"first", "good"}


# --- a volume that cannot be written to


@contextmanager
def _unwritable(host: Host) -> Iterator[None]:
    """The job can store nothing. The test still can."""
    (host.volume / ".run-status" / "alerts.json.tmp").mkdir()
    yield
    (host.volume / ".run-status" / "alerts.json.tmp").rmdir()


@pytest.mark.parametrize("percent", [101, 0])
def test_a_volume_that_cannot_be_written_to_is_reported_once_a_day(host: Host, percent: int) -> None:
    """What was sent cannot be stored, and the switch must not go up and down in each run."""
    host.run(percent=percent)
    with _unwritable(host):
        (*_, (status, text)) = host.run(percent=percent)
        assert status == "down"
        assert text.startswith("noted.at: the volume cannot be written to: EISDIR. Members cannot post: see ./pds ssh")
        host.record(drill=FAILED)
        assert host.run(3, percent=percent) == []
        assert [status for status, _ in host.run(hours=23, percent=percent)] == ["up", "down"]
        assert "AccessDenied" in host.switch.messages[-1][1]
        assert host.run(3, percent=percent) == []
    host.record(**GOOD)
    assert [status for status, _ in host.run(5)] == ["up"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_names_the_error_of_a_volume_that_ext4_made_read_only(host: Host) -> None:
    host.run()
    subprocess.run(["mount", "--bind", host.volume, host.volume], check=True, timeout=600)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", host.volume], check=True, timeout=600)
        done = run_alerts(host.volume, host.switch.url)
    finally:
        subprocess.run(["umount", host.volume], check=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "the volume cannot be written to: EROFS" in host.switch.messages[-1][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_reports_a_full_volume_with_the_option_that_enlarges_it(tmp_path: Path, switch: Switch) -> None:
    host = Host(tmp_path / "pds", switch)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", host.volume], check=True, timeout=600)
    try:
        with suppress(OSError):
            (host.volume / "members").write_bytes(bytes(1 << 20))
        done = run_alerts(host.volume, switch.url)
    finally:
        subprocess.run(["umount", host.volume], check=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "cannot be written to: ENOSPC. Members cannot post: raise 'volume.size_gib'" in switch.messages[-1][1]
