"""What metrics take: the server's memory with telemetry, and the store's series, memory and disk for a day.

`python -m tests.contract.figures_metrics` prints it.

The server runs in a control group with its limit and answers requests. The store needs `victoria-metrics` on PATH. The
pages of its targets are those of the tests. Their samples of a day, one each 30 seconds with values that change, are
written at once. Meanwhile and afterwards every panel of the dashboards is read over the whole day.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.contract.conftest import CACHE
from tests.contract.memory import Limit, limited
from tests.contract.test_metrics_store import SETTINGS, UP, Pages, Store, running_store
from tests.support.metrics_history import history
from tests.support.metrics_host import host
from tests.support.programs import run
from tools.trial.directory import PlcDirectory
from tools.trial.node import install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import free_port
from tools.trial.trial import task_environment

_DAY = 86_400
_MIB = 1024 * 1024


def main() -> int:
    """Print the tables."""
    assert SETTINGS.metrics
    print("| The server | held after the start, MiB | after 1,500 requests, MiB |\n| --- | --- | --- |")
    for name, metrics in (("without telemetry", None), ("with telemetry", {"store": True})):
        with tempfile.TemporaryDirectory() as folder, limited(SETTINGS.pds.memory_mib) as group:
            print(_server_row(name, metrics, Path(folder), group), flush=True)
    print()
    limit = SETTINGS.metrics.memory_mib
    print("| Clubs | series | held after the start, MiB | after a day, MiB | most, MiB | disk for a day, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for clubs in (0, 5, 20):
        with tempfile.TemporaryDirectory() as folder, limited(limit) as group:
            print(_row(clubs, Path(folder), group), flush=True)
    return 0


def _server_row(name: str, metrics: dict[str, bool] | None, folder: Path, group: Limit) -> str:
    env, secrets = task_environment(run(metrics=metrics))
    (folder / "pds").mkdir()
    with PlcDirectory(install("plc", CACHE), data=folder / "plc", log=folder / "plc.log") as directory:
        changes = differences(env, data=folder / "pds", plc_url=directory.url, port=free_port(), line="0.5")
        local = applied(env, changes) | {"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())}
        server = PdsProcess(group.node(install("pds-0.5", CACHE), folder), local, folder / "pds.log", secrets=secrets)
        with server, httpx.Client(base_url=server.url, trust_env=False, timeout=600) as client:
            start = group.held
            for _request in range(1500):
                client.get("/xrpc/com.atproto.server.describeServer").raise_for_status()
            assert group.kills == 0, "the kernel killed the server"
            return f"| {name} | {start / _MIB:.0f} | {group.held / _MIB:.0f} |"


def _row(clubs: int, folder: Path, group: Limit) -> str:
    pages = Pages(clubs=clubs)
    with running_store(folder, pages, host(folder), wrap=group.command) as store:
        store.wait_for(UP)
        start = group.held
        series = [item["metric"] for item in store.query('{job!=""}')]
        most = max(_write_a_day(store, group))
        most = max(most, *_read_everything(store, group))
        store.client.get("/internal/force_flush").raise_for_status()
        store.client.get("/internal/force_merge").raise_for_status()
        time.sleep(20)
        assert group.kills == 0, "the kernel killed the store"
        sizes = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file())
        return (
            f"| {clubs} | {len(series):,} | {start / _MIB:.0f} | {group.held / _MIB:.0f} | {most / _MIB:.0f} | "
            f"{sizes / _MIB:.1f} |"
        )


def _write_a_day(store: Store, group: Limit) -> Iterator[int]:
    """Write a day of samples of each present series; yield the memory that the store holds meanwhile."""
    lines = history(store.query('{job!=""}'), time.time() - 60, _DAY)
    while batch := list(itertools.islice(lines, 50)):
        store.client.post("/api/v1/import", content="\n".join(batch)).raise_for_status()
        yield group.held


def _read_everything(store: Store, group: Limit) -> Iterator[int]:
    """Read every panel over the day, as the dashboards do."""
    for board in store.client.get("/vmui/custom-dashboards").json()["dashboardsSettings"]:
        for panel in (panel for row in board["rows"] for panel in row["panels"]):
            for expression in panel["expr"]:
                now = time.time()
                query = {"query": expression, "start": now - _DAY, "end": now, "step": 300, "nocache": "1"}
                store.client.post("/api/v1/query_range", data=query).raise_for_status()
                yield group.held


if __name__ == "__main__":
    sys.exit(main())
