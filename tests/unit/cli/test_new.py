"""`./pds new`: the file it writes, the values it copies from the host, and what it refuses before it writes."""

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
    fake = FakeProject(tmp_path, monkeypatch)
    fake.stack("dev", host() + "encryptionsalt: v1:x\n")
    return fake


def planned(project: FakeProject, existing: tuple[str, ...] = ("dev",), **options: Any) -> NewStackPlan:
    request = NewStackRequest(**{"name": NAME, "hostname": HOSTNAME, **options})
    plan = plan_new_stack(request, project.root)
    refuse_existing(request, existing)
    return plan


@cache
def schema() -> Any:
    """The editors' schema, as a validator."""
    document = json.loads((ROOT / SCHEMA_PATH).read_text())
    jsonschema.Draft7Validator.check_schema(document)
    return jsonschema.Draft7Validator(document)


def config(text: str) -> dict[str, Any]:
    """The content of a stack file, without the project's prefix."""
    document = yaml.load(text, yaml.CSafeLoader)
    schema().validate(document)
    return {key.removeprefix("pds:"): value for key, value in document["config"].items()}


# The file.


def test_writes_a_club_s_host_and_port_and_the_host_s_grant(project: FakeProject) -> None:
    plan = planned(project, on="dev")
    assert config(plan.text) == {
        "hostname": HOSTNAME,
        "on": "dev",
        "dns": {"zone": "chess-club.org"},
        "pds": {"port": 3101, "new": True},
    }
    assert plan.host
    before, after = config(plan.host.before), config(plan.host.after)
    assert after.pop("clubs") == {NAME: {"port": 3101, "disk_gib": 5, "memory_mib": 896}}
    assert after == before
    assert plan.secrets_provider == "passphrase"


def test_comments_every_option_and_writes_no_empty_line(project: FakeProject) -> None:
    for text in (planned(project, on="dev").text, planned(project, **OWN, disk_gib=50).text):
        lines = text.splitlines()
        assert "" not in lines, "the engine drops empty lines when it writes its salt"
        keys = [number for number, line in enumerate(lines) if line.startswith("  pds:") and line[6] != "p"]
        assert all("#" in lines[number - 1] or "#" in lines[number + 1] for number in keys), text


def test_writes_the_operators_of_a_stack_with_its_own_droplet(project: FakeProject) -> None:
    plan = planned(project, **OWN, memory_mib=1024, disk_gib=50, create_zone=True, hostname="chess.org")
    assert config(plan.text) == {
        "hostname": "chess.org",
        "operators": {"cidrs": list(OWN["cidrs"]), "ssh_keys": list(OWN["ssh_keys"])},
        "volume": {"size_gib": 50},
        "dns": {"create_zone": True},
        "pds": {"memory_mib": 1024, "new": True},
    }
    assert (plan.host, plan.secrets_provider) == (None, "passphrase")


@pytest.mark.parametrize(
    ("hostname", "options", "dns"),
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
def test_the_zone_is_the_host_s_or_the_hostname_without_its_first_label(
    hostname: str, options: dict[str, Any], dns: dict[str, Any] | None, project: FakeProject
) -> None:
    assert config(planned(project, on="dev", hostname=hostname, **options).text).get("dns") == dns


def test_copies_options_that_must_match_the_host(project: FakeProject) -> None:
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
    plan = planned(project, on="dev", memory_mib=300, disk_gib=9)
    club_config = config(plan.text)
    assert club_config["ingress"] == {"kind": "caddy"}, "its other options are only for the host"
    assert club_config["nomad"] == {"datacenter": "fra", "region": "global"}
    assert club_config["dns"] == {"zone": "chess-club.org", "nameservers": ["192.0.2.53"]}
    assert club_config["pds"] == {
        "image": "ghcr.io/bluesky-social/pds:0.4.5009",
        "package_version": "0.5.9",
        "port": 3101,
        "memory_mib": 300,
        "new": True,
    }
    assert plan.host
    assert config(plan.host.after)["clubs"][NAME] == {"port": 3101, "disk_gib": 9, "memory_mib": 300 + 384}
    assert plan.secrets_provider == "awskms://key"


def test_copies_the_host_s_ingress_dialect(project: FakeProject) -> None:
    project.stack("dev", host() + "  pds:ingress: {dialect: host}\n")
    plan = planned(project, on="dev")
    assert config(plan.text)["ingress"] == {"dialect": "host"}
    assert plan.secrets_provider == "default", "the secrets provider of Pulumi Cloud is not in the file"


def test_assigns_the_lowest_free_port(project: FakeProject) -> None:
    project.stack(
        "dev",
        HOST
        + "  pds:host: {size: s-8vcpu-16gb}\n  pds:pds: {port: 3102}\n"
        + "  pds:clubs: {a: {port: 3101}, b: {port: 3104}}\n",
    )
    assert config(planned(project, on="dev").text)["pds"]["port"] == 3103


def test_assigns_fifty_clubs_distinct_ports(project: FakeProject) -> None:
    project.stack("dev", HOST + "  pds:host: {size: s-24vcpu-128gb}\n  pds:volume: {size_gib: 100}\n")
    ports = []
    for number in range(50):
        name = f"club-{number}"
        plan = planned(project, name=name, hostname=f"{name}.test", on="dev", memory_mib=256, disk_gib=1)
        assert plan.host
        plan.host.write()
        ports.append(config(plan.text)["pds"]["port"])
        assert config(plan.host.after)["clubs"][name]["port"] == ports[-1], "both files have the same port"
    assert len(set(ports)) == 50


def test_uses_a_place_that_the_host_s_file_grants_already(project: FakeProject) -> None:
    project.stack("dev", host("rooks", NAME))
    plan = planned(project, on="dev")
    assert (config(plan.text)["pds"]["port"], plan.host) == (3102, None)
    with pytest.raises(NewStackError, match="gives chess 5 GiB already"):
        planned(project, on="dev", disk_gib=9)


# What is refused.


@pytest.mark.parametrize(
    ("options", "existing", "error"),
    [
        ({"name": "dev"}, ("dev",), "Pulumi.dev.yaml exists already"),
        ({"on": "dev"}, ("dev", NAME), "Stack chess is in the backend, but"),
        ({"on": "dev"}, (), "There is no stack dev in this backend"),
        ({"on": "dev", "cidrs": ("203.0.113.7/32",)}, ("dev",), "are for a host of its own"),
        ({}, ("dev",), "needs '--cidr'"),
        ({"on": "dev", "name": "Chess"}, ("dev",), "'Chess' is not a name for a stack.*Choose a name of a-z, 0-9"),
        ({"name": "club!", **OWN}, ("dev",), "'club!' is not a name for a stack"),
        ({"on": "dev", "manual_dns": True, "zone": "a.org"}, ("dev",), "Leave '--zone'"),
    ],
)
def test_refuses_an_impossible_request(
    options: dict[str, Any], existing: tuple[str, ...], error: str, project: FakeProject
) -> None:
    with pytest.raises(NewStackError, match=error):
        planned(project, existing, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on": "nowhere"}, "Pulumi.nowhere.yaml does not exist; here are: Pulumi.dev.yaml"),
        ({"on": "dev", "hostname": "PDS.chess.org"}, "upper-case"),
        ({"on": "dev", "memory_mib": 4}, "pds.memory_mib"),
        ({"on": "dev", "memory_mib": 200_000}, "host.size"),
    ],
)
def test_reports_invalid_options_as_for_a_stack_file_and_writes_nothing(
    options: dict[str, Any], error: str, project: FakeProject
) -> None:
    before = {file: file.read_bytes() for file in project.root.iterdir()}
    with pytest.raises((StackFileError, ValueError), match=error):
        planned(project, **options)
    assert {file: file.read_bytes() for file in project.root.iterdir()} == before


def test_refuses_a_club_as_the_host(project: FakeProject) -> None:
    project.stack("rooks", club("rooks", 3101))
    with pytest.raises(NewStackError, match="Write '--on dev'"):
        planned(project, ("dev", "rooks"), on="rooks")


# The command.


def test_refuses_bad_input_before_it_needs_an_engine(
    command_project: FakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert app.main(["new", "Club!", "--hostname", HOSTNAME, "--on", "dev"]) == 2
    assert "'Club!' is not a name for a stack" in capsys.readouterr().err


@pytest.fixture
def command_project(project: FakeProject, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    monkeypatch.setattr(stacks, "ROOT", project.root)
    return project


ARGUMENTS = ["new", NAME, "--hostname", HOSTNAME, "--on", "dev"]


def test_command_writes_both_files_creates_the_stack_and_previews_it(
    command_project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    command_project.previews("dev", "")
    assert app.main(ARGUMENTS) == 0
    output = capsys.readouterr().out
    assert "+    chess: {port: 3101, disk_gib: 5, memory_mib: 896}" in output
    assert "+  # The stacks whose PDS runs on this host" in output
    assert "PdsServer pds-server" in output
    assert "pulumi up --stack dev && pulumi up --stack chess" in output
    assert [item for item in command_project.ran if item["verb"] == "init"] == [
        {"verb": "init", "stack": NAME, "provider": "passphrase"}
    ]
    text = (command_project.root / "Pulumi.chess.yaml").read_text()
    assert text.startswith("# yaml-language-server"), text
    assert text.endswith("encryptionsalt: v1:x\n"), "the salt that `pulumi stack init` appends"
    code = app.main(ARGUMENTS)
    assert (code, "exists already" in capsys.readouterr().err) == (2, True)


def test_restores_the_files_if_the_engine_does_not_create_the_stack(
    command_project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (command_project.root / "Pulumi.dev.yaml").read_bytes()
    command_project.refuses("the backend is full")
    assert app.main(ARGUMENTS) == 2
    error = capsys.readouterr().err
    assert "The stack chess could not be created: the backend is full" in error
    assert "Pulumi.chess.yaml was removed again" in error
    assert not (command_project.root / "Pulumi.chess.yaml").exists()
    assert (command_project.root / "Pulumi.dev.yaml").read_bytes() == before


def test_writes_nothing_if_the_passphrase_is_not_the_host_s(
    command_project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    command_project.locked()
    assert app.main(ARGUMENTS) == 2
    assert "incorrect passphrase" in capsys.readouterr().err
    assert not (command_project.root / "Pulumi.chess.yaml").exists()
