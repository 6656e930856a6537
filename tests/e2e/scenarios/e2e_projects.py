"""`host.project` with the real engine and the real provider: `pytest tests/e2e/scenarios/e2e_projects.py`; see
`alone.py`.

A droplet is created, rebuilt and destroyed in a project; nothing of it is left in the project afterwards.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.digitalocean.account import add_key
from tests.e2e.environment.alone import Alone, alone
from tests.e2e.environment.api_client import KEY

PROGRAM = """\
from types import SimpleNamespace
from typing import Any
import pulumi
from components.host.droplet import DropletArgs, add_to_project, assign_address, host_droplet
from components.host.network import HostNetwork, HostNetworkArgs
from components.host.volume import DataVolume, DataVolumeArgs

host = pulumi.ComponentResource("test:index:Host", "pds-host")
network = HostNetwork("pds-host-network", HostNetworkArgs(settings=settings, stack="test", identity=host))
volume = DataVolume("pds-host-data", DataVolumeArgs(settings=settings, stack="test", identity=host)).volume
pem = pulumi.Output.from_input("no certificate")
certificates: Any = SimpleNamespace(ca_pem=pem, server_cert_pem=pem, server_key_pem=pem)
args = DropletArgs(settings=settings, stack="test", network=network, volume=volume, certificates=certificates)
droplet = host_droplet("pds-host-droplet", args, host)
assign_address("pds-host-address", network.reserved_ip, droplet, host)
if settings.host.project:
    add_to_project("pds-host-project", settings.host.project, droplet, host)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Alone]:
    with alone(tmp_path, PROGRAM, {}) as running_stack:
        add_key(running_stack.api.world, "a key", KEY)
        yield running_stack


def resource_kinds(stack: Alone, name: str) -> list[str]:
    """The kinds of the resources in a project."""
    (found,) = [item for item in stack.api.dump()["projects"].values() if item["name"] == name]
    return sorted(urn.split(":")[1] for urn in found["resources"])


def test_droplet_is_rebuilt_in_its_project_which_is_deleted_by_destroy(stack: Alone) -> None:
    host = {"project": "club"}
    stack.up(host=host)
    assert resource_kinds(stack, "club") == ["droplet", "floatingip", "volume"], (
        "volume and address must follow the droplet"
    )
    stack("preview", "--expect-no-changes", host=host)
    stack("preview", "--refresh", "--expect-no-changes", host=host)

    (first,) = stack.api.dump()["droplets"]
    rebuilt = {**host, "generation": 2}
    stack.up(host=rebuilt)
    (second,) = stack.api.dump()["droplets"]
    assert second != first
    assert resource_kinds(stack, "club") == ["droplet", "floatingip", "volume"]
    stack("preview", "--refresh", "--expect-no-changes", host=rebuilt)

    stack("state", "unprotect", "--all", "--yes")
    stack("destroy", "--yes", "--skip-preview", host=rebuilt)
    assert [item["name"] for item in stack.api.dump()["projects"].values()] == ["first-project"], (
        "the project must be deleted, so it was empty"
    )
    assert resource_kinds(stack, "first-project") == ["floatingip", "volume"], (
        "retained resources must be in the default project"
    )


def test_changed_firewall_gives_no_drift_after_it_is_applied(stack: Alone) -> None:
    stack.up()
    other = {"cidrs": ["203.0.113.8/32"], "ssh_keys": ["a key"]}
    stack.up(operators=other)
    (firewall,) = stack.api.dump()["firewalls"].values()
    assert firewall["inbound_rules"]
    stack("preview", "--refresh", "--expect-no-changes", operators=other)


def test_project_can_be_added_to_a_host_and_removed(stack: Alone) -> None:
    stack.up()
    stack.up(host={"project": "club"})
    assert resource_kinds(stack, "club") == ["droplet", "floatingip", "volume"]
    stack.up()
    assert resource_kinds(stack, "first-project") == ["droplet", "floatingip", "volume"]
