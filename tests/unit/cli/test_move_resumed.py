"""`./pds move`: failures on the way, where a repeated command continues, and the way back."""

from typing import Any

import pytest

from cli.lib.stack import StackError
from cli.stacks import move
from tests.support.fake_project import host
from tests.unit.cli.moving_club import CHECKED, COPIED, LET_GO, NOTE, OPENED, PAUSE, THERE, Owner, asked
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_move import _refused
from tests.unit.cli.test_nomad_jobs import look


def test_a_pause_that_fails_copies_nothing(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="repeat the command"):
        move.move(alice.club, "ground", yes=True)
    assert (alice.did(), asked(alice.old)) == ([*NOTE, *PAUSE], CHECKED)


def test_a_backup_that_fails_leaves_it_where_it_is(alice: Owner) -> None:
    alice.old.runs = [*(5 * [look("complete")]), look("failed", "restore")]  # the one of the paused PDS
    with pytest.raises(StackError, match=r"'\./pds move chess --to dev'"):
        move.move(alice.club, "ground", yes=True)
    assert alice.did() == [*NOTE, *PAUSE]
    assert alice.file("chess")["pds:on"] == "dev"


def test_a_restore_that_fails_opens_nothing_and_the_old_host_keeps_its_room(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs = [look("failed", "restore")]
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.did() == [*NOTE, *PAUSE, *COPIED, *THERE, "chess: up"]
    assert "or start it there: './pds move chess --to dev'." in capsys.readouterr().out


def test_a_server_that_does_not_serve_yet_leaves_the_old_host_its_room(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.note(snapshot="33a97191", opened=True)
    record = {"zone": "chess.test", "name": "@", "type": "A", "value": "203.0.113.1"}
    outputs = {"state": "serving on the host; not open to the Internet yet", "resolves": "pending: it is elsewhere"}
    alice.pulumi.outputs("chess", "ground", ipv4="203.0.113.1", records=[record], pds_env="", **outputs)
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.did() == ["chess: config set pds:pds.paused false", "chess: up"]
    said = capsys.readouterr().out
    assert "pending: it is elsewhere" in said
    assert "@ A 203.0.113.1" in said


@pytest.mark.parametrize(
    ("note", "wanted"),
    [
        ({}, [*PAUSE, *COPIED, *THERE, "chess: up", *OPENED, *LET_GO]),
        ({"snapshot": "old", "there": False}, [*PAUSE, *COPIED, *THERE, "chess: up", *OPENED, *LET_GO]),
        ({"snapshot": "33a97191"}, [*THERE, "chess: up", *OPENED, *LET_GO]),
        ({"snapshot": "33a97191", "opened": True}, [*OPENED[1:], *LET_GO]),
    ],
    ids=[
        "before the backup",
        "before the file names the new host",
        "before the restore",
        "before the old host lets go",
    ],
)
def test_it_goes_on_where_it_was_and_asks_nothing_again(alice: Owner, note: dict[str, Any], wanted: list[str]) -> None:
    alice.note(**note)
    alice.left["chess"] = ["pds-server-job"]
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.did() == wanted
    restores = [] if note.get("opened") else ["/v1/job/pds-restore/dispatch"]
    assert asked(alice.new) == restores, "what was written there since is never overwritten"


def test_the_old_host_s_last_up_is_made_up_for(alice: Owner) -> None:
    alice.note(snapshot="33a97191", opened=True)
    alice.write("dev", host())
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.did() == [*OPENED[1:], *LET_GO[1:]]


def test_before_the_new_server_has_run_the_old_host_takes_it_back_as_it_was(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    run = {"ID": "pds-restore/dispatch-1", "ParentID": "pds-restore", "Status": "running"}
    alice.new.every_job = [[run], []]
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.did() == [
        "chess: config set pds:on dev",
        "chess: config set pds:pds.port 3101",
        "chess: config set pds:pds.paused false",
        "chess: up",
        "chess: config rm move:note",
    ]
    assert asked(alice.old) + asked(alice.new) == [], "nothing is copied: there was no write since"
    assert alice.new.every_job == [[]], "a restore that a killed verb left behind was waited for"


def test_before_it_has_left_it_is_let_run_where_it_is(alice: Owner) -> None:
    alice.note()
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.did() == ["chess: up", "chess: config rm move:note"]


def test_once_the_new_server_may_have_run_the_way_back_is_a_move_with_all_that_was_written(alice: Owner) -> None:
    alice.note(snapshot="33a97191", opened=True)
    alice.new.logs = {("restore", "stdout"): "snapshot 44b08202 saved\n"}
    alice.old.logs = {}
    assert move.move(alice.club, "dev", yes=True) == 0
    assert asked(alice.new) == [*CHECKED, "/v1/job/pds-backup/periodic/force"]
    (meta,) = alice.old.dispatched
    assert meta["snapshot"] == "44b08202"
    assert alice.did()[-3:] == ["ground: config rm pds:clubs.chess", "ground: up", "chess: config rm move:note"]


def test_on_its_way_it_does_not_go_elsewhere(alice: Owner) -> None:
    alice.note()
    _refused(alice, "is being moved from dev to ground. Continue with", to="attic")
