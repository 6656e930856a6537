"""`./pds ssh` to a host of a cluster: by its address, under the key of the droplet that has it now."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.errors import CommandError
from cli.lib import temporary_firewall
from cli.lib.stack import Stack
from cli.observe import ssh
from tests.e2e.environment.api_client import TOKEN
from tests.support.leftover_account import Owner, owner
from tests.support.programs import CLUSTER


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """The account's only assigned address is that of host a, and of the endpoint."""
    with owner(tmp_path, monkeypatch) as operator:
        config = {f"pds:{key}": value for key, value in CLUSTER.items()}
        (operator.pulumi.root / "Pulumi.fleet.yaml").write_text(yaml.safe_dump({"config": config}))
        taken, free = operator.made["pds-host-network-ip"][2], operator.new_ip()
        hosts = {"a": {"address": taken}, "b": {"address": free}}
        operator.pulumi.outputs("fleet", ipv4=taken, hosts=hosts, worker_tag="pds-fleet-worker")
        monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
        monkeypatch.setenv("DIGITALOCEAN_API_URL", operator.client.api.url)
        yield operator


@pytest.mark.parametrize(("host", "tag"), [("a", "pds-fleet-worker"), (None, "pds-fleet-server")])
def test_the_key_is_that_of_the_droplet_that_has_the_address(alice: Owner, host: str | None, tag: str) -> None:
    endpoint = ssh.host_endpoint(Stack("fleet", alice.pulumi.root), host)
    droplet, address = alice.made["pds-host-droplet"][2], alice.made["pds-host-network-ip"][2]
    command = endpoint.command(["uptime"])
    assert f"HostKeyAlias=pds-fleet-{droplet}-22" in command, (
        "a host that has moved has another key, under another name"
    )
    assert f"root@{address}" in command
    assert endpoint.tag == tag, "`--allow-ip` opens the firewall of these droplets"


@pytest.mark.parametrize(
    ("stack", "host", "words"),
    [
        ("fleet", "b", "leads to no droplet. `./pds check fleet`"),
        ("fleet", "c", "has no host c. Write one of: a, b"),
        ("dev", "a", "dev is not a cluster: it has one host"),
    ],
)
def test_refuses_what_is_no_host(alice: Owner, stack: str, host: str, words: str) -> None:
    with pytest.raises(CommandError) as refused:
        ssh.host_endpoint(Stack(stack, alice.pulumi.root), host)
    assert words in str(refused.value)


def test_nomad_s_port_is_opened_at_the_servers(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = "digitalocean:index/tag:Tag"
    alice.pulumi.state(("pds-w", tag, "pds-fleet-worker", {}), ("pds-s", tag, "pds-fleet-server", {}))
    monkeypatch.setattr(temporary_firewall, "Stack", lambda name: Stack(name, alice.pulumi.root))
    assert temporary_firewall.droplet_tag("fleet") == "pds-fleet-server"
