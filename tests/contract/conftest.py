"""Fixtures of the contract tests: the program's environment, the installed servers, a directory and a PDS.

Owns: how the servers are installed (once, into `build/cache`, shared with `make try`) and started. Everything listens
on loopback and ends with the test that started it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.bundled import bundled
from tests.contract.cheap_repository import cheap_repository
from tests.contract.checked_host import checked_host as checked_host
from tests.contract.empty_directory import copy_empty_directory
from tests.contract.member_server import member_server as member_server
from tests.contract.restores import disaster as disaster
from tests.contract.restores import in_place as in_place
from tests.contract.restores import scenario as scenario
from tests.contract.restores import scenarios as scenarios
from tests.contract.snapshots import clubs as clubs
from tests.contract.snapshots import faulty as faulty
from tests.contract.snapshots import running as running
from tests.contract.snapshots import scale as scale
from tests.contract.snapshots import still as still
from tests.contract.two_servers import world as world
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install, install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import free_port
from tools.trial.trial import task_environment

CACHE = ROOT / "build" / "cache"

WITHOUT_GUARD = {"NODE_OPTIONS": None}
"""Tests of environments run the server without the volume check; `test_volume_check_in_server.py` runs both."""

StartPds = Callable[..., PdsProcess]


@dataclass(frozen=True)
class TaskEnvironment:
    """The whole environment of the PDS task, as on a droplet, and the names in it whose values are secret."""

    values: Mapping[str, str]
    secrets: frozenset[str]


@pytest.fixture(scope="session")
def task() -> TaskEnvironment:
    """The rendered environment of the dev stack; generated secrets are fixed stand-ins."""
    return TaskEnvironment(*task_environment(evaluate_stack("dev")))


@pytest.fixture(scope="session")
def program_env(task: TaskEnvironment) -> dict[str, str]:
    """The environment with which the tests begin."""
    return dict(task.values)


@pytest.fixture(scope="session")
def program_secrets(task: TaskEnvironment) -> frozenset[str]:
    """The names in it whose values are secret."""
    return task.secrets


@pytest.fixture(scope="session", params=PDS_LINES)
def line(request: pytest.FixtureRequest) -> str:
    """A version line of the PDS; every test that takes it runs for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def pds_installs() -> dict[str, Install]:
    """The installed server of each version line."""
    return {line: install(f"pds-{line}", CACHE) for line in PDS_LINES}


@pytest.fixture(scope="session")
def quick_installs(pds_installs: dict[str, Install]) -> dict[str, Install]:
    """The same servers with their modules in one file, for tests that start one again and again."""
    return {line: bundled(server, CACHE) for line, server in pds_installs.items()}


@pytest.fixture(scope="session")
def plc_install() -> Install:
    """The installed PLC directory."""
    return install("plc", CACHE)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of an empty restic repository, for the tests that do not make one."""
    return cheap_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def directory(plc_install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlcDirectory]:
    """A PLC directory that is empty at first and shared by the tests."""
    folder = tmp_path_factory.mktemp("plc")
    data = copy_empty_directory(plc_install, folder / "data")
    with PlcDirectory(plc_install, data=data, log=folder / "plc.log") as running:
        yield running


@pytest.fixture(scope="session")
def start_pds(
    quick_installs: dict[str, Install],
    directory: PlcDirectory,
    program_secrets: frozenset[str],
    tmp_path_factory: pytest.TempPathFactory,
    line: str,
) -> StartPds:
    """Start a PDS on empty data: an environment, its local differences, then a change (`None` unsets).

    The server is of the test's `line` unless another one is named.
    """
    folder = tmp_path_factory.mktemp("pds")

    def start(env: Mapping[str, str], change: Mapping[str, str | None], line: str = line) -> PdsProcess:
        data = Path(tempfile.mkdtemp(dir=folder))  # several servers can run at the same time
        local = applied(env, differences(env, data=data, plc_url=directory.url, port=free_port(), line=line))
        # Applied last: a local difference must not repair what the test breaks.
        changed = {name: value for name, value in {**local, **WITHOUT_GUARD, **change}.items() if value is not None}
        return PdsProcess(quick_installs[line], changed, data.with_suffix(".log"), secrets=program_secrets)

    return start
