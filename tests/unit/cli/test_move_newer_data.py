"""`./pds move` if the restore refuses to replace newer data on the new host."""

import pytest

from cli.move import move
from cli.move.destination import MoveError
from tests.unit.cli.moving_club import Owner, posted
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_nomad_jobs import allocations

NEWER = {("restore", "stderr"): "REFUSED: NEWER DATA: a server has run on the data of this volume.\n"}
COMPARED = {
    ("restore", "stdout"): "data on this volume          none that are newer than the backup\n",
    ("restore", "stderr"): "FAILED: the directory does not answer\n",
}
UNCOMPARED = {("restore", "stderr"): "REFUSED: too little space\n"}


def test_does_not_start_old_data_if_the_new_host_has_newer_ones(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older file led here: the club has been served on ground since, and dev has the data of before the move."""
    alice.new.runs = [allocations("failed", "restore")]
    alice.new.logs = NEWER
    assert move.move(alice.club, "ground", yes=True) == 1
    output = capsys.readouterr().out
    assert "./pds move chess --to dev" not in output
    assert "`pulumi config set --path move:note.opened true --stack chess`" in output
    ran = alice.commands()
    with pytest.raises(MoveError, match=r"a server has run on them.*config rm --path move:note.newer"):
        move.move(alice.club, "dev", yes=True)
    assert alice.commands() == ran

    assert alice.club.run("config", "set", "--path", "move:note.opened", "true").code == 0
    assert move.move(alice.club, "ground", yes=True) == 0
    assert posted(alice.new) == ["/v1/job/pds-restore/dispatch"], "the newer data are served as they are"


def test_goes_back_once_the_restore_finds_no_newer_data_any_more(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs, alice.new.logs = [allocations("failed", "restore")], NEWER
    assert move.move(alice.club, "ground", yes=True) == 1
    alice.new.logs = COMPARED
    assert move.move(alice.club, "ground", yes=True) == 1
    assert "or start it there: './pds move chess --to dev'" in capsys.readouterr().out
    assert "newer" not in alice.file("chess")["move:note"]
    assert move.move(alice.club, "dev", yes=True) == 0, "the command that was printed"


def test_a_restore_that_fails_before_it_compares_the_data_says_nothing_about_them(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs, alice.new.logs = [allocations("failed", "restore")], NEWER
    assert move.move(alice.club, "ground", yes=True) == 1
    alice.new.logs = UNCOMPARED
    capsys.readouterr()
    assert move.move(alice.club, "ground", yes=True) == 1
    output = capsys.readouterr().out
    assert "'./pds move chess --to dev'" not in output, "it is refused"
    assert "run `pulumi config rm --path move:note.newer --stack chess`, then go back" in output
    with pytest.raises(MoveError, match="a server has run on them"):
        move.move(alice.club, "dev", yes=True)


def test_the_way_back_from_obsolete_data_that_the_refusal_names_is_free(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.new.runs, alice.new.logs = [allocations("failed", "restore")], NEWER
    assert move.move(alice.club, "ground", yes=True) == 1
    assert "run `pulumi config rm --path move:note.newer --stack chess`, then go back" in capsys.readouterr().out
    assert alice.club.run("config", "rm", "--path", "move:note.newer").code == 0
    assert move.move(alice.club, "dev", yes=True) == 0
    assert alice.place == "dev"
    assert alice.file("ground")["pds:clubs"] == {}, "an `up` there renames and keeps the obsolete data"
