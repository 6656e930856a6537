"""The places for the state in docs/guide/state.md, with the real engine: a folder, and a bucket of an S3 server.

The stack is the smallest with a secret: the test is about the place. No Spaces bucket was ever used.
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

SECRET = "a secret that is in no state in clear"
_DEADLINE = 60.0
_PROGRAM = """import pathlib, time
import pulumi
pulumi.export("word", pulumi.Config().require_secret("word"))
gate = pathlib.Path(__file__).with_name("wait")
while gate.exists():
    time.sleep(0.05)
"""
DOCUMENTED = "s3://BUCKET?endpoint=https://fra1.digitaloceanspaces.com&region=us-east-1&s3ForcePathStyle=true"


@dataclass(frozen=True)
class Project:
    """A folder with a program and the stack `club`, and an environment that names the place of its state."""

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
        """The secret output, in clear text."""
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
        """The same project on another machine, or for another place: a clone has only this."""
        shutil.copytree(self.folder, folder)
        return Project(folder, {**self.env, **env})


@dataclass(frozen=True)
class HostConnection:
    """A place for a state."""

    url: str
    files: Path | str
    """A folder, or the address of a bucket."""

    def texts(self) -> dict[str, str]:
        """Everything in it, by name."""
        if isinstance(self.files, Path):
            return {str(file): file.read_text() for file in self.files.rglob("*") if file.is_file()}
        names = re.findall(r"<Key>(.*?)</Key>", ask("GET", self.files, region="fra1"))
        return {name: ask("GET", f"{self.files}/{name}", region="fra1") for name in names}

    def locks(self) -> list[str]:
        """The locks in it."""
        return [name for name in self.texts() if "/.pulumi/locks/" in f"/{name}"]


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HostConnection]:
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is not here, and no place for its state was tried. " + "; ".join(lines))
    (tmp_path / "state").mkdir()
    if request.param == "folder":
        yield HostConnection(f"file://{tmp_path}/state", tmp_path / "state")
        return
    with s3_server(tmp_path, "states", region="fra1", spaces=True) as server:
        url = DOCUMENTED.replace("BUCKET", "states").replace("https://fra1.digitaloceanspaces.com", server)
        yield HostConnection(url, f"{server}/states")


@pytest.fixture
def club(place: HostConnection, tmp_path: Path) -> Project:
    """A stack that is up."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "__main__.py").write_text(_PROGRAM)
    runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": sys.prefix}}
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": "pds", "runtime": runtime}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_CONFIG", "AWS_"))}
    own = {"PULUMI_BACKEND_URL": place.url, "PULUMI_CONFIG_PASSPHRASE": "one", "PULUMI_SKIP_UPDATE_CHECK": "true"}
    found = Project(folder, {**kept, **own, **KEYS, "PULUMI_HOME": str(tmp_path / "home")})
    found.pulumi("stack", "init", "--secrets-provider", "passphrase")
    found.pulumi("config", "set", "--secret", "word", SECRET)
    found.pulumi("up", "--yes", "--skip-preview")
    return found


def test_the_address_that_is_tried_is_the_documented_one() -> None:
    assert f"`{DOCUMENTED}`" in (ROOT / "docs/guide/state.md").read_text()


def test_a_state_there_is_found_from_another_machine_and_opens_with_the_passphrase_alone(
    club: Project, place: HostConnection, tmp_path: Path
) -> None:
    assert place.texts(), "the state is there"
    assert [name for name, text in place.texts().items() if SECRET in text] == []
    other = club.elsewhere(tmp_path / "laptop", PULUMI_HOME=str(tmp_path / "laptop-home"))
    assert other.word() == SECRET
    assert "1 unchanged" in other.pulumi("preview", "--expect-no-changes")
    stranger = Project(other.folder, {**other.env, "PULUMI_CONFIG_PASSPHRASE": "two"})
    assert "incorrect passphrase" in stranger.pulumi("preview", fails=True)
    assert place.locks() == [], "it is not locked"


@contextmanager
def holding(club: Project, place: HostConnection) -> Iterator["subprocess.Popen[str]"]:
    """An `up` that has the lock, and keeps it until the file `wait` is gone."""
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
            while not place.locks():
                assert running.poll() is None
                assert time.monotonic() < end, "it never took the lock"
                time.sleep(0.1)
            yield running
        finally:
            (club.folder / "wait").unlink(missing_ok=True)


def test_of_two_runs_at_once_the_second_is_refused_and_told_by_whom(
    club: Project, place: HostConnection, tmp_path: Path
) -> None:
    other = club.elsewhere(tmp_path / "laptop")
    with holding(club, place) as first:
        said = other.pulumi("up", "--yes", "--skip-preview", fails=True)
        assert "the stack is currently locked by 1 lock(s)" in said
        assert f"(pid {first.pid})" in said
        (club.folder / "wait").unlink()
        assert first.wait(_DEADLINE) == 0
    other.pulumi("up", "--yes", "--skip-preview")


def test_the_lock_of_a_run_that_was_killed_is_taken_by_cancel(club: Project, place: HostConnection) -> None:
    with holding(club, place) as running:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(_DEADLINE)
    assert "currently locked" in club.pulumi("up", "--yes", "--skip-preview", fails=True)
    club.pulumi("cancel", "--yes")
    club.pulumi("up", "--yes", "--skip-preview")


def test_a_state_moves_to_another_place_and_keeps_its_passphrase(
    club: Project, place: HostConnection, tmp_path: Path
) -> None:
    club.pulumi("stack", "export", "--file", "state.json")
    assert SECRET not in (club.folder / "state.json").read_text()
    salt = (club.folder / "Pulumi.club.yaml").read_text()
    (tmp_path / "other").mkdir()
    moved = Project(club.folder, {**club.env, "PULUMI_BACKEND_URL": f"file://{tmp_path}/other"})
    moved.pulumi("stack", "init", "--secrets-provider", "passphrase")
    moved.pulumi("stack", "import", "--file", "state.json")
    assert moved.word() == SECRET
    assert (club.folder / "Pulumi.club.yaml").read_text() == salt, "the stack file is the same in git"
    moved.pulumi("preview", "--expect-no-changes")
    club.pulumi("stack", "rm", "--yes", "--force", "--preserve-config")
    assert "club" not in json.dumps(json.loads(_stacks(club))), "one PDS has one state"
    assert moved.word() == SECRET


def _stacks(project: Project) -> str:
    command = ["pulumi", "stack", "ls", "--json", "--non-interactive"]
    done = subprocess.run(
        command, cwd=project.folder, env=dict(project.env), capture_output=True, text=True, timeout=4 * _DEADLINE
    )
    return done.stdout
