"""`./pds move`: its checks before the first change, and the order of its steps.

`test_move_resumed.py` has the failures between the steps. `tests/e2e/scenarios/e2e_move.py` uses the real engine,
two real Nomads and a server with writers.
"""

import json
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack, StackError
from cli.move import destination, move
from cli.move.destination import MoveError
from cli.move.own_disks import BackupsStayError
from components.clients.errors import DeadlineError, ServiceError
from offline.stackfile import StackFileError
from tests.conftest import Clock
from tests.support.fake_project import host
from tests.unit.cli.moving_club import (
    NEW_HOST,
    OLD_HOST,
    ON_NEW_HOST,
    OPENED,
    OTHER,
    PAUSED,
    RELEASED,
    RUN,
    SNAPSHOT,
    STARTED,
    VERIFIED,
    Owner,
    posted,
)
from tests.unit.cli.moving_club import alice as alice
from tests.unit.cli.test_nomad_jobs import allocations
from tests.unit.cli.test_restore import KEY


def test_checks_that_every_account_can_be_restored_before_it_pauses(alice: Owner) -> None:
    alice.old.runs = [*(3 * [allocations("complete")]), allocations("failed")]  # each run is queried twice
    with pytest.raises(MoveError, match=r"Some accounts could not be restored.*--without DID"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == []


def test_pauses_copies_restores_and_releases_the_old_host_last(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.commands() == [*STARTED, *PAUSED, *SNAPSHOT, *ON_NEW_HOST, "chess: up", *RUN, *OPENED, *RELEASED]
    assert (posted(alice.old), posted(alice.new)) == (
        [*VERIFIED, "/v1/job/pds-backup/periodic/force"],
        ["/v1/job/pds-restore/dispatch"],
    )
    assert alice.old.dispatched[0]["verify"] == "yes", "while the server runs"
    (meta,) = alice.new.dispatched
    assert meta["snapshot"] == "33a97191"
    assert meta["whole"] == "yes", "an account that is left out, or older, is intact on the old host"
    assert "without" not in meta
    assert meta["old_data"] == "no", "data of an earlier stay on that volume are no newer accounts"
    assert meta["without_directory"] == "yes", "a move must not deactivate members during an outage of the directory"
    assert meta["sequence"] == "1", "the snapshot has the sequence, so no relay is queried"
    assert "move:note" not in alice.file("chess")
    assert alice.file("dev")["pds:clubs"] == {}
    output = capsys.readouterr().out
    assert "for 300 s more" in output, "the TTL of the DNS records"
    assert "ls /srv/nomad/.trash" in output
    assert KEY not in output + json.dumps(alice.new.dispatched)


def test_leaves_accounts_behind_by_name_and_keeps_the_names_until_the_end(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    eve, bob = "did:plc:eve", "did:plc:bob"
    assert move.move(alice.club, "ground", yes=True, without=(eve, bob)) == 0
    assert alice.old.dispatched[0]["without"] == f"{eve} {bob}", "the check before the pause"
    assert alice.new.dispatched[0]["without"] == f"{eve} {bob}", "the restore refuses others only"
    output = capsys.readouterr().out
    assert f"These data are the last ones of {eve}, {bob} from before the move.\n" in output
    assert f"LEFT BEHIND: {eve} is deactivated on ground." in output
    assert f"`./pds restore chess --only {bob}`" in output


def test_sets_new_to_false_before_the_server_starts_on_the_new_volume(alice: Owner) -> None:
    alice.chess(pds={"port": 3101, "new": True})
    move.move(alice.club, "ground", yes=True)
    assert alice.commands()[1:3] == ["chess: config set pds:pds.new false", "chess: config set pds:pds.paused true"]


def test_writes_the_new_host_s_options_into_the_club_s_file(alice: Owner) -> None:
    options = "  pds:ingress: {kind: caddy}\n  pds:nomad: {datacenter: attic}\n"
    alice.hosts(OLD_HOST, NEW_HOST + options)
    move.move(alice.club, "ground", yes=True)
    (written,) = [line for line in alice.commands() if "set-all pds:on" in line]
    assert written.split()[3:] == [
        "pds:on=ground",
        "pds:pds.port=3102",
        "pds:ingress.kind=caddy",
        "pds:nomad.datacenter=attic",
    ], "in one step: a kill between two of them would leave a file that fits neither host"


DRILL = {"ID": "pds-drill/periodic-1", "ParentID": "pds-drill", "Status": "running"}


def test_waits_for_a_running_backup_or_drill(alice: Owner, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    alice.old.every_job = [[DRILL], [DRILL], []]
    assert move.move(alice.club, "ground", yes=True) == 0
    paths = [path.partition("?")[0] for _, path, _ in alice.old.asked if "prefix=" not in path]
    backup = len(paths) - 1 - paths[::-1].index("/v1/job/pds-backup/periodic/force")
    assert paths[:backup].count("/v1/jobs") == 4, "another one may begin during the pause"
    assert clock.now > 0
    assert capsys.readouterr().out.count("Wait for the end of pds-drill/periodic-1.") == 1


def test_a_drill_without_end_does_not_stop_the_pds(alice: Owner) -> None:
    alice.old.every_job = [[DRILL]]
    with pytest.raises(DeadlineError, match=r"pds-drill/periodic-1 is running, after 3600 s"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == STARTED


# Checks before the first change.


def _refused(alice: Owner, match: str, kind: type[Exception] = MoveError, to: str = "ground") -> None:
    with pytest.raises(kind, match=match):
        move.move(alice.club, to, yes=True)
    assert alice.pulumi.ran == []
    assert posted(alice.old) + posted(alice.new) == []


def test_refuses_a_club_without_backups(alice: Owner) -> None:
    alice.chess(backup=None)
    _refused(alice, r"Pulumi\.chess\.yaml has no 'backup'", StackError)


def test_refuses_a_club_whose_backups_are_on_a_disk_of_its_host(alice: Owner) -> None:
    alice.chess(backup={"volume": "backups"})
    match = r"the backups of chess are on disk backups.*Write a bucket.*Nothing was changed"
    _refused(alice, match, BackupsStayError)


def test_goes_back_although_the_backups_are_on_a_disk(alice: Owner) -> None:
    """A former version began such a move, and its restore found no disk."""
    alice.chess(backup={"volume": "backups"})
    alice.note(snapshot="33a97191")
    assert move.move(alice.club, "dev", yes=True) == 0


def test_refuses_a_pds_on_its_own_droplet(alice: Owner) -> None:
    with pytest.raises(MoveError, match=r"dev has a droplet of its own"):
        move.move(Stack("dev", alice.pulumi.root), "ground", yes=True)


def test_refuses_a_pds_in_an_existing_nomad(alice: Owner) -> None:
    on = {"nomad_address": "https://n.test", "nomad_token": OTHER, "ipv4": "203.0.113.9"}
    alice.chess(on=on)
    _refused(alice, "is in the Nomad at https://n.test")


def test_refuses_the_host_that_the_club_is_on(alice: Owner) -> None:
    _refused(alice, "chess is on the host of dev already", to="dev")


def test_refuses_a_host_without_a_stack_file(alice: Owner) -> None:
    _refused(alice, r"Pulumi\.attic\.yaml does not exist", StackFileError, to="attic")


def test_refuses_a_club_as_the_host(alice: Owner) -> None:
    alice.write("rooks", (alice.pulumi.root / "Pulumi.chess.yaml").read_text().replace("on: dev", "on: ground"))
    _refused(alice, "rooks has no host of its own. Write '--to ground'", to="rooks")


def test_refuses_a_host_that_does_not_grant_a_place_and_prints_the_line_to_add(alice: Owner) -> None:
    alice.hosts(OLD_HOST.replace("{port: 3101}", "{port: 3101, disk_gib: 9, memory_mib: 900}"), host("rooks"))
    _refused(
        alice,
        r"(?s)Pulumi\.ground\.yaml does not list chess as a club.*"
        r"chess: \{port: 3102, disk_gib: 9, memory_mib: 900\}",
    )


def test_refuses_a_host_whose_changed_file_is_not_applied(alice: Owner) -> None:
    alice.write("ground", NEW_HOST.replace("port: 3102", "port: 3109"))
    _refused(alice, "Run `pulumi up --stack ground`")


def test_refuses_a_host_that_was_never_up(alice: Owner) -> None:
    alice.pulumi.outputs("ground")
    _refused(alice, "Stack ground is not up")


def test_refuses_a_host_with_another_passphrase(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="failed to decrypt: incorrect passphrase")
    _refused(alice, "The secrets of stack ground cannot be decrypted with this passphrase")


def test_refuses_a_host_whose_stack_does_not_exist(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="no stack named 'ground' found")
    _refused(alice, "Stack ground cannot be read. Does it exist, and is it up")


def test_refuses_a_host_that_grants_too_little_memory(alice: Owner) -> None:
    alice.hosts(OLD_HOST, NEW_HOST.replace("port: 3102", "port: 3102, memory_mib: 500"))
    _refused(alice, r"(?s)the jobs reserve 896 MiB, and the host grants 500 MiB.*'clubs' in Pulumi\.ground\.yaml")


def test_refuses_a_host_that_grants_too_little_disk_and_prints_the_option(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.old.run("2026-06-01T12:00:00Z")
    monkeypatch.setattr(destination, "usage", lambda _nomad, _allocation, _limit: {"disk": 6 * 1024**3})
    _refused(alice, "chess uses 6.0 GiB, and Pulumi.ground.yaml grants it 5 GiB. Write 'disk_gib: 7'")


def test_refuses_a_host_whose_volume_is_full_of_old_data(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    alice.old.run("2026-06-01T12:00:00Z")
    monkeypatch.setattr(destination, "usage", lambda _nomad, _allocation, _limit: {"disk": 3 * 1024**3})
    alice.new.free = 1024**3
    _refused(
        alice,
        r"chess uses 3\.0 GiB, and 1\.0 GiB are free in /srv/nomad on the host of ground.*"
        r"`\./pds ssh ground -- ls /srv/nomad/\.trash` lists them.*'volume\.size_gib' in Pulumi\.ground\.yaml",
    )
    alice.new.free = 4 * 1024**3
    assert move.move(alice.club, "ground", yes=True) == 0


def test_refuses_a_host_on_which_jobs_of_the_club_exist(alice: Owner) -> None:
    alice.new.every_job = [[{"ID": "pds", "Status": "running"}]]
    _refused(alice, "Jobs of chess exist on the host of ground already: pds")


def test_refuses_a_host_whose_nomad_rejects_the_token(alice: Owner) -> None:
    alice.new.tokens = {}
    _refused(alice, "answered 403", ServiceError)


@pytest.mark.parametrize("stack", ["chess", "dev"])
def test_refuses_stacks_with_pending_changes(alice: Owner, stack: str) -> None:
    alice.pending[stack] = ["pds-server-job"]
    _refused(alice, f"Stack {stack} has pending changes: pds-server-job")


def test_pending_sign_ups_do_not_prevent_a_move(alice: Owner) -> None:
    alice.pending["chess"] = ["pds-people-unlisted-accounts"]
    assert move.move(alice.club, "ground", yes=True) == 0


def test_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def record(club: Stack, to: str, *, yes: bool, host: str | None, without: tuple[str, ...]) -> int:
        calls.append((club.name, to, host, yes, without))
        return 0

    monkeypatch.setattr(move, "move", record)
    arguments = ["--to", "fleet", "--host", "b", "--yes", "--without", "did:plc:eve"]
    assert app.main(["move", "dev", *arguments]) == 0
    assert calls == [("dev", "fleet", "b", True, ("did:plc:eve",))]


def test_requests_a_crawl_from_each_relay(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    move.move(alice.club, "ground", yes=True)
    assert "http://localhost:1: does not answer" in capsys.readouterr().out
