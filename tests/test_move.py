"""`./pds move`: the checks before anything is changed, the order of the steps, and where it continues.

`tests/e2e/e2e_move.py` uses the real engine, two real Nomads and a server with writers.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.probes import ProbeError
from components.settings.offer import offer
from tests.conftest import Clock
from tests.fake_nomad import FakeNomad, serve
from tests.fake_project import host
from tests.fake_pulumi import FakePulumi
from tests.programs import BACKUP
from tests.test_restore_verb import KEY
from tests.test_runs import TOKEN, look
from tools import pds
from tools.clubs import destination, move
from tools.clubs.destination import MoveError
from tools.gate.changes import Change
from tools.gate.digest import Digest
from tools.stack import Stack, StackError
from tools.stackfile import StackFileError, parse_settings

OTHER = "11111111-6ba5-a269-ae00-373e61ed46eb"
"""Token of the club on the new host."""


@dataclass
class Owner:
    """An owner of a club and two hosts, its own `dev` and `ground`."""

    pulumi: FakePulumi
    old: FakeNomad
    new: FakeNomad
    club: Stack
    left: dict[str, list[str]] = field(default_factory=dict)
    """Stack to the names that it would change."""

    def file(self, name: str) -> dict[str, Any]:
        """A stack's file."""
        found: dict[str, Any] = yaml.safe_load((self.pulumi.root / f"Pulumi.{name}.yaml").read_text())["config"]
        return found

    def write(self, name: str, text: str) -> None:
        """Give a stack this file."""
        (self.pulumi.root / f"Pulumi.{name}.yaml").write_text(text)

    def chess(self, **changes: Any) -> None:
        """The club's file."""
        options = {"hostname": "chess.test", "on": "dev", "dns": {"provider": "manual"}, "pds": {"port": 3101}}
        options |= {"backup": BACKUP} | changes
        self.write(
            "chess", yaml.safe_dump({"config": {f"pds:{key}": value for key, value in options.items() if value}})
        )

    def note(self, **note: Any) -> None:
        """The progress of a move."""
        file = self.pulumi.root / "Pulumi.chess.yaml"
        document = yaml.safe_load(file.read_text())
        document["config"]["move:note"] = {"from": "dev", "to": "ground", **note}
        if note.get("snapshot") and note.pop("there", True):
            document["config"] |= {"pds:on": "ground", "pds:pds": {"port": 3102, "paused": True}}
        file.write_text(yaml.safe_dump(document))

    def hosts(self, old: str, new: str) -> None:
        """The hosts' files, and outputs as after their `up`."""
        for name, text, nomad, token in (("dev", old, self.old, TOKEN), ("ground", new, self.new, OTHER)):
            self.write(name, text)
            settings = parse_settings(name, text)
            told = {
                club: offer(settings, gets) | {"ipv4": f"203.0.113.{len(name)}"}
                for club, gets in settings.clubs.items()
            }
            self.pulumi.outputs(
                name, ipv4="203.0.113.1", clubs=told, club_access={club: _access(nomad, token) for club in told}
            )

    def did(self) -> list[str]:
        """The engine's commands, in short."""
        return [_short(command) for command in self.pulumi.ran]


def _access(nomad: FakeNomad, token: str) -> dict[str, str]:
    return {
        "address": nomad.address, "ca_pem": "a", "cert_pem": "b", "key_pem": "c", "token": token, "namespace": "chess",
    }  # fmt: skip


def _short(command: list[str]) -> str:
    stack = command[command.index("--stack") + 1]
    words = [word for word in command[:-2] if not word.startswith("--")]
    return f"{stack}: {' '.join(words)}"


ROOM = host("chess")
NEW_ROOM = ROOM.replace("port: 3101", "port: 3102")


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Owner]:
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(serve(FakeNomad(tokens={token: "accessor"}, runs=[look("complete")])))
            for token in (TOKEN, OTHER)
        )
        old.logs = {("restore", "stdout"): "snapshot 33a97191 saved\n"}
        new.logs = {("restore", "stdout"): "ready                        3 accounts in use, 0 not\n"}
        pulumi = FakePulumi(tmp_path, monkeypatch)
        found = Owner(pulumi, old, new, Stack("chess", pulumi.root))
        found.hosts(ROOM, NEW_ROOM)
        found.chess()
        for name, nomad, token in (("dev", old, TOKEN), ("ground", new, OTHER)):
            pulumi.outputs(
                "chess",
                name,
                ipv4="203.0.113.1",
                state="serving",
                resolves="chess.test resolves",
                records=[],
                nomad_address=nomad.address,
                nomad_ca_pem="a",
                nomad_client_cert_pem="b",
                nomad_client_key_pem="c",
                nomad_token=token,
                nomad_namespace="chess",
                pds_env="PDS_CRAWLERS=http://localhost:1\n",
                escrow={"secrets": {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}},
            )
        monkeypatch.setattr(move, "Engine", lambda: None)
        monkeypatch.setattr(move, "Workspace", lambda _engine, _root: _Previews())
        monkeypatch.setattr(move, "read_digest", lambda _text, name: _digest(found.left.get(name, [])))
        yield found


class _Previews:
    def preview(self, stack: str) -> str:
        return stack


def _digest(names: list[str]) -> Digest:
    changes = tuple(Change(type="t", name=name, op="update") for name in names)
    return Digest(view=None, changes=changes, errors=(), warnings=())  # type: ignore[arg-type]


def _asked(nomad: FakeNomad) -> list[str]:
    return [path.partition("?")[0] for method, path, _ in nomad.asked if method == "POST"]


PAUSE = ["chess: config set pds:pds.paused true", "chess: up"]
THERE = ["chess: config set pds:on ground", "chess: config set pds:pds.port 3102"]
OPENED = ["chess: config set move:note.opened true", "chess: config set pds:pds.paused false", "chess: up"]
LET_GO = ["dev: config rm pds:clubs.chess", "dev: up", "chess: config rm move:note"]
NOTE = ["chess: config set move:note.from dev", "chess: config set move:note.to ground"]
COPIED = ["chess: config set move:note.snapshot 33a97191"]


CHECKED = ["/v1/job/pds-backup/periodic/force", "/v1/job/pds-restore/dispatch"]


def test_accounts_that_could_not_come_along_are_known_before_anything_is_stopped(alice: Owner) -> None:
    alice.old.runs = [*(3 * [look("complete")]), look("failed")]  # each run is queried twice
    with pytest.raises(MoveError, match=r"Accounts could not come along.*--without DID"):
        move.move(alice.club, "ground", yes=True)
    assert alice.did() == []


def test_the_old_server_is_stopped_then_copied_and_its_host_lets_go_when_the_new_one_serves(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.did() == [*NOTE, *PAUSE, *COPIED, *THERE, "chess: up", *OPENED, *LET_GO]
    assert (_asked(alice.old), _asked(alice.new)) == (
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
    assert _asked(alice.old) + _asked(alice.new) == []


def test_a_club_without_backups_is_refused(alice: Owner) -> None:
    alice.chess(backup=None)
    _refused(alice, r"Pulumi\.chess\.yaml has no 'backup'", StackError)


def test_a_pds_with_a_droplet_of_its_own_is_no_club(alice: Owner) -> None:
    with pytest.raises(MoveError, match=r"dev has a droplet of its own"):
        move.move(Stack("dev", alice.pulumi.root), "ground", yes=True)


def test_one_in_somebody_s_nomad_is_refused(alice: Owner) -> None:
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
        alice, r"(?s)Pulumi\.ground\.yaml gives chess no room.*chess: \{port: 3102, disk_gib: 9, memory_mib: 900\}"
    )


def test_a_host_whose_file_was_changed_since_is_brought_up_first(alice: Owner) -> None:
    alice.write("ground", NEW_ROOM.replace("port: 3102", "port: 3109"))
    _refused(alice, "Run `pulumi up --stack ground`")


def test_a_host_that_was_never_up_is_brought_up_first(alice: Owner) -> None:
    alice.pulumi.outputs("ground")
    _refused(alice, "Stack ground is not up")


def test_a_host_with_another_passphrase_is_told_as_that(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="failed to decrypt: incorrect passphrase")
    _refused(alice, "The secrets of stack ground do not open with this passphrase")


def test_a_host_that_is_not_made_is_told_as_that(alice: Owner) -> None:
    alice.pulumi.outputs("ground", error="no stack named 'ground' found")
    _refused(alice, "Stack ground cannot be read. Is it made and up")


def test_too_little_memory_there_is_said_with_what_to_write(alice: Owner) -> None:
    alice.hosts(ROOM, NEW_ROOM.replace("port: 3102", "port: 3102, memory_mib: 500"))
    _refused(alice, r"(?s)its jobs ask for 896 MiB, and the host gives it 500.*'clubs' in Pulumi\.ground\.yaml")


def test_too_little_disk_there_is_said_with_what_to_write(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    alice.old.run("2026-06-01T12:00:00Z")
    monkeypatch.setattr(destination, "usage", lambda _nomad, _allocation, _limit: {"disk": 6 * 1024**3})
    _refused(alice, "chess has 6.0 GiB, and Pulumi.ground.yaml gives it 5. Write 'disk_gib: 7'")


def test_something_of_the_club_that_runs_there_already_is_refused(alice: Owner) -> None:
    alice.new.every_job = [[{"ID": "pds", "Status": "running"}]]
    _refused(alice, "there is something of chess already: pds")


def test_a_nomad_there_that_does_not_answer_is_refused(alice: Owner) -> None:
    alice.new.tokens = {}
    _refused(alice, "answered 403", ProbeError)


@pytest.mark.parametrize("stack", ["chess", "dev"])
def test_what_is_half_done_is_brought_to_its_end_first(alice: Owner, stack: str) -> None:
    alice.left[stack] = ["pds-server-job"]
    _refused(alice, f"Stack {stack} has something left to do: pds-server-job")


def test_people_who_sign_up_keep_nobody_from_moving(alice: Owner) -> None:
    alice.left["chess"] = ["pds-unlisted"]
    assert move.move(alice.club, "ground", yes=True) == 0


# Failures on the way, and how it continues.


def test_a_pause_that_fails_copies_nothing(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="Run the same again"):
        move.move(alice.club, "ground", yes=True)
    assert (alice.did(), _asked(alice.old)) == ([*NOTE, *PAUSE], CHECKED)


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
    assert "'./pds move chess --to dev' lets it run there" in capsys.readouterr().out


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
    assert _asked(alice.new) == restores, "what was written there since is never overwritten"


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
    assert _asked(alice.old) + _asked(alice.new) == [], "nothing is copied: nobody has written since"
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
    assert _asked(alice.new) == [*CHECKED, "/v1/job/pds-backup/periodic/force"]
    (meta,) = alice.old.dispatched
    assert meta["snapshot"] == "44b08202"
    assert alice.did()[-3:] == ["ground: config rm pds:clubs.chess", "ground: up", "chess: config rm move:note"]


def test_on_its_way_it_does_not_go_elsewhere(alice: Owner) -> None:
    alice.note()
    _refused(alice, "is on its way from dev to ground. Go on with", to="attic")


def test_the_verb_hands_on_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def tell(club: Stack, to: str, *, yes: bool, without: tuple[str, ...]) -> int:
        told.append((club.name, to, yes, without))
        return 0

    monkeypatch.setattr(move, "move", tell)
    assert pds.main(["move", "chess", "--to", "ground", "--yes", "--without", "did:plc:eve"]) == 0
    assert told == [("chess", "ground", True, ("did:plc:eve",))]


def test_the_relays_are_asked_to_come(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    move.move(alice.club, "ground", yes=True)
    assert "http://localhost:1: does not answer" in capsys.readouterr().out
