"""The guide's picture of the dashboard: `make picture`. A store with made-up samples, in Chromium, as a PNG file."""

import shutil
import sys
import tempfile
from pathlib import Path

from offline import ROOT
from tests.browser.chromium import chromium
from tests.browser.dashboard import DashboardPage, boards, served_dashboard
from tests.contract.test_metrics_store import lacking

FILE = ROOT / "docs/guide/dashboard.png"
_TITLE, _ROW = "Host and clubs", "Host"


def main() -> int:
    """Write the picture; return the exit code."""
    if shutil.which("victoria-metrics") is None:
        print(lacking("victoria-metrics"), file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="pds-picture-") as name,
        served_dashboard(Path(name)) as url,
        chromium(Path(name) / "chromium") as browser,
    ):
        shown = DashboardPage(browser, url, width=1800, height=1660, scale=0.5)
        shown.choose(_TITLE)
        for title, lines in boards()[_TITLE][_ROW]:
            shown.lists_lines(title, lines)
        shown.page.evaluate("() => window.scrollTo(0, 0)")
        shown.page.mouse.move(0, 0)
        shown.page.screenshot(path=FILE)
    print(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
