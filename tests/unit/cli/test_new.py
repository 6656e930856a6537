"""`./pds new`: the written file, the values copied from the host, and refusals before anything is written."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from cli import app
from cli.stacks import selection as stacks
from cli.stacks.new_stack import NewStackError, NewStackPlan, NewStackRequest, plan_new_stack, refuse_existing
from offline.mock_engine import ROOT
from offline.stackfile import StackFileError
from tests.support.fake_project import HOST, FakeProject, club, host
from tools.generate.generate import SCHEMA_PATH

NAME, HOSTNAME = "chess", "pds.chess-club.org"
OWN = {
    "cidrs": ("203.0.113.7/32",),
    "ssh_keys": ("laptop", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0kGrUKdvQZwJvHcMpdDCHRyNQGbtBNVdGBo8GBqfLh me"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    found = FakeProject(tmp_path, monkeypatch)
    found.stack("dev", host() + "encryptionsalt: v1:x\n")
    return found


def planned(project: FakeProject, made: tuple[str, ...] = ("dev",), **wish: Any) -> NewStackPlan:
    request = NewStackRequest(**{"name": NAME, "hostname": HOSTNAME, **wish})
    plan = plan_new_stack(request, project.root)
    refuse_existing(request, made)
    return plan


@cache
def schema() -> Any:
    """The editors' schema, as a validator."""
    found = json.loads((ROOT / SCHEMA_PATH).read_text())
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


def config(text: str) -> dict[str, Any]:
    """The content of a stack file, without the project's prefix."""
    document = yaml.safe_load(text)
    schema().validate(document)
    return {key.removeprefix("pds:"): value for key, value in document["config"].items()}


# The file.


def test_a_club_on_a_host_says_whose_host_and_which_port(project: FakeProject) -> None:
    found = planned(project, on="dev")
    assert config(found.text) == {
        "hostname": HOSTNAME,
        "on": "dev",
        "dns": {"zone": "chess-club.org"},
        "pds": {"port": 3101, "new": True},
    }
    assert found.host
    before, after = config(found.host.before), config(found.host.after)
    assert after.pop("clubs") == {NAME: {"port": 3101, "disk_gib": 5, "memory_mib": 896}}
    assert after == before
    assert found.secrets_provider == "passphrase"


def test_every_line_teaches_and_none_is_one_that_the_engine_would_change(project: FakeProject) -> None:
    for text in (planned(project, on="dev").text, planned(project, **OWN, disk_gib=50).text):
        lines = text.splitlines()
        assert "" not in lines, "the engine drops empty lines when it writes its salt"
        keys = [number for number, line in enumerate(lines) if line.startswith("  pds:") and line[6] != "p"]
        assert all("#" in lines[number - 1] or "#" in lines[number + 1] for number in keys), text


def test_a_club_with_a_droplet_of_its_own_says_who_administers_it(project: FakeProject) -> None:
    found = planned(project, **OWN, memory_mib=1024, disk_gib=50, create_zone=True, hostname="chess.org")
    assert config(found.text) == {
        "hostname": "chess.org",
        "operators": {"cidrs": list(OWN["cidrs"]), "ssh_keys": list(OWN["ssh_keys"])},
        "volume": {"size_gib": 50},
        "dns": {"create_zone": True},
        "pds": {"memory_mib": 1024, "new": True},
    }
    assert (found.host, found.secrets_provider) == (None, "passphrase")


@pytest.mark.parametrize(
    ("hostname", "wish", "dns"),
    [
        ("pds.chess-club.org", {}, {"zone": "chess-club.org"}),
        ("chess.noted.at", {}, {"zone": "noted.at"}),
        ("a.chess.noted.at", {}, {"zone": "noted.at"}),
        ("chess.org", {}, None),
        ("pds.chess.org", {"zone": "pds.chess.org"}, {"zone": "pds.chess.org"}),
        ("pds.chess.org", {"create_zone": True}, {"zone": "chess.org", "create_zone": True}),
        ("pds.chess.org", {"manual_dns": True}, {"provider": "manual"}),
    ],
)
def test_the_zone_is_the_host_s_or_what_is_behind_the_first_label(
    hostname: str, wish: dict[str, Any], dns: dict[str, Any] | None, project: FakeProject
) -> None:
    assert config(planned(project, on="dev", hostname=hostname, **wish).text).get("dns") == dns


def test_what_has_to_agree_with_the_host_is_taken_over(project: FakeProject) -> None:
    project.stack(
        "dev",
        HOST
        + "  pds:host: {size: s-4vcpu-8gb}\n"
        + "  pds:ingress: {kind: caddy, memory_mib: 300}\n"
        + "  pds:nomad: {datacenter: fra}\n"
        + "  pds:dns: {nameservers: ['192.0.2.53']}\n"
        + "  pds:pds: {image: 'ghcr.io/bluesky-social/pds:0.4.5009', package_version: 0.5.9, memory_mib: 700}\n"
        + "secretsprovider: awskms://key\n",
    )
    found = planned(project, on="dev", memory_mib=300, disk_gib=9)
    said = config(found.text)
    assert said["ingress"] == {"kind": "caddy"}, "the rest of it is the host's alone"
    assert said["nomad"] == {"datacenter": "fra", "region": "global"}
    assert said["dns"] == {"zone": "chess-club.org", "nameservers": ["192.0.2.53"]}
    assert said["pds"] == {
        "image": "ghcr.io/bluesky-social/pds:0.4.5009",
        "package_version": "0.5.9",
        "port": 3101,
        "memory_mib": 300,
        "new": True,
    }
    assert found.host
    assert config(found.host.after)["clubs"][NAME] == {"port": 3101, "disk_gib": 9, "memory_mib": 300 + 384}
    assert found.secrets_provider == "awskms://key"


def test_io_of_2025_is_taken_over(project: FakeProject) -> None:
    project.stack("dev", host() + "  pds:ingress: {dialect: host}\n")
    found = planned(project, on="dev")
    assert config(found.text)["ingress"] == {"dialect": "host"}
    assert found.secrets_provider == "default", "Pulumi Cloud's own leaves no trace in the file"


def test_the_port_is_the_lowest_free_one(project: FakeProject) -> None:
    project.stack(
        "dev",
        HOST
        + "  pds:host: {size: s-8vcpu-16gb}\n  pds:pds: {port: 3102}\n"
        + "  pds:clubs: {a: {port: 3101}, b: {port: 3104}}\n",
    )
    assert config(planned(project, on="dev").text)["pds"]["port"] == 3103


def test_fifty_in_a_row_each_get_a_port_of_their_own(project: FakeProject) -> None:
    project.stack("dev", HOST + "  pds:host: {size: s-24vcpu-128gb}\n  pds:volume: {size_gib: 100}\n")
    ports = []
    for number in range(50):
        name = f"club-{number}"
        found = planned(project, name=name, hostname=f"{name}.test", on="dev", memory_mib=256, disk_gib=1)
        assert found.host
        found.host.write()
        ports.append(config(found.text)["pds"]["port"])
        assert config(found.host.after)["clubs"][name]["port"] == ports[-1], "both files say the same"
    assert len(set(ports)) == 50


def test_a_room_that_the_host_s_file_has_already_is_used(project: FakeProject) -> None:
    project.stack("dev", host("rooks", NAME))
    found = planned(project, on="dev")
    assert (config(found.text)["pds"]["port"], found.host) == (3102, None)
    with pytest.raises(NewStackError, match="gives chess 5 GiB already"):
        planned(project, on="dev", disk_gib=9)


# What is refused.


@pytest.mark.parametrize(
    ("wish", "made", "said"),
    [
        ({"name": "dev"}, ("dev",), "Pulumi.dev.yaml exists already"),
        ({"on": "dev"}, ("dev", NAME), "There is a stack chess already"),
        ({"on": "dev"}, (), "There is no stack dev in this backend"),
        ({"on": "dev", "cidrs": ("203.0.113.7/32",)}, ("dev",), "are for a host of its own"),
        ({}, ("dev",), "needs '--cidr'"),
        ({"on": "dev", "name": "Chess"}, ("dev",), "'Chess' is no name for a stack.*Choose a name of a-z, 0-9"),
        ({"name": "club!", **OWN}, ("dev",), "'club!' is no name for a stack"),
        ({"on": "dev", "manual_dns": True, "zone": "a.org"}, ("dev",), "Leave '--zone'"),
    ],
)
def test_a_wish_that_cannot_be_is_a_sentence(
    wish: dict[str, Any], made: tuple[str, ...], said: str, project: FakeProject
) -> None:
    with pytest.raises(NewStackError, match=said):
        planned(project, made, **wish)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"on": "nowhere"}, "Pulumi.nowhere.yaml does not exist; here are: Pulumi.dev.yaml"),
        ({"on": "dev", "hostname": "PDS.chess.org"}, "upper-case"),
        ({"on": "dev", "memory_mib": 4}, "pds.memory_mib"),
        ({"on": "dev", "memory_mib": 200_000}, "host.size"),
    ],
)
def test_what_the_models_refuse_is_said_as_for_a_file(wish: dict[str, Any], said: str, project: FakeProject) -> None:
    before = {file: file.read_bytes() for file in project.root.iterdir()}
    with pytest.raises((StackFileError, ValueError), match=said):
        planned(project, **wish)
    assert {file: file.read_bytes() for file in project.root.iterdir()} == before


def test_a_club_is_no_host_for_another(project: FakeProject) -> None:
    project.stack("rooks", club("rooks", 3101))
    with pytest.raises(NewStackError, match="Write '--on dev'"):
        planned(project, ("dev", "rooks"), on="rooks")


# The verb.


def test_bad_input_is_refused_before_the_engine_is_looked_for(
    here: FakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert app.main(["new", "Club!", "--hostname", HOSTNAME, "--on", "dev"]) == 2
    assert "'Club!' is no name for a stack" in capsys.readouterr().err


@pytest.fixture
def here(project: FakeProject, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    monkeypatch.setattr(stacks, "ROOT", project.root)
    return project


ARGUMENTS = ["new", NAME, "--hostname", HOSTNAME, "--on", "dev"]


def test_the_verb_writes_both_files_makes_the_stack_and_shows_what_it_will_be(
    here: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    here.previews("dev", "")
    assert app.main(ARGUMENTS) == 0
    said = capsys.readouterr().out
    assert "+    chess: {port: 3101, disk_gib: 5, memory_mib: 896}" in said
    assert "+  # The stacks whose PDS runs on this host" in said
    assert "PdsServer pds-server" in said
    assert "pulumi up --stack dev && pulumi up --stack chess" in said
    assert [item for item in here.ran if item["verb"] == "init"] == [
        {"verb": "init", "stack": NAME, "provider": "passphrase"}
    ]
    text = (here.root / "Pulumi.chess.yaml").read_text()
    assert text.startswith("# yaml-language-server"), text
    assert text.endswith("encryptionsalt: v1:x\n"), "the engine's, as after `pulumi stack init`"
    again = app.main(ARGUMENTS)
    assert (again, "exists already" in capsys.readouterr().err) == (2, True)


def test_where_the_engine_does_not_make_the_stack_the_files_are_as_they_were(
    here: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (here.root / "Pulumi.dev.yaml").read_bytes()
    here.refuses("the backend is full")
    assert app.main(ARGUMENTS) == 2
    said = capsys.readouterr().err
    assert "The stack chess could not be created: the backend is full" in said
    assert "Pulumi.chess.yaml was removed again" in said
    assert not (here.root / "Pulumi.chess.yaml").exists()
    assert (here.root / "Pulumi.dev.yaml").read_bytes() == before


def test_with_another_passphrase_than_the_host_s_nothing_is_written(
    here: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    here.locked()
    assert app.main(ARGUMENTS) == 2
    assert "incorrect passphrase" in capsys.readouterr().err
    assert not (here.root / "Pulumi.chess.yaml").exists()
