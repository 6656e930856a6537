"""Every rendered file of the dev stack is the golden one, byte for byte. `make generate` writes them anew."""

from pathlib import Path

import pytest

from tests import golden
from tests.golden import FOLDER, golden_files, write_golden
from tools.preview import FILES


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    """The files as the program renders them now."""
    return golden_files()


@pytest.mark.parametrize("name", FILES)
def test_a_rendered_file_is_the_golden_one(name: str, now: dict[str, str]) -> None:
    expected = (FOLDER / name).read_bytes().decode()
    assert now[name] == expected, f"{name} changed: read the diff, then `make generate`"


def test_there_is_a_golden_file_for_each_rendered_one_and_no_other(now: dict[str, str]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(now) == set(FILES)


def test_writing_golden_files_writes_what_is_rendered_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, str]
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "old.hcl").write_text("of a file that is rendered no more")
    assert {path.name for path in write_golden()} == set(now)
    assert {path.name: path.read_text() for path in (tmp_path / "dev").iterdir()} == now
