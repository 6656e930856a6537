"""An operator opens the dashboard: VictoriaMetrics' own page with the program's files, on samples of some hours."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.browser.dashboard import DashboardPage, boards, served_dashboard
from tests.contract.test_metrics_store import program


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program("victoria-metrics")
    with served_dashboard(tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="module")
def viewer(dashboard: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.mark.parametrize("title", boards())
def test_every_panel_draws_its_lines_and_no_query_fails(viewer: Browser, dashboard: str, title: str) -> None:
    shown = DashboardPage(viewer, dashboard)
    assert shown.titles() == list(boards())
    shown.choose(title)
    for panel, lines in (item for row in boards()[title].values() for item in row):
        shown.draws_lines(panel, lines)
    assert shown.failures == []


def test_a_query_that_fails_is_noticed(viewer: Browser, dashboard: str) -> None:
    """VMUI shows an empty panel then: without this the test above could pass on nothing."""
    shown = DashboardPage(viewer, dashboard)
    shown.page.evaluate("() => fetch('/prometheus/api/v1/query?query=max(')")
    shown.page.wait_for_load_state("networkidle")
    assert any(text.startswith("4") for text in shown.failures)
