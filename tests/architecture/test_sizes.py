"""Modules, functions and folders have a maximum size."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

from offline.mock_engine import ROOT
from tests.support.programs import SOURCES

MODULE, FUNCTION = 400, 60
"""Maximum number of lines; a function's lines count from `def`, without decorators."""

FOLDER = 12
"""Maximum number of modules of a folder of the product, without `__init__.py`."""

LARGER = {"cli/commands": "one file a command", "components/render/jobs": "one file a job"}
"""Folders that may have more modules, with the reason."""


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return [ROOT / name for name in sorted(set(listed.stdout.split("\0"))) if name and (ROOT / name).is_file()]


FILES = _tracked()


def too_long(text: str) -> list[str]:
    """The module and functions that are over their limit, with their numbers of lines."""
    count = len(text.splitlines())
    findings = [f"the module has {count} lines"] if count > MODULE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            findings += [f"{node.name} has {count} lines"] if count > FUNCTION else []
    return findings


def test_modules_and_functions_are_within_their_limits() -> None:
    found = {str(path.relative_to(ROOT)): too_long(path.read_text()) for path in FILES}
    assert {name: findings for name, findings in found.items() if findings} == {}, "split it by subject"


def test_folders_of_the_product_are_within_their_limit() -> None:
    modules = [path.relative_to(ROOT) for path in FILES if path.name != "__init__.py"]
    counts = Counter(str(path.parent) for path in modules if path.parts[0] in SOURCES)
    assert {folder for folder, count in counts.items() if count > FOLDER} <= LARGER.keys()


def test_checks_every_folder_with_python_files() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert {"__main__.py", "cli", "components", "offline", "policy", "tests", "tools"} <= folders


def test_finds_one_line_over_a_limit() -> None:
    function = "@decorated(\n    1,\n)\ndef f():\n" + "    g()\n" * (FUNCTION - 1)
    assert too_long(function) == []
    assert too_long(function + "    g()\n") == [f"f has {FUNCTION + 1} lines"]
    nested = "class C:\n    async def f(self):\n" + "        g()\n" * FUNCTION
    assert too_long(nested) == [f"f has {FUNCTION + 1} lines"]
    assert too_long("x = 1\n" * MODULE) == []
    assert too_long("x = 1\n" * (MODULE + 1)) == [f"the module has {MODULE + 1} lines"]
