"""Every rendered file of the dev stack and its variants is the golden one. `make generate` writes them."""

from pathlib import Path

import pytest

from tests import golden
from tests.golden import FOLDER, existing, golden_files, write_golden
from tools.preview import FILES


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    """The files as the program renders them now."""
    return golden_files()


@pytest.mark.parametrize("name", existing())
def test_a_rendered_file_is_the_golden_one(name: str, now: dict[str, str]) -> None:
    expected = (FOLDER / name).read_bytes().decode()
    assert now.get(name) == expected, f"{name} changed: read the diff, then `make generate`"


def test_there_is_a_golden_file_for_each_rendered_one_and_no_other(now: dict[str, str]) -> None:
    assert existing().keys() == now.keys()
    assert {name.partition("/")[2] for name in now} == set(FILES), "a file of no variant is a file that nobody reads"


def test_writing_golden_files_writes_what_is_rendered_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, str]
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "golden_files", lambda: now)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "old.hcl").write_text("of a file that is rendered no more")
    assert {str(path.relative_to(tmp_path)) for path in write_golden()} == now.keys()
    assert {name: path.read_text() for name, path in existing().items()} == now
