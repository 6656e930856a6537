"""Alerts: DigitalOcean's checks, and the job that monitors the volume, run by a real Node."""

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
import yaml

from components.render.watch_job import watch_job
from components.settings.checks import warnings
from components.settings.faults import SettingsError
from tests.checks import CHECKS, kind, waits_for
from tests.programs import ALERTS, BACKUP, document, run, settings_of
from tools.engine import Evaluation, evaluate
from tools.gate.secrets import find_secrets_in_texts, find_secrets_in_the_open, is_secret
from tools.hcl_text import job_of, parse, task_of
from tools.live.node import wheel_folder
from tools.stackfile import read_stack

SCRIPT = Path(__file__).parent.parent / "components" / "render" / "files" / "watch.cjs"
SECRET = [str(ALERTS["ping_url"]), "https://hooks.slack.com/services/T1234567/AAAAAAAA/ZZZZZZ"]


@pytest.fixture(scope="module")
def alerted() -> Evaluation:
    """The dev stack with alerts of every kind."""
    return run(alerts=ALERTS)


def test_a_stack_with_alerts_keeps_every_law(alerted: Evaluation) -> None:
    for name, find in CHECKS.items():
        assert find(alerted) == [], f"the law of {name} does not hold with alerts"


def test_without_alerts_nothing_is_watched(dev: Evaluation) -> None:
    assert [item.name for item in dev.resources if "watch" in item.name] == []
    assert "watch_job" not in dev.outputs


def test_slack_s_address_and_the_ping_s_are_secrets(alerted: Evaluation) -> None:
    assert find_secrets_in_the_open(alerted, SECRET) == []
    assert find_secrets_in_texts(alerted, SECRET) == [], "a job is readable by whoever may read jobs"
    variable = alerted.one("pds-watch-ping")
    assert variable.inputs == {"path": "nomad/jobs/pds-watch", "items": {"PING_URL": ALERTS["ping_url"]}}
    assert is_secret(variable.raw["items"])


def test_the_uptime_check_asks_the_server_s_own_health(alerted: Evaluation) -> None:
    check = alerted.one("pds-watch-uptime").inputs
    assert check["target"] == "https://noted.at/xrpc/_health", "it asks the databases too, and is 503 if they fail"
    assert check["enabled"] is True
    alerts = {item.name: item.inputs for item in alerted.of(":UptimeAlert")}
    assert {(row["type"], row["threshold"], row["comparison"]) for row in alerts.values()} == {
        ("down_global", 1, "less_than"),
        ("latency", 5000, "greater_than"),
        ("ssl_expiry", 7, "less_than"),
    }, "down, slow and certificate"
    assert {row["checkId"] for row in alerts.values()} == {alerted.one("pds-watch-uptime").id}
    for row in alerts.values():
        (told,) = row["notifications"]
        assert told["emails"] == ALERTS["email"]
        assert told["slacks"] == [ALERTS["slack"]]


def test_cpu_memory_and_disk_are_watched_by_tag(alerted: Evaluation) -> None:
    monitors = [item.inputs for item in alerted.of(":MonitorAlert")]
    kinds = {row["type"].rpartition("/")[2] for row in monitors}
    assert kinds == {"cpu", "memory_utilization_percent", "disk_utilization_percent"}
    for row in monitors:
        assert row["tags"] == ["pds-dev"], "a rebuilt droplet has another id and the same tag"
        assert "entities" not in row
        assert row["alerts"]["emails"] == ALERTS["email"]


def test_every_alert_is_named_after_the_stack() -> None:
    evaluation = run(stack="club", alerts=ALERTS)
    names = [
        item.inputs.get("name") or item.inputs["description"]
        for item in evaluation.resources
        if kind(item) in ("UptimeCheck", "UptimeAlert", "MonitorAlert")
    ]
    assert len(names) == len(set(names)) == 7
    assert all(name.startswith("pds-club") for name in names), "one account may hold several PDSes"


def test_nobody_is_told_that_a_pds_is_down_while_it_is_made_or_paused(alerted: Evaluation) -> None:
    for item in alerted.resources:
        if item.name.startswith("pds-watch-") and item.name != "pds-watch-ping":
            assert "pds-ready" in waits_for(alerted, item), f"{item.name} would see a PDS that is being made"
    paused = run(alerts=ALERTS, pds={"paused": True})
    assert paused.one("pds-watch-uptime").inputs["enabled"] is False, "it was its owner who stopped it"


@pytest.mark.parametrize(
    ("alerts", "kinds"),
    [
        ({"email": ["owner@bench.test"]}, {"UptimeCheck", "UptimeAlert", "MonitorAlert"}),
        ({"slack": ALERTS["slack"]}, {"UptimeCheck", "UptimeAlert", "MonitorAlert"}),
        ({"ping_url": ALERTS["ping_url"]}, {"Variable", "Job"}),
    ],
    ids=["email", "slack", "ping_url"],
)
def test_each_way_alone_makes_what_it_needs(alerts: dict[str, Any], kinds: set[str]) -> None:
    evaluation = run(alerts=alerts)
    watch = {kind(item) for item in evaluation.resources if item.name.startswith("pds-watch-")}
    assert watch == kinds
    for name, find in CHECKS.items():
        assert find(evaluation) == [], f"the law of {name} does not hold"


def test_alerts_that_name_nobody_are_refused() -> None:
    with pytest.raises(SettingsError, match="has no recipient"):
        settings_of(alerts={"accounts": 90})


@pytest.mark.parametrize(
    "url", ["http://ping.test/x", "ping.test/x", "https://ping.test", "https://ping.test/x/", "https://ping.test/x?y"]
)
def test_a_ping_url_that_fail_cannot_be_added_to_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(SettingsError, match=r"alerts\.ping_url") as refusal:
        settings_of(alerts={"ping_url": url})
    assert url not in str(refusal.value), "it may be a real one with one sign too many"


def test_a_slack_channel_without_its_webhook_is_refused_with_its_key() -> None:
    with pytest.raises(SettingsError, match=r"alerts\.slack\.url"):
        settings_of(alerts={"slack": {"channel": "#alerts"}})


def test_who_has_no_switch_is_told_what_nobody_watches() -> None:
    said = " ".join(warnings(settings_of(alerts={"email": ["owner@bench.test"]})))
    assert "pds:alerts.ping_url" in said
    assert "pds:alerts.ping_url" not in " ".join(warnings(settings_of(alerts=ALERTS)))


def test_the_job_counts_for_the_host_s_memory() -> None:
    room = {"host": {"size": "s-1vcpu-1gb"}, "pds": {"memory_mib": 256}, "ingress": {"memory_mib": 192}}
    settings_of(**room)
    with pytest.raises(SettingsError, match="alerts 128"):
        settings_of(**room, alerts=ALERTS)


def test_the_job_runs_by_itself_every_quarter_of_an_hour(alerted: Evaluation) -> None:
    job = parse(alerted.jobspec("pds-watch"))["job"][0]["pds-watch"]
    assert job["type"] == "batch"
    assert job["periodic"] == [{"crons": ["*/15 * * * *"], "prohibit_overlap": True}]
    group = job["group"][0]["pds-watch"]
    (task,) = (item["watch"] for item in group["task"])
    assert task["user"] == "1000:1000"
    assert task["config"][0]["cap_drop"] == ["all"]
    assert task["config"][0]["image"] == settings_of().pds.image, "no second image to pull and to keep up to date"
    assert "network" not in group, "it needs no port"


def test_nomad_s_template_engine_finds_nothing_in_the_script() -> None:
    text = SCRIPT.read_text()
    assert "{{" not in text, "Nomad's template engine would read it as an action"
    assert "}}" not in text


class Switch:
    """A dead man's switch on loopback: records its pings, and answers with `status`."""

    def __init__(self) -> None:
        told: list[tuple[str, str]] = []
        self.told, self.status = told, 200
        switch = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                told.append((self.path, body))
                self.send_response(switch.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-of-the-switch"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)


@pytest.fixture
def switch() -> Iterator[Switch]:
    made = Switch()
    yield made
    made.close()


def _account(volume: Path, number: int) -> None:
    (volume / "actors" / f"{number % 256:02x}" / f"did:plc:{number:024d}").mkdir(parents=True)


def _look(
    volume: Path, url: str, percent: int = 101, accounts: int = 80, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as the job does. A volume can't be 101 % full, so this is 'never' for it."""
    environment = {
        "PDS_HOSTNAME": "noted.at",
        "PDS_DATA_DIRECTORY": str(volume),
        "WATCH_VOLUME_PERCENT": str(percent),
        "WATCH_ACCOUNTS": str(accounts),
        "PING_URL": url,
    } | more
    node = str(wheel_folder() / "bin" / "node")
    done = subprocess.run([node, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "secret-of-the-switch" not in done.stdout + done.stderr, "whoever has the URL can silence the alarm"
    return done


def test_a_volume_that_is_well_is_pinged(tmp_path: Path, switch: Switch) -> None:
    for number in range(3):
        _account(tmp_path, number)
    (tmp_path / "actors" / "reserved_keys" / "not-an-account").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = _look(tmp_path, switch.url)
    assert done.returncode == 0, done.stderr
    ((path, body),) = switch.told
    assert path == "/secret-of-the-switch"
    assert body.startswith("noted.at: volume ")
    assert body.endswith("3 accounts"), "a directory of keys is no account"
    assert sorted(tmp_path.rglob("*")) == before, "it only looks"


def test_a_new_server_without_accounts_is_well(tmp_path: Path, switch: Switch) -> None:
    assert _look(tmp_path, switch.url).returncode == 0
    assert switch.told[0][1].endswith("0 accounts")


def test_a_volume_above_the_limit_is_told_as_a_failure(tmp_path: Path, switch: Switch) -> None:
    assert _look(tmp_path, switch.url, percent=0).returncode == 0
    ((path, body),) = switch.told
    assert path == "/secret-of-the-switch/fail"
    assert "raise volume.size_gib" in body, "the message says what to do"


def test_the_figure_is_df_s(tmp_path: Path, switch: Switch) -> None:
    _look(tmp_path, switch.url)
    found = os.statvfs(tmp_path)
    used = found.f_blocks - found.f_bfree
    percent = 100 * used / (used + found.f_bavail)
    said = int(switch.told[0][1].split("volume ")[1].split(" %")[0])
    assert abs(said - percent) <= 2, "others write to this disk between the two looks, but not one part in fifty"


@pytest.mark.parametrize(("count", "path"), [(4, "/secret-of-the-switch"), (5, "/secret-of-the-switch/fail")])
def test_accounts_are_told_from_the_limit_on(tmp_path: Path, switch: Switch, count: int, path: str) -> None:
    for number in range(count):
        _account(tmp_path, number)
    assert _look(tmp_path, switch.url, accounts=5).returncode == 0
    assert switch.told[0][0] == path
    assert f"{count} accounts" in switch.told[0][1]


# --- backups and drills


def _ago(hours: float) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


def _with_stamps(
    volume: Path, url: str, stamps: Mapping[str, Mapping[str, Any]], marked: float = 1000, code: int = 0
) -> None:
    """Check a volume that was marked this many hours ago, with these status files."""
    mark = volume / ".pds-identity.json"
    mark.touch()
    os.utime(mark, (time.time() - marked * 3600,) * 2)
    (volume / ".stamps").mkdir()
    for name, content in stamps.items():
        (volume / ".stamps" / f"{name}.json").write_text(json.dumps(content))
    assert _look(volume, url, WATCH_BACKUP_HOURS="2", WATCH_DRILL_HOURS="192").returncode == code


_GOOD: dict[str, dict[str, Any]] = {
    "backup": {"first": _ago(900), "good": _ago(0.2)},
    "drill": {"first": _ago(700), "good": _ago(20)},
}


@pytest.mark.parametrize(
    ("stamps", "says"),
    [
        (_GOOD, None),
        (_GOOD | {"backup": {"good": _ago(1), "failed": _ago(0.1), "why": "eve has no key"}}, "failed: eve has no key"),
        (_GOOD | {"backup": {"good": _ago(3), "failed": _ago(0.1), "why": "disk full"}}, "disk full"),
        (_GOOD | {"drill": {"good": _ago(200)}}, "no good drill since"),
        (_GOOD | {"drill": {"good": _ago(24), "failed": _ago(1), "why": "did:plc:eve has no key"}}, "eve has no key"),
        ({}, "no good backup since"),
        # The first drill has a week from the first backup on.
        ({"backup": {"first": _ago(24), "good": _ago(0.2)}}, None),
        ({"backup": {"first": _ago(200), "good": _ago(0.2)}}, "no good drill since"),
    ],
)
def test_a_backup_or_drill_that_is_overdue_or_failed_is_told(
    tmp_path: Path, switch: Switch, stamps: dict[str, dict[str, str]], says: str | None
) -> None:
    _with_stamps(tmp_path, switch.url, stamps)
    ((path, body),) = switch.told
    assert path.endswith("/fail") == (says is not None), body
    assert says is None or says in body


_EVE = {"did:plc:eve": {"state": "not restorable", "what": "its folder is gone"}}


def test_a_finding_about_an_account_is_told_once_and_hides_no_other_alarm(tmp_path: Path, switch: Switch) -> None:
    volume = tmp_path / "pds"
    volume.mkdir()
    _with_stamps(volume, switch.url, _GOOD | {"backup": _GOOD["backup"] | {"findings": _EVE}})
    ((path, body),) = switch.told
    assert path.endswith("/fail")
    assert "did:plc:eve: not restorable: its folder is gone" in body
    written = {file.name for file in (volume / ".stamps").iterdir()}
    assert written == {"backup.json", "drill.json", "told.json"}, "nothing else is written"
    again = [_look(volume, switch.url, WATCH_BACKUP_HOURS="2", WATCH_DRILL_HOURS="192") for _ in range(2)]
    assert {done.returncode for done in again} == {0}
    assert not any(path.endswith("/fail") for path, _ in switch.told[1:]), "it was told; the switch shows others again"
    assert "1 findings about accounts (./pds check)" in switch.told[-1][1]
    worse = _EVE | {"did:plc:bob": {"state": "with losses", "what": "blob bafkrei is missing"}}
    (volume / ".stamps" / "backup.json").write_text(json.dumps(_GOOD["backup"] | {"findings": worse}))
    _look(volume, switch.url, WATCH_BACKUP_HOURS="2", WATCH_DRILL_HOURS="192")
    path, body = switch.told[-1]
    assert path.endswith("/fail")
    assert "did:plc:bob" in body
    assert "did:plc:eve" not in body, "only what is new"


def test_what_could_not_be_sent_is_told_by_the_next_run(tmp_path: Path, switch: Switch) -> None:
    switch.status = 500
    _with_stamps(tmp_path, switch.url, _GOOD | {"backup": _GOOD["backup"] | {"findings": _EVE}}, code=1)
    switch.status = 200
    _look(tmp_path, switch.url, WATCH_BACKUP_HOURS="2", WATCH_DRILL_HOURS="192")
    assert "did:plc:eve" in switch.told[-1][1]


def test_a_run_that_was_killed_hours_ago_is_told_though_no_other_followed(tmp_path: Path, switch: Switch) -> None:
    _with_stamps(tmp_path, switch.url, _GOOD | {"drill": {"good": _ago(20), "began": _ago(7)}})
    assert "never ended: it was killed" in switch.told[0][1]
    (tmp_path / ".stamps" / "drill.json").write_text(json.dumps({"good": _ago(20), "began": _ago(0.1)}))
    _look(tmp_path, switch.url, WATCH_BACKUP_HOURS="2", WATCH_DRILL_HOURS="192")
    assert not switch.told[-1][0].endswith("/fail"), "one that is under way is no fault"


def test_a_pds_that_is_hours_old_has_time_for_its_first_backup(tmp_path: Path, switch: Switch) -> None:
    _with_stamps(tmp_path, switch.url, {}, marked=1)
    assert not switch.told[0][0].endswith("/fail")


def test_how_long_there_may_be_no_backup_goes_by_the_interval() -> None:
    def hours(**backup: Any) -> str | None:
        settings = settings_of(alerts=ALERTS, backup=BACKUP | backup)
        assert settings.alerts
        task = task_of(job_of(watch_job(settings, settings.alerts, "dev"), "pds-watch"), "watch")
        return str(task["env"][0]["WATCH_BACKUP_HOURS"])

    assert (hours(), hours(interval_minutes=60), hours(interval_minutes=1440)) == ("2", "3", "72")


def test_a_volume_that_cannot_be_read_is_a_failure(tmp_path: Path, switch: Switch) -> None:
    _look(tmp_path / "nothing", switch.url)
    ((path, body),) = switch.told
    assert path.endswith("/fail")
    assert "cannot be read: ENOENT" in body


def test_a_switch_that_refuses_fails_the_run(tmp_path: Path, switch: Switch) -> None:
    switch.status = 404
    done = _look(tmp_path, switch.url)
    assert (done.returncode, done.stderr) == (1, "the ping was answered with 404\n"), "Nomad shows a failed run"


def test_a_switch_that_is_not_there_fails_the_run(tmp_path: Path, switch: Switch) -> None:
    switch.close()
    done = _look(tmp_path, switch.url)
    assert (done.returncode, done.stderr) == (1, "the ping did not arrive: ECONNREFUSED\n")


def test_the_log_of_a_run_says_what_was_told(tmp_path: Path, switch: Switch) -> None:
    assert _look(tmp_path, switch.url).stdout == switch.told[0][1] + "\n"


def test_a_stack_file_with_encrypted_alerts_can_be_previewed(tmp_path: Path) -> None:
    secure = {"secure": "v1:abc:def"}
    alerts = {"ping_url": secure, "slack": {"channel": "#alerts", "url": secure}}
    config = {f"pds:{key}": value for key, value in {**document(), "alerts": alerts}.items()}
    config["pds:secrets"] = {"nomad_management_token": secure}
    (tmp_path / "Pulumi.club.yaml").write_text(yaml.safe_dump({"config": config}))
    read = read_stack("club", tmp_path)
    evaluation = evaluate("club", read.values, secret_keys=read.secret_keys)
    assert evaluation.one("pds-watch-ping").inputs["items"]["PING_URL"].startswith("https://stand-in.test/")
    assert len(evaluation.one("pds-nomad-bootstrap").inputs["token"]) == 36, "a stand-in of the form that Nomad takes"
