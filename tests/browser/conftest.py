"""Fixtures of the tests in a browser: the servers of each version line, and a page of Chromium for each test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import chromium
from tests.browser.site import NAMES, OPTIONS, Site, site
from tests.contract.conftest import StartPds
from tests.contract.conftest import directory as directory
from tests.contract.conftest import line as line
from tests.contract.conftest import pds_installs as pds_installs
from tests.contract.conftest import plc_install as plc_install
from tests.contract.conftest import quick_installs as quick_installs
from tests.contract.conftest import start_pds as start_pds
from tests.support.programs import run
from tools.trial.trial import task_environment

_HANG = 300_000
"""Milliseconds after which a page that shows nothing new counts as hung, also on a busy machine."""


@pytest.fixture(scope="session")
def program_secrets() -> frozenset[str]:
    """The names of the server's variables whose values are secret."""
    return task_environment(run(**OPTIONS))[1]


@pytest.fixture(scope="session")
def club(start_pds: StartPds, line: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The servers of a club, configured by the program."""
    environment, _ = task_environment(run(**OPTIONS))
    with site(tmp_path_factory.mktemp("site"), start_pds, environment, line) as running:
        yield running


@pytest.fixture(scope="session")
def browser(club: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, which reaches the club's names and no others."""
    port = club.front.caddy.ports.https
    with chromium(tmp_path_factory.mktemp("chromium"), club.front.pebble.root(), NAMES, port) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a new profile: no cookie of another test."""
    context = browser.new_context()
    context.set_default_timeout(_HANG)
    expect.set_options(_HANG)
    opened = context.new_page()
    # Pytest shows these if the test fails.
    opened.on("requestfailed", lambda request: print(f"{request.method} {request.url}: {request.failure}"))
    yield opened
    context.close()
