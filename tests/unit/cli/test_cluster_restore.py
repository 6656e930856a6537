"""`./pds restore` of a cluster: what it refuses, and what it hands to `up`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.cluster import restore
from cli.cluster.hosts import ClusterError
from cli.lib.stack import StackError
from tests.support.programs import CLUSTER

SNAPSHOT = b"raft and its keyring"
ESCROW = {"snapshots": {"RESTIC_PASSWORD": "r"}, "snapshots_repository": "s3:https://s3.test/b/nomad-fleet"}
RESTIC = f"""#!/bin/sh
[ "$RESTIC_PASSWORD $RESTIC_REPOSITORY" = "r {ESCROW["snapshots_repository"]}" ] || exit 1
case "$*" in
    *" dump "*nomad.snap) printf %s "{SNAPSHOT.decode()}" ;;
    *) exit 1 ;;
esac
"""
"""restic with one snapshot, for those who know the password."""


class _Stack:
    """The engine: what `up` was run with, and whether it fails."""

    name = "fleet"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.escrow: dict[str, Any] = ESCROW
        self.answer: tuple[int, Any] | None = None
        self.code = 0
        self.given: list[tuple[Path, bytes, int]] = []
        self.file = root / "Pulumi.fleet.yaml"
        self.file.write_text(yaml.safe_dump({"config": {f"pds:{key}": value for key, value in CLUSTER.items()}}))

    def required_outputs(self, *names: str) -> dict[str, str]:
        return dict.fromkeys(names, "https://192.0.2.9:4650")

    def output(self, _name: str) -> dict[str, Any]:
        return self.escrow

    def request(self, _method: str, _path: str) -> tuple[int, Any]:
        if self.answer is None:
            raise OSError("refused")
        return self.answer

    def run_interactively(self, *_arguments: str, env: Mapping[str, str]) -> int:
        file = Path(env["PDS_NOMAD_SNAPSHOT"])
        self.given.append((file, file.read_bytes(), file.stat().st_mode & 0o777))
        return self.code


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster whose servers do not answer, and a bucket with a snapshot."""
    made = _Stack(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "restic").write_text(RESTIC)
    (programs / "restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(restore, "nomad_api", lambda _access: made)
    return made


def test_rebuilds_every_server_with_the_snapshot_which_no_one_else_can_read(stack: Any) -> None:
    assert restore.restore(stack, "", yes=True) == 0
    [(file, content, mode)] = stack.given
    assert (content, mode) == (SNAPSHOT, 0o600)
    assert not file.exists()
    servers = yaml.safe_load(stack.file.read_text())["config"]["pds:cluster"]["servers"]
    assert servers["generations"] == {"1": 2, "2": 2, "3": 2}


@pytest.mark.parametrize("answer", [(403, "Permission denied"), (500, "No cluster leader")], ids=["empty", "no leader"])
def test_servers_that_are_empty_or_have_no_leader_are_rebuilt(stack: Any, answer: tuple[int, str]) -> None:
    stack.answer = answer
    assert restore.restore(stack, "", yes=True) == 0
    assert len(stack.given) == 1


def _living(stack: Any) -> None:
    stack.answer = (200, {"Servers": []})


def _without_snapshots(stack: Any) -> None:
    stack.escrow = {}


@pytest.mark.parametrize(
    ("fault", "snapshot", "problem"),
    [
        (_living, "", "Nomad answers at .* and has its state. Nothing was changed"),
        (_without_snapshots, "", "takes no snapshots of Nomad's state"),
    ],
)
def test_refuses_before_anything_is_changed(stack: Any, fault: Any, snapshot: str, problem: str) -> None:
    fault(stack)
    before = stack.file.read_bytes()
    with pytest.raises(ClusterError, match=problem):
        restore.restore(stack, snapshot, yes=True)
    assert stack.file.read_bytes() == before
    assert stack.given == []


def test_a_snapshot_that_restic_does_not_have_changes_nothing(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{stack.root / 'bin'}:{os.environ['PATH']}")
    stack.escrow = {**ESCROW, "snapshots": {"RESTIC_PASSWORD": "another"}}
    before = stack.file.read_bytes()
    with pytest.raises(ClusterError, match="restic failed"):
        restore.restore(stack, "4711", yes=True)
    assert stack.file.read_bytes() == before


def test_a_failed_up_leaves_no_snapshot_behind(stack: Any) -> None:
    stack.code = 1
    with pytest.raises(StackError):
        restore.restore(stack, "", yes=True)
    [(file, _content, _mode)] = stack.given
    assert not file.exists()


def test_asks_first(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    before = stack.file.read_bytes()
    assert restore.restore(stack, "", yes=False) == 1
    assert stack.file.read_bytes() == before
