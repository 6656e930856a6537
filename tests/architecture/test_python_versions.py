"""tools/find-python.sh and ./pds: the Python that they choose, and their message if a program is missing."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from offline.mock_engine import ROOT

FINDER = ROOT / "tools/find-python.sh"
Find = Callable[..., tuple[int, str]]
SHIM = "exit 127"
"""pyenv's shim for a version that is not selected is on PATH and fails."""


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Run the finder with stand-ins for Pythons, each with a given version; returns exit code and output."""

    def run(pythons: Mapping[str, str], *arguments: str) -> tuple[int, str]:
        for name, answer in pythons.items():
            script = tmp_path / name
            script.write_text(f"#!/bin/sh\n{answer if answer == SHIM else f'echo {answer}'}\n")
            script.chmod(0o755)
        done = subprocess.run(
            [shutil.which("sh") or "", FINDER, *arguments],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert bool(done.stderr) == bool(done.returncode), "it prints either a result or an error"
        return done.returncode, (done.stdout + done.stderr).strip()

    return run


def test_chooses_the_newest_suitable_python(find: Find) -> None:
    pythons = {"python3": "3 11 1", "python3.11": "3 11 1", "python3.13": "3 13 1"}
    assert find(pythons) == (0, "python3.13")


def test_skips_a_failing_shim_and_a_python_without_venv(find: Find) -> None:
    assert find({"python3.14": SHIM, "python3.13": "3 13 0", "python3.12": "3 12 1"}) == (0, "python3.12")


def test_chooses_python3_if_no_name_has_a_version(find: Find) -> None:
    assert find({"python3": "3 12 1"}) == (0, "python3")


def test_reports_a_missing_python_and_what_to_install(find: Find) -> None:
    code, output = find({"python3": "3 9 1"})
    assert code == 1
    assert output.startswith("Python 3.11 to 3.14 is missing (python3 is Python 3.9): install it")
    assert "apt install python3 python3-venv" in output
    assert "brew install python@3.14" in output
    assert output.count("\n") == 0, "one line"


def test_refuses_a_python_that_is_too_new(find: Find) -> None:
    code, output = find({"python3": "3 15 1"})
    assert code == 1
    assert "(python3 is Python 3.15)" in output


def test_reports_a_missing_venv_module_and_its_package(find: Find) -> None:
    assert find({"python3": "3 13 0"}) == (
        1,
        "python3 cannot make a virtual environment: install its module venv (Debian, Ubuntu: apt install "
        "python3.13-venv).",
    )


def test_checks_only_the_python_given_as_argument(find: Find) -> None:
    pythons = {"python3.13": "3 13 1", "python3.12": "3 12 1", "ours": "3 10 1"}
    assert find(pythons, "python3.12") == (0, "python3.12")
    assert find(pythons, "ours") == (1, "'ours' is not a Python 3.11 to 3.14 (ours is Python 3.10).")


def test_accepts_the_python_of_these_tests() -> None:
    done = subprocess.run(["sh", FINDER, sys.executable], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable), done.stderr


def test_reports_a_missing_make_and_its_package(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "pds", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dirname").symlink_to(shutil.which("dirname") or "")
    command = [shutil.which("sh") or "", str(tmp_path / "pds"), "--help"]
    done = subprocess.run(command, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.startswith("make is missing: install it (Debian, Ubuntu: apt install make;")


def test_ci_installs_every_program_that_a_test_needs() -> None:
    paths = [path for path in (ROOT / "tests").rglob("*.py") if "browser" not in path.parts]  # `make browser` alone
    text = "\n".join(path.read_text() for path in paths)
    needed = {f"{name}:{package}" for name, package in re.findall(r'\btool\("([\w.-]+)", "([\w.-]+)"\)', text)}
    needed.discard("mkfs.ext4:e2fsprogs")  # in every Debian
    assert len(needed) >= 5
    assert [pair for pair in sorted(needed) if f" {pair}" not in (ROOT / ".ci/run").read_text()] == []


def test_the_readme_names_every_package_that_ci_installs() -> None:
    pairs = re.findall(r"\S+:(\S+)", re.findall(r"for pair in (.*); do", (ROOT / ".ci/run").read_text())[0])
    named = {
        word for line in re.findall(r"`apt install ([^`]+)`", (ROOT / "README.md").read_text()) for word in line.split()
    }
    assert named == {*pairs, "python3", "python3-venv"}


def test_readme_ci_and_finder_support_the_same_pythons() -> None:
    newest, oldest = re.findall(r"newest=(\d+) oldest=(\d+)", FINDER.read_text())[0]
    assert f"Python 3.{oldest} to 3.{newest}" in (ROOT / "README.md").read_text()
    jobs = yaml.load((ROOT / ".github/workflows/pull-request.yaml").read_text(), yaml.CSafeLoader)["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == [f"3.{oldest}", f"3.{newest}"]
    assert f'target-version = "py3{oldest}"' in (ROOT / "pyproject.toml").read_text(), (
        "the syntax of the oldest version"
    )
