"""`./pds new` with the real engine: it gives the same files and stack as the manual steps. No host is created."""

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
def host_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A host's stack that was never up."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, so `./pds new` cannot be tested with it. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(tmp_path_factory.mktemp("club"), world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        yield found


def pulumi(host_stack: Stack, *arguments: str) -> str:
    """The engine's output."""
    command = ["pulumi", *arguments, "--non-interactive"]
    env = dict(host_stack.env)
    piped: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command, cwd=host_stack.project, env=env, timeout=DEADLINE, check=True, **piped)
    return str(done.stdout)


def lines(file: Path) -> list[str]:
    """The lines of a stack file, without the salt, which differs each time."""
    whole = file.read_text().splitlines()
    found = [line for line in whole if not line.startswith("encryptionsalt:")]
    assert len(found) == len(whole) - 1, "the file must have a salt"
    return found


def state(host_stack: Stack, name: str) -> Any:
    """The backend's state of a stack, without time and salt."""
    found = json.loads(pulumi(host_stack, "stack", "export", "--stack", name))
    found["deployment"]["manifest"].pop("time")
    found["deployment"]["secrets_providers"]["state"].pop("salt")
    return found


def test_new_command_equals_the_manual_steps(host_stack: Stack) -> None:
    host_stack.configure(host={"size": "s-4vcpu-8gb"})
    host, club = host_stack.project / f"Pulumi.{STACK}.yaml", host_stack.project / "Pulumi.chess.yaml"
    before = host.read_text()
    arguments = ("--on", STACK, "--memory-mib", "300", "--create-zone")
    done = host_stack.pds_command("new", "chess", "--hostname", "chess.test", *arguments)
    assert "+ ClubNamespace pds-host-clubs-chess-namespace" in done.output
    written, created_state, host_with_club = (
        lines(club),
        state(host_stack, "chess"),
        yaml.load(host.read_text(), yaml.CSafeLoader),
    )
    assert "\n".join(written) in done.output, "the engine must keep every line unchanged"
    assert "  # The server's domain name. It is part of every member's identity: choose it once." in written

    pulumi(host_stack, "stack", "rm", "chess", "--yes")
    assert not club.exists()
    host.write_text(before)
    host_stack.configure(clubs={"chess": {"port": 3101, "disk_gib": 5, "memory_mib": 684}})
    assert yaml.load(host.read_text(), yaml.CSafeLoader) == host_with_club
    club.write_text("".join(f"{line}\n" for line in written))
    pulumi(host_stack, "stack", "init", "chess", "--secrets-provider", "passphrase")
    assert lines(club) == written
    assert state(host_stack, "chess") == created_state


def test_club_with_its_own_droplet_passes_its_first_preview(host_stack: Stack) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0kGrUKdvQZwJvHcMpdDCHRyNQGbtBNVdGBo8GBqfLh owner@a-laptop.test"
    operators = ("--cidr", "203.0.113.7/32", "--ssh-key", "laptop", "--ssh-key", key)
    done = host_stack.pds_command("new", "solo", "--hostname", "solo.test", "--create-zone", *operators)
    assert "+ Droplet pds-host-droplet" in done.output
    assert done.output.count("Preflight passed.") == 1
    config = yaml.load((host_stack.project / "Pulumi.solo.yaml").read_text(), yaml.CSafeLoader)["config"]
    assert config["pds:operators"]["ssh_keys"] == ["laptop", key], "a long line must be unchanged, too"


def test_selected_stack_stays_selected(host_stack: Stack) -> None:
    pulumi(host_stack, "stack", "select", STACK)
    assert "solo: would change" in host_stack.pds_command("preview-all", check=False).output
    stacks = json.loads(pulumi(host_stack, "stack", "ls", "--json"))
    assert [item["name"] for item in stacks if item["current"]] == [STACK]
