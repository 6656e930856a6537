"""If the e2e environment can't run, CI prints that in one line."""

import os
import subprocess
import sys

from offline.mock_engine import ROOT


def test_missing_programs_are_reported_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.environment.ready"],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    assert line.startswith("Not run: `make e2e`, which needs pulumi, ")
    assert "nomad" in line
    assert "dockerd" in line
