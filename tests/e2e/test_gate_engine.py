"""The gate on previews of the real engine and its plugins, for a test account; no host is created.

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that was never up."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is not here, and the gate was not tried on its previews. " + "; ".join(lines))
    folder = tmp_path_factory.mktemp("gate")
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(folder, world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        yield found


def preview(made: Stack, *arguments: str) -> str:
    """The engine's own output."""
    command = ["pulumi", "preview", "--json", "--stack", STACK, "--non-interactive", *arguments]
    done = subprocess.run(
        command,
        cwd=made.project,
        env=dict(made.env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return done.stdout


def test_engine_and_offline_evaluation_show_the_same_program(made: Stack) -> None:
    """For a stack that does not exist yet: everything is created, and computed values are unknown to both."""
    theirs = {item.name: item for item in read_digest(preview(made, "--show-sames"), STACK).view.items}
    evaluation = evaluate_stack(STACK, preview=True, root=made.project)
    ours = {item.name: item for item in of_evaluation(evaluation).items}
    assert theirs.keys() - ours.keys() == {f"pds-{STACK}"}, "the stack's own resource"
    assert ours.keys() - theirs.keys() == set()
    for name, item in ours.items():
        assert _about(item) == _about(theirs[name]), f"{name} differs"
        for key, value in item.shown.items():
            if not key.startswith("__") and value is not None:
                assert key in theirs[name].shown, f"the engine does not show {name}.{key}"


def _about(item: Item) -> tuple[str, bool, bool]:
    return (item.type, item.protected, item.retained)


def test_a_first_preview_passes(made: Stack) -> None:
    done = made.pds("preflight", check=False)
    assert done.code == 0, done.output
    assert done.output.endswith("Preflight passed.\n")
    assert "+ Volume pds-host-data-volume" in done.output
    token, passphrase = made.env["DIGITALOCEAN_TOKEN"], made.env["PULUMI_CONFIG_PASSPHRASE"]
    assert token not in done.output
    assert passphrase not in done.output


def test_with_something_there_a_preview_of_the_changes_alone_is_refused(made: Stack) -> None:
    # The droplet is refused, so its dependencies are created and its dependents are not waited for.
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(catalog._SIZES, "s-1vcpu-2gb")
        done = made.pulumi("up", "--yes", "--skip-preview", check=False)
    assert "You specified an invalid size" in done.output
    assert {"volumes", "reserved_ips", "domains"} <= {kind for kind, things in made.api.dump().items() if things}
    with pytest.raises(DigestError, match="--show-sames"):
        read_digest(preview(made), STACK)
    assert findings(read_digest(preview(made, "--show-sames"), STACK).view)["protected state"] == []


def test_a_door_for_a_run_is_nothing_to_the_engine(made: Stack) -> None:
    """The firewall of `./pds allow-ip` stays while the engine refreshes the account and changes its own firewall."""
    made.pds("allow-ip", "--label", "run", "--address", "203.0.113.99")
    steps = json.loads(preview(made, "--show-sames", "--refresh"))["steps"]
    ours = {
        step["op"] for step in steps if step["urn"].endswith(("::pds-host-network-firewall", "::pds-host-network-tag"))
    }
    assert ours <= {"same", "refresh"}, f"it would be drift, and the next `up` would close it: {ours}"
    made.configure(operators={"cidrs": ["203.0.113.8/32"], "ssh_keys": ["laptop"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(catalog._SIZES, "s-1vcpu-2gb")
        made.pulumi("up", "--yes", "--skip-preview", "--refresh", check=False)
    walls = {item["name"]: item for item in made.api.dump()["firewalls"].values()}
    assert "203.0.113.8/32" in str(walls[f"pds-{STACK}"]), "the engine did change its own"
    assert "203.0.113.99/32" in str(walls[f"pds-{STACK}-allow-ip-run"])
    made.pds("allow-ip", "--label", "run", "--close")
    assert f"pds-{STACK}-allow-ip-run" not in {item["name"] for item in made.api.dump()["firewalls"].values()}


def test_a_volume_that_would_be_replaced_shuts_it(made: Stack) -> None:
    made.configure(host={"region": "ams3"})
    done = made.pds("preflight", check=False)
    assert done.code == 1, done.output
    assert "preflight: lost state: Volume pds-host-data-volume would be replaced (region)" in done.output
    assert "preflight: failed preview: unable to replace resource" in done.output, "it is protected, too"


def test_without_its_protection_it_is_shut_all_the_same(made: Stack) -> None:
    made.pulumi("state", "unprotect", "--all", "--yes")
    for more in ([], ["--show-replacement-steps"]):
        digest = read_digest(preview(made, "--show-sames", *more), STACK)
        assert digest.errors == ()
        lost = {change.name: change.reasons for change in digest.changes if change.loses_state}
        assert lost == {"pds-host-data-volume": ("region",), "pds-host-network-ip": ("region",)}
    assert made.pds("preflight", "--allow", "pds-host-data-volume", check=False).code == 1
    done = made.pds("preflight", "--allow", "pds-host-data-volume", "--allow", "pds-host-network-ip", check=False)
    assert done.code == 0, done.output


def test_a_zone_that_would_go_with_all_its_names_shuts_it(made: Stack) -> None:
    made.configure(host=None, dns={"create_zone": False})
    done = made.pds("preflight", check=False)
    assert done.code == 1, done.output
    assert "preflight: lost state: Domain pds-dns-zone would be deleted" in done.output


def test_a_preview_that_does_not_come_about_is_no_open_gate(made: Stack, tmp_path: Path) -> None:
    made.configure(dns={"create_zone": True})
    elsewhere = Stack(**{**vars(made), "env": {**made.env, "PULUMI_BACKEND_URL": f"file://{tmp_path}"}})
    done = elsewhere.pds("preflight", check=False)
    assert done.code == 2, done.output
    assert "The engine made no preview" in done.output
