"""`./pds blobs`: the order of its calls to engine and Nomad, its stops, and how it continues."""

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from cli import app
from cli.backups import move_blobs, restore
from cli.backups.restore import RestoreRequest
from cli.lib import apply
from cli.lib.stack import StackError
from components.settings.stack_identity import BLOBS_COPIED
from tests.support.programs import BACKUP
from tests.unit.cli.test_nomad_jobs import allocations
from tests.unit.cli.test_restore import UP, Owner
from tests.unit.cli.test_restore import alice as alice

BUCKET = "bucket club-blobs in fra1"
BLOBS = {"bucket": "club-blobs"}


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks always pass."""
    monkeypatch.setattr(move_blobs, "subject_of", lambda *_, **__: None)
    monkeypatch.setattr(move_blobs, "run_checks", lambda _subject: iter(["ok    everything"]))


@pytest.fixture
def ups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The place that each `up` is told the blobs were moved to, or ''."""
    told: list[str] = []

    def up(_stack: Any, *, yes: bool, env: dict[str, str] | None = None) -> None:
        told.append((env or {}).get(BLOBS_COPIED, ""))

    monkeypatch.setattr(move_blobs, "up", up)
    return told


def _at(alice: Owner, place: str, **changes: Any) -> None:
    alice.pulumi.state(("pds-identity", "pulumi-python:dynamic/pds:StackIdentity", "1", {"blobs": place}))
    alice.write(backup=BACKUP, **changes)
    if not (changes.get("pds") or {}).get("paused"):
        alice.nomad.run("2026-06-01T12:00:00Z")


def _file(root: Path) -> dict[str, Any]:
    config = yaml.load((root / "Pulumi.dev.yaml").read_text(), yaml.CSafeLoader)["config"]
    flat = {key: value for key, value in config.items() if key.startswith(("pds:blobs.", "pds:pds."))}
    nested = {f"pds:blobs.{key}": value for key, value in config["pds:blobs"].items()}
    return nested | flat | {f"pds:pds.{key}": value for key, value in (config.get("pds:pds") or {}).items()}


def _steps(alice: Owner) -> list[str]:
    return [meta.get("step", "") for meta in alice.nomad.dispatched]


def test_copies_before_it_pauses_and_starts_the_server_there_last(
    alice: Owner, ups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _at(alice, "disk", blobs=BLOBS)
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 0
    assert _steps(alice) == ["copy", "finish"]
    assert alice.nomad.dispatched[1]["to"] == "bucket"
    changed = [command[3:5] for command in alice.pulumi.ran if command[0] == "config"]
    assert changed == [
        ["pds:blobs.serve", "disk"],
        ["pds:pds.paused", "true"],
        ["pds:blobs.serve", "bucket"],
        ["pds:pds.paused", "false"],
    ]
    assert ups == ["", BUCKET], "only the last `up` may change the place"
    assert UP in alice.pulumi.ran, "the pause goes through the engine"
    output = capsys.readouterr().out
    assert "./pds blobs dev --forget-old" in output
    assert "ok    everything" in output


@pytest.mark.parametrize(("runs", "steps", "paused"), [(1, ["copy"], None), (3, ["copy", "finish"], True)])
def test_a_failed_copy_leaves_the_server_where_it_is(
    alice: Owner, ups: list[str], capsys: pytest.CaptureFixture[str], runs: int, steps: list[str], paused: bool | None
) -> None:
    _at(alice, "disk", blobs=BLOBS)
    alice.nomad.runs = [*((runs - 1) * [allocations("complete")]), allocations("failed", "blobs")]
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 1
    assert _steps(alice) == steps
    assert BUCKET not in ups
    assert _file(alice.pulumi.root)["pds:blobs.serve"] == "disk", "a plain `up` changes nothing"
    assert _file(alice.pulumi.root).get("pds:pds.paused") == paused
    output = capsys.readouterr().out
    assert ("Nothing was changed" if paused is None else "start the PDS as it was") in output


def test_continues_a_move_that_was_interrupted_in_its_pause(alice: Owner, ups: list[str]) -> None:
    _at(alice, "disk", blobs=BLOBS | {"serve": "disk"}, pds={"paused": True})
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=True) == 0
    assert (_steps(alice), ups[-1]) == (["copy", "finish"], BUCKET)
    assert alice.nomad.dispatched[0]["accept_losses"] == "yes"


def test_moves_and_forgets_no_blobs_during_a_move_of_the_pds(alice: Owner, ups: list[str]) -> None:
    """Before the restore the volume is empty, or has old data: the bucket would be recorded without a blob in it."""
    _at(alice, "disk", blobs=BLOBS | {"serve": "disk"}, pds={"paused": True})
    alice.move()
    before = _file(alice.pulumi.root)
    with pytest.raises(StackError, match=r"dev is being moved from house to ground.*Nothing was changed"):
        move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=True)
    with pytest.raises(StackError, match="dev is being moved"):
        move_blobs.forget_old(alice.stack)
    assert (_steps(alice), ups, _file(alice.pulumi.root)) == ([], [], before)
    alice.move(opened=True)
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 0, "the PDS is served again"


def test_says_that_a_paused_pds_starts_at_the_end_and_not_that_nothing_was_changed(
    alice: Owner, ups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _at(alice, "disk", blobs=BLOBS | {"serve": "disk"}, pds={"paused": True})
    alice.nomad.runs = [allocations("failed", "blobs")]
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 1
    output = capsys.readouterr().out
    assert "The PDS is paused already, and starts at the end" in output
    assert "Nothing was changed" not in output
    assert "keeps running" not in output


def test_goes_back_from_a_move_that_was_interrupted_in_its_pause(alice: Owner, ups: list[str]) -> None:
    _at(alice, "disk", blobs=BLOBS | {"serve": "disk"}, pds={"paused": True})
    assert move_blobs.move_blobs(alice.stack, "disk", yes=True, accept_losses=False) == 0
    assert [meta["to"] for meta in alice.nomad.dispatched] == ["disk", "disk"], "the record on the volume is set back"
    assert ups == ["disk"]


@pytest.mark.parametrize("to", ["bucket", "disk"])
@pytest.mark.parametrize(("place", "written"), [("disk", "bucket"), (BUCKET, "disk")])
def test_continues_a_move_that_was_interrupted_before_its_last_up(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, to: Literal["bucket", "disk"], place: str, written: str
) -> None:
    """The stack file and the volume name the new place, the state the old one, and no server runs."""
    applied: list[tuple[str, bool, str]] = []

    def up(_stack: Any, *, yes: bool, env: dict[str, str] | None = None) -> None:
        file = _file(alice.pulumi.root)
        applied.append((file["pds:blobs.serve"], file["pds:pds.paused"], (env or {}).get(BLOBS_COPIED, "")))

    monkeypatch.setattr(move_blobs, "up", up)
    monkeypatch.setattr(apply, "up", up)
    _at(alice, place, blobs=BLOBS | {"serve": written}, pds={"paused": False})
    alice.nomad.allocations = []
    assert move_blobs.move_blobs(alice.stack, to, yes=True, accept_losses=False) == 0
    assert [(meta["step"], meta["to"]) for meta in alice.nomad.dispatched] == [("copy", to), ("finish", to)]
    before = "disk" if place == "disk" else "bucket"
    assert set(applied[:-1]) == {(before, True, "")}, "the engine refuses the new place, and the volume the old one"
    assert applied[-1] == (to, False, BUCKET if to == "bucket" else "disk")


def test_a_pds_that_does_not_start_at_its_place_is_paused_and_its_blobs_are_checked(
    alice: Owner, ups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """For example because the record on the volume is damaged. `up` alone would fail again and again."""
    _at(alice, BUCKET, blobs=BLOBS)
    alice.nomad.allocations = []
    alice.nomad.runs = [allocations("failed", "blobs")]
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 1
    output = capsys.readouterr().out
    assert "The PDS does not run" in output
    assert "Nothing was changed" not in output
    assert "The PDS is paused" in output
    alice.nomad.runs = [allocations("complete")]
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 0
    assert (_steps(alice), ups) == (["copy", "copy", "finish"], ["", BUCKET])


def test_moves_back_to_the_disk(alice: Owner, ups: list[str]) -> None:
    _at(alice, BUCKET, blobs=BLOBS)
    assert move_blobs.move_blobs(alice.stack, "disk", yes=True, accept_losses=False) == 0
    assert ups == ["", "disk"]
    assert _file(alice.pulumi.root)["pds:blobs.serve"] == "disk"


def test_repeats_only_the_last_up_if_the_state_has_the_new_place(
    alice: Owner, ups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _at(alice, BUCKET, blobs=BLOBS)
    assert move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False) == 0
    assert (_steps(alice), ups) == ([], [BUCKET])
    assert "already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "changes", "reason"),
    [
        ("disk", {}, "has no 'blobs'"),
        ("bucket other-blobs in fra1", {"blobs": BLOBS}, "bucket other-blobs"),
        ("s3", {"s3": {"bucket": "b2s", "region": "fra1", "endpoint": "https://fra1.digitaloceanspaces.com"}}, "'s3'"),
    ],
)
def test_refuses_what_it_cannot_move_before_anything_is_begun(
    alice: Owner, ups: list[str], place: str, changes: dict[str, Any], reason: str
) -> None:
    if "s3" in changes:
        changes = {"s3": changes["s3"] | {"access_key_id": "a", "secret_access_key": "b"}}
    _at(alice, place, **changes)
    with pytest.raises(StackError, match=reason):
        move_blobs.move_blobs(alice.stack, "bucket", yes=True, accept_losses=False)
    assert (alice.nomad.dispatched, alice.pulumi.ran, ups) == ([], [], [])


def test_the_variable_reaches_the_engine_alone(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOBS_COPIED, raising=False)
    seen = alice.pulumi.root / "seen"
    script = f'#!/bin/sh\necho "$1 ${BLOBS_COPIED}" >> {seen}\n'
    program = alice.pulumi.root / "pulumi"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{alice.pulumi.root}:/usr/bin:/bin")
    assert alice.stack.run_interactively("up", env={BLOBS_COPIED: BUCKET}) == 0
    assert alice.stack.run_interactively("up") == 0
    assert seen.read_text().splitlines() == [f"up {BUCKET}", "up "]


@pytest.mark.parametrize(
    "arguments", [["--to", "tape"], ["--to", "disk", "--repair"], ["--accept-losses"], ["--repair", "--forget-old"]]
)
def test_refuses_contradicting_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["blobs", "dev", *arguments]) == 2
    assert "`./pds blobs --help`" in capsys.readouterr().err


def test_a_restore_brings_lost_blobs_back_before_the_server_starts(alice: Owner) -> None:
    _at(alice, BUCKET, blobs=BLOBS)
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert _steps(alice) == ["", "repair"]
    last = [command[4] for command in alice.pulumi.ran if "pds:pds.paused" in command]
    assert last == ["true", "false"]
    assert restore.restore(alice.stack, RestoreRequest(yes=True, only="did:plc:ann")) == 0
    last_meta = alice.nomad.dispatched[-1]
    assert (last_meta["step"], last_meta["only"]) == ("repair", "did:plc:ann")


def test_a_restore_says_that_blobs_are_lost_and_does_not_succeed(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    _at(alice, BUCKET, blobs=BLOBS)
    alice.nomad.runs = [allocations("complete"), allocations("complete"), allocations("failed", "blobs")]
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 1
    output = capsys.readouterr().out
    assert "`./pds blobs dev --repair`" in output
    assert "Restored, but not all blobs" in output


def test_old_copies_are_not_forgotten_while_a_backup_may_copy_them(alice: Owner) -> None:
    _at(alice, "disk", blobs=BLOBS | {"serve": "disk"})
    alice.nomad.children = [["running"], ["dead"]]
    assert move_blobs.forget_old(alice.stack) == 0
    paths = [path for _, path, _ in alice.nomad.asked]
    queries = [number for number, path in enumerate(paths) if path.startswith("/v1/jobs?prefix=pds-backup")]
    assert len(queries) == 2, "the active one ends first"
    assert queries[-1] < paths.index("/v1/job/pds-blobs/dispatch")
