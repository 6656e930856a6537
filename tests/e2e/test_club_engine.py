"""`./pds new` with the real engine: its files and stack are those made by hand. No host is created."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.digitalocean import World
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import DEADLINE, STACK, Stack, settings, stack
from tests.e2e.environment.tools import missing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A host's stack that was never up."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is not here, and `./pds new` was not tried on it. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(tmp_path_factory.mktemp("club"), world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        yield found


def pulumi(made: Stack, *arguments: str) -> str:
    """The engine's output."""
    command = ["pulumi", *arguments, "--non-interactive"]
    env = dict(made.env)
    piped: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command, cwd=made.project, env=env, timeout=DEADLINE, check=True, **piped)
    return str(done.stdout)


def lines(file: Path) -> list[str]:
    """A stack file, without the salt, which differs each time."""
    whole = file.read_text().splitlines()
    found = [line for line in whole if not line.startswith("encryptionsalt:")]
    assert len(found) == len(whole) - 1, "made with a passphrase"
    return found


def state(made: Stack, name: str) -> Any:
    """The backend's state of a stack, without time and salt."""
    found = json.loads(pulumi(made, "stack", "export", "--stack", name))
    found["deployment"]["manifest"].pop("time")
    found["deployment"]["secrets_providers"]["state"].pop("salt")
    return found


def test_the_verb_and_the_plain_way_come_to_the_same(made: Stack) -> None:
    made.configure(host={"size": "s-4vcpu-8gb"})
    host, club = made.project / f"Pulumi.{STACK}.yaml", made.project / "Pulumi.chess.yaml"
    before = host.read_text()
    arguments = ("--on", STACK, "--memory-mib", "300", "--create-zone")
    done = made.verb("new", "chess", "--hostname", "chess.test", *arguments)
    assert "+ ClubNamespace pds-host-clubs-chess-namespace" in done.output
    written, made_so, with_room = lines(club), state(made, "chess"), yaml.safe_load(host.read_text())
    assert "\n".join(written) in done.output, "the engine keeps every line as it was written"
    assert "  # The server's domain name. It is part of every member's identity: choose it once." in written

    pulumi(made, "stack", "rm", "chess", "--yes")
    assert not club.exists()
    host.write_text(before)
    made.configure(clubs={"chess": {"port": 3101, "disk_gib": 5, "memory_mib": 556}})
    assert yaml.safe_load(host.read_text()) == with_room
    club.write_text("".join(f"{line}\n" for line in written))
    pulumi(made, "stack", "init", "chess", "--secrets-provider", "passphrase")
    assert lines(club) == written
    assert state(made, "chess") == made_so


def test_a_club_with_a_droplet_of_its_own_passes_its_first_preview(made: Stack) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0kGrUKdvQZwJvHcMpdDCHRyNQGbtBNVdGBo8GBqfLh owner@a-laptop.test"
    who = ("--cidr", "203.0.113.7/32", "--ssh-key", "laptop", "--ssh-key", key)
    done = made.verb("new", "solo", "--hostname", "solo.test", "--create-zone", *who)
    assert "+ Droplet pds-host-droplet" in done.output
    assert done.output.count("Preflight passed.") == 1
    config = yaml.safe_load((made.project / "Pulumi.solo.yaml").read_text())["config"]
    assert config["pds:operators"]["ssh_keys"] == ["laptop", key], "a long line, too, is as it was written"


def test_what_a_person_has_selected_stays_so(made: Stack) -> None:
    pulumi(made, "stack", "select", STACK)
    assert "solo: would change" in made.verb("preview-all", check=False).output
    stacks = json.loads(pulumi(made, "stack", "ls", "--json"))
    assert [item["name"] for item in stacks if item["current"]] == [STACK]
