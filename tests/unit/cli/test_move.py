"""`./pds move`: the checks before anything is changed, and the order of the steps.

`test_move_resumed.py` has the failures on the way. `tests/e2e/scenarios/e2e_move.py` uses the real engine, two real
Nomads and a server with writers.
"""

import json
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack, StackError
from cli.stacks import destination, move
from cli.stacks.destination import MoveError
from components.clients.errors import ServiceError
from offline.stackfile import StackFileError
from tests.conftest import Clock
from tests.support.fake_project import host
from tests.unit.cli.moving_club import (
    CHECKED,
    COPIED,
    LET_GO,
    NEW_ROOM,
    NOTE,
    OPENED,
    OTHER,
    PAUSE,
    ROOM,
    THERE,
    Owner,
    asked,
)
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_nomad_jobs import look
from tests.unit.cli.test_restore import KEY


def test_accounts_that_could_not_come_along_are_known_before_anything_is_stopped(alice: Owner) -> None:
    alice.old.runs = [*(3 * [look("complete")]), look("failed")]  # each run is queried twice
    with pytest.raises(MoveError, match=r"Some accounts could not be restored.*--without DID"):
        move.move(alice.club, "ground", yes=True)
    assert alice.did() == []


def test_the_old_server_is_stopped_then_copied_and_its_host_lets_go_when_the_new_one_serves(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.did() == [*NOTE, *PAUSE, *COPIED, *THERE, "chess: up", *OPENED, *LET_GO]
    assert (asked(alice.old), asked(alice.new)) == (
        [*CHECKED, "/v1/job/pds-backup/periodic/force"],
        ["/v1/job/pds-restore/dispatch"],
    )
    assert alice.old.dispatched[0]["verify"] == "yes", "while the server runs"
    (meta,) = alice.new.dispatched
    assert meta["snapshot"] == "33a97191"
    assert meta["sequence"] == "1", "no relay has to be asked for what the snapshot says"
    assert "move:note" not in alice.file("chess")
    assert alice.file("dev")["pds:clubs"] == {}
    said = capsys.readouterr().out
    assert "for 300 s more" in said, "what the TTL means"
    assert "ls /srv/nomad/.trash" in said
    assert KEY not in said + json.dumps(alice.new.dispatched)


def test_a_server_that_was_called_new_is_not_so_on_the_empty_volume(alice: Owner) -> None:
    alice.chess(pds={"port": 3101, "new": True})
    move.move(alice.club, "ground", yes=True)
    assert alice.did()[2:4] == ["chess: config set pds:pds.new false", "chess: config set pds:pds.paused true"]


def test_what_differs_on_the_new_host_is_written_for_it(alice: Owner) -> None:
    other = "  pds:ingress: {kind: caddy}\n  pds:nomad: {datacenter: attic}\n"
    alice.hosts(ROOM, NEW_ROOM + other)
    move.move(alice.club, "ground", yes=True)
    written = [line.removeprefix("chess: config set ") for line in alice.did()]
    assert written[5:9] == [
        "pds:on ground",
        "pds:pds.port 3102",
        "pds:ingress.kind caddy",
        "pds:nomad.datacenter attic",
    ]


def test_a_backup_or_drill_that_has_begun_comes_to_its_end_first(alice: Owner, clock: Clock) -> None:
    run = {"ID": "pds-drill/periodic-1", "ParentID": "pds-drill", "Status": "running"}
    alice.old.every_job = [[run], [run], []]
    assert move.move(alice.club, "ground", yes=True) == 0
    paths = [path.partition("?")[0] for _, path, _ in alice.old.asked if "prefix=" not in path]
    last = len(paths) - 1 - paths[::-1].index("/v1/job/pds-backup/periodic/force")
    assert paths[:last].count("/v1/jobs") == 3
    assert clock.now > 0


# Before anything is changed.


def _refused(alice: Owner, match: str, kind: type[Exception] = MoveError, to: str = "ground") -> None:
    with pytest.raises(kind, match=match):
        move.move(alice.club, to, yes=True)
    assert alice.pulumi.ran == []
    assert asked(alice.old) + asked(alice.new) == []


def test_a_club_without_backups_is_refused(alice: Owner) -> None:
    alice.chess(backup=None)
    _refused(alice, r"Pulumi\.chess\.yaml has no 'backup'", StackError)


def test_a_pds_with_a_droplet_of_its_own_is_no_club(alice: Owner) -> None:
    with pytest.raises(MoveError, match=r"dev has a droplet of its own"):
        move.move(Stack("dev", alice.pulumi.root), "ground", yes=True)


def test_a_pds_in_an_existing_nomad_is_refused(alice: Owner) -> None:
    on = {"nomad_address": "https://n.test", "nomad_token": OTHER, "ipv4": "203.0.113.9"}
    alice.chess(on=on)
    _refused(alice, "is in the Nomad at https://n.test")


def test_where_it_is_already_it_does_not_go(alice: Owner) -> None:
    _refused(alice, "chess is on the host of dev already", to="dev")


def test_a_host_without_a_file_here_is_refused(alice: Owner) -> None:
    _refused(alice, r"Pulumi\.attic\.yaml does not exist", StackFileError, to="attic")


def test_a_club_cannot_live_with_a_club(alice: Owner) -> None:
    alice.write("rooks", (alice.pulumi.root / "Pulumi.chess.yaml").read_text().replace("on: dev", "on: ground"))
    _refused(alice, "rooks has no host of its own. Write '--to ground'", to="rooks")


def test_a_host_that_gives_it_no_room_is_told_the_line_for_it(alice: Owner) -> None:
    alice.hosts(ROOM.replace("{port: 3101}", "{port: 3101, disk_gib: 9, memory_mib: 900}"), host("rooks"))
    _refused(
        alice, r"(?s)Pulumi\.ground\.yaml grants chess no place.*chess: \{port: 3102, disk_gib: 9, memory_mib: 900\}"
    )


def test_a_host_whose_file_was_changed_since_is_brought_up_first(alice: Owner) -> None:
    alice.write("ground", NEW_ROOM.replace("port: 3102", "port: 3109"))
    _refused(alice, "Run `pulumi up --stack ground`")


def test_a_host_that_was_never_up_is_brought_up_first(alice: Owner) -> None:
    alice.pulumi.outputs("ground")
    _refused(alice, "Stack ground is not up")


def test_a_host_with_another_passphrase_is_told_as_that(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="failed to decrypt: incorrect passphrase")
    _refused(alice, "The secrets of stack ground cannot be decrypted with this passphrase")


def test_a_host_that_is_not_made_is_told_as_that(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="no stack named 'ground' found")
    _refused(alice, "Stack ground cannot be read. Does it exist, and is it up")


def test_too_little_memory_there_is_said_with_what_to_write(alice: Owner) -> None:
    alice.hosts(ROOM, NEW_ROOM.replace("port: 3102", "port: 3102, memory_mib: 500"))
    _refused(alice, r"(?s)the jobs reserve 896 MiB, and the host grants 500 MiB.*'clubs' in Pulumi\.ground\.yaml")


def test_too_little_disk_there_is_said_with_what_to_write(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    alice.old.run("2026-06-01T12:00:00Z")
    monkeypatch.setattr(destination, "usage", lambda _nomad, _allocation, _limit: {"disk": 6 * 1024**3})
    _refused(alice, "chess uses 6.0 GiB, and Pulumi.ground.yaml grants it 5 GiB. Write 'disk_gib: 7'")


def test_something_of_the_club_that_runs_there_already_is_refused(alice: Owner) -> None:
    alice.new.every_job = [[{"ID": "pds", "Status": "running"}]]
    _refused(alice, "Jobs of chess exist on the host of ground already: pds")


def test_a_nomad_there_that_does_not_answer_is_refused(alice: Owner) -> None:
    alice.new.tokens = {}
    _refused(alice, "answered 403", ServiceError)


@pytest.mark.parametrize("stack", ["chess", "dev"])
def test_what_is_half_done_is_brought_to_its_end_first(alice: Owner, stack: str) -> None:
    alice.left[stack] = ["pds-server-job"]
    _refused(alice, f"Stack {stack} has pending changes: pds-server-job")


def test_sign_ups_do_not_prevent_a_move(alice: Owner) -> None:
    alice.left["chess"] = ["pds-people-unlisted-accounts"]
    assert move.move(alice.club, "ground", yes=True) == 0


def test_the_verb_hands_on_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def tell(club: Stack, to: str, *, yes: bool, without: tuple[str, ...]) -> int:
        told.append((club.name, to, yes, without))
        return 0

    monkeypatch.setattr(move, "move", tell)
    assert app.main(["move", "dev", "--to", "ground", "--yes", "--without", "did:plc:eve"]) == 0
    assert told == [("dev", "ground", True, ("did:plc:eve",))]


def test_the_relays_are_asked_to_come(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    move.move(alice.club, "ground", yes=True)
    assert "http://localhost:1: does not answer" in capsys.readouterr().out
