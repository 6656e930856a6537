"""`./pds ssh`: which host, under which key, and what is said if it cannot be reached."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib import temporary_firewall
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import Stack
from cli.observe import ssh
from tests.e2e.environment.api_client import TOKEN
from tests.support.fake_pulumi import FakePulumi
from tests.support.leftover_account import Owner, owner
from tests.support.serving import LOOPBACK

DROPLET = "digitalocean:index/droplet:Droplet"


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePulumi:
    """Stack `dev` on its own droplet, the club `chess` on that, and `guest` in another operator's Nomad."""
    pulumi = FakePulumi(tmp_path, monkeypatch)
    pulumi.outputs(ipv4=LOOPBACK)
    pulumi.state(("pds-host-droplet", DROPLET, "4711", {}))
    placements: dict[str, dict[str, Any]] = {
        "dev": {"pds:operators": {"cidrs": ["203.0.113.7/32", "198.51.100.0/24"], "ssh_keys": ["laptop"]}},
        "chess": {"pds:on": "dev", "pds:pds": {"port": 3101}},
        "guest": {
            "pds:on": {
                "nomad_address": "http://127.0.0.1:4646",
                "ipv4": "203.0.113.9",
                "nomad_token": {"secure": "v1:x"},
            },
            "pds:dns": {"provider": "manual"},
        },
    }
    for name, placement in placements.items():
        config = {"config": {"pds:hostname": f"{name}.test", **placement}}
        (pulumi.root / f"Pulumi.{name}.yaml").write_text(json.dumps(config))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\nfor word; do echo "$word"; done\nexit 7\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("cli.commands.ssh.Stack", lambda name: Stack(name, pulumi.root))
    monkeypatch.setattr("cli.registry.ROOT", pulumi.root)
    return pulumi


@contextmanager
def a_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that answers, in place of 22."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ssh, "PORT", port)
        yield port


@pytest.mark.parametrize(
    ("arguments", "remote"),
    [
        ([], []),
        (["--", "journalctl -u nomad | tail"], ["--", "journalctl -u nomad | tail"]),
        (["--", "ls", "a b", "$HOME"], ["--", "ls 'a b' '$HOME'"]),
    ],
)
def test_ssh_is_to_root_under_the_droplet_s_own_key(
    stacks: FakePulumi,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    remote: list[str],
) -> None:
    with a_port(monkeypatch) as port:
        assert app.main(["ssh", "dev", *arguments]) == 7, "the exit code is ssh's"
    words = ["-p", str(port), "-o", f"HostKeyAlias=pds-dev-4711-{port}", f"root@{LOOPBACK}", *remote]
    assert capfd.readouterr().out.splitlines() == words
    assert "StrictHostKeyChecking" not in " ".join(words), "ssh's own setting decides, which prompts"


def test_a_closed_port_is_said_with_the_setting(
    stacks: FakePulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_port(monkeypatch):
        pass
    assert app.main(["ssh", "dev"]) == 2
    said = capsys.readouterr().err
    assert f"Port {ssh.PORT} of {LOOPBACK} does not answer" in said
    assert "'operators.cidrs' only (203.0.113.7/32, 198.51.100.0/24)" in said
    assert "`--allow-ip` opens it" in said


@pytest.mark.parametrize(
    ("stack", "sentence"),
    [
        ("chess", "chess runs on the host of stack dev. Its operator uses `./pds ssh dev`.\n"),
        ("guest", "guest runs in the Nomad at http://127.0.0.1:4646. Its operator gives access to that host.\n"),
    ],
)
def test_another_s_host_is_refused(
    stacks: FakePulumi, stack: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["ssh", stack]) == 2
    assert capsys.readouterr().err == sentence


def test_a_stack_before_its_first_up_has_no_address(stacks: FakePulumi, capsys: pytest.CaptureFixture[str]) -> None:
    stacks.outputs()
    assert app.main(["ssh", "dev"]) == 2
    assert capsys.readouterr().err == "Stack dev has no ipv4 yet. Run `pulumi up --stack dev` first.\n"


def test_a_missing_ssh_is_said(
    stacks: FakePulumi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ssh" else f"/usr/bin/{name}")
    assert app.main(["ssh", "dev"]) == 2
    assert capsys.readouterr().err == "ssh is not on PATH. Install the OpenSSH client.\n"


# With the firewall of an account.


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    monkeypatch.setattr(temporary_firewall, "_PAUSE", 0.01)
    monkeypatch.setattr(temporary_firewall, "_answers", lambda endpoint: True)
    monkeypatch.setattr(temporary_firewall, "own_address", lambda: "203.0.113.99")
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    with owner(tmp_path, monkeypatch) as found:
        monkeypatch.setenv("DIGITALOCEAN_API_URL", found.client.api.url)
        found.pulumi.outputs(ipv4=LOOPBACK)
        monkeypatch.setattr("cli.commands.ssh.Stack", lambda name: Stack(name, found.pulumi.root))
        monkeypatch.setattr("cli.registry.ROOT", found.pulumi.root)
        yield found


def test_the_port_is_open_to_this_machine_while_ssh_runs_and_only_if_asked_for(
    alice: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text("#!/bin/sh\necho ssh runs\n")
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    opened: list[Any] = []
    create = DigitalOceanAccount.create

    def note(self: DigitalOceanAccount, path: str, body: Any) -> Any:
        opened.append(body)
        return create(self, path, body)

    monkeypatch.setattr(DigitalOceanAccount, "create", note)
    assert app.main(["ssh", "dev", "--allow-ip"]) == 0
    (rule,) = opened[-1]["inbound_rules"]
    assert rule == {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["203.0.113.99/32"]}}
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "SSH is open to 203.0.113.99."
    assert lines[1] == "ssh runs"
    assert lines[2].startswith("Closed: pds-dev-allow-ip-")
    names = {item["name"] for item in alice.client.ask("GET", "/firewalls")["firewalls"]}
    assert not {name for name in names if "-allow-ip-" in name}
    with a_port(monkeypatch):
        assert app.main(["ssh", "dev"]) == 0
    assert len(opened) == 1
