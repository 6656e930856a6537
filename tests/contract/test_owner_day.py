"""With the program's environment the real PDS of each line starts, and its operator can do the first day's tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.conftest import StartPds
from tools.trial.directory import PlcDirectory
from tools.trial.owner import STEP_NAMES, Step, run_owner_day
from tools.trial.pds import PdsProcess

pytestmark = pytest.mark.contract


def _day(pds: PdsProcess, directory: PlcDirectory, env: Mapping[str, str], keep: Path) -> list[Step]:
    return list(
        run_owner_day(
            base_url=pds.url,
            hostname=env["PDS_HOSTNAME"],
            admin_password=env["PDS_ADMIN_PASSWORD"],
            rotation_key_hex=env["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"],
            blob_limit=int(env["PDS_BLOB_UPLOAD_LIMIT"]),
            plc_url=directory.url,
            keep=keep,
        )
    )


def _account(steps: list[Step]) -> str:
    detail = next(step.detail for step in steps if step.name == "an account")
    return "did:plc:" + detail.rsplit("did:plc:", 1)[1]


@dataclass(frozen=True)
class _FirstDay:
    """The results of a server's first day after it stopped."""

    steps: list[Step]
    keep: Path
    log: str
    exit_code: int


@pytest.fixture(scope="module")
def first_day(
    start_pds: StartPds,
    directory: PlcDirectory,
    program_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> _FirstDay:
    """The first day of a server with the program's environment."""
    keep = tmp_path_factory.mktemp("first-day")
    with start_pds(program_env, {}) as pds:
        steps = _day(pds, directory, program_env, keep)
    return _FirstDay(steps, keep, pds.log.read_text(), pds.stop())


@pytest.fixture(scope="module")
def small_env(program_env: dict[str, str]) -> dict[str, str]:
    """The program's environment with small blobs, for tests that do not need large ones."""
    return program_env | {"PDS_BLOB_UPLOAD_LIMIT": "100000"}


@pytest.fixture(scope="module")
def lived_in(
    start_pds: StartPds,
    directory: PlcDirectory,
    small_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[PdsProcess, Path, str]]:
    """A running server after its first day, the folder with the password, and the account."""
    keep = tmp_path_factory.mktemp("lived-in")
    with start_pds(small_env, {}) as pds:
        steps = _day(pds, directory, small_env, keep)
        assert [step.name for step in steps if not step.ok] == [], steps
        yield pds, keep, _account(steps)


def test_operator_can_do_everything_on_the_first_day(first_day: _FirstDay) -> None:
    assert [step.name for step in first_day.steps if not step.ok] == [], first_day.steps
    assert tuple(step.name for step in first_day.steps) == STEP_NAMES
    assert first_day.exit_code == 0, first_day.log[-2000:]
    assert (first_day.keep / "alice.password").stat().st_mode & 0o777 == 0o600


def test_server_log_contains_no_secret(
    first_day: _FirstDay, program_env: dict[str, str], program_secrets: frozenset[str]
) -> None:
    assert "request completed" in first_day.log
    password = (first_day.keep / "alice.password").read_text().strip()
    assert len(program_secrets) >= 3
    assert [name for name in program_secrets if program_env[name] in first_day.log] == []
    assert password not in first_day.log


def test_lost_password_file_does_not_lock_the_operator_out(
    lived_in: tuple[PdsProcess, Path, str], directory: PlcDirectory, small_env: dict[str, str]
) -> None:
    pds, keep, account = lived_in
    (keep / "alice.password").unlink()
    again = _day(pds, directory, small_env, keep)
    assert [step.name for step in again if not step.ok] == [], again
    assert _account(again) == account


def test_detects_another_rotation_key_than_the_server_s(
    lived_in: tuple[PdsProcess, Path, str], directory: PlcDirectory, small_env: dict[str, str]
) -> None:
    pds, keep, _ = lived_in
    other = small_env | {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "5d" * 32}
    steps = _day(pds, directory, other, keep)
    assert [step.name for step in steps if not step.ok] == ["DID document"]


def test_wrong_admin_password_fails_the_invite_and_the_steps_that_need_it(
    start_pds: StartPds, directory: PlcDirectory, program_env: dict[str, str], tmp_path: Path
) -> None:
    with start_pds(program_env, {}) as pds:
        steps = _day(pds, directory, program_env | {"PDS_ADMIN_PASSWORD": "wrong"}, tmp_path)
    assert [step.name for step in steps if step.ok] == ["the server answers"]
    assert all("because of a step above" in step.detail for step in steps[2:]), steps
