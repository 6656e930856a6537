"""How the real servers react to a wrong environment, and which names they read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from tests.contract.conftest import StartPds
from tests.contract.refused import ACCEPTED_BUT_WRONG, BAD_ENVIRONMENTS, Refusal
from tools.generate import reserved_handles
from tools.generate.env_table import TABLE, as_text, make_table
from tools.trial import LiveError
from tools.trial.node import PDS_LINES, Install
from tools.trial.pds import PdsProcess
from tools.trial.process import ServerEndedError

pytestmark = pytest.mark.contract


STARTS = Path(__file__).with_name("starts.cjs")
_AT_LOAD = frozenset({"LOG_LEVEL", "TZ"})
"""Names that are read when the modules are loaded, so that a case needs a process of its own."""
_LIKE_A_PROCESS = frozenset({"port out of range", "S3 without region or credentials"})
"""One case of each list that also starts a process, as the proof that `starts.cjs` reports the same."""

Errors = Mapping[str, str]


def _error_of_a_process(start_pds: StartPds, env: Mapping[str, str], case: Refusal) -> str:
    """The server's error for a case; empty if it starts."""
    try:
        with start_pds(env, case.change):
            return ""
    except ServerEndedError as error:
        return error.last_lines


@pytest.fixture(scope="session")
def errors_of_lines() -> dict[str, Errors]:
    """What `errors_at_start` has found. It lasts; pytest ends a fixture that depends on `line` with each test here."""
    return {}


@pytest.fixture
def errors_at_start(
    errors_of_lines: dict[str, Errors],
    pds_installs: dict[str, Install],
    start_pds: StartPds,
    program_env: dict[str, str],
    line: str,
    tmp_path: Path,
) -> Errors:
    """The server's error for each case that does not need a process of its own; empty if it starts."""
    if line not in errors_of_lines:
        cases = [case for case in BAD_ENVIRONMENTS + ACCEPTED_BUT_WRONG if line in case.lines]
        shared = [case for case in cases if _AT_LOAD.isdisjoint(case.change)]
        environments = [{"name": case.name, "env": start_pds(program_env, case.change).env} for case in shared]
        subprocess.run(
            [pds_installs[line].node, STARTS, tmp_path / "errors.json"],
            cwd=pds_installs[line].folder,
            env=start_pds(program_env, {}).env,
            input=json.dumps(environments),
            text=True,
            stdout=subprocess.DEVNULL,
            timeout=600,
            check=True,
        )
        errors_of_lines[line] = json.loads((tmp_path / "errors.json").read_text())
    return errors_of_lines[line]


def _each(cases: Sequence[Refusal]) -> pytest.MarkDecorator:
    """A test for each case and version line."""
    both = [(case, line) for line in PDS_LINES for case in cases if line in case.lines]
    ids = [f"{case.name}-{line}" for case, line in both]
    return pytest.mark.parametrize(("case", "line"), both, ids=ids, indirect=["case", "line"])


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Refusal:
    """One wrong environment."""
    found: Refusal = request.param
    return found


@pytest.fixture
def error(case: Refusal, errors_at_start: Errors, start_pds: StartPds, program_env: dict[str, str]) -> str:
    """The server's error for the case; empty if it starts."""
    if _AT_LOAD.isdisjoint(case.change):
        return errors_at_start[case.name]
    return _error_of_a_process(start_pds, program_env, case)


@_each(BAD_ENVIRONMENTS)
def test_server_refuses_a_bad_environment_with_the_known_error(case: Refusal, error: str) -> None:
    assert error, "the server starts"
    assert case.message in error


@_each(ACCEPTED_BUT_WRONG)
def test_server_starts_with_an_environment_that_is_accepted_but_wrong(error: str) -> None:
    assert error == ""


@_each([case for case in BAD_ENVIRONMENTS + ACCEPTED_BUT_WRONG if case.name in _LIKE_A_PROCESS])
def test_start_in_a_shared_process_has_the_outcome_of_a_start_alone(
    case: Refusal, errors_at_start: Errors, start_pds: StartPds, program_env: dict[str, str]
) -> None:
    alone = _error_of_a_process(start_pds, program_env, case)
    assert (case.message in alone, bool(alone)) == (True, bool(errors_at_start[case.name]))


def test_every_bad_environment_has_a_unique_name_and_an_expected_error() -> None:
    cases = BAD_ENVIRONMENTS + ACCEPTED_BUT_WRONG
    assert len({case.name for case in cases}) == len(cases)
    assert [case.name for case in BAD_ENVIRONMENTS if not case.message] == []


def test_error_of_a_server_that_does_not_start_contains_no_secret(
    start_pds: StartPds, program_env: dict[str, str]
) -> None:
    # The server prints the value of a wrong colour, so use a secret as the colour.
    change = {"PDS_ADMIN_PASSWORD": "#not-a-colour", "PDS_SERVICE_HANDLE_DOMAINS": "#not-a-colour"}
    with pytest.raises(ServerEndedError) as refusal, start_pds(program_env | change, change):
        pass
    assert "<PDS_ADMIN_PASSWORD>" in str(refusal.value)
    assert "#not-a-colour" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [{"PDS_DID_PLC_URL": None}, {"PDS_DID_PLC_URL": "https://plc.directory"}, {"PDS_CRAWLERS": "https://bsky.network"}],
    ids=lambda change: "".join(f"{name}={value}" for name, value in change.items()),
)
def test_refuses_to_start_a_server_with_a_public_directory_or_relay(
    pds_installs: dict[str, Install], tmp_path: Path, change: dict[str, str | None]
) -> None:
    env = {"PDS_DID_PLC_URL": "http://localhost:2582", **change}
    known = {name: value for name, value in env.items() if value is not None}
    with pytest.raises(LiveError, match=next(iter(change))):
        PdsProcess(pds_installs["0.5"], known, tmp_path / "pds.log")
    assert not (tmp_path / "pds.log").exists()


def test_table_of_names_equals_what_the_installed_servers_read(pds_installs: dict[str, Install]) -> None:
    assert (ROOT / TABLE).read_text() == as_text(make_table(pds_installs))


def test_reserved_words_equal_those_of_the_installed_servers(pds_installs: dict[str, Install]) -> None:
    assert (ROOT / reserved_handles.TABLE).read_text() == reserved_handles.make_table(pds_installs)


def test_both_version_lines_read_every_name_of_the_rendered_environment(
    pds_installs: dict[str, Install], program_env: dict[str, str]
) -> None:
    names = make_table(pds_installs)["names"]
    both = {name for name, entry in names.items() if entry["lines"] == ["0.4", "0.5"]}
    assert set(program_env) - both == {"TZ", "NODE_OPTIONS"}  # read by Node itself
