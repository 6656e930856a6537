"""`./pds move` from the host of a stack to a host of a cluster, and back: the mechanism is that between two stacks."""

from typing import Any

import pytest
import yaml

from cli.move import move
from cli.move.destination import MoveError
from tests.support.programs import BACKUP, CLUSTER
from tests.unit.cli.moving_club import NEW_HOST, OLD_HOST, OPENED, PAUSED, RELEASED, RUN, SNAPSHOT, Owner, posted
from tests.unit.cli.moving_club import alice as alice


def _cluster(**clubs: Any) -> str:
    options = {**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {"volume_gib": 60}}}, "clubs": clubs}
    return yaml.safe_dump({"config": {f"pds:{key}": value for key, value in options.items()}})


def _at_cluster(alice: Owner) -> None:
    """Let `dev` be the cluster, and the club be on its host a."""
    alice.hosts(_cluster(chess={"port": 3101, "host": "a"}), NEW_HOST)
    options = {"nomad": {"datacenter": "a"}, "ingress": {"kind": "caddy"}, "backup": BACKUP}
    alice.chess(**options)
    alice.applied()


def test_moves_to_the_host_that_the_cluster_s_file_grants(alice: Owner) -> None:
    alice.hosts(OLD_HOST, _cluster(chess={"port": 3102, "host": "b"}))
    assert move.move(alice.club, "ground", yes=True) == 0
    assert alice.commands() == [
        "chess: config set-all move:note.from=dev move:note.to=ground/b",
        *PAUSED,
        *SNAPSHOT,
        "chess: config set-all pds:on=ground pds:pds.port=3102 pds:ingress.kind=caddy pds:nomad.datacenter=b",
        "chess: up",
        *RUN,
        *OPENED,
        *RELEASED,
    ]


def test_moves_from_a_cluster_and_names_where_the_old_data_are(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    _at_cluster(alice)
    assert move.move(alice.club, "ground", yes=True) == 0
    club = alice.file("chess")
    assert (club["pds:on"], club["pds:nomad"]["datacenter"], club["pds:ingress"]["kind"]) == ("ground", "dc1", "io")
    assert alice.commands()[-3:] == ["dev: config rm pds:clubs.chess", "dev: up", "chess: config rm move:note"]
    assert "./pds ssh dev --host a -- ls /srv/nomad/.trash" in capsys.readouterr().out


def test_goes_back_to_the_cluster_before_the_new_server_has_run(alice: Owner) -> None:
    alice.hosts(_cluster(chess={"port": 3101, "host": "a"}), NEW_HOST)
    alice.note(**{"from": "dev/a", "snapshot": "33a97191"})
    assert move.move(alice.club, "dev", yes=True) == 0
    club = alice.file("chess")
    assert (club["pds:on"], club["pds:pds"]["port"], club["pds:nomad"]["datacenter"]) == ("dev", 3101, "a")
    assert alice.new.dispatched == alice.old.dispatched == [], "nothing is copied"


def test_refuses_a_cluster_without_a_place_and_prints_one_with_the_most_room(alice: Owner) -> None:
    alice.hosts(OLD_HOST, _cluster(rooks={"port": 3101, "host": "b"}))
    with pytest.raises(MoveError, match=r"chess: \{port: 3102, host: a, disk_gib: 5, memory_mib: 896\}"):
        move.move(alice.club, "ground", yes=True)
    assert alice.pulumi.ran == []


def test_refuses_another_host_than_the_cluster_grants(alice: Owner) -> None:
    alice.hosts(OLD_HOST, _cluster(chess={"port": 3102, "host": "b"}))
    with pytest.raises(MoveError, match="gives chess host b, and not a"):
        move.move(alice.club, "ground", host="a", yes=True)
    with pytest.raises(MoveError, match=r"dev is not a cluster: it has one host\. Leave '--host' out"):
        move.move(alice.club, "dev", host="a", yes=True)
    assert alice.pulumi.ran == []


def test_refuses_a_host_that_is_down_before_it_changes_anything(alice: Owner) -> None:
    alice.hosts(OLD_HOST, _cluster(chess={"port": 3102, "host": "b"}))
    alice.down = {"b"}
    with pytest.raises(MoveError, match=r"host b of ground is not ready\. Run `\./pds repair ground` first"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == posted(alice.old) == []


def test_does_not_pause_if_the_host_went_down_after_the_first_check(alice: Owner) -> None:
    alice.hosts(OLD_HOST, _cluster(chess={"port": 3102, "host": "b"}))
    alice.note(to="ground/b")
    alice.down = {"b"}
    with pytest.raises(MoveError, match=r"host b of ground is not ready.*'\./pds move chess --to dev'"):
        move.move(alice.club, "ground", yes=True)
    assert alice.commands() == [], "a restore could not begin while the PDS is down"


def test_names_the_way_back_if_the_host_goes_down_during_the_pause(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.hosts(OLD_HOST, _cluster(chess={"port": 3102, "host": "b"}))
    alice.new.runs = [[]]
    assert move.move(alice.club, "ground", yes=True) == 1
    assert alice.new.stopped == ["pds-restore/dispatch-1-a"]
    output = capsys.readouterr().out
    assert "it is not placed on the host" in output
    assert "or start it there: './pds move chess --to dev'." in output
