"""`./pds move` if its restore is stopped: by the way back, in another terminal too, or by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from cli.lib import nomad_jobs
from cli.move import move, runs
from cli.move.destination import MoveError
from components.clients.nomad import NomadApi
from tests.unit.cli.moving_club import ON_NEW_HOST, PAUSED, RUN, SNAPSHOT, STARTED, Owner, posted
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_nomad_jobs import allocations

EARLIER = "pds-restore/dispatch-0-b"
"""The run of an interrupted command."""


def _restoring(alice: Owner) -> None:
    """The restore runs, and the command that began it has ended."""
    alice.note(snapshot="33a97191", run=f"33a97191 {EARLIER}")
    run = {"ID": EARLIER, "ParentID": "pds-restore", "Status": "running"}
    alice.new.every_job, alice.new.runs_of[EARLIER] = [[run]], [allocations("running")]


def _meanwhile(alice: Owner, monkeypatch: pytest.MonkeyPatch, act: Callable[[NomadApi, str], Any]) -> None:
    """Let another terminal `act` once, when the command follows the restore."""
    follow, acts = nomad_jobs.follow, [act]

    def after(api: NomadApi, run: str, seconds: float, show: nomad_jobs.Show = print) -> bool:
        if alice.new.dispatched and acts:
            acts.pop()(api, run)
        return follow(api, run, seconds, show)

    monkeypatch.setattr(nomad_jobs, "follow", after)


def test_restores_anew_after_a_way_back_that_was_interrupted(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back stops the restore first. Nomad reports a stopped run as complete."""
    _restoring(alice)

    def interrupt(_api: NomadApi) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "settle", interrupt)
        with pytest.raises(KeyboardInterrupt):
            move.move(alice.club, "dev", yes=True)
    assert alice.new.stopped == [EARLIER]
    assert move.move(alice.club, "ground", yes=True) == 0
    assert posted(alice.new) == ["/v1/job/pds-restore/dispatch"], "the new host has no data without it"


def test_a_restore_that_is_stopped_by_hand_opens_nothing(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs = [allocations("running")]
    _meanwhile(alice, monkeypatch, nomad_jobs.stop)
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.commands() == [*STARTED, *PAUSED, *SNAPSHOT, *ON_NEW_HOST, "chess: up", *RUN]
    assert "was stopped before its end." in capsys.readouterr().out


def test_the_command_whose_restore_another_terminal_takes_back_starts_no_server(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.new.runs = [allocations("running")]

    def back(_api: NomadApi, _run: str) -> None:
        assert move.move(alice.club, "dev", yes=True) == 0

    _meanwhile(alice, monkeypatch, back)
    with pytest.raises(MoveError, match="ended the move of chess from dev to ground, or has taken it back"):
        move.move(alice.club, "ground", yes=True)
    assert alice.new.stopped == ["pds-restore/dispatch-1-a"]
    assert alice.place == "dev"
    assert "move:note" not in alice.file("chess"), "the other command has ended the move"


def test_the_command_whose_restore_succeeded_starts_no_server_if_the_file_names_the_old_host(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back came too late to stop the restore."""

    def back(_api: NomadApi, _run: str) -> None:
        assert alice.club.run("config", "set", "--path", "pds:on", "dev").code == 0

    _meanwhile(alice, monkeypatch, back)
    with pytest.raises(MoveError, match="This one started no server"):
        move.move(alice.club, "ground", yes=True)
    assert "opened" not in alice.file("chess")["move:note"], "the way back would be refused"


def test_a_way_back_that_finds_the_new_server_started_changes_nothing(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore ended before it was stopped, and the command that followed it goes on."""
    _restoring(alice)

    def opened(_api: NomadApi) -> None:
        assert alice.club.run("config", "set", "--path", "move:note.opened", "true").code == 0

    monkeypatch.setattr(runs, "settle", opened)
    with pytest.raises(MoveError, match="chess runs on ground since its move"):
        move.move(alice.club, "dev", yes=True)
    assert alice.place == "ground"
