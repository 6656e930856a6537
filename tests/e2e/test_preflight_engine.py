"""Preflight on previews of the real engine and its plugins, for a test account; no host is created.

The previews come from the engine on PATH. Without one `tests/support/engine_json.py` stands in.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.stackfile import evaluate_stack
from policy.checks import findings
from policy.digest import DigestError, read_digest
from policy.view import Item, of_evaluation
from tests.e2e.digitalocean import World, catalog
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import DEADLINE, STACK, Stack, settings, stack
from tests.e2e.environment.tools import missing


@pytest.fixture(scope="module")
def new_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack before its first `up`."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, so preflight cannot be tested with its previews. " + "; ".join(lines))
    folder = tmp_path_factory.mktemp("preflight")
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(folder, world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        yield found


def preview(new_stack: Stack, *arguments: str) -> str:
    """The engine's output."""
    command = ["pulumi", "preview", "--json", "--stack", STACK, "--non-interactive", *arguments]
    done = subprocess.run(
        command,
        cwd=new_stack.project,
        env=dict(new_stack.env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return done.stdout


def test_engine_and_offline_evaluation_show_the_same_program(new_stack: Stack) -> None:
    """For a stack that does not exist yet: everything is created, and computed values are unknown to both."""
    engine_items = {item.name: item for item in read_digest(preview(new_stack, "--show-sames"), STACK).view.items}
    evaluation = evaluate_stack(STACK, preview=True, root=new_stack.project)
    offline_items = {item.name: item for item in of_evaluation(evaluation).items}
    assert engine_items.keys() - offline_items.keys() == {f"pds-{STACK}"}, "the stack's own resource"
    assert offline_items.keys() - engine_items.keys() == set()
    for name, item in offline_items.items():
        assert _about(item) == _about(engine_items[name]), f"{name} differs"
        for key, value in item.shown.items():
            if not key.startswith("__") and value is not None:
                assert key in engine_items[name].shown, f"the engine does not show {name}.{key}"


def _about(item: Item) -> tuple[str, bool, bool]:
    return (item.type, item.protected, item.retained)


def test_first_preview_passes(new_stack: Stack) -> None:
    done = new_stack.pds("preflight", check=False)
    assert done.code == 0, done.output
    assert done.output.endswith("Preflight passed.\n")
    assert "+ Volume pds-host-data-volume" in done.output
    token, passphrase = new_stack.env["DIGITALOCEAN_TOKEN"], new_stack.env["PULUMI_CONFIG_PASSPHRASE"]
    assert token not in done.output
    assert passphrase not in done.output


def test_refuses_a_preview_without_unchanged_resources(new_stack: Stack) -> None:
    # The droplet is refused, so its dependencies are created and its dependents are not waited for.
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(catalog._SIZES, "s-1vcpu-2gb")
        done = new_stack.pulumi("up", "--yes", "--skip-preview", check=False)
    assert "You specified an invalid size" in done.output
    assert {"volumes", "reserved_ips", "domains"} <= {kind for kind, things in new_stack.api.dump().items() if things}
    with pytest.raises(DigestError, match="--show-sames"):
        read_digest(preview(new_stack), STACK)
    assert findings(read_digest(preview(new_stack, "--show-sames"), STACK).view)["protected state"] == []


def test_temporary_firewall_is_no_drift_to_the_engine(new_stack: Stack) -> None:
    """The firewall of `./pds allow-ip` stays while the engine refreshes the account and changes its own firewall."""
    new_stack.pds("allow-ip", "--label", "run", "--address", "203.0.113.99")
    steps = json.loads(preview(new_stack, "--show-sames", "--refresh"))["steps"]
    operations = {
        step["op"] for step in steps if step["urn"].endswith(("::pds-host-network-firewall", "::pds-host-network-tag"))
    }
    assert operations <= {"same", "refresh"}, f"it would be drift, and the next `up` would close it: {operations}"
    new_stack.configure(operators={"cidrs": ["203.0.113.8/32"], "ssh_keys": ["laptop"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(catalog._SIZES, "s-1vcpu-2gb")
        new_stack.pulumi("up", "--yes", "--skip-preview", "--refresh", check=False)
    firewalls = {item["name"]: item for item in new_stack.api.dump()["firewalls"].values()}
    assert "203.0.113.8/32" in str(firewalls[f"pds-{STACK}"]), "the engine must change its own firewall"
    assert "203.0.113.99/32" in str(firewalls[f"pds-{STACK}-allow-ip-run"])
    new_stack.pds("allow-ip", "--label", "run", "--close")
    assert f"pds-{STACK}-allow-ip-run" not in {item["name"] for item in new_stack.api.dump()["firewalls"].values()}


@pytest.mark.parametrize("unprotected", [False, True])
def test_preflight_fails_for_another_region_whatever_is_allowed(new_stack: Stack, unprotected: bool) -> None:
    """`StackIdentity` refuses it before the engine examines volume and address."""
    if unprotected:
        new_stack.pulumi("state", "unprotect", "--all", "--yes")
    new_stack.configure(host={"region": "ams3"})
    done = new_stack.pds("preflight", "--allow", "pds-host-data-volume", "--allow", "pds-host-network-ip", check=False)
    assert done.code == 1, done.output
    output = " ".join(done.output.split())
    assert "pds:host.region: the volume and the address of this stack are in fra1" in output
    assert "Write 'region: fra1' back" in output


def test_preflight_fails_if_the_zone_would_be_deleted(new_stack: Stack) -> None:
    new_stack.configure(host=None, dns={"create_zone": False})
    done = new_stack.pds("preflight", check=False)
    assert done.code == 1, done.output
    assert "preflight: lost state: Domain pds-dns-zone would be deleted" in done.output


def test_preflight_fails_if_the_engine_cannot_preview(new_stack: Stack, tmp_path: Path) -> None:
    new_stack.configure(dns={"create_zone": True})
    other_backend = Stack(**{**vars(new_stack), "env": {**new_stack.env, "PULUMI_BACKEND_URL": f"file://{tmp_path}"}})
    done = other_backend.pds("preflight", check=False)
    assert done.code == 2, done.output
    assert "The engine made no preview" in done.output
