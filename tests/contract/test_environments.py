"""How the real servers react to a wrong environment, and which names they read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from tests.contract.conftest import StartPds
from tests.contract.refused import ACCEPTED_BUT_WRONG, BAD_ENVIRONMENTS, Refusal
from tools.generate import reserved_handles
from tools.generate.env_table import TABLE, as_text, make_table
from tools.trial import LiveError
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.process import ServerEndedError

pytestmark = pytest.mark.contract


def _errors_at_start(start_pds: StartPds, env: dict[str, str], cases: Sequence[Refusal]) -> dict[str, str]:
    """The server's error for each case, by its name; empty if it starts. Starts several servers at a time."""

    def start(case: Refusal) -> str:
        try:
            with start_pds(env, case.change):
                return ""
        except ServerEndedError as error:
            return error.last_lines

    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        return dict(zip((case.name for case in cases), pool.map(start, cases), strict=True))


def test_server_refuses_every_bad_environment_with_the_known_error(
    start_pds: StartPds, program_env: dict[str, str], line: str
) -> None:
    cases = [case for case in BAD_ENVIRONMENTS if line in case.lines]
    errors = _errors_at_start(start_pds, program_env, cases)
    assert {case.name: errors[case.name] for case in cases if case.message not in errors[case.name]} == {}


def test_server_starts_with_environments_that_are_accepted_but_wrong(
    start_pds: StartPds, program_env: dict[str, str], line: str
) -> None:
    cases = [case for case in ACCEPTED_BUT_WRONG if line in case.lines]
    errors = _errors_at_start(start_pds, program_env, cases)
    assert {name: error for name, error in errors.items() if error} == {}


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
