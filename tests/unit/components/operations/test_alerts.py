"""Alerts: DigitalOcean's checks, and the job that monitors the volume.

`test_alerts_script.py` runs the script of the job.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.render.jobs.alerts import alerts_job
from components.render.jobs.backup import backup_job
from components.settings.checks.warnings import warnings
from components.settings.fields.errors import SettingsError
from offline.hcl_reader import job_of, parse, task_of
from offline.mock_engine import Evaluation, evaluate
from offline.stackfile import read_stack
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open, is_secret
from tests.support.invariants import CHECKS, kind, waits_for
from tests.support.programs import ALERTS, BACKUP, EXISTING, ON_A_HOST, document, run, settings_of

SECRET = [str(ALERTS["ping_url"]), "https://hooks.slack.com/services/T1234567/AAAAAAAA/ZZZZZZ"]


@pytest.fixture(scope="module")
def alerted() -> Evaluation:
    """The dev stack with alerts of every kind."""
    return run(alerts=ALERTS)


def test_invariants_hold_with_alerts(alerted: Evaluation) -> None:
    for name, find in CHECKS.items():
        assert find(alerted) == [], f"the invariant {name} does not hold with alerts"


def test_without_the_section_no_alert_is_created(dev: Evaluation) -> None:
    assert [item.name for item in dev.resources if "alerts" in item.name] == []
    assert "watch_job" not in dev.outputs


def test_slack_webhook_and_ping_url_are_secret(alerted: Evaluation) -> None:
    assert find_secrets_in_the_open(alerted, SECRET) == []
    assert find_secrets_in_texts(alerted, SECRET) == [], "every token with read-job can read a job"
    variable = alerted.one("pds-alerts-ping")
    assert variable.inputs == {"path": "nomad/jobs/pds-alerts", "items": {"PING_URL": ALERTS["ping_url"]}}
    assert is_secret(variable.raw["items"])


def test_uptime_check_queries_the_health_of_the_server(alerted: Evaluation) -> None:
    check = alerted.one("pds-alerts-uptime").inputs
    assert check["target"] == "https://noted.at/xrpc/_health", (
        "it queries the databases, too, and returns 503 if they fail"
    )
    assert check["enabled"] is True
    alerts = {item.name: item.inputs for item in alerted.of(":UptimeAlert")}
    assert {(row["type"], row["threshold"], row["comparison"]) for row in alerts.values()} == {
        ("down_global", 1, "less_than"),
        ("latency", 5000, "greater_than"),
        ("ssl_expiry", 7, "less_than"),
    }, "down, slow and certificate"
    assert {row["checkId"] for row in alerts.values()} == {alerted.one("pds-alerts-uptime").id}
    for row in alerts.values():
        (recipients,) = row["notifications"]
        assert recipients["emails"] == ALERTS["email"]
        assert recipients["slacks"] == [ALERTS["slack"]]


def test_cpu_memory_and_disk_are_monitored_by_tag(alerted: Evaluation) -> None:
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
    assert all(name.startswith("pds-club") for name in names), "an account can contain several PDSes"


def test_no_alert_fires_while_the_pds_is_created_or_paused(alerted: Evaluation) -> None:
    for item in alerted.resources:
        if item.name.startswith("pds-alerts-") and item.name != "pds-alerts-ping":
            assert "pds-server-ready" in waits_for(alerted, item), (
                f"{item.name} would check a PDS that is still being created"
            )
    paused = run(alerts=ALERTS, pds={"paused": True})
    assert paused.one("pds-alerts-uptime").inputs["enabled"] is False, "the operator stopped it"


def test_each_message_names_a_pause_that_was_left_on(alerted: Evaluation) -> None:
    assert "which is PAUSED" not in alerted.jobspec("pds-alerts")
    paused = run(alerts=ALERTS, pds={"paused": True}).jobspec("pds-alerts")
    assert re.search(r'PDS_HOSTNAME += "[a-z.]+, which is PAUSED"', paused)


def _warned(alerts: Mapping[str, Any], **changes: Any) -> list[str]:
    return [
        text
        for text in warnings(settings_of(alerts=alerts, **changes))
        if text.startswith(("pds:alerts", "pds:pds.paused"))
    ]


def test_warns_of_a_dead_man_s_switch_alone_which_does_not_look_at_the_pds() -> None:
    (text,) = _warned({"ping_url": ALERTS["ping_url"]})
    assert "no alert if the PDS does not answer, its certificate expires" in text
    assert _warned(ALERTS) == []


def test_warns_of_a_pause_that_is_left_on() -> None:
    (text,) = _warned(ALERTS, pds={"paused": True})
    assert text.startswith("pds:pds.paused: the server is stopped, and no alert reports that the PDS does not answer.")


@pytest.mark.parametrize(
    ("alerts", "kinds"),
    [
        ({"email": ["owner@bench.test"]}, {"UptimeCheck", "UptimeAlert", "MonitorAlert"}),
        ({"slack": ALERTS["slack"]}, {"UptimeCheck", "UptimeAlert", "MonitorAlert"}),
        ({"ping_url": ALERTS["ping_url"]}, {"Variable", "Job"}),
    ],
    ids=["email", "slack", "ping_url"],
)
def test_each_recipient_kind_alone_creates_what_it_needs(alerts: dict[str, Any], kinds: set[str]) -> None:
    evaluation = run(alerts=alerts)
    created = {kind(item) for item in evaluation.resources if item.name.startswith("pds-alerts-")}
    assert created == kinds
    for name, find in CHECKS.items():
        assert find(evaluation) == [], f"the invariant {name} does not hold"


def test_refuses_alerts_without_a_recipient() -> None:
    with pytest.raises(SettingsError, match="has no recipient"):
        settings_of(alerts={"accounts": 90})


@pytest.mark.parametrize(
    "url", ["http://ping.test/x", "ping.test/x", "https://ping.test", "https://ping.test/x/", "https://ping.test/x?y"]
)
def test_refuses_a_ping_url_without_room_for_fail_and_does_not_repeat_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"alerts\.ping_url") as refusal:
        settings_of(alerts={"ping_url": url})
    assert url not in str(refusal.value), "it can be a real URL with one extra character"


def test_refuses_a_slack_channel_without_its_webhook() -> None:
    with pytest.raises(SettingsError, match=r"alerts\.slack\.url"):
        settings_of(alerts={"slack": {"channel": "#alerts"}})


def test_warns_if_no_dead_man_s_switch_is_configured() -> None:
    warning_text = " ".join(warnings(settings_of(alerts={"email": ["owner@bench.test"]})))
    assert "pds:alerts.ping_url" in warning_text
    assert "pds:alerts.ping_url" not in " ".join(warnings(settings_of(alerts=ALERTS)))


def test_alerts_job_counts_for_the_memory_of_the_host() -> None:
    small_host = {"host": {"size": "s-1vcpu-1gb"}, "pds": {"memory_mib": 256}, "ingress": {"memory_mib": 192}}
    settings_of(**small_host)
    with pytest.raises(SettingsError, match="alerts 128"):
        settings_of(**small_host, alerts=ALERTS)


def test_alerts_job_runs_every_quarter_of_an_hour(alerted: Evaluation) -> None:
    job = parse(alerted.jobspec("pds-alerts"))["job"][0]["pds-alerts"]
    assert job["type"] == "batch"
    assert job["periodic"] == [{"crons": ["*/15 * * * *"], "prohibit_overlap": True}]
    group = job["group"][0]["pds-alerts"]
    (task,) = (item["alerts"] for item in group["task"])
    assert task["user"] == "1000:1000"
    assert task["config"][0]["cap_drop"] == ["all"]
    assert task["config"][0]["image"] == settings_of().pds.image, "no second image to pull and update"
    assert "network" not in group, "it needs no port"


def test_allowed_time_without_a_backup_depends_on_the_interval() -> None:
    def hours(**backup: Any) -> str | None:
        settings = settings_of(alerts=ALERTS, backup=BACKUP | backup)
        assert settings.alerts
        task = task_of(job_of(alerts_job(settings, "dev"), "pds-alerts"), "alerts")
        return str(task["env"][0]["ALERTS_BACKUP_HOURS"])

    assert (hours(), hours(interval_minutes=60), hours(interval_minutes=1440)) == ("2", "3", "72")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({}, "raise 'volume.size_gib' and run `pulumi up`"),
        ({**ON_A_HOST, "operators": None}, "raise 'disk_gib' of this club under 'clubs' in the host's stack file"),
        (EXISTING, "enlarge the host volume 'pds' of its Nomad"),
    ],
    ids=["host", "club", "existing Nomad"],
)
def test_a_full_volume_is_reported_with_an_option_that_the_stack_has(options: dict[str, Any], remedy: str) -> None:
    settings = settings_of(**options, alerts=ALERTS, backup=BACKUP)
    for text, job, task in (
        (alerts_job(settings, "chess"), "pds-alerts", "alerts"),
        (backup_job(settings, "chess"), "pds-backup", "snapshot"),
    ):
        assert remedy in task_of(job_of(text, job), task)["env"][0]["SPACE_REMEDY"]


def test_stack_file_with_encrypted_alerts_can_be_previewed(tmp_path: Path) -> None:
    secure = {"secure": "v1:abc:def"}
    alerts = {"ping_url": secure, "slack": {"channel": "#alerts", "url": secure}}
    config = {f"pds:{key}": value for key, value in {**document(), "alerts": alerts}.items()}
    config["pds:secrets"] = {"nomad_management_token": secure}
    (tmp_path / "Pulumi.club.yaml").write_text(yaml.safe_dump({"config": config}))
    read = read_stack("club", tmp_path)
    evaluation = evaluate("club", read.values, secret_keys=read.secret_keys)
    assert evaluation.one("pds-alerts-ping").inputs["items"]["PING_URL"].startswith("https://stand-in.test/")
    assert len(evaluation.one("pds-host-nomad-bootstrap").inputs["token"]) == 36, (
        "a stand-in of the form that Nomad accepts"
    )
