"""A volume and an address that go from a stack with its own droplet to a cluster and back, with the real engine and
provider: nothing is made anew, nothing is deleted but the droplet. Droplets are only records of the account.

`scenarios/e2e_adoption.py` has the whole, with Nomad and PDSes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.adoption import adopt, handover, released_state
from cli.adoption import release as releasing
from cli.adoption.handover import VolumeError
from cli.adoption.stack_edits import prepare
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import Stack as CliStack
from cli.lib.stack import StackError
from components.settings import stack_identity
from offline.stackfile import read_settings
from tests.e2e.digitalocean import World
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import Stack, settings, stack
from tests.e2e.environment.tools import missing

PROGRAM = """\
import pulumi

from components.host.certificates import CertificatesArgs, NomadCertificates
from components.host.cluster.hosts import ClusterHosts, ClusterHostsArgs
from components.host.connect import stack_identity
from components.host.droplet import DropletArgs, assign_address, host_droplet
from components.host.network import HostNetwork, HostNetworkArgs
from components.host.volume import DataVolume, DataVolumeArgs
from components.settings.from_pulumi import load

stack, none = pulumi.get_stack(), pulumi.ResourceOptions()
settings = load(pulumi.Config(), stack)
identity = stack_identity("pds-identity", settings, stack, none)
if settings.cluster:
    hosts = ClusterHosts("pds-cluster-hosts", ClusterHostsArgs(settings=settings, stack=stack, identity=identity))
    pulumi.export("hosts", hosts.by_name)
elif settings.on is None:
    host = pulumi.ComponentResource("pds:index:OwnHost", "pds-host")
    below = pulumi.ResourceOptions(parent=host)
    args = HostNetworkArgs(settings=settings, stack=stack, identity=identity)
    network = HostNetwork("pds-host-network", args, below)
    data = DataVolumeArgs(settings=settings, stack=stack, identity=identity)
    volume = DataVolume("pds-host-data", data, below).volume
    certificates = NomadCertificates("pds-host-certificates", CertificatesArgs(ipv4=network.ipv4), below)
    args = DropletArgs(settings=settings, stack=stack, network=network, volume=volume, certificates=certificates)
    droplet = host_droplet("pds-host-droplet", args, host)
    assign_address("pds-host-address", network.reserved_ip, droplet, host)
"""
"""The real components that need no running host. A club's stack has only its identity here."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a droplet of its own, and beside it a cluster, `fleet`, without hosts."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, and it decides what an import is. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.1)
    folder = tmp_path_factory.mktemp("adoption")
    with stack(folder, world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        (found.project / "__main__.py").write_text(PROGRAM)
        found.pulumi("up", "--yes", "--skip-preview")
        yield found


@pytest.fixture(scope="module")
def fleet(house: Stack) -> Stack:
    config = yaml.load((house.project / f"Pulumi.{house.name}.yaml").read_text(), yaml.CSafeLoader)["config"]
    options = {"pds:operators": config["pds:operators"], "pds:ingress": {"kind": "none"}}
    return house.beside("fleet", {**options, "pds:cluster": {"hosts": {}, "workers": {"spares": 1}}})


@contextmanager
def _in_the_shell_of(found: Stack) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(found.env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cli(found: Stack) -> CliStack:
    return CliStack(found.name, found.project)


def _kept(found: Stack) -> Mapping[str, Any]:
    """Volumes and addresses, without what has them."""
    dump = found.api.dump()
    volumes = {number: item["name"] for number, item in dump["volumes"].items()}
    return {"volumes": volumes, "addresses": sorted(dump["reserved_ips"])}


def _ids(found: Stack) -> tuple[str, str, int]:
    state = _cli(found).state()
    named = [state.named(name) for name in (adopt.VOLUME, adopt.ADDRESS, adopt.DROPLET)]
    volume, address, droplet = (item.id for item in named if item)
    return volume, address, int(droplet)


def _moved(found: Stack) -> Stack:
    """The stack in a shell that permits the place in its file, as that of the commands."""
    place = stack_identity.place(read_settings(found.name, found.project))
    return replace(found, env={**found.env, stack_identity.MOVED_TO: place})


def _requires_permission(found: Stack) -> None:
    """An older checkout's `up` is refused before anything else: the PDS is at another place by now."""
    for arguments in (["preview"], ["up", "--yes"], ["up", "--yes", "--skip-preview"]):
        refused = found.pulumi(*arguments, check=False)
        assert refused.code
        output = " ".join(refused.output.split())
        assert f"the PDS of {found.name} is on" in output, refused.output
        assert f"{stack_identity.MOVED_TO}=" in output, refused.output


def _edit(found: Stack, edits: Mapping[str, Any]) -> None:
    prepare(_cli(found), edits).write()


@pytest.mark.parametrize(
    ("gib", "region", "problem"),
    [
        (24, "fra1", "can only be expanded and not shrunk"),
        (25, "ams3", "unable to replace resource"),
    ],
)
def test_a_preview_refuses_what_is_not_the_volume(
    house: Stack, fleet: Stack, gib: int, region: str, problem: str
) -> None:
    with _in_the_shell_of(house):
        volume, address, _ = _ids(house)
    file = fleet.project / "Pulumi.fleet.yaml"
    before, kept = file.read_text(), _kept(house)
    hosts = {"a": {"volume_gib": gib, "adopt": {"volume": volume, "address": address}}}
    fleet.configure(cluster={"hosts": hosts}, host={"region": region})
    try:
        done = fleet.pulumi("preview", check=False)
        assert done.code
        assert problem in done.output, done.output
    finally:
        file.write_text(before)
    assert _kept(house) == kept


def test_the_state_keeps_what_an_interrupted_up_has_begun(house: Stack, tmp_path: Path) -> None:
    with _in_the_shell_of(house):
        state = _cli(house).export()
        pending = {"type": "creating", "resource": state["deployment"]["resources"][-1]}
        state["deployment"]["pending_operations"] = [pending]

        class _Interrupted(CliStack):
            def export(self) -> dict[str, Any]:
                return state

        with pytest.raises(StackError, match="was interrupted"):
            released_state.release(_Interrupted(house.name, tmp_path), adopt.is_of_the_single_host)
    assert not (tmp_path / "build").exists()


def test_volume_and_address_become_those_of_the_cluster_and_nothing_else_happens_to_them(
    house: Stack, fleet: Stack
) -> None:
    kept = _kept(house)
    with _in_the_shell_of(house), DigitalOceanAccount(house.env["DIGITALOCEAN_TOKEN"]) as account:
        volume, address, droplet = _ids(house)
        for _ in range(2):  # as after an interruption
            handover.set_free(account, volume, address, droplet, "again")
        assert handover.carrier_of(account, volume) is None
        with pytest.raises(VolumeError, match="has no volume"):
            handover.volume_of(account, "00000000-e098-11e5-ad9f-000f53306ae1")
        host = {"volume_gib": 25, "adopt": {"volume": volume, "address": address}}
        clubs = {f"clubs.{house.name}": {"host": "a", "port": 3000}}
        _edit(fleet, {"cluster.hosts.a": host, **clubs})
        config = read_settings(house.name, house.project)
        older = (house.project / f"Pulumi.{house.name}.yaml").read_text()
        _edit(house, adopt.single_edits("fleet", "a", config))
        _requires_permission(house)
        refused = _moved(house).pulumi("up", "--yes", check=False)
        assert refused.code, "before the release the protection holds"
        assert "protected" in refused.output, refused.output
        assert released_state.release(_cli(house), adopt.is_of_the_single_host, "fleet/a") > 5
        assert released_state.release(_cli(house), adopt.is_of_the_single_host) == 0
    fleet.pulumi("up", "--yes")
    fleet.pulumi("preview", "--expect-no-changes", "--refresh")
    file = house.project / f"Pulumi.{house.name}.yaml"
    written = file.read_text()
    file.write_text(older)
    _requires_permission(house)
    assert _kept(house) == kept, "a new address would get the record of the live PDS"
    file.write_text(written)
    _moved(house).pulumi("up", "--yes")
    house.pulumi("preview", "--expect-no-changes", "--refresh")
    assert _kept(house) == kept
    dump = house.api.dump()
    assert not dump["droplets"]
    assert not dump["firewalls"]
    assert fleet.outputs()["hosts"]["a"] == {"volume_id": volume, "address": address}


def test_the_option_may_be_removed_afterwards(fleet: Stack) -> None:
    with _in_the_shell_of(fleet):
        _edit(fleet, {"cluster.hosts.a.adopt": None})
    fleet.pulumi("preview", "--expect-no-changes")


def test_and_back_to_a_droplet_of_its_own(house: Stack, fleet: Stack) -> None:
    kept = _kept(house)
    known = fleet.outputs()["hosts"]["a"]
    with _in_the_shell_of(house), DigitalOceanAccount(house.env["DIGITALOCEAN_TOKEN"]) as account:
        plan = releasing.Release(
            cluster=_cli(fleet),
            host="a",
            target=_cli(house),
            clubs=(),
            volume=known["volume_id"],
            address=known["address"],
        )
        settings_of_fleet = read_settings("fleet", fleet.project)
        described = handover.volume_of(account, plan.volume)
        _edit(house, releasing.target_edits(plan, settings_of_fleet, described, "s-1vcpu-2gb"))
        _edit(fleet, {"cluster.hosts.a": None, f"clubs.{house.name}": None})
        refused = fleet.pulumi("up", "--yes", check=False)
        assert refused.code, "before the release the protection holds"
        names = (house.name,)
        assert released_state.release(_cli(fleet), lambda item: releasing.is_of_the_host(item, "a", names)) == 2
    fleet.pulumi("up", "--yes")
    _requires_permission(house)
    _moved(house).pulumi("up", "--yes")
    for found in (fleet, house):
        found.pulumi("preview", "--expect-no-changes", "--refresh")
    assert _kept(house) == kept
    dump = house.api.dump()
    [droplet] = dump["droplets"].values()
    assert dump["volumes"][known["volume_id"]]["droplet_ids"] == [droplet["id"]]
    assert dump["reserved_ips"][known["address"]]["droplet_id"] == droplet["id"]
