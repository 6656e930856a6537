"""The state backends of docs/guide/state.md, with the real engine: a folder, and a bucket of an S3 server.

The stack is the smallest one with a secret. No real Spaces bucket was ever used.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cli.lib.subprocesses import child
from offline.mock_engine import ROOT
from tests.e2e.environment.tools import missing
from tests.support.s3 import KEYS, ask, s3_server

SECRET = "a secret that no state has in plain text"
_DEADLINE = 60.0
_PROGRAM = """import pathlib, time
import pulumi
pulumi.export("word", pulumi.Config().require_secret("word"))
wait_file = pathlib.Path(__file__).with_name("wait")
while wait_file.exists():
    time.sleep(0.05)
"""
DOCUMENTED = "s3://BUCKET?endpoint=https://fra1.digitaloceanspaces.com&region=us-east-1&s3ForcePathStyle=true"


@dataclass(frozen=True)
class Project:
    """A folder with a program and the stack `club`, and an environment that names its state backend."""

    folder: Path
    env: Mapping[str, str]

    def pulumi(self, *arguments: str, fails: bool = False) -> str:
        """The engine's output."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * _DEADLINE,
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def command(self, *arguments: str) -> list[str]:
        return ["pulumi", *arguments, "--stack", "club", "--non-interactive"]

    def word(self) -> str:
        """The secret output in plain text."""
        done = subprocess.run(
            self.command("stack", "output", "word", "--show-secrets"),
            cwd=self.folder,
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=4 * _DEADLINE,
        )
        return done.stdout.strip()

    def elsewhere(self, folder: Path, **env: str) -> "Project":
        """A copy of the project for another machine or backend, with the content of a git clone."""
        shutil.copytree(self.folder, folder)
        return Project(folder, {**self.env, **env})


@dataclass(frozen=True)
class StateBackend:
    """A state backend."""

    url: str
    files: Path | str
    """A folder, or the address of a bucket."""

    def texts(self) -> dict[str, str]:
        """All files in it, by name."""
        if isinstance(self.files, Path):
            return {str(file): file.read_text() for file in self.files.rglob("*") if file.is_file()}
        names = re.findall(r"<Key>(.*?)</Key>", ask("GET", self.files, region="fra1"))
        return {name: ask("GET", f"{self.files}/{name}", region="fra1") for name in names}

    def locks(self) -> list[str]:
        """The locks in it."""
        return [name for name in self.texts() if "/.pulumi/locks/" in f"/{name}"]


@pytest.fixture(params=["folder", "bucket"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateBackend]:
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, so state backends cannot be tested. " + "; ".join(lines))
    (tmp_path / "state").mkdir()
    if request.param == "folder":
        yield StateBackend(f"file://{tmp_path}/state", tmp_path / "state")
        return
    with s3_server(tmp_path, "states", region="fra1", spaces=True) as server:
        url = DOCUMENTED.replace("BUCKET", "states").replace("https://fra1.digitaloceanspaces.com", server)
        yield StateBackend(url, f"{server}/states")


@pytest.fixture
def club(backend: StateBackend, tmp_path: Path) -> Project:
    """A stack after its first `up`."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "__main__.py").write_text(_PROGRAM)
    runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": sys.prefix}}
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": "pds", "runtime": runtime}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_CONFIG", "AWS_"))}
    own = {"PULUMI_BACKEND_URL": backend.url, "PULUMI_CONFIG_PASSPHRASE": "one", "PULUMI_SKIP_UPDATE_CHECK": "true"}
    found = Project(folder, {**kept, **own, **KEYS, "PULUMI_HOME": str(tmp_path / "home")})
    found.pulumi("stack", "init", "--secrets-provider", "passphrase")
    found.pulumi("config", "set", "--secret", "word", SECRET)
    found.pulumi("up", "--yes", "--skip-preview")
    return found


def test_tested_address_is_the_documented_one() -> None:
    assert f"`{DOCUMENTED}`" in (ROOT / "docs/guide/state.md").read_text()


def test_state_is_readable_from_another_machine_with_only_the_passphrase(
    club: Project, backend: StateBackend, tmp_path: Path
) -> None:
    assert backend.texts(), "the backend must contain the state"
    assert [name for name, text in backend.texts().items() if SECRET in text] == []
    other = club.elsewhere(tmp_path / "laptop", PULUMI_HOME=str(tmp_path / "laptop-home"))
    assert other.word() == SECRET
    assert "1 unchanged" in other.pulumi("preview", "--expect-no-changes")
    stranger = Project(other.folder, {**other.env, "PULUMI_CONFIG_PASSPHRASE": "two"})
    assert "incorrect passphrase" in stranger.pulumi("preview", fails=True)
    assert backend.locks() == [], "no lock may be left"


@contextmanager
def holding(club: Project, backend: StateBackend) -> Iterator["subprocess.Popen[str]"]:
    """An `up` that holds the lock until the file `wait` is deleted."""
    (club.folder / "wait").touch()
    with child(
        club.command("up", "--yes", "--skip-preview"),
        4 * _DEADLINE,
        cwd=club.folder,
        env=dict(club.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        try:
            end = time.monotonic() + _DEADLINE
            while not backend.locks():
                assert running.poll() is None
                assert time.monotonic() < end, "the run never took the lock"
                time.sleep(0.1)
            yield running
        finally:
            (club.folder / "wait").unlink(missing_ok=True)


def test_refuses_a_second_run_and_names_the_holder_of_the_lock(
    club: Project, backend: StateBackend, tmp_path: Path
) -> None:
    other = club.elsewhere(tmp_path / "laptop")
    with holding(club, backend) as first:
        output = other.pulumi("up", "--yes", "--skip-preview", fails=True)
        assert "the stack is currently locked by 1 lock(s)" in output
        assert f"(pid {first.pid})" in output
        (club.folder / "wait").unlink()
        assert first.wait(_DEADLINE) == 0
    other.pulumi("up", "--yes", "--skip-preview")


def test_cancel_removes_the_lock_of_a_killed_run(club: Project, backend: StateBackend) -> None:
    with holding(club, backend) as running:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(_DEADLINE)
    assert "currently locked" in club.pulumi("up", "--yes", "--skip-preview", fails=True)
    club.pulumi("cancel", "--yes")
    club.pulumi("up", "--yes", "--skip-preview")


def test_state_moves_to_another_backend_and_keeps_its_passphrase(
    club: Project, backend: StateBackend, tmp_path: Path
) -> None:
    club.pulumi("stack", "export", "--file", "state.json")
    assert SECRET not in (club.folder / "state.json").read_text()
    salt = (club.folder / "Pulumi.club.yaml").read_text()
    (tmp_path / "other").mkdir()
    moved = Project(club.folder, {**club.env, "PULUMI_BACKEND_URL": f"file://{tmp_path}/other"})
    moved.pulumi("stack", "init", "--secrets-provider", "passphrase")
    moved.pulumi("stack", "import", "--file", "state.json")
    assert moved.word() == SECRET
    assert (club.folder / "Pulumi.club.yaml").read_text() == salt, "the stack file must not change"
    moved.pulumi("preview", "--expect-no-changes")
    club.pulumi("stack", "rm", "--yes", "--force", "--preserve-config")
    assert "club" not in json.dumps(json.loads(_stacks(club))), "the old backend must not contain the stack"
    assert moved.word() == SECRET


def _stacks(project: Project) -> str:
    command = ["pulumi", "stack", "ls", "--json", "--non-interactive"]
    done = subprocess.run(
        command, cwd=project.folder, env=dict(project.env), capture_output=True, text=True, timeout=4 * _DEADLINE
    )
    return done.stdout
