"""What the real servers make of a wrong environment, and which names they read."""

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


def _words_at_start(start_pds: StartPds, env: dict[str, str], cases: Sequence[Refusal]) -> dict[str, str]:
    """What the server says about each case, by its name; nothing if it starts. Several servers at a time."""

    def start(case: Refusal) -> str:
        try:
            with start_pds(env, case.change):
                return ""
        except ServerEndedError as error:
            return error.last_lines

    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        return dict(zip((case.name for case in cases), pool.map(start, cases), strict=True))


def test_the_server_refuses_every_bad_environment_in_the_words_that_we_know(
    start_pds: StartPds, program_env: dict[str, str], line: str
) -> None:
    cases = [case for case in BAD_ENVIRONMENTS if line in case.lines]
    words = _words_at_start(start_pds, program_env, cases)
    assert {case.name: words[case.name] for case in cases if case.message not in words[case.name]} == {}


def test_the_server_starts_with_environments_that_are_wrong_all_the_same(
    start_pds: StartPds, program_env: dict[str, str], line: str
) -> None:
    cases = [case for case in ACCEPTED_BUT_WRONG if line in case.lines]
    words = _words_at_start(start_pds, program_env, cases)
    assert {name: said for name, said in words.items() if said} == {}


def test_every_bad_environment_has_a_name_of_its_own_and_words_to_be_known_by() -> None:
    cases = BAD_ENVIRONMENTS + ACCEPTED_BUT_WRONG
    assert len({case.name for case in cases}) == len(cases)
    assert [case.name for case in BAD_ENVIRONMENTS if not case.message] == []


def test_secrets_are_kept_out_of_the_error_of_a_server_that_does_not_start(
    start_pds: StartPds, program_env: dict[str, str]
) -> None:
    # The server prints what it was given when a colour is wrong, so let a secret be that colour.
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
def test_a_server_that_would_speak_to_a_public_directory_or_relay_is_not_started(
    pds_installs: dict[str, Install], tmp_path: Path, change: dict[str, str | None]
) -> None:
    env = {"PDS_DID_PLC_URL": "http://localhost:2582", **change}
    known = {name: value for name, value in env.items() if value is not None}
    with pytest.raises(LiveError, match=next(iter(change))):
        PdsProcess(pds_installs["0.5"], known, tmp_path / "pds.log")
    assert not (tmp_path / "pds.log").exists()


def test_the_table_of_names_is_what_the_installed_servers_read(pds_installs: dict[str, Install]) -> None:
    assert (ROOT / TABLE).read_text() == as_text(make_table(pds_installs))


def test_the_reserved_words_are_those_of_the_installed_servers(pds_installs: dict[str, Install]) -> None:
    assert (ROOT / reserved_handles.TABLE).read_text() == reserved_handles.make_table(pds_installs)


def test_every_name_of_the_programs_environment_is_read_by_both_lines(
    pds_installs: dict[str, Install], program_env: dict[str, str]
) -> None:
    names = make_table(pds_installs)["names"]
    both = {name for name, entry in names.items() if entry["lines"] == ["0.4", "0.5"]}
    assert set(program_env) - both == {"TZ", "NODE_OPTIONS"}  # read by Node itself
