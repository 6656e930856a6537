"""`./pds restore` of a cluster: what it refuses, and what it hands to `up`."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli import app
from cli.cluster import lost_servers, restore
from cli.cluster.hosts import ClusterError
from cli.lib.stack import Resource, StackError, State
from components.settings.parse import read
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
        self.looks = 0
        self.cluster_id, self.seen = "accessor", "11"
        self.servers = ["11", "12", "13"]
        self.replacing: set[str] = set()
        self.droplets = {"11": "off"}
        self.restores = True
        self.fails_late = False
        self.rejoins = True
        self.accepted = [1.0, 1.0, 1.0]
        self.given: list[tuple[Path, bytes, int]] = []
        self.file = root / "Pulumi.fleet.yaml"
        self.file.write_text(yaml.safe_dump({"config": {f"pds:{key}": value for key, value in CLUSTER.items()}}))

    def required_outputs(self, *names: str) -> dict[str, str]:
        return dict.fromkeys(names, "https://192.0.2.9:4650")

    def output(self, _name: str) -> dict[str, Any]:
        return self.escrow

    def config(self, _key: str) -> str:
        return "token"

    def state(self) -> State:
        servers = [
            Resource(
                f"urn:pulumi::pds-cluster-server-{number + 1}", "Droplet", droplet, {}, "", droplet in self.replacing
            )
            for number, droplet in enumerate(self.servers)
        ]
        account = Resource(
            "urn:pulumi::pds-cluster-account", "ClusterAccount", "x", {"servers": {"generations": self.accepted}}
        )
        worker = Resource("urn:pulumi::pds-cluster-worker-1", "Droplet", "20", {})
        seen = {"cluster_id": self.cluster_id, "droplet_id": self.seen}
        return State(
            (*servers, worker, account, Resource("urn:pulumi::pds-nomad-bootstrap", "NomadBootstrap", "x", seen))
        )

    def request(self, method: str, path: str) -> tuple[int, Any]:
        assert (method, path) == ("GET", "/v1/acl/token/self")
        self.looks += 1
        if self.answer is None:
            raise OSError("refused")
        return self.answer

    def run_interactively(self, *_arguments: str, env: Mapping[str, str]) -> int:
        file = Path(env["PDS_NOMAD_SNAPSHOT"])
        self.given.append((file, file.read_bytes(), file.stat().st_mode & 0o777))
        if self.restores and (self.fails_late or not self.code):
            self.answer = (200, {"AccessorID": self.cluster_id})
        return self.code

    def rejoin(self, stack: "_Stack") -> bool:
        assert stack.answer == (200, {"AccessorID": self.cluster_id}), "a restarted agent ends what Nomad does not know"
        return self.rejoins

    # The account.

    def __enter__(self) -> "_Stack":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def get(self, path: str) -> dict[str, str] | None:
        status = self.droplets.get(path.removeprefix("droplets/"), "")
        return {"status": status} if status else None


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster with one droplet of three servers, which is off, and a bucket with a snapshot."""
    made = _Stack(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "restic").write_text(RESTIC)
    (programs / "restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(restore, "nomad_api", lambda _access: made)
    monkeypatch.setattr(restore, "rejoin", made.rejoin)
    monkeypatch.setattr(lost_servers, "DigitalOceanAccount", lambda _token: made)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return made


def test_rebuilds_every_server_with_the_snapshot_which_no_one_else_can_read(stack: Any) -> None:
    assert restore.restore(stack, "", yes=True) == 0
    [(file, content, mode)] = stack.given
    assert (content, mode) == (SNAPSHOT, 0o600)
    assert not file.exists()
    servers = yaml.load(stack.file.read_text(), yaml.CSafeLoader)["config"]["pds:cluster"]["servers"]
    assert servers["generations"] == {"1": 2, "2": 2, "3": 2}


def test_servers_without_a_leader_are_lost_only_if_that_stays_so(stack: Any) -> None:
    stack.answer = (500, "No cluster leader")
    assert restore.restore(stack, "", yes=True) == 0
    assert len(stack.given) == 1
    assert stack.looks > 6, "an election or a reboot ends meanwhile"


@pytest.mark.parametrize("answer", [None, (500, "No cluster leader")], ids=["silent", "no leader"])
def test_servers_that_may_have_their_state_are_not_rebuilt(stack: Any, answer: Any) -> None:
    stack.answer = answer
    stack.droplets = {"11": "off", "12": "active", "13": "active"}
    before = stack.file.read_bytes()
    with pytest.raises(ClusterError, match=r"2 of 3 servers.*`\./pds repair`.*operators\.cidrs"):
        restore.restore(stack, "", yes=True)
    assert stack.file.read_bytes() == before
    assert stack.given == []


@pytest.mark.parametrize(
    ("answer", "seen"),
    [((200, {"AccessorID": "of a new bootstrap"}), "11"), ((403, "ACL token not found"), "11"), (None, "5")],
    ids=["bootstrapped", "not bootstrapped", "no answer yet"],
)
def test_a_restore_that_was_cut_short_goes_on_with_the_servers_that_it_rebuilt(
    stack: Any, answer: Any, seen: str
) -> None:
    stack.answer, stack.seen = answer, seen
    stack.droplets = dict.fromkeys(stack.servers, "active")
    before = stack.file.read_bytes()
    assert restore.restore(stack, "", yes=True) == 0
    assert len(stack.given) == 1
    assert stack.file.read_bytes() == before, "its servers are new, and stay"


def test_hosts_that_did_not_find_the_servers_are_left_to_do(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stack.rejoins = False
    assert restore.restore(stack, "", yes=True) == 1
    assert "pulumi refresh --stack fleet" in capsys.readouterr().out, "the rest is said, too"


def test_hosts_find_the_servers_although_up_fails_after_nomad_got_its_state(
    stack: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # The volume of a club that is newer than the snapshot needs its host's agent, which calls the old servers.
    stack.code, stack.fails_late = 255, True
    before = stack.file.read_bytes()
    assert restore.restore(stack, "", yes=True) == 1
    said = capsys.readouterr().out
    assert "`pulumi up` did not succeed, as shown above. Repeat it" in said
    assert "pulumi refresh --stack fleet && pulumi up --stack fleet" in said
    assert stack.file.read_bytes() != before, "lower generations would rebuild the servers"


def test_an_up_after_which_nomad_is_still_empty_is_no_restore(stack: Any) -> None:
    stack.restores = False
    with pytest.raises(ClusterError, match="does not have the state of the snapshot"):
        restore.restore(stack, "", yes=True)


def test_a_state_that_does_not_know_the_old_nomad_is_refused(stack: Any) -> None:
    stack.cluster_id = ""
    with pytest.raises(ClusterError, match="cluster_id"):
        restore.restore(stack, "", yes=True)


def _living(stack: Any) -> None:
    stack.answer = (200, {"AccessorID": "accessor"})


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


@pytest.mark.parametrize("what", ["nothing", "a server", "the generations"])
def test_a_failed_up_leaves_no_snapshot_behind_and_generations_only_if_it_used_them(stack: Any, what: str) -> None:
    stack.restores = False
    before = stack.file.read_bytes()

    def fails(*arguments: str, env: Mapping[str, str]) -> int:
        _Stack.run_interactively(stack, *arguments, env=env)
        assert stack.file.read_bytes() != before
        if what == "a server":
            stack.replacing = {"12"}
        if what == "the generations":
            stack.accepted = [2.0, 2.0, 2.0]
        return 255

    stack.run_interactively = fails
    with pytest.raises(StackError):
        restore.restore(stack, "", yes=True)
    [(file, _content, _mode)] = stack.given
    assert not file.exists()
    # Lower numbers than those of the state would rebuild the servers, too.
    assert (stack.file.read_bytes() == before) == (what == "nothing")


def test_says_what_is_not_in_the_snapshot_and_which_clubs_are_being_moved(
    stack: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.load(stack.file.read_text(), yaml.CSafeLoader)
    section = content["config"]["pds:cluster"]
    section["hosts"] = {"a": {"volume_gib": 50}, "b": {"volume_gib": 50}}
    content["config"]["pds:clubs"] = {
        "chess": {"host": "b", "port": 3101, "leaving": {"host": "a", "port": 3101}},
        "rooks": {"host": "a", "port": 3102},
        "pawns": {"host": "a", "port": 3103},
    }
    stack.file.write_text(yaml.safe_dump(content))
    (stack.root / "Pulumi.rooks.yaml").write_text("config: {'move:note': {from: fleet, to: other}}\n")
    (stack.root / "Pulumi.pawns.yaml").write_text("config: {}\n")
    assert restore.restore(stack, "", yes=True) == 0
    said = capsys.readouterr().out
    assert [line.split()[2] for line in said.splitlines() if line.startswith("WARNING: club")] == ["chess", "rooks"]
    # The engine compares with its own state, so an `up` alone finds nothing to do.
    assert "  pulumi refresh --stack fleet && pulumi up --stack fleet\n" in said
    for name in ("chess", "rooks", "pawns"):
        assert f"  pulumi refresh --run-program --stack {name} && pulumi up --stack {name}\n" in said


def test_asks_first(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    before = stack.file.read_bytes()
    assert restore.restore(stack, "", yes=False) == 1
    assert stack.file.read_bytes() == before


def test_refuses_the_snapshot_on_a_volume_which_a_cluster_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read(CLUSTER, "Pulumi.fleet.yaml", "fleet")
    monkeypatch.setattr("offline.stackfile.read_settings", lambda _stack, _root: settings)
    monkeypatch.setattr(restore, "restore", lambda *_arguments, **_options: pytest.fail("nothing may happen"))
    assert app.main(["restore", "dev", "--snapshot", "volume"]) == 2
    assert "dev is a cluster, whose snapshots are in the bucket only. Give an ID from --list" in capsys.readouterr().err
