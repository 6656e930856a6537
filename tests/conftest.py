"""Shared fixtures: settings, and the real program evaluated once for the dev stack."""

import gc
import os
import ssl
import time
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import httpx
import pytest
from httpx._transports import default as transports
from xdist.remote import Producer

from components.clients import wait
from components.settings.sections.settings import Settings
from offline.mock_engine import Evaluation
from offline.stackfile import evaluate_stack
from tests.support.host_machine import machine as machine
from tests.support.programs import CLUB, run, settings_of
from tests.support.schedule import Scheduler, order


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """Build the dev stack's settings with changes: `settings(pds={"port": 3001})`."""
    return settings_of


@pytest.fixture(scope="session")
def dev() -> Evaluation:
    """The program as `pulumi up` would run it, with `Pulumi.dev.yaml`."""
    return evaluate_stack("dev")


@pytest.fixture(scope="session")
def club() -> Evaluation:
    """The program for the dev stack with members, invites and removals."""
    return run(**CLUB)


@pytest.fixture(scope="session")
def dev_preview() -> Evaluation:
    """The program as the first `pulumi preview` would run it, with `Pulumi.dev.yaml`."""
    return evaluate_stack("dev", preview=True)


class Clock:
    """A clock that only `sleep` advances, so that a deadline of minutes takes no time.

    The first pauses last as long as requested. Later ones last ten times as long, as on a slow machine, so that a wait
    for a deadline of minutes sends tens of requests, not thousands.
    """

    strptime = staticmethod(time.strptime)
    exact_pauses = 20

    def __init__(self) -> None:
        self.now, self._pauses = 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._pauses += 1
        self.now += seconds if self._pauses <= self.exact_pauses else 10 * seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the waits in `components/clients/wait.py`."""
    clock = Clock()
    monkeypatch.setattr(wait, "time", clock)
    return clock


def _share_authorities() -> None:
    """Let the clients of a process share the certificate authorities. httpx reads them for each, which takes 37 ms of
    processor time (busy machine, 2026-11-27)."""
    create = httpx.create_ssl_context

    @cache
    def shared(trust_env: bool, *_authorities: str | None) -> ssl.SSLContext:
        return create(trust_env=trust_env)

    def shared_or_own(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None:
            return create(verify=verify, cert=cert, trust_env=trust_env)
        return shared(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    transports.create_ssl_context = shared_or_own  # type: ignore[attr-defined]


def pytest_configure(config: pytest.Config) -> None:
    """Ignore the DigitalOcean SDK's deprecation warnings about its own names, raised on import."""
    _share_authorities()
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:pulumi_digitalocean.*")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile: what is imported stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """The SDKs and the tests stay until the end; each collection would search their thousands of modules. Later
    collections are a tenth as many as by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(7000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--soak` (`make soak`): tests with a `scale` use the large one."""
    parser.addoption("--soak", action="store_true", help="many members, rounds and kills (tests/contract)")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests of a parallel run: the longest first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: order(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduler:
    """Use the project's scheduler for `pytest -n`."""
    return Scheduler(config, log)
