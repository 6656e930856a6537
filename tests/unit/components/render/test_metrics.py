"""The metrics store's job and files, the server's telemetry in its job, and the rules in the alerts job."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.render.jobs.alerts import alerts_job
from components.render.jobs.pds import pds_job
from components.render.metrics import files
from components.render.metrics.job import flags, metrics_job
from components.settings.sections import HOST_PORT, SERVER_PORT, STORE_PORT
from offline.hcl_reader import only_job, task_of
from tests.support.metrics_pages import nomad_page, server_page
from tests.support.programs import ALERTS, run, settings_of

STORE: dict[str, Any] = {"metrics": {"store": True}}
FOLDER = Path(files.__file__).parent
SCRAPE = yaml.load((FOLDER / "scrape.yaml").read_text(), yaml.CSafeLoader)


def group(text: str) -> dict[str, Any]:
    (found,) = (body for item in only_job(text)["group"] for body in item.values())
    return dict(found)


def test_the_store_listens_on_loopback_with_a_password_that_no_job_holds() -> None:
    evaluation = run(**STORE)
    text = evaluation.one("pds-metrics-job").inputs["jobspec"]
    words = flags(settings_of(**STORE))
    assert f"-httpListenAddr=127.0.0.1:{STORE_PORT}" in words
    task = task_of(only_job(text), "metrics")
    assert "-envflag.enable" in task["config"][0]["args"]
    assert any("\nhttpAuth_password={{ .METRICS_PASSWORD" in template["data"] for template in task["template"])
    (port,) = (body for item in group(text)["network"][0]["port"] for body in item.values())
    assert port == {"static": STORE_PORT, "host_network": "loopback"}
    password = evaluation.outputs["metrics_password"]
    assert "metrics_password" in evaluation.secret_outputs
    assert evaluation.one("pds-metrics-variable").inputs["items"] == {"METRICS_PASSWORD": password}
    assert not any(password in str(item.inputs.get("jobspec", "")) for item in evaluation.resources)


def test_the_store_runs_without_rights_and_stops_before_its_quota_is_used_up() -> None:
    (config,) = task_of(only_job(metrics_job(settings_of(**STORE), "dev")), "metrics")["config"]
    assert config["readonly_rootfs"] is True
    assert config["cap_drop"] == ["all"]
    free = next(word for word in flags(settings_of(**STORE)) if "minFreeDiskSpaceBytes" in word)
    assert int(free.partition("=")[2]) >= 32 * 1024 * 1024


def test_targets_are_the_host_s_loopback_ports() -> None:
    targets = {job["job_name"]: job["static_configs"] for job in SCRAPE["scrape_configs"]}
    ports = {"nomad": 4646, "host": HOST_PORT, "pds": SERVER_PORT, "metrics": STORE_PORT}
    assert targets == {name: [{"targets": [f"127.0.0.1:{port}"]}] for name, port in ports.items()}


def test_a_server_without_telemetry_is_no_target() -> None:
    config = yaml.load(files.scrape_config(settings_of(metrics={"store": True, "server": False})), yaml.CSafeLoader)
    assert [job["job_name"] for job in config["scrape_configs"]] == ["nomad", "host", "metrics"]


def test_the_server_shows_its_metrics_on_loopback_only_for_a_store() -> None:
    def ports(**changes: Any) -> dict[str, Any]:
        return {name: body for item in group(pds_job(settings_of(**changes), "dev"))["network"][0]["port"]
                for name, body in item.items()}  # fmt: skip

    assert ports(**STORE)["metrics"] == {"static": SERVER_PORT, "to": SERVER_PORT, "host_network": "loopback"}
    otlp = {"metrics": {"otlp": {"endpoint": "https://otlp.test/v1/metrics"}}}
    assert ports(**otlp).keys() == ports().keys() == {"http"}


def test_the_server_loads_telemetry_after_its_checks_by_a_module_that_cannot_fail() -> None:
    task = task_of(only_job(pds_job(settings_of(**STORE), "dev")), "pds")
    words = task["env"][0]["NODE_OPTIONS"].split()
    assert words[-1] == "--import=/local/telemetry.mjs"
    assert "local/telemetry.mjs" in {template["destination"] for template in task["template"]}
    assert "telemetry" not in pds_job(settings_of(), "dev")


@pytest.mark.parametrize("name", sorted(files.dashboards()))
def test_a_dashboard_has_panels_of_known_series(name: str) -> None:
    board = json.loads(files.dashboards()[name])
    panels = [panel for row in board["rows"] for panel in row["panels"]]
    assert panels
    known = {*names(nomad_page(failing="default/pds")), *names(server_page()), *OF_THE_HOST, *OF_THE_STORE, "up"}
    for panel in panels:
        assert panel["title"]
        assert len(panel.get("alias", panel["expr"])) == len(panel["expr"]), f"{panel['title']}: a name for each line"
        for expression in panel["expr"]:
            assert series(expression) <= known, f"{panel['title']}: {expression}"
    for row in board["rows"]:
        assert sum(panel["width"] for panel in row["panels"]) % 12 == 0, "a row has 12 columns"


OF_THE_HOST = {
    "pds_volume_used_bytes", "pds_volume_available_bytes", "pds_club_size_bytes", "pds_club_used_bytes",
    "pds_run_good_timestamp_seconds", "pds_run_failed_timestamp_seconds", "pds_run_findings",
}  # fmt: skip
"""As `test_metrics_script.py` finds them."""

OF_THE_STORE = {
    "process_resident_memory_bytes", "process_resident_memory_anon_bytes", "vm_data_size_bytes",
    "vm_free_disk_space_bytes", "vm_storage_is_read_only",
}  # fmt: skip


def names(page: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-zA-Z0-9_]+)[ {]", page, re.M))


def series(expression: str) -> set[str]:
    """The names of series in an expression: words with '_' that are neither a function nor a label."""
    bare = re.sub(r'\{[^}]*\}|by \([^)]*\)|"[^"]*"', "", expression)
    return set(re.findall(r"\b([a-z][a-zA-Z0-9]*(?:_[a-z0-9_]+)|up)\b(?!\()", bare))


def test_rules_name_known_series_and_say_what_is_wrong() -> None:
    rules = files.rules()
    known = {*names(nomad_page(failing="default/pds")), *OF_THE_HOST, *OF_THE_STORE, "up"}
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    assert [rule["alert"] for rule in rules if rule.get("once")] == ["ClubFindings"], "only a lost blob has no end"
    for rule in rules:
        assert series(rule["expr"]) <= known, rule["alert"]
        assert rule.keys() - {"once"} == {"alert", "expr", "summary"}, "the alerts job knows no other label"
        labels = set(re.findall(r"\{\{ \$labels\.(\w+) \}\}", rule["summary"]))
        assert labels <= {"job", "namespace", "task", "club", "run"}
        assert "{{" not in re.sub(r"\{\{ \$labels\.\w+ \}\}", "", rule["summary"]), "the alerts job knows only labels"


def test_kept_series_are_those_of_the_dashboards_and_rules() -> None:
    """What no panel and no rule shows costs memory for nothing, and a panel must not name what is dropped."""
    shown = {name for text in files.dashboards().values() for row in json.loads(text)["rows"]
             for panel in row["panels"] for item in panel["expr"] for name in series(item)}  # fmt: skip
    shown |= {name for rule in files.rules() for name in series(rule["expr"])}
    for job, page in (("nomad", nomad_page(failing="default/pds")), ("pds", server_page())):
        (config,) = (item for item in SCRAPE["scrape_configs"] if item["job_name"] == job)
        keep = re.compile("|".join(f"(?:{text})" for text in config["metric_relabel_configs"][0]["regex"]))
        of_page = names(page)
        assert {name for name in shown & of_page if not keep.fullmatch(name)} == set()


def test_the_alerts_job_evaluates_the_rules_only_beside_a_store() -> None:
    text = alerts_job(settings_of(**STORE, alerts=ALERTS), "dev")
    task = task_of(only_job(text), "alerts")
    assert task["config"][0]["network_mode"] == "host"
    assert task["env"][0]["ALERTS_METRICS"] == f"http://127.0.0.1:{STORE_PORT}"
    (rules,) = (item for item in task["template"] if item["destination"] == "local/rules.json")
    assert json.loads(rules["data"]) == files.rules()
    assert (rules["left_delimiter"], rules["right_delimiter"]) == ("[[[", "]]]"), "its '{{' is not an action of Nomad's"
    assert "METRICS_PASSWORD" in run(**STORE, alerts=ALERTS).one("pds-alerts-ping").inputs["items"]
    without = task_of(only_job(alerts_job(settings_of(alerts=ALERTS), "dev")), "alerts")
    assert "network_mode" not in without["config"][0]
    assert "ALERTS_METRICS" not in without["env"][0]
