"""The metrics store: VictoriaMetrics itself with the program's flags, targets, dashboards and alert rules.

The two programs are not part of CI, which has no source for them: a test that needs one says so and is skipped. Their
files are also read by `tests/unit/components/render/test_metrics.py`, which needs neither.
"""

import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cli.observe.dashboard import dashboard_server
from components.render.metrics import files
from components.render.metrics.job import AUTH_VARIABLE, USER, flags, metrics_job
from offline.hcl_reader import only_job, task_of
from tests.support.host_machine import Machine
from tests.support.metrics_history import MOMENTARY
from tests.support.metrics_host import host, host_page
from tests.support.metrics_pages import nomad_page, page_server, server_page
from tests.support.programs import settings_of
from tests.support.unix_tunnel import tunnel
from tests.unit.components.operations.test_alerts_script import SCRIPT as ALERTS_SCRIPT
from tests.unit.components.operations.test_alerts_script import Switch, run_alerts
from tests.unit.components.operations.test_alerts_script import switch as switch
from tools.trial.process import LOOPBACK, ServerProcess, free_port

pytestmark = pytest.mark.contract

FOLDER = Path(files.__file__).parent
SETTINGS = settings_of(metrics={"store": True})
MEMORY_LIMIT = task_of(only_job(metrics_job(SETTINGS, "dev")), "metrics")["env"][0]["GOMEMLIMIT"]
PASSWORD = "9a1bd0b3c1f24aafb1c7b2a0e7bb9d53"

UP = 'count(up{case=""} == 1) == 4'


def program(name: str) -> str:
    """The path of a program of VictoriaMetrics, or a skipped test."""
    return shutil.which(name) or pytest.skip(lacking(name))


def lacking(name: str) -> str:
    """What to do without this program of VictoriaMetrics."""
    tag = SETTINGS.metrics.image.partition(":")[2] if SETTINGS.metrics else ""
    return (
        f"{name} is not on PATH, so this is not tested. Clone the tag {tag} of "
        f"https://github.com/VictoriaMetrics/VictoriaMetrics and run `CGO_ENABLED=0 go build ./app/{name}` in it."
    )


@dataclass
class Pages:
    """What the targets show at present."""

    clubs: int = 2
    used: dict[str, float] = field(default_factory=dict)
    failing: str = ""


@dataclass(frozen=True)
class Store:
    """A running store, its targets, and a client with its password."""

    process: ServerProcess
    port: int
    pages: Pages
    machine: Machine
    client: httpx.Client

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        answer = self.client.post(
            "/api/v1/query", data={"query": expression, "nocache": "1"} | ({"time": at} if at else {})
        )
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def metric(self, name: str) -> str:
        """A metric of the store itself, as it is now."""
        (line,) = (text for text in self.client.get("/metrics").text.splitlines() if text.startswith(name))
        return line.rpartition(" ")[2]

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        end = time.monotonic() + 600
        while not (result := self.query(expression)):
            assert time.monotonic() < end, f"{expression} has no result; {self.process.last_lines()}"
            time.sleep(0.1)
        return result


def mapped(port: int, targets: Mapping[str, str], folder: Path, data: Path) -> list[str]:
    """The job's flags for a store on this machine: another port, folders of the test, and targets every two seconds."""
    config = yaml.load(files.scrape_config(SETTINGS), yaml.CSafeLoader)
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets.get(job["job_name"], f"{LOOPBACK}:{port}")]}]
    (folder / "dashboards").mkdir(exist_ok=True)
    (folder / "scrape.yaml").write_text(yaml.safe_dump(config))
    for name, text in files.dashboards().items():
        (folder / "dashboards" / name).write_text(text)
    own = {"-httpListenAddr": f"{LOOPBACK}:{port}", "-storageDataPath": str(data)}
    words = [word.partition("=") for word in flags(SETTINGS)]
    return [f"{name}{sign}{own.get(name, text).replace('/local', str(folder))}" for name, sign, text in words]


def store_process(command: list[str], folder: Path, port: int) -> ServerProcess:
    return ServerProcess(
        name="store",
        command=command,
        folder=folder,
        env={"METRICS_PASSWORD": PASSWORD, AUTH_VARIABLE: PASSWORD, "GOMEMLIMIT": MEMORY_LIMIT, "PATH": os.defpath},
        log=folder / "store.log",
        health=f"http://{LOOPBACK}:{port}/health",
        secrets={"METRICS_PASSWORD": PASSWORD, AUTH_VARIABLE: PASSWORD},
    )


@contextmanager
def running_store(
    folder: Path,
    pages: Pages,
    machine: Machine,
    wrap: Callable[[list[str]], list[str]] = list,
    data: Path | None = None,
) -> Iterator[Store]:
    """A store with targets that show `pages` and `machine`; `wrap` changes its command, `data` is its directory."""
    binary, port, requests = program("victoria-metrics"), free_port(), itertools.count(5)
    nomad_pages: dict[str, Callable[[], str]] = {
        "/v1/metrics?format=prometheus": lambda: nomad_page(pages.clubs, pages.used, failing=pages.failing),
    }
    with (
        page_server(nomad_pages) as nomad,
        page_server({"/metrics": lambda: host_page(machine)}) as of_host,
        page_server({"/metrics": lambda: server_page(requests=next(requests))}) as server,
        httpx.Client(
            base_url=f"http://{LOOPBACK}:{port}", auth=(USER, PASSWORD), trust_env=False, timeout=600
        ) as client,
    ):
        words = mapped(port, {"nomad": nomad, "host": of_host, "pds": server}, folder, data or folder / "data")
        command = wrap([binary, *words, "-search.latencyOffset=0s"])
        with store_process(command, folder, port) as process:
            yield Store(process, port, pages, machine, client)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    with running_store(folder, Pages(), host(folder)) as running:
        yield running


def test_vmalert_accepts_the_rules() -> None:
    subprocess.run([program("vmalert"), "-dryRun", f"-rule={FOLDER / 'rules.yaml'}"], check=True, timeout=600)


def test_the_store_accepts_the_targets() -> None:
    command = [program("victoria-metrics"), "-dryRun", f"-promscrape.config={FOLDER / 'scrape.yaml'}"]
    subprocess.run(command, env={"METRICS_PASSWORD": PASSWORD}, check=True, timeout=600)


def test_every_target_is_up(store: Store) -> None:
    store.wait_for(UP)


def test_keeps_no_series_that_strangers_or_runs_multiply(store: Store) -> None:
    store.wait_for(UP)
    assert store.query('count({job!=""})')[0]["value"][1]
    assert {item["metric"]["http_route"] for item in store.query("http_server_request_duration_count")} >= {"other"}
    assert not store.query('{http_route=~"/(wp|.env).*"}'), "a scanner chooses its paths"
    assert not store.query('{__name__=~"http_client_.*"}'), "a series for each server on the Internet"
    assert not store.query('{alloc_id!=""} or {periodic_id!=""} or {exported_job!=""}'), "a run would be new series"
    (backup, *_others) = store.query('nomad_client_allocs_memory_usage{task="send"}')
    assert backup["metric"]["nomad_job"] == "pds-backup"


def test_every_panel_of_the_dashboards_has_data(store: Store) -> None:
    store.wait_for(UP)
    store.pages.failing = "club1/pds"
    store.wait_for("nomad_client_allocs_oom_killed")
    shown = store.client.get("/vmui/custom-dashboards").json()["dashboardsSettings"]
    assert {board["title"] for board in shown} == {"Host and clubs", "Server"}
    empty = {
        f"{board['title']}, {panel['title']}: {expression}"
        for board in shown
        for row in board["rows"]
        for panel in row["panels"]
        for expression in panel["expr"]
        if not store.query(expression)
    }
    store.pages.failing = ""
    assert empty == set()


MIB = 1024 * 1024
Change = Callable[[str, dict[str, str], float], float | str]


def _of_club(run: str, change: Callable[[float], float | str]) -> Change:
    """The change of a series of this run of one club."""
    return lambda _name, labels, value: (
        change(value) if (labels.get("club"), labels.get("run")) == ("club1", run) else value
    )


GOOD, FAILED = "pds_run_good_timestamp_seconds", "pds_run_failed_timestamp_seconds"

FAULTS: dict[str, tuple[str, Change]] = {
    "TargetDown": ("up", lambda _name, labels, value: 0 if labels["job"] == "pds" else value),
    "HostMemoryLow": ("nomad_client_host_memory_available", lambda *_: 150 * MIB),
    "TaskMemoryHigh": (
        "nomad_client_allocs_memory_usage",
        lambda _name, labels, value: 500 * MIB if labels["namespace"] == "club1" and labels["task"] == "pds" else value,
    ),
    "VolumeFull": ("pds_volume_available_bytes", lambda *_: 500),
    "ClubDiskFull": (
        "pds_club_used_bytes",
        lambda _name, labels, value: 4.9e9 if labels.get("club") == "club1" else value,
    ),
    "ClubBackupOld": (GOOD, _of_club("backup", lambda value: value - 90000)),
    "ClubBackupNever": (GOOD, _of_club("backup", lambda _value: FAILED)),
    "ClubDrillOld": (GOOD, _of_club("drill", lambda value: value - 9 * 86400)),
    "ClubDrillNever": (GOOD, _of_club("drill", lambda _value: FAILED)),
    "ClubFindings": ("pds_run_findings", _of_club("drill", lambda _value: 1)),
    "MetricsDiskFull": ("vm_storage_is_read_only", lambda *_: 1),
}
"""Each rule that a lasting value breaks, its series, and that value, or the series that is there instead."""


def history(store: Store, case: str, change: Change, name: str) -> None:
    """Give the store the present values as 20 minutes of a host `case`, with `change` of the series `name`."""
    now, lines = time.time(), []
    for item in store.query('{job!="",case=""}'):
        labels, value = dict(item["metric"]), float(item["value"][1])
        series = labels.pop("__name__")
        if series in MOMENTARY:
            continue
        changed = change(series, labels, value) if series == name else value
        series, value = (changed, value) if isinstance(changed, str) else (series, changed)
        text = ",".join(f"{key}={json.dumps(label)}" for key, label in {**labels, "case": case}.items())
        lines += [f"{series}{{{text}}} {value} {int((now - 30 * step) * 1000)}" for step in range(40)]
    store.client.post("/api/v1/import/prometheus", content="\n".join(lines)).raise_for_status()


def test_each_fault_of_a_host_fires_its_own_rule_and_a_healthy_host_none(store: Store) -> None:
    store.wait_for(UP)
    store.wait_for("vm_storage_is_read_only")
    present = {item["metric"]["__name__"] for item in store.query('{job!=""}')}
    history(store, "healthy", lambda _name, _labels, value: value, "up")
    for case, (name, change) in FAULTS.items():
        assert name in present
        history(store, case, change, name)
    store.wait_for('up{case="MetricsDiskFull"}')
    fired = {
        (item["metric"]["case"], rule["alert"])
        for rule in files.rules()
        for item in store.query(rule["expr"])
        if "case" in item["metric"]
    }
    assert fired == {(case, case) for case in FAULTS}


def test_the_alerts_job_sends_what_fires_and_only_then(store: Store, switch: Switch, tmp_path: Path) -> None:
    store.wait_for(UP)
    store.client.post("/api/v1/admin/tsdb/delete_series", params={"match[]": '{case!=""}'}).raise_for_status()
    store.pages.failing = "club1/pds"
    store.wait_for("nomad_client_allocs_oom_killed")
    store.pages.failing = ""
    script = tmp_path / "alerts"
    shutil.copytree(ALERTS_SCRIPT.parent, script)
    (script / "rules.json").write_text(files.rules_json())
    environment: dict[str, Any] = {"ALERTS_METRICS": f"http://{LOOPBACK}:{store.port}", "METRICS_PASSWORD": PASSWORD}
    assert run_alerts(tmp_path, switch.url, script=script / "alerts.cjs", **environment).returncode == 0
    wrong = run_alerts(tmp_path, switch.url, script=script / "alerts.cjs", **environment | {"METRICS_PASSWORD": "x"})
    assert PASSWORD not in wrong.stdout + wrong.stderr
    _up, (path, text), _up_again, (_path, refused) = switch.pings
    assert path.endswith("/fail")
    assert "club1: task pds ran out of memory and was killed" in text
    assert "the metrics store answered 401 to the rule TargetDown" in refused


def test_the_store_requires_the_password_and_the_dashboard_s_server_adds_it(store: Store, tmp_path: Path) -> None:
    address = f"http://{LOOPBACK}:{store.port}"
    bare = httpx.get(f"{address}/vmui/custom-dashboards", headers={"Origin": "https://stranger.test"})
    assert bare.status_code == 401
    assert "access-control-allow-origin" not in bare.headers
    with tunnel(tmp_path / "s", store.port) as path, dashboard_server(path, PASSWORD, 0) as url:
        assert httpx.get(f"{url}/vmui/custom-dashboards").json()["dashboardsSettings"]
        assert '<div id="root">' in httpx.get(f"{url}/vmui/").text
        answer = httpx.post(f"{url}/api/v1/query", data={"query": "1+1"})
        assert answer.json()["data"]["result"][0]["value"][1] == "2"


def test_a_store_whose_quota_is_used_up_takes_nothing_more_and_still_answers(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "volume", mebibytes=70) as volume,
        running_store(tmp_path, Pages(clubs=0), host(tmp_path), data=volume / "data") as store,
    ):
        store.wait_for(UP)
        chance, number = random.Random(1), itertools.count()
        end = time.monotonic() + 600
        # Values without a pattern, which cannot be compressed.
        while int(store.metric("vm_storage_is_read_only")) == 0:
            assert time.monotonic() < end
            times = range(int(time.time() - 50_000) * 1000, int(time.time()) * 1000, 1000)
            line = {
                "metric": {"__name__": "noise", "number": str(next(number))},
                "values": [chance.random() for _ in times],
                "timestamps": list(times),
            }
            store.client.post("/api/v1/import", content=json.dumps(line))  # refused at last
        assert store.query('up{job="nomad"}')
        assert store.client.get("/health").status_code == 200
        store.process.check()
        assert shutil.disk_usage(volume).free > 32 * MIB, "the quota is not used up, so a restart works"


@contextmanager
def small_file_system(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of this size in memory, or a skipped test."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a small file system cannot be mounted here (only root can), so a used-up quota cannot be tested")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, timeout=600)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=600)
