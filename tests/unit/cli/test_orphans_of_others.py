"""`./pds orphans` and volumes, addresses and droplets that another stack has: no command deletes or adopts them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.drift import orphans
from cli.drift.orphan import Orphan
from cli.lib.stack import Stack, StackError
from tests.support.leftover_account import Owner, owner
from tests.support.programs import CLUSTER

_OWN_HOST = {"hostname": "house.test", "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]}}


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    with owner(tmp_path, monkeypatch) as operator:
        _write(operator, "fleet", CLUSTER)
        yield operator


def _write(alice: Owner, stack: str, options: Mapping[str, Any]) -> None:
    config = {f"pds:{key}": value for key, value in options.items()}
    (alice.pulumi.root / f"Pulumi.{stack}.yaml").write_text(yaml.safe_dump({"config": config}))


def _found(alice: Owner, kind: str) -> list[Orphan]:
    """Those of the cluster."""
    with alice.account() as account:
        report = orphans.find_orphans(Stack("fleet", alice.pulumi.root), account)
    return [item for item in report.orphans if item.kind == kind]


def _released(alice: Owner, *, on_a_droplet: bool) -> str:
    """The volume of host b after its release to `house`: it keeps its name, and the cluster has a host b again."""
    number: str = alice.client.volume(name="pds-fleet-b")["id"]
    if on_a_droplet:
        alice.client.droplet(name="pds-house", tags=[], volumes=[number])
    return number


def _require_kept(alice: Owner) -> Orphan:
    (volume,) = _found(alice, "volume")
    assert volume.delete == (), "a command would delete the data of another stack's members"
    assert volume.blocks, "the name is taken: `up` gets 409"
    assert volume.instead == "Give host b another name in Pulumi.fleet.yaml: the volume keeps this one."
    assert volume.instead in orphans.text("fleet", orphans.OrphanReport([volume]))
    return volume


def test_a_volume_on_another_stack_s_droplet_is_never_to_be_deleted(alice: Owner) -> None:
    _released(alice, on_a_droplet=True)
    assert "which is not a droplet of this stack" in _require_kept(alice).about


def test_a_volume_that_another_stack_file_names_is_never_to_be_deleted(alice: Owner) -> None:
    _write(alice, "house", {**_OWN_HOST, "volume": {"adopt": _released(alice, on_a_droplet=False)}})
    assert "Pulumi.house.yaml has it." in _require_kept(alice).about
    _write(alice, "house", {**_OWN_HOST, "volume": {"name": "pds-fleet-b"}})
    assert "Pulumi.house.yaml has it." in _require_kept(alice).about


def test_a_volume_in_another_stack_s_state_is_never_to_be_deleted(alice: Owner) -> None:
    number = _released(alice, on_a_droplet=False)
    _write(alice, "house", _OWN_HOST)
    alice.pulumi.state_of("house", ("pds-host-data-volume", "digitalocean:index/volume:Volume", number, {}))
    assert "It is in the state of house." in _require_kept(alice).about


@pytest.mark.parametrize(
    "error",
    [
        "could not export stack: load checkpoint: read s3://state/house.json: i/o timeout",
        "[401] Unauthorized: No credentials provided or are invalid.",
        "failed to load checkpoint: EOF",
    ],
)
def test_another_stack_s_state_that_cannot_be_read_is_a_fault(alice: Owner, error: str) -> None:
    """The report would else print the command that deletes its volume."""
    _released(alice, on_a_droplet=False)
    _write(alice, "house", _OWN_HOST)
    alice.pulumi.no_state_of("house", error)
    with pytest.raises(StackError, match="EOF" if "EOF" in error else r"`pulumi stack export --stack house` failed"):
        _found(alice, "volume")


def test_a_stack_that_the_backend_does_not_have_claims_nothing(alice: Owner) -> None:
    number = _released(alice, on_a_droplet=False)
    _write(alice, "house", _OWN_HOST)
    alice.pulumi.no_state_of("house", "no stack named 'house' found")
    (volume,) = _found(alice, "volume")
    assert volume.delete == (("doctl", "compute", "volume", "delete", number),)


def test_the_volume_of_a_stack_whose_name_is_like_a_host_s_is_never_to_be_deleted(alice: Owner) -> None:
    _released(alice, on_a_droplet=False)
    _write(alice, "fleet-b", _OWN_HOST)
    assert "Pulumi.fleet-b.yaml has it." in _require_kept(alice).about


def test_a_longer_name_in_a_file_is_another_name(alice: Owner) -> None:
    number = _released(alice, on_a_droplet=False)
    _write(alice, "house", {**_OWN_HOST, "volume": {"name": "pds-fleet-b2"}})
    (volume,) = _found(alice, "volume")
    assert volume.delete == (("doctl", "compute", "volume", "delete", number),)


def test_an_address_between_two_steps_of_an_adoption_is_never_to_be_deleted(alice: Owner) -> None:
    ip, number = alice.new_ip(), alice.client.volume(name="pds-fleet-a")["id"]
    assert [item.id for item in _found(alice, "reserved-ip")] == [ip]
    hosts = {**CLUSTER["cluster"]["hosts"], "a": {"volume_gib": 25, "adopt": {"volume": number, "address": ip}}}
    _write(alice, "fleet", {**CLUSTER, "cluster": {**CLUSTER["cluster"], "hosts": hosts}})
    for kind, held in (("reserved-ip", ip), ("volume", number)):
        (orphan,) = _found(alice, kind)
        assert (orphan.id, orphan.taken, orphan.blocks, orphan.delete) == (held, True, False, ())
        assert "The stack file adopts it" in orphan.about


def test_an_address_that_another_stack_has_is_left_out(alice: Owner) -> None:
    ip = alice.new_ip()
    _write(alice, "house", {**_OWN_HOST, "host": {"reserved_ip_adopt": ip}})
    assert _found(alice, "reserved-ip") == []
    _write(alice, "house", _OWN_HOST)
    assert [item.id for item in _found(alice, "reserved-ip")] == [ip]
    alice.pulumi.state_of("house", ("pds-host-network-ip", "digitalocean:index/reservedIp:ReservedIp", ip, {}))
    assert _found(alice, "reserved-ip") == []


def test_a_worker_with_an_unknown_volume_is_not_to_be_deleted(alice: Owner) -> None:
    alice.client.ask("POST", "/tags", {"name": "pds-fleet-worker"}, 201)
    number = alice.client.volume(name="pds-house")["id"]
    alice.client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"], volumes=[number])
    (worker,) = _found(alice, "droplet")
    assert worker.delete == (), "a host whose release was interrupted may run on it"
    assert f"It has volume {number}, which is not of this stack" in worker.about


def test_an_older_checkout_neither_adopts_nor_deletes_the_volume_that_a_cluster_adopted(alice: Owner) -> None:
    number = alice.made["pds-host-data-volume"][2]
    hosts = {"a": {"volume_gib": 25, "adopt": {"volume": number, "address": alice.new_ip()}}}
    _write(alice, "fleet", {**CLUSTER, "cluster": {**CLUSTER["cluster"], "hosts": hosts}})
    alice.remember("pds-host-data-volume")
    volume = alice.orphan("volume")
    assert (volume.adopt, volume.delete, volume.blocks) == ((), (), True)
    assert "Pulumi.fleet.yaml has it." in volume.about
    assert "Is Pulumi.dev.yaml that of an older checkout?" in volume.instead


def test_what_a_release_has_not_yet_taken_from_the_cluster_is_not_to_be_deleted(alice: Owner) -> None:
    """The stack file adopts both already, and the cluster's worker runs the host."""
    names = ("pds-host-data-volume", "pds-host-network-ip")
    alice.remember(*names, "pds-host-droplet", "pds-host-address")
    number, ip = (alice.made[name][2] for name in names)
    alice.configure(volume={"adopt": number}, host={"reserved_ip_adopt": ip})
    assert all(alice.orphan(kind).delete for kind in ("volume", "reserved-ip")), "after a `pulumi destroy`"
    alice.pulumi.state_of("fleet", *(alice.made[name] for name in names))
    for kind in ("volume", "reserved-ip"):
        orphan = alice.orphan(kind)
        assert (orphan.taken, orphan.blocks, orphan.delete) == (True, False, ())
