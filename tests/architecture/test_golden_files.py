"""Every rendered file of the dev stack and its variants equals its golden file. `make generate` writes them."""

import re
from pathlib import Path

import pytest

from offline.mock_engine import Evaluation
from tests import golden
from tests.golden import FOLDER, existing, golden_files, with_digests, write_golden
from tools.preview import FILES, rendered


@pytest.fixture(scope="module")
def rendered_now() -> dict[str, str]:
    """The files as the program renders them now."""
    return golden_files()


@pytest.mark.parametrize("name", existing())
def test_a_rendered_file_equals_its_golden_file(name: str, rendered_now: dict[str, str]) -> None:
    expected = (FOLDER / name).read_bytes().decode()
    assert rendered_now.get(name) == expected, f"{name} changed: read the diff, then `make generate`"


def test_each_rendered_file_has_a_golden_file_and_no_other_exists(rendered_now: dict[str, str]) -> None:
    assert existing().keys() == rendered_now.keys()
    of_a_pds = {name.partition("/")[2] for name in rendered_now if not name.startswith("cluster/")}
    assert of_a_pds == set(FILES), "every file is rendered by some variant"


def test_write_golden_writes_the_rendered_files_and_removes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered_now: dict[str, str]
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "golden_files", lambda: rendered_now)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "old.hcl").write_text("a file that is no longer rendered")
    assert {str(path.relative_to(tmp_path)) for path in write_golden()} == rendered_now.keys()
    assert {name: path.read_text() for name, path in existing().items()} == rendered_now


def test_a_golden_file_has_every_line_except_those_of_scripts(dev: Evaluation) -> None:
    for name, text in rendered(dev).items():
        golden = with_digests(text)
        scripts = len(re.findall(r'destination = "local/[^"]*\.(?:cjs|sh)"', text))
        assert golden.count(' script "') == scripts, f"{name}: one digest a script"
        assert golden.count("destination =") == text.count("destination =") - scripts, (
            f"{name}: a template that is no script is missing"
        )
        job = text.splitlines() if name.endswith(".nomad.hcl") else []
        for line in (line for line in job if " = " in line and not line.startswith("        ")):
            assert line in golden, f"{name}: {line.strip()} is not in the golden file"


def test_a_golden_file_changes_with_a_script_and_with_a_variable(dev: Evaluation) -> None:
    text = rendered(dev)["pds.nomad.hcl"]
    golden = with_digests(text)
    assert with_digests(text.replace("PDS_CRAWLERS", "PDS_CRAWLERZ")) != golden
    assert with_digests(text.replace("Runs before the server", "Runs  before the server")) != golden
