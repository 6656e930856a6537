"""`./pds repair` of a stack whose host is being adopted by a cluster: its droplet stays off."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.drift import repair
from tests.support.leftover_account import ZONE, Owner, owner
from tests.support.programs import CLUSTER


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """The droplet was shut down, and its address unassigned."""
    with owner(tmp_path, monkeypatch) as operator:
        number, ip = (operator.made[name][2] for name in ("pds-host-droplet", "pds-host-network-ip"))
        for path, kind in ((f"droplets/{number}", "shutdown"), (f"reserved_ips/{ip}", "unassign")):
            operator.client.finished(operator.client.ask("POST", f"/{path}/actions", {"type": kind}, 201)["action"])
        yield operator


def _adopting(alice: Owner) -> None:
    """The second step of `./pds adopt fleet a`."""
    number, ip = (alice.made[name][2] for name in ("pds-host-data-volume", "pds-host-network-ip"))
    hosts = {"a": {"volume_gib": 25, "adopt": {"volume": number, "address": ip}}}
    options = {**CLUSTER, "cluster": {**CLUSTER["cluster"], "hosts": hosts}}
    config = {f"pds:{key}": value for key, value in options.items() if key != "clubs"}
    (alice.pulumi.root / "Pulumi.fleet.yaml").write_text(yaml.safe_dump({"config": config}))


def _run(alice: Owner) -> int:
    with alice.account() as account:
        return repair.repair(alice.stack, account, yes=True)


def test_leaves_the_droplet_off_while_a_cluster_adopts_its_volume(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    _adopting(alice)
    assert _run(alice) == 1
    shown = capsys.readouterr().out
    assert "power-on" not in shown
    assert "complete it: `./pds adopt fleet a --from dev`. Leave the droplet off." in shown
    assert alice.pulumi.ran == [], "an `up` would assign the address to the droplet again"


def test_an_older_checkout_runs_nothing_once_the_volume_left_the_state(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    """An `up` would make another volume and another address, and lead the records of the live PDS there."""
    alice.remember("pds-host-data-volume", "pds-host-network-ip")
    assert _run(alice) == 1
    shown = capsys.readouterr().out
    assert "Pulumi.dev.yaml is that of an older checkout" in shown
    assert "volume.adopt" not in shown, "the volume is the cluster's"
    assert "power-on" not in shown
    assert alice.pulumi.ran == []


def test_finishes_a_killed_up_of_the_adopted_stack(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    """Its `up` deletes the droplet, which is off."""
    config = {"hostname": ZONE, "on": "fleet", "nomad": {"datacenter": "a"}, "pds": {"port": 3000}}
    text = yaml.safe_dump({"config": {f"pds:{key}": value for key, value in config.items()}})
    (alice.pulumi.root / "Pulumi.dev.yaml").write_text(text)
    alice.remember("pds-host-data-volume", "pds-host-network-ip", pending=(("deleting", "pds-host-droplet"),))
    assert _run(alice) == 0
    shown = capsys.readouterr().out
    assert "is off since `./pds adopt`, whose `up` of this stack deletes it" in shown
    assert "power-on" not in shown
    assert alice.pulumi.ran[-1] == ["up", "--yes", "--stack", "dev"]


def test_a_droplet_that_is_off_for_another_reason_is_switched_on(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.assign(alice.made["pds-host-network-ip"][2], int(alice.made["pds-host-droplet"][2]))
    assert _run(alice) == 1
    assert f"doctl compute droplet-action power-on {alice.made['pds-host-droplet'][2]}" in capsys.readouterr().out
