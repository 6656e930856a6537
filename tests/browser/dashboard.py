"""The dashboards of `metrics.store`: a store with hours of samples, the way that `./pds dashboard` opens, and the page.

VictoriaMetrics' page (VMUI) shows a panel once it is scrolled into view, and says nothing if a query of a panel fails:
the panel is empty then. So `DashboardPage` also collects the answers of the store.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, Response, expect

from cli.observe.dashboard import PAGE, dashboard_server
from components.render.metrics import files
from tests.contract.test_metrics_store import PASSWORD, UP, Pages, running_store
from tests.support.metrics_history import history
from tests.support.metrics_host import host
from tests.support.unix_tunnel import tunnel

HOURS = 6
_PATIENCE = 300_000
"""Milliseconds after which a panel without data counts as hung, also on a busy machine."""

_COLOURS = "markers => markers.map(marker => getComputedStyle(marker).backgroundColor)"
_DRAWN = """
(panel, colours) => {
  const canvas = panel.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const drawn = new Set();
  for (let at = 0; at < data.length; at += 4) drawn.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`);
  return colours.some((colour) => drawn.has(colour));
}
"""
"""Whether the panel's drawing has points of one of these colours."""

Board = dict[str, list[tuple[str, int]]]
"""Row to its panels, each with its number of lines at least."""


def boards() -> dict[str, Board]:
    """The program's dashboards by title."""
    texts = [json.loads(text) for text in files.dashboards().values()]
    return {
        board["title"]: {
            row["title"]: [(panel["title"], len(panel["expr"])) for panel in row["panels"]] for row in board["rows"]
        }
        for board in texts
    }


@contextmanager
def served_dashboard(folder: Path) -> Iterator[str]:
    """A store with HOURS of samples of a host with two clubs; the address that `./pds dashboard` prints."""
    pages = Pages(failing="club1/pds")
    with running_store(folder, pages, host(folder)) as store:
        store.wait_for(UP)
        store.wait_for("nomad_client_allocs_oom_killed")
        pages.failing = ""
        lines = "\n".join(history(store.query('{job!=""}'), time.time() - 60, HOURS * 3600))
        store.client.post("/api/v1/import", content=lines).raise_for_status()
        store.client.get("/internal/force_flush").raise_for_status()
        with tunnel(folder / "store", store.port) as socket, dashboard_server(socket, PASSWORD, 0) as url:
            yield f"{url}{PAGE}"


class DashboardPage:
    """The page with the dashboards, in a new tab of `browser`."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, height: int = 800, scale: float = 1) -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme="light"
        )
        self.page.set_default_timeout(_PATIENCE)
        expect.set_options(_PATIENCE)
        self.failures: list[str] = []
        """Answers of the store that are no success, requests without an answer, and errors of the page."""
        self.page.on("response", self._answered)
        self.page.on("requestfailed", lambda request: self.failures.append(f"{request.url}: {request.failure}"))
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.goto(f"{url}?g0.range_input={HOURS}h&g0.relative_time=last_{HOURS}_hours")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.failures.append(f"{response.status} {response.url} {response.request.post_data or ''}")

    def titles(self) -> list[str]:
        """The titles of the dashboards."""
        tabs = self.page.locator(".vm-predefined-panels-tabs__tab")
        expect(tabs.first).to_be_visible()
        return list(tabs.all_text_contents())

    def choose(self, title: str) -> None:
        """Show the dashboard of this title, with every row unfolded."""
        self.page.locator(".vm-predefined-panels-tabs__tab").get_by_text(title, exact=True).click()
        for row in boards()[title]:
            name = self.page.locator(".vm-predefined-dashboard-header__title").get_by_text(row, exact=True)
            header = self.page.locator(".vm-accordion-header").filter(has=name)
            expect(header).to_be_visible()
            if "_open" not in (header.get_attribute("class") or ""):
                header.locator(".vm-accordion-header__arrow").click()  # VMUI loses a click on the row's title
            expect(header).to_have_class(re.compile("_open"))

    def panel(self, title: str) -> Locator:
        """The panel of this title."""
        exact = self.page.locator("h3").get_by_text(title, exact=True)
        return self.page.locator(".vm-predefined-panel").filter(has=exact)

    def lists_lines(self, title: str, lines: int) -> Locator:
        """Scroll to the panel and wait until its legend has so many lines at least, each with figures."""
        panel = self.panel(title)
        panel.scroll_into_view_if_needed()
        legend = panel.locator(".vm-legend-item")
        expect(legend.nth(lines - 1)).to_be_visible()
        for item in legend.all():
            figures = item.locator(".vm-legend-item-stats-row__value").all_inner_texts()
            assert any(character.isdigit() for character in "".join(figures)), f"{title}: {item.inner_text()}"
        return panel

    def draws_lines(self, title: str, lines: int) -> None:
        """The same, and the panel has drawn them without an error or a warning."""
        panel = self.lists_lines(title, lines)
        colours = panel.locator(".vm-legend-item__marker").evaluate_all(_COLOURS)
        # One line may cover another, so not each of the colours.
        assert panel.evaluate(_DRAWN, colours), f"{title}: nothing is drawn"
        assert panel.locator(".vm-alert").all_inner_texts() == []
