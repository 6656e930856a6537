"""`./pds orphans` on a test account: alerts and Spaces keys of a stack, and what a lost state of a cluster leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.drift import orphans
from cli.drift.orphan import Orphan
from cli.lib.stack import Stack
from tests.e2e.environment.api_client import FIREWALL
from tests.support.leftover_account import Owner, add_alerts, owner
from tests.support.programs import BACKUP, CLUSTER

ALERTS = {"email": ["owner@bench.test"]}


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    with owner(tmp_path, monkeypatch) as operator:
        yield operator


def test_alerts_and_keys_that_the_state_has_are_no_orphans(alice: Owner) -> None:
    add_alerts(alice)
    alice.configure(alerts=ALERTS, backup=BACKUP)
    alice.remember()
    assert alice.look().orphans == []


def test_lists_alerts_and_keys_that_the_state_lost(alice: Owner) -> None:
    add_alerts(alice)
    alice.configure(alerts=ALERTS, backup=BACKUP)
    names = {"uptime check": "pds-alerts-uptime", "alert": "pds-alerts-disk", "Spaces key": "pds-backup-key"}
    alice.remember(*names.values())
    found = {item.kind: item for item in alice.look().orphans}
    assert {kind: item.id for kind, item in found.items()} == {
        kind: alice.made[name][2] for kind, name in names.items()
    }
    assert "both send alerts" in found["uptime check"].about
    assert found["alert"].delete == (("doctl", "monitoring", "alert", "delete", found["alert"].id),)
    assert "loses access with its deletion: run `up` first" in found["Spaces key"].about
    assert not any(item.blocks for item in found.values())


def test_asks_only_for_what_the_stack_file_configures(alice: Owner) -> None:
    """A token without the scopes of alerts and Spaces is enough for a stack without them."""
    add_alerts(alice)
    alice.remember("pds-alerts-uptime", "pds-alerts-disk", "pds-backup-key")
    assert alice.look().orphans == []


def test_a_key_of_a_stack_whose_name_begins_alike_is_not_listed(alice: Owner) -> None:
    alice.client.ask("POST", "/spaces/keys", {"name": "pds-dev-two-backup", "grants": []}, 201)
    alice.configure(backup=BACKUP)
    assert alice.look().orphans == []


# A cluster.


def _cluster(alice: Owner) -> dict[str, str]:
    """Let the account have a cluster whose state is lost: role to ID."""
    config = {f"pds:{key}": value for key, value in CLUSTER.items()}
    (alice.pulumi.root / "Pulumi.fleet.yaml").write_text(yaml.safe_dump({"config": config}))
    alice.forget_all()
    volume = alice.client.volume(name="pds-fleet-a")["id"]
    ids = {"volume": volume}
    for role, volumes in (("server", []), ("worker", [volume])):
        tag = f"pds-fleet-{role}"
        alice.client.ask("POST", "/tags", {"name": tag}, 201)
        ids[role] = str(alice.client.droplet(name=f"{tag}-1", tags=[tag], volumes=volumes)["id"])
        alice.client.ask("POST", "/firewalls", {**FIREWALL, "name": tag, "tags": [tag]}, 202)
    ids["address"] = alice.new_ip()
    alice.assign(ids["address"], int(ids["worker"]))
    return ids


def _left(alice: Owner) -> dict[str, list[Orphan]]:
    found: dict[str, list[Orphan]] = {}
    with alice.account() as account:
        for item in orphans.find_orphans(Stack("fleet", alice.pulumi.root), account).orphans:
            found.setdefault(item.kind, []).append(item)
    return found


def test_lists_what_a_cluster_s_lost_state_leaves(alice: Owner) -> None:
    ids = _cluster(alice)
    found = _left(alice)
    assert sorted(item.id for item in found["droplet"]) == sorted([ids["server"], ids["worker"]])
    (worker,) = [item for item in found["droplet"] if item.id == ids["worker"]]
    assert "It has volume pds-fleet-a and runs the clubs of that host" in worker.about
    assert worker.delete[0][:4] == ("doctl", "compute", "droplet-action", "shutdown"), "its clubs may be writing"
    (volume,) = found["volume"]
    assert (volume.id, volume.data, volume.blocks) == (ids["volume"], True, True)
    assert "It holds the data of every club on that host" in volume.about
    assert ids["address"] in [item.id for item in found["reserved-ip"]]
    assert len(found["firewall"]) == len(found["tag"]) == 2
    assert "record" not in found, "a cluster has no name of its own"
