"""`./pds assign-hosts` and `./pds new --on` a cluster: the host that a club gets, and what is refused."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import app
from cli.cluster import placement
from cli.cluster.hosts import ClusterError
from cli.stacks.new_stack import NewStackError, NewStackPlan, NewStackRequest, plan_new_stack
from offline.stackfile import StackFileError, evaluate_stack, parse_settings
from tests.support.fake_project import FakeProject, host
from tests.support.programs import CLUSTER

CLUBS = "  pds:clubs:\n    # The first.\n    chess: {port: 3101}   # no host yet\n    rooks:\n      port: 3102\n"


def fleet(clubs: str = "", **cluster: Any) -> str:
    """The stack file of a cluster with the hosts a and b; `clubs` is text."""
    options = copy.deepcopy({key: value for key, value in CLUSTER.items() if key != "clubs"})
    options["cluster"] = {"hosts": {"a": {}, "b": {"volume_gib": 60}}, **cluster}
    return yaml.safe_dump({"config": {f"pds:{key}": value for key, value in options.items()}}) + clubs


def hosts_in(text: str) -> Mapping[str, str | None]:
    return {name: club.host for name, club in parse_settings("fleet", text).clubs.items()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    fake = FakeProject(tmp_path, monkeypatch)
    fake.stack("fleet", fleet() + "encryptionsalt: v1:x\n")
    return fake


def planned(project: FakeProject, **options: Any) -> NewStackPlan:
    return plan_new_stack(
        NewStackRequest(**{"name": "chess", "hostname": "pds.chess-club.org", "on": "fleet", **options}), project.root
    )


def test_each_club_gets_the_host_with_the_most_room_and_every_other_byte_stays() -> None:
    text = fleet(CLUBS)
    after = placement.with_hosts("fleet", text)
    assert hosts_in(after) == {"chess": "b", "rooks": "a"}, "b has the larger volume; then a has more memory left"
    assert set(text.splitlines()) - set(after.splitlines()) == {"    chess: {port: 3101}   # no host yet"}
    assert "    chess: {port: 3101, host: b}   # no host yet\n    rooks:\n      port: 3102\n      host: a\n" in after


def test_memory_decides_before_disk() -> None:
    clubs = "  pds:clubs:\n    pawns: {port: 3101, host: b}\n    chess: {port: 3102}\n"
    assert hosts_in(placement.with_hosts("fleet", fleet(clubs)))["chess"] == "a"


def test_a_host_without_disk_for_the_club_is_not_chosen() -> None:
    clubs = "  pds:clubs:\n    chess: {port: 3101, disk_gib: 50}\n"
    assert hosts_in(placement.with_hosts("fleet", fleet(clubs)))["chess"] == "b", "a has 45 GiB for clubs"


@pytest.mark.parametrize(
    ("club", "words"),
    [
        ("memory_mib: 4000", "which needs 4000 MiB of memory"),
        ("disk_gib: 56", r"56 GiB of disk and 500 MHz: a has \d+ MiB and 45 GiB, b has \d+ MiB and 55 GiB"),
    ],
)
def test_refuses_a_club_that_fits_on_no_host(club: str, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        placement.with_hosts("fleet", fleet(f"  pds:clubs:\n    chess: {{port: 3101, {club}}}\n"))


def test_refuses_a_file_with_another_fault() -> None:
    with pytest.raises(StackFileError, match="cluster has no host 'c'"):
        placement.with_hosts("fleet", fleet(CLUBS + "    pawns: {port: 3103, host: c}\n"))


def test_a_stack_that_is_no_cluster_is_left_as_it_is() -> None:
    assert placement.with_hosts("dev", host("chess")) == host("chess")


def test_up_refuses_a_club_without_a_host_and_names_the_command() -> None:
    with pytest.raises(
        StackFileError, match=r"(?s)clubs\.chess\.host.*`\./pds assign-hosts`.*most free memory, now 'b'"
    ):
        parse_settings("fleet", fleet(CLUBS))


def test_command_writes_the_file_once(
    project: FakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "Pulumi.fleet.yaml").write_text(fleet(CLUBS))
    for module in ("offline", "cli.registry"):
        monkeypatch.setattr(f"{module}.ROOT", project.root)
    assert app.main(["assign-hosts", "fleet"]) == 0
    assert "+    chess: {port: 3101, host: b}" in capsys.readouterr().out
    written = (project.root / "Pulumi.fleet.yaml").read_bytes()
    assert app.main(["assign-hosts", "fleet"]) == 0
    assert "Every club in Pulumi.fleet.yaml has a host." in capsys.readouterr().out
    assert (project.root / "Pulumi.fleet.yaml").read_bytes() == written


@pytest.mark.parametrize(
    "arguments", [["assign-hosts", "dev"], ["drain", "dev", "a"], ["adopt", "dev", "a", "--from", "club"],
                  ["release", "dev", "a", "--to", "club"]], ids=lambda arguments: arguments[0]
)  # fmt: skip
def test_commands_of_a_cluster_refuse_another_stack_before_they_need_an_engine(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("DIGITALOCEAN_TOKEN", raising=False)
    assert app.main(arguments) == 2
    assert capsys.readouterr().err == "dev is not a cluster: Pulumi.dev.yaml has no 'cluster'.\n"


# `./pds new --on`.


def test_new_writes_host_port_and_datacenter_into_both_files(project: FakeProject) -> None:
    plan = planned(project)
    assert plan.host
    assert yaml.load(plan.host.after, yaml.CSafeLoader)["config"]["pds:clubs"] == {
        "chess": {"port": 3101, "host": "b", "disk_gib": 5, "memory_mib": 896}
    }
    club = yaml.load(plan.text, yaml.CSafeLoader)["config"]
    assert club["pds:nomad"] == {"datacenter": "b", "region": "global"}
    assert club["pds:pds"]["port"] == 3101
    assert club["pds:ingress"] == {"kind": "caddy"}
    assert "on host b of cluster fleet" in plan.text


def test_the_club_s_program_accepts_what_new_wrote(project: FakeProject) -> None:
    plan = planned(project, host="a")
    assert plan.host
    plan.host.write()
    plan.file.write_text(plan.text)
    job = evaluate_stack("chess", root=project.root).one("pds-server-job").inputs["jobspec"]
    assert 'datacenters = ["a"]' in job


def test_new_takes_a_port_that_no_club_of_the_cluster_has(project: FakeProject) -> None:
    project.stack("fleet", fleet("  pds:clubs:\n    pawns: {port: 3101, host: a}\n"))
    plan = planned(project)
    assert plan.host
    granted = parse_settings("fleet", plan.host.after).clubs["chess"]
    assert (granted.host, granted.port) == ("b", 3102), "so it keeps its port when it moves to a"


def test_new_writes_a_host_for_a_place_that_names_none(project: FakeProject) -> None:
    project.stack("fleet", fleet(CLUBS))
    plan = planned(project)
    assert plan.host
    assert hosts_in(plan.host.after) == {"chess": "b", "rooks": "a"}
    assert parse_settings("chess", plan.text).nomad.datacenter == "b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "c"}, r"Cluster fleet has no host c\. Write one of: a, b"),
        ({"host": "a", "on": "dev"}, "dev is not a cluster"),
        ({"host": "a", "on": None}, "'--host' is a host of a cluster"),
        ({"host": "a", "name": "pawns"}, "gives pawns host b already"),
        ({"disk_gib": 60}, "No host of fleet has room for chess"),
    ],
)
def test_new_refuses_another_host_and_writes_nothing(project: FakeProject, options: dict[str, Any], words: str) -> None:
    project.stack("dev", host())
    project.stack("fleet", fleet("  pds:clubs:\n    pawns: {port: 3101, host: b}\n"))
    with pytest.raises((NewStackError, ClusterError), match=words):
        planned(project, **options)


def test_new_refuses_a_host_that_is_full(project: FakeProject) -> None:
    project.stack("fleet", fleet("  pds:clubs:\n    pawns: {port: 3101, host: a, memory_mib: 2500}\n"))
    with pytest.raises(StackFileError, match="host a and its ingress reserve"):
        planned(project, host="a")


def test_new_previews_a_cluster_without_ingress_and_takeover(
    project: FakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a cluster has no job of its own, which the preflight checks have to accept."""
    project.stack("fleet", fleet().replace("kind: caddy", "kind: none") + "encryptionsalt: v1:x\n")
    project.previews("fleet", "")
    monkeypatch.setattr("cli.stacks.selection.ROOT", project.root)
    assert app.main(["new", "chess", "--hostname", "pds.chess-club.org", "--on", "fleet"]) == 0
    output = capsys.readouterr().out
    assert "+    chess: {port: 3101, host: b, disk_gib: 5, memory_mib: 896}" in output
    assert "pulumi up --stack fleet && pulumi up --stack chess" in output
