"""Every module of the project: its size, the deadlines of its waits, and the errors that its docstrings name."""

import ast
import builtins
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from tests.support.deadlines import endless
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


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and its statements. Expressions are nine tenths of a tree."""
    todo: list[ast.AST] = [tree]
    for node in todo:
        yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, ())
            todo += inner if isinstance(inner, list) else ()


def too_long(text: str, tree: ast.Module | None = None) -> list[str]:
    """The module and functions that are over their limit, with their numbers of lines."""
    count = len(text.splitlines())
    findings = [f"the module has {count} lines"] if count > MODULE else []
    for node in _statements(tree or ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            findings += [f"{node.name} has {count} lines"] if count > FUNCTION else []
    return findings


def _raised(docstring: str) -> set[str]:
    """The errors that the sentences with `Raises` name, without those of other packages, such as `click.Abort`."""
    sentences = re.findall(r"\bRaises\b(?:[^.]|\.\w)*", docstring)
    return {name for text in sentences for name in re.findall(r"(?<![\w.])[A-Z]\w*(?:Error|Exception)\b", text)}


@dataclass
class _Found:
    """What is found in all modules."""

    too_long: dict[str, list[str]] = field(default_factory=dict)
    endless: dict[str, list[str]] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    """The errors that docstrings name, with a file."""
    known: set[str] = field(default_factory=lambda: set(dir(builtins)))
    """Every class, and every imported name."""


@cache
def _found() -> _Found:
    """Parse each module once, for all tests here."""
    found = _Found()
    for path in FILES:
        text, name = path.read_text(), str(path.relative_to(ROOT))
        tree = ast.parse(text)
        found.too_long[name] = too_long(text, tree)
        found.endless[name] = endless(text, tree)
        for node in _statements(tree):
            if isinstance(node, ast.ClassDef):
                found.known.add(node.name)
            if isinstance(node, ast.ImportFrom):
                found.known.update(alias.asname or alias.name for alias in node.names)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.named.update(dict.fromkeys(_raised(ast.get_docstring(node) or ""), name))
    return found


def test_modules_and_functions_are_within_their_limits() -> None:
    assert {name: faults for name, faults in _found().too_long.items() if faults} == {}, "split it by subject"


def test_every_wait_has_a_deadline() -> None:
    assert len(_found().endless) > 700
    waits = {name: faults for name, faults in _found().endless.items() if faults}
    assert waits == {}, "a run that hangs there would never fail"


def test_every_error_that_a_docstring_names_exists() -> None:
    assert len(_found().named) > 30
    assert {name: file for name, file in _found().named.items() if name not in _found().known} == {}


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


def test_finds_the_errors_of_a_docstring() -> None:
    text = "Open it.\n\nRaises SomeError and\n    AnotherError, or click.Abort. OtherError is not raised."
    assert _raised(text) == {"SomeError", "AnotherError"}


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['git'], check=True)",
        "thread.join()",
        "process.wait()",
        "process.communicate()",
        "connection.recv()",
        "with subprocess.Popen(['git']) as process:\n    process.wait(3)",
        "threading.Thread(target=work)",
        "socket.create_connection(('127.0.0.1', 1))",
        "urlopen('http://127.0.0.1')",
        "def f():\n    while not there():\n        time.sleep(1)",
    ],
)
def test_finds_a_wait_without_a_deadline(text: str) -> None:
    assert len(endless(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['git'], timeout=3)",
        "', '.join(names)",
        "thread.join(3)",
        "socket.create_connection(where, 3)",
        "async def f():\n    await done.wait()",
        "def f():\n    while time.monotonic() < end:\n        time.sleep(1)",
        "process.wait()  # no deadline: it is what this thread is for",
    ],
)
def test_accepts_a_wait_with_a_deadline_or_a_stated_reason(text: str) -> None:
    assert endless(text) == []
