"""The tests in a browser are collected by `make browser` alone, so a renamed fixture would be noticed only there."""

import ast

from offline.mock_engine import ROOT

CONFTEST = "tests/browser/conftest.py"
SOURCES = ("tests/contract/conftest.py", CONFTEST)
BUILT_IN = {"request", "tmp_path", "tmp_path_factory"}


def fixtures(page: str) -> dict[str, set[str]]:
    """Each function of a conftest.py with the names of its parameters."""
    tree = ast.parse((ROOT / page).read_text())
    functions = [item for item in tree.body if isinstance(item, ast.FunctionDef)]
    return {function.name: {argument.arg for argument in function.args.args} for function in functions}


def test_browser_tests_have_every_fixture_that_theirs_need() -> None:
    known = fixtures(SOURCES[0]) | fixtures(SOURCES[1])
    tree = ast.parse((ROOT / CONFTEST).read_text())
    imported = {name.name for item in tree.body if isinstance(item, ast.ImportFrom) for name in item.names}
    here = (imported | fixtures(CONFTEST).keys()) & known.keys()
    assert "start_pds" in here
    missing = {name: needs for name in here if (needs := known[name] - here - BUILT_IN)}
    assert missing == {}, f"import them in {CONFTEST}, too"
