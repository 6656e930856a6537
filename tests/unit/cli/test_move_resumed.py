"""`./pds move`: failures between its steps, the step at which it continues when repeated, and how a move is undone."""

from typing import Any

import pytest
import yaml

from cli.backups import restore
from cli.lib.stack import StackError
from cli.move import move
from cli.move.destination import MoveError
from tests.conftest import Clock
from tests.support.fake_project import host
from tests.unit.cli.moving_club import (
    ON_NEW_HOST,
    OPENED,
    PAUSED,
    RELEASED,
    RUN,
    SNAPSHOT,
    STARTED,
    VERIFIED,
    WITHDRAWN,
    Owner,
    posted,
)
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_move import _refused
from tests.unit.cli.test_nomad_jobs import allocations

EARLIER = "pds-restore/dispatch-0-b"
"""The run of an interrupted command."""


def test_a_failed_pause_copies_nothing(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="repeat the command"):
        move.move(alice.club, "ground", yes=True)
    assert (alice.commands(), posted(alice.old)) == ([*STARTED, *PAUSED], VERIFIED)


def test_a_failed_backup_leaves_the_club_on_the_old_host(alice: Owner) -> None:
    alice.old.runs = [
        *(5 * [allocations("complete")]),
        allocations("failed", "restore"),
    ]  # the backup of the paused PDS
    with pytest.raises(StackError, match=r"'\./pds move chess --to dev'"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == [*STARTED, *PAUSED]
    assert alice.file("chess")["pds:on"] == "dev"


def test_does_not_restore_the_newest_backup_if_the_id_of_its_own_is_unknown(alice: Owner) -> None:
    alice.old.logs = {("restore", "stdout"): "no line with an id\n"}
    with pytest.raises(StackError, match=r"A backup was made, but its id could not be read, and the PDS is paused"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == [*STARTED, *PAUSED]
    assert posted(alice.new) == [], "the newest backup may be of another host"

    alice.old.logs = {("restore", "stdout"): "snapshot 33a97191 saved\n"}
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.new.dispatched[0]["snapshot"] == "33a97191"


def test_a_failed_restore_keeps_the_new_server_paused_and_the_old_host_s_grant(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs = [allocations("failed", "restore")]
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.commands() == [*STARTED, *PAUSED, *SNAPSHOT, *ON_NEW_HOST, "chess: up", *RUN]
    assert "or start it there: './pds move chess --to dev'." in capsys.readouterr().out


def test_a_restore_that_would_lose_accounts_opens_nothing_until_they_are_left_behind_by_name(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs = [allocations("failed", "restore")]
    refusal = "REFUSED: 1 of 3 accounts would not arrive as they are on the old host. Nothing was changed.\n"
    refusal += "  did:plc:eve: store.sqlite is damaged\nTo move without them: --without did:plc:eve\n"
    alice.new.logs = {("restore", "stderr"): refusal}
    assert move.move(alice.club, "ground", yes=True) == 1
    assert "opened" not in alice.file("chess")["move:note"]
    output = capsys.readouterr().out
    assert "The accounts above are on dev as they were. Start the PDS there with './pds move chess --to dev'" in output
    assert "repeat this command with '--without' as above" in output

    alice.new.runs = [allocations("failed", "restore"), allocations("complete")]  # the former run, and a new one
    assert move.move(alice.club, "ground", yes=True, without=("did:plc:eve",)) == 0
    assert alice.new.dispatched[-1]["without"] == "did:plc:eve"


def test_remembers_the_accounts_to_leave_behind_across_an_interruption(alice: Owner) -> None:
    alice.note(snapshot="33a97191", without="did:plc:eve did:plc:bob")
    assert move.move(alice.club, "ground", yes=True, without=("did:plc:dan",)) == 0
    assert alice.new.dispatched[0]["without"] == "did:plc:eve did:plc:bob did:plc:dan"


def test_the_old_host_keeps_its_grant_until_the_new_server_serves(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"zone": "chess.test", "name": "@", "type": "A", "value": "203.0.113.1"}
    outputs = {"state": "serving on the host; not open to the Internet yet", "resolves": "pending: it is elsewhere"}
    alice.serving = outputs | {"records": [record]}
    alice.note(snapshot="33a97191", opened=True)
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.commands() == ["chess: config set pds:pds.paused false", "chess: up"]
    output = capsys.readouterr().out
    assert "pending: it is elsewhere" in output
    assert "@ A 203.0.113.1" in output


@pytest.mark.parametrize(
    ("note", "commands"),
    [
        ({}, [*PAUSED, *SNAPSHOT, *ON_NEW_HOST, "chess: up", *RUN, *OPENED, *RELEASED]),
        (
            {"snapshot": "old", "moved": False},
            [*PAUSED, *SNAPSHOT, *ON_NEW_HOST, "chess: up", *RUN, *OPENED, *RELEASED],
        ),
        ({"snapshot": "33a97191"}, [*ON_NEW_HOST, "chess: up", *RUN, *OPENED, *RELEASED]),
        ({"snapshot": "33a97191", "opened": True}, [*OPENED[1:], *RELEASED]),
    ],
    ids=[
        "before the backup",
        "before the file names the new host",
        "before the restore",
        "before the old host releases the club",
    ],
)
def test_resumes_at_the_step_that_was_interrupted(alice: Owner, note: dict[str, Any], commands: list[str]) -> None:
    alice.note(**note)
    alice.pending["chess"] = ["pds-server-job"]
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.commands() == commands
    restores = [] if note.get("opened") else ["/v1/job/pds-restore/dispatch"]
    assert posted(alice.new) == restores, "a restore must not overwrite what the new server has written"


def test_begins_anew_if_a_killed_command_left_half_a_note(alice: Owner) -> None:
    file = alice.file("chess") | {"move:note": {"from": "dev"}}
    alice.write("chess", yaml.safe_dump({"config": file}))
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.commands()[0] == STARTED[0], "both hosts in one step: a kill leaves both or none"
    assert "move:note" not in alice.file("chess")


def test_half_a_note_does_not_refuse_a_restore(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    file = alice.file("chess") | {"move:note": {"from": "dev"}}
    alice.write("chess", yaml.safe_dump({"config": file}))
    monkeypatch.setattr(restore, "_check", lambda _stack: None)
    assert restore.restore(alice.club, restore.RestoreRequest(yes=True)) == 0


@pytest.mark.parametrize("status", ["running", "complete"])
def test_takes_the_result_of_the_restore_that_an_interrupted_command_began(
    alice: Owner, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.note(snapshot="33a97191", run=f"33a97191 {EARLIER}")
    earlier = [allocations(status), allocations(status), allocations("complete")]
    alice.new.runs_of[EARLIER] = earlier
    assert move.move(alice.club, "ground", yes=True) == 0
    assert posted(alice.new) == [], "a large club would never arrive if each command began anew"
    assert alice.commands() == [*ON_NEW_HOST, "chess: up", *OPENED, *RELEASED]
    assert f"Continue with {EARLIER}" in capsys.readouterr().out


@pytest.mark.parametrize("found", [allocations("failed", "restore"), allocations("lost"), []])
def test_restores_anew_if_the_earlier_restore_failed_or_is_unknown(alice: Owner, found: list[Any]) -> None:
    alice.note(snapshot="33a97191", run=f"33a97191 {EARLIER}")
    alice.new.runs_of[EARLIER] = [found]
    assert move.move(alice.club, "ground", yes=True) == 0
    assert posted(alice.new) == ["/v1/job/pds-restore/dispatch"]


def test_does_not_take_the_restore_of_an_earlier_backup_for_that_of_the_last_one(alice: Owner) -> None:
    """The way back was interrupted, and the old server may have run since."""
    alice.note(snapshot="old", run=f"old {EARLIER}", moved=False)
    alice.new.runs_of[EARLIER] = [allocations("complete")]
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.new.dispatched[0]["snapshot"] == "33a97191"


def test_going_back_stops_the_restore(alice: Owner) -> None:
    alice.note(snapshot="33a97191", run=f"33a97191 {EARLIER}")
    run = {"ID": EARLIER, "ParentID": "pds-restore", "Status": "running"}
    alice.new.every_job, alice.new.runs_of[EARLIER] = [[run]], [allocations("running")]
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.new.stopped == [EARLIER], "it may take hours, and the members wait"


def test_repeats_the_old_host_s_up_if_only_its_file_was_changed(alice: Owner) -> None:
    alice.note(snapshot="33a97191", opened=True)
    alice.write("dev", host())
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.commands() == [*OPENED[1:], *RELEASED[1:]]


def test_returns_without_a_copy_if_the_new_server_never_ran(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    run = {"ID": "pds-restore/dispatch-1", "ParentID": "pds-restore", "Status": "running"}
    alice.new.every_job = [[run], [run], []]
    alice.new.allocations_of["pds-restore%2Fdispatch-1"] = allocations("running")
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.commands() == [
        "chess: config set-all pds:on=dev pds:pds.port=3101",
        "chess: config set pds:pds.paused false",
        "chess: up",
        *WITHDRAWN,
    ]
    assert alice.file("ground")["pds:clubs"] == {}, "the jobs of the next move would use the restored data"
    assert posted(alice.old) + posted(alice.new) == [], "nothing was written since, so nothing is copied"
    assert alice.new.every_job == [[]], "the restore of a killed command ended first"
    assert alice.new.stopped == []


def test_returns_at_once_if_the_restore_waits_for_a_host_that_is_down(alice: Owner, clock: Clock) -> None:
    alice.note(snapshot="33a97191")
    alice.new.every_job = [[{"ID": "pds-restore/dispatch-1", "ParentID": "pds-restore", "Status": "pending"}]]
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.new.stopped == ["pds-restore/dispatch-1"], "it would begin once the host is back"
    assert clock.now < 60, "the members wait for the old server"


def test_the_old_server_runs_even_if_the_place_on_the_new_host_cannot_be_removed(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.note(snapshot="33a97191")
    alice.pulumi.answers("up", (0, ""), (1, "the host does not answer"))
    assert move.move(alice.club, "dev", yes=True) == 1
    assert alice.commands()[-2:] == WITHDRAWN[:2], "the note stays, so that the command can be repeated"
    assert "chess is on dev as before, and its place on ground is not removed yet." in capsys.readouterr().out
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.commands()[-2:] == WITHDRAWN[1:]


def test_going_back_applies_no_other_change_of_the_new_host(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.note(snapshot="33a97191")
    alice.pending["ground"] = ["pds-host-droplet"]
    assert move.move(alice.club, "dev", yes=True) == 1
    assert alice.commands()[-1] == "chess: up", "the members have their server again"
    assert "Stack ground has pending changes: pds-host-droplet" in capsys.readouterr().out


def test_returning_before_the_pause_starts_the_server_on_the_old_host(alice: Owner) -> None:
    alice.note()
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.commands() == ["chess: up", "chess: config rm move:note"]


def test_refuses_to_return_after_the_new_server_may_have_run_until_the_move_has_ended(alice: Owner) -> None:
    alice.note(snapshot="33a97191", opened=True)
    # The old host's volume has accounts that may have been deleted since.
    _refused(alice, r"Finish it with '\./pds move chess --to ground'.*Then move the club to dev", to="dev")


def test_refuses_another_host_during_a_move(alice: Owner) -> None:
    alice.note()
    _refused(alice, "is being moved from dev to ground. Continue with", to="attic")


@pytest.mark.parametrize("to", ["ground", "dev"])
@pytest.mark.parametrize("applied", [True, False], ids=["started", "an interrupted start"])
def test_neither_restores_nor_goes_back_if_the_new_server_was_started_by_hand(
    alice: Owner, to: str, applied: bool
) -> None:
    alice.note(snapshot="33a97191")
    assert alice.club.run("config", "set", "--path", "pds:pds.paused", "false").code == 0
    if applied:
        alice.applied()
    ran = alice.commands()
    with pytest.raises(MoveError, match=r"may have run on ground, with writes that backup 33a97191 lacks.*opened true"):
        move.move(alice.club, to, yes=True)
    assert alice.commands() == ran, "its members' writes since then are in no backup"
    assert posted(alice.old) + posted(alice.new) == []


def test_refuses_a_new_server_whose_file_is_paused_and_whose_state_is_not(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    alice.pulumi.outputs("chess", "ground", state="serving")
    _refused(alice, "and its state is 'serving'")


OLDER = r"The state has chess on the host of ground, .* has it on the host of dev: this file is older.*git pull"


@pytest.mark.parametrize("to", ["ground", "dev"])
def test_a_file_of_before_the_move_neither_repeats_it_nor_goes_back(alice: Owner, to: str) -> None:
    """The new server serves there since, and the old host still has its data and grants the place."""
    alice.note()
    alice.recorded("ground")
    _refused(alice, OLDER, to=to)


@pytest.mark.parametrize("to", ["ground", "dev"])
def test_a_file_without_the_move_that_is_over_begins_none(alice: Owner, to: str) -> None:
    alice.recorded("ground")
    _refused(alice, OLDER, to=to)


def test_a_file_of_before_the_way_back_does_not_end_the_move(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    alice.recorded("dev")
    alice.pulumi.outputs("chess", "ground", state="serving")
    _refused(alice, r"The state has chess on the host of dev.*write 'on: dev' into this one, and remove 'move:note'")


def test_a_file_of_an_ended_move_does_not_start_the_new_host_s_data_again(alice: Owner) -> None:
    alice.note(snapshot="33a97191", opened=True)
    alice.recorded("dev")
    _refused(alice, "The state has chess on the host of dev")


def test_resumes_if_the_up_that_brings_the_club_to_the_new_host_has_not_begun(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    alice.recorded("dev")
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.place == "ground"
    assert alice.commands()[-len(RELEASED) :] == RELEASED


def test_resumes_a_way_back_whose_up_has_not_begun(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError):
        move.move(alice.club, "dev", yes=True)
    assert alice.place == "ground"
    alice.pulumi.outputs("chess", "dev", state="paused")  # those of the last `up` that succeeded
    with pytest.raises(MoveError, match="this file is older"):
        move.move(alice.club, "ground", yes=True)
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.place == "dev"


def test_a_move_that_was_cut_short_refuses_a_restore(alice: Owner) -> None:
    alice.note(snapshot="33a97191")
    with pytest.raises(StackError, match=r"being moved from dev to ground.*First end the move"):
        restore.restore(alice.club, restore.RestoreRequest(yes=True))
    assert alice.commands() == posted(alice.new) == [], "the repeated move would restore its old backup over it"
