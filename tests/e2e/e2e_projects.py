"""`host.project` with the real engine and the real provider: `pytest tests/e2e/e2e_projects.py`; see `alone.py`.

A droplet is created, rebuilt and destroyed in a project; nothing of it is left in the project afterwards.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.alone import Alone, alone
from tests.e2e.api_client import KEY
from tests.e2e.digitalocean.account import add_key

PROGRAM = """\
import pulumi
from components.host import Ground, GroundArgs, Host, HostArgs

nothing = pulumi.ComponentResource("test:index:Nothing", "nothing")
ground = Ground("pds-ground", GroundArgs(settings=settings, stack="test", identity=nothing))
pem = pulumi.Output.from_input("no certificate")
Host(
    "pds-host",
    HostArgs(
        settings=settings,
        stack="test",
        tag=ground.tag,
        firewall=ground.firewall,
        reserved_ip=ground.reserved_ip,
        volume=ground.volume,
        vpc_uuid=None,
        ca_pem=pem,
        server_cert_pem=pem,
        server_key_pem=pem,
    ),
)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Alone]:
    with alone(tmp_path, PROGRAM, {}) as made:
        add_key(made.api.world, "a key", KEY)
        yield made


def inside(stack: Alone, name: str) -> list[str]:
    """The kinds of a project's resources."""
    (found,) = [item for item in stack.api.dump()["projects"].values() if item["name"] == name]
    return sorted(urn.split(":")[1] for urn in found["resources"])


def test_a_droplet_is_rebuilt_in_its_project_and_leaves_it_empty(stack: Alone) -> None:
    host = {"project": "club"}
    stack.up(host=host)
    assert inside(stack, "club") == ["droplet", "floatingip", "volume"], "volume and address follow"
    stack("preview", "--expect-no-changes", host=host)
    stack("preview", "--refresh", "--expect-no-changes", host=host)

    (first,) = stack.api.dump()["droplets"]
    rebuilt = {**host, "generation": 2}
    stack.up(host=rebuilt)
    (second,) = stack.api.dump()["droplets"]
    assert second != first
    assert inside(stack, "club") == ["droplet", "floatingip", "volume"]
    stack("preview", "--refresh", "--expect-no-changes", host=rebuilt)

    stack("state", "unprotect", "--all", "--yes")
    stack("destroy", "--yes", "--skip-preview", host=rebuilt)
    assert [item["name"] for item in stack.api.dump()["projects"].values()] == ["first-project"], "it was empty"
    assert inside(stack, "first-project") == ["floatingip", "volume"], "what a destroy leaves is there"


def test_a_changed_firewall_is_no_drift_once_it_applies(stack: Alone) -> None:
    stack.up()
    other = {"cidrs": ["203.0.113.8/32"], "ssh_keys": ["a key"]}
    stack.up(operators=other)
    (firewall,) = stack.api.dump()["firewalls"].values()
    assert firewall["inbound_rules"]
    stack("preview", "--refresh", "--expect-no-changes", operators=other)


def test_a_project_is_added_to_a_host_and_taken_away_again(stack: Alone) -> None:
    stack.up()
    stack.up(host={"project": "club"})
    assert inside(stack, "club") == ["droplet", "floatingip", "volume"]
    stack.up()
    assert inside(stack, "first-project") == ["droplet", "floatingip", "volume"]
