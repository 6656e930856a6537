"""Every rendered file of the dev stack and its variants is the golden one. `make generate` writes them."""

import re
from pathlib import Path

import pytest

from offline.mock_engine import Evaluation
from tests import golden
from tests.golden import FOLDER, existing, golden_files, with_digests, write_golden
from tools.preview import FILES, rendered


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
    assert {name.partition("/")[2] for name in now} == set(FILES), "a file of no variant is never compared"


def test_writing_golden_files_writes_what_is_rendered_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, str]
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "golden_files", lambda: now)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "old.hcl").write_text("of a file that is rendered no more")
    assert {str(path.relative_to(tmp_path)) for path in write_golden()} == now.keys()
    assert {name: path.read_text() for name, path in existing().items()} == now


def test_a_golden_file_shows_everything_but_the_lines_of_scripts(dev: Evaluation) -> None:
    for name, text in rendered(dev).items():
        golden = with_digests(text)
        scripts = len(re.findall(r'destination = "local/[^"]*\.(?:cjs|sh)"', text))
        assert golden.count(' script "') == scripts, f"{name}: one digest a script"
        assert golden.count("destination =") == text.count("destination =") - scripts, (
            f"{name}: another template is cut"
        )
        job = text.splitlines() if name.endswith(".nomad.hcl") else []
        for line in (line for line in job if " = " in line and not line.startswith("        ")):
            assert line in golden, f"{name}: {line.strip()} is not in the golden file"


def test_a_changed_script_and_a_changed_variable_change_a_golden_file(dev: Evaluation) -> None:
    text = rendered(dev)["pds.nomad.hcl"]
    golden = with_digests(text)
    assert with_digests(text.replace("PDS_CRAWLERS", "PDS_CRAWLERZ")) != golden
    assert with_digests(text.replace("Runs before the server", "Runs  before the server")) != golden
