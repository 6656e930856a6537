"""`./pds move` between two hosts of one cluster: the second place, and the step at which a repeated command goes on.

`tests/e2e/scenarios/e2e_cluster_clubs.py` uses the real engine, Nomad and a server with writers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cli.cluster.hosts import Cluster
from cli.lib import apply
from cli.lib.stack import Stack, StackError
from cli.move import move, second_place
from cli.move.destination import MoveError
from cli.move.progress import StackHost
from components.settings import stack_identity
from components.settings.host_contract import terms_for
from offline.stackfile import read_settings
from tests.conftest import Clock
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import BACKUP, CLUSTER
from tests.unit.cli.moving_club import posted, require_place, short, show_previews
from tests.unit.cli.test_nomad_jobs import TOKEN, allocations
from tests.unit.cli.test_restore import KEY

NOTE = {"from": "fleet/a", "to": "fleet/b"}
GIVEN = [
    "fleet: config set-all pds:clubs.chess.host=b pds:clubs.chess.port=3102 pds:clubs.chess.leaving.host=a "
    "pds:clubs.chess.leaving.port=3101",
    "fleet: up",
]
STARTED = ["chess: config set-all move:note.from=fleet/a move:note.to=fleet/b"]
PAUSED = ["chess: config set pds:pds.paused true", "chess: up", "chess: config set-all move:note.snapshot=33a97191"]
RUN = "chess: config set-all move:note.run=33a97191 pds-restore/dispatch-1-a"
ARRIVED = ["chess: config set-all pds:on=fleet pds:pds.port=3102 pds:nomad.datacenter=b", "chess: up", RUN]
OPENED = ["chess: config set-all move:note.opened=true", "chess: config set pds:pds.paused false", "chess: up"]
LEFT = ["fleet: config rm pds:clubs.chess.leaving", "fleet: up", "chess: config rm move:note"]


@dataclass
class Owner:
    """The operator of the cluster `fleet`, and of its clubs: `chess` on host a, and `rooks` on host b."""

    pulumi: FakePulumi
    nomad: FakeNomad
    club: Stack
    pending: dict[str, list[str]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    place: str = ""
    """The place of the PDS of chess in its state."""

    def config(self, name: str) -> dict[str, Any]:
        config: dict[str, Any] = yaml.load((self.pulumi.root / f"Pulumi.{name}.yaml").read_text(), yaml.CSafeLoader)[
            "config"
        ]
        return config

    def write(self, name: str, **options: Any) -> None:
        config = {key if ":" in key else f"pds:{key}": value for key, value in options.items()}
        (self.pulumi.root / f"Pulumi.{name}.yaml").write_text(yaml.dump({"config": config}, Dumper=yaml.CSafeDumper))

    def applied(self) -> None:
        """Set the outputs of the cluster and of the club as after an `up` with their present files."""
        self.place = stack_identity.place(read_settings("chess", self.pulumi.root))
        self.pulumi.state(("pds-identity", "pulumi-python:dynamic/pds:StackIdentity", "1", {"place": self.place}))
        settings = read_settings("fleet", self.pulumi.root)
        addresses = {"a": "203.0.113.1", "b": "203.0.113.2"}
        granted = {name: terms_for(settings, club) for name, club in settings.clubs.items()}
        for terms in granted.values():
            for place in (terms, terms.get("leaving") or {}):
                if place:
                    place["ipv4"] = addresses[place["datacenter"]]
        access = {
            "address": self.nomad.address, "ca_pem": "a", "cert_pem": "b", "key_pem": "c", "token": TOKEN,
            "namespace": "chess",
        }  # fmt: skip
        hosts = {host: {"address": address} for host, address in addresses.items()}
        self.pulumi.outputs(
            "fleet", ipv4="203.0.113.9", hosts=hosts, clubs=granted, club_access=dict.fromkeys(granted, access)
        )
        self.pulumi.outputs(
            "chess",
            ipv4="203.0.113.1",
            state="paused" if self.config("chess")["pds:pds"].get("paused") else "serving",
            resolves="chess.test resolves",
            records=[],
            nomad_address=self.nomad.address,
            nomad_ca_pem="a",
            nomad_client_cert_pem="b",
            nomad_client_key_pem="c",
            nomad_token=TOKEN,
            nomad_namespace="chess",
            pds_env="PDS_CRAWLERS=http://localhost:1\n",
            escrow={"secrets": {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}},
        )

    def commands(self) -> list[str]:
        """The engine's commands, shortened."""
        return [short(command) for command in self.pulumi.ran]

    def at(self, place: str, **note: Any) -> None:
        """Let a move have been interrupted: the cluster has granted the second place, and the club's file is at
        `place`."""
        options = self.config("fleet")
        options["pds:clubs"]["chess"] |= {"host": "b", "port": 3102, "leaving": {"host": "a", "port": 3101}}
        self.write("fleet", **options)
        club = self.config("chess") | {"move:note": NOTE | note}
        if place == "b":
            club |= {"pds:nomad": {"datacenter": "b"}, "pds:pds": {"port": 3102, "paused": True}}
        self.write("chess", **club)
        self.applied()


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Owner]:
    nomad = FakeNomad(tokens={TOKEN: "accessor"}, runs=[allocations("complete")])
    nomad.logs = {
        ("restore", "stdout"): "snapshot 33a97191 saved\nready                        3 accounts in use, 0 not\n"
    }
    with serve(nomad):
        pulumi = FakePulumi(tmp_path, monkeypatch)
        owner = Owner(pulumi, nomad, Stack("chess", pulumi.root))
        owner.write("fleet", **{**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {"volume_gib": 60}}}})
        owner.write(
            "chess", hostname="chess.test", on="fleet", dns={"provider": "manual"}, backup=BACKUP, pds={"port": 3101},
            nomad={"datacenter": "a"}, ingress={"kind": "caddy"},
        )  # fmt: skip
        owner.applied()
        engine_up = apply.up

        def up(stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
            if stack.name == "chess":
                require_place(stack, owner.place, env)
            engine_up(stack, yes=yes, env=env)
            owner.applied()

        monkeypatch.setattr(apply, "up", up)
        monkeypatch.setattr(second_place, "up", up)
        monkeypatch.setattr(second_place, "is_ready", lambda _stack, host: host not in owner.down)
        show_previews(monkeypatch, owner.pending)
        yield owner


def _restores(alice: Owner) -> int:
    """Restores of data; the check of a backup is one, too."""
    return sum(meta.get("verify") != "yes" for meta in alice.nomad.dispatched)


def test_gets_a_second_place_moves_and_leaves_the_first_one_last(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert move.move(alice.club, "fleet", host="b", yes=True) == 0
    assert alice.commands() == [*STARTED, *GIVEN, *PAUSED, *ARRIVED, *OPENED, *LEFT]
    club = alice.config("fleet")["pds:clubs"]["chess"]
    assert club == {"host": "b", "port": 3102}, "3101 belongs to rooks on b"
    assert "move:note" not in alice.config("chess")
    assert _restores(alice) == 1
    output = capsys.readouterr().out
    assert "the records to 203.0.113.2" in output
    assert "./pds ssh fleet --host a -- ls /srv/nomad/.trash" in output


def test_keeps_its_port_if_it_is_free_there(alice: Owner) -> None:
    options = alice.config("fleet")
    options["pds:clubs"]["rooks"]["port"] = 3109
    alice.write("fleet", **options)
    alice.applied()
    assert move.move(alice.club, "fleet", host="b", yes=True) == 0
    assert alice.config("fleet")["pds:clubs"]["chess"] == {"host": "b", "port": 3101}


@pytest.mark.parametrize(
    ("place", "note", "commands", "restores"),
    [
        ("a", {}, [*PAUSED, *ARRIVED, *OPENED, *LEFT], 1),
        (
            "b",
            {"snapshot": "33a97191"},
            ["chess: config set-all pds:on=fleet pds:pds.port=3102", "chess: up", RUN, *OPENED, *LEFT],
            1,
        ),
        ("b", {"snapshot": "33a97191", "opened": True}, [*OPENED[1:], *LEFT], 0),
    ],
    ids=["before the backup", "before the restore", "before the first host forgets the club"],
)
def test_resumes_at_the_step_that_was_interrupted(
    alice: Owner, place: str, note: dict[str, Any], commands: list[str], restores: int
) -> None:
    alice.at(place, **note)
    assert move.move(alice.club, "fleet", yes=True) == 0
    assert alice.commands() == commands
    assert _restores(alice) == restores, "a restore must not overwrite what the new server has written"


def test_repeats_the_cluster_s_up_if_only_its_file_was_changed(alice: Owner) -> None:
    alice.at("a")
    alice.pulumi.outputs("fleet", ipv4="203.0.113.9", hosts={"a": {"address": "203.0.113.1"}}, clubs={}, club_access={})
    assert move.move(alice.club, "fleet", host="b", yes=True) == 0
    assert alice.commands()[0] == "fleet: up"


def test_a_failed_up_of_the_cluster_stops_before_the_pause(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="repeat the command"):
        move.move(alice.club, "fleet", host="b", yes=True)
    assert alice.commands() == [*STARTED, *GIVEN]
    assert move.move(alice.club, "fleet", host="b", yes=True) == 0


def test_goes_back_to_the_first_host_before_the_new_server_has_run(alice: Owner) -> None:
    alice.at("b", snapshot="33a97191")
    assert move.move(alice.club, "fleet", host="a", yes=True) == 0
    assert alice.commands() == [
        "chess: config set-all pds:on=fleet pds:pds.port=3101 pds:nomad.datacenter=a",
        "chess: config set pds:pds.paused false",
        "chess: up",
        "fleet: config set-all pds:clubs.chess.host=a pds:clubs.chess.port=3101",
        *LEFT,
    ]
    assert alice.config("fleet")["pds:clubs"]["chess"] == {"host": "a", "port": 3101}
    assert _restores(alice) == 0


@pytest.mark.parametrize("host", ["a", "b"])
def test_touches_neither_place_if_the_new_server_was_started_by_hand(alice: Owner, host: str) -> None:
    alice.at("b", snapshot="33a97191")
    alice.write("chess", **alice.config("chess") | {"pds:pds": {"port": 3102}})
    with pytest.raises(MoveError, match="may have run on fleet/b, with writes that backup 33a97191 lacks"):
        move.move(alice.club, "fleet", host=host, yes=True)
    assert alice.commands() == posted(alice.nomad) == []


def test_refuses_to_go_back_after_the_new_server_may_have_run_until_the_move_has_ended(alice: Owner) -> None:
    alice.at("b", snapshot="33a97191", opened=True)
    _refused(alice, r"Finish it with '\./pds move chess --to fleet --host b'.*Then move the club to fleet/a", host="a")
    assert move.move(alice.club, "fleet", host="b", yes=True) == 0
    assert move.move(alice.club, "fleet", host="a", yes=True) == 0
    assert alice.config("fleet")["pds:clubs"]["chess"] == {"host": "a", "port": 3102}


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ({}, "chess is on host a of fleet. Name another one with '--host': b"),
        ({"host": "a"}, "chess is on host a of fleet already"),
        ({"host": "c"}, "Cluster fleet has no host c. Write one of: a, b"),
    ],
)
def test_refuses_a_place_that_is_no_other_host(alice: Owner, to: dict[str, str], words: str) -> None:
    _refused(alice, words, **to)


def test_refuses_a_host_without_room(alice: Owner) -> None:
    options = alice.config("fleet")
    options["pds:clubs"]["rooks"] |= {"disk_gib": 52}
    alice.write("fleet", **options)
    _refused(alice, r"host b of fleet has \d+ MiB of memory and 3 GiB of disk left", host="b")


def test_a_place_that_the_club_has_there_already_needs_no_second_room(alice: Owner) -> None:
    options = alice.config("fleet")
    options["pds:clubs"]["chess"] |= {"disk_gib": 30, "leaving": {"host": "b", "port": 3109}}
    alice.write("fleet", **options)
    assert "has room" in second_place.check(alice.club, StackHost("fleet", "a"), StackHost("fleet", "b"))


def test_refuses_a_host_that_is_down(alice: Owner) -> None:
    alice.down = {"b"}
    _refused(alice, "host b of fleet is not ready. Run `./pds repair fleet` first", host="b")


def test_refuses_a_host_that_no_up_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's file has it, and the outputs of its stack do not."""
    made = {"a": SimpleNamespace(is_serving=True)}
    monkeypatch.setattr(second_place, "views", lambda _passes: made)
    monkeypatch.setattr(Cluster, "of", lambda _stack: SimpleNamespace(passes=lambda: None))
    second_place.refuse_unready(Stack("chess"), StackHost("fleet", "a"))
    with pytest.raises(MoveError, match=r"host b of fleet has not been made yet\. Run `pulumi up --stack fleet` first"):
        second_place.refuse_unready(Stack("chess"), StackHost("fleet", "b"))


def test_refuses_a_cluster_with_pending_changes(alice: Owner) -> None:
    alice.pending["fleet"] = ["pds-cluster-clubs-rooks-policy"]
    _refused(alice, "Stack fleet has pending changes", host="b")


def _refused(alice: Owner, match: str, **to: Any) -> None:
    with pytest.raises(MoveError, match=match):
        move.move(alice.club, "fleet", yes=True, **to)
    assert alice.pulumi.ran == []
    assert posted(alice.nomad) == []
