"""A stack's permanent properties, with the real engine and provider: our message comes first, and a renamed stack keeps
its firewall. The host is a record of the account; nothing boots."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from policy import digest
from tests.e2e.digitalocean import World
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import HOSTNAME, STACK, Run, Stack, settings, stack
from tests.e2e.environment.tools import missing
from tests.support.fake_nomad import FakeNomad, serve

PROGRAM = """\
from types import SimpleNamespace
from typing import Any

import pulumi

from components.edge.dns import Dns, DnsArgs
from components.host.certificates import CertificatesArgs, NomadCertificates
from components.host.connect import stack_identity
from components.host.droplet import DropletArgs, assign_address, host_droplet
from components.host.network import HostNetwork, HostNetworkArgs
from components.host.volume import DataVolume, DataVolumeArgs
from components.settings.from_pulumi import load

stack, none = pulumi.get_stack(), pulumi.ResourceOptions()
settings = load(pulumi.Config(), stack)
host = pulumi.ComponentResource("test:index:Host", "pds-host")
identity = stack_identity("pds-identity", settings, stack, none)
network = HostNetwork("pds-host-network", HostNetworkArgs(settings=settings, stack=stack, identity=identity))
volume = DataVolume("pds-host-data", DataVolumeArgs(settings=settings, stack=stack, identity=identity)).volume
Dns("pds-dns", DnsArgs(settings=settings, ipv4=network.ipv4, identity=identity))
certificates = NomadCertificates("pds-host-certificates", CertificatesArgs(ipv4=network.ipv4))
args = DropletArgs(settings=settings, stack=stack, network=network, volume=volume, certificates=certificates)
droplet = host_droplet("pds-host-droplet", args, host)
assign_address("pds-host-address", network.reserved_ip, droplet, host)
"""
"""The real components, as far as they need no running host."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose resources at DigitalOcean exist."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is not here, and what it says first was not seen. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(tmp_path_factory.mktemp("life"), world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        (found.project / "__main__.py").write_text(PROGRAM)
        up(found)
        yield found


def up(made: Stack, *more: str, check: bool = True) -> Run:
    """Update it."""
    return made.pulumi("up", "--yes", *more, check=check)


def account(made: Stack) -> dict[str, Any]:
    """The account's resources, without the times of actions."""
    dump = made.api.dump()
    return {kind: dump[kind] for kind in ("droplets", "volumes", "reserved_ips", "firewalls", "tags", "records")}


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("hostname", "noted.tset", f"Write 'hostname: {HOSTNAME}' back"),
        ("host", {"region": "ams3"}, "Write 'region: fra1' back"),
        ("volume", {"size_gib": 10}, "Write 'size_gib: 25'"),
    ],
)
def test_our_sentence_is_all_that_preview_and_up_say_and_nothing_is_touched(
    made: Stack, section: str, value: Any, said: str
) -> None:
    before, file = account(made), made.project / f"Pulumi.{made.name}.yaml"
    kept = file.read_text()
    changes = {section: value} if section != "hostname" else {"hostname": value, "dns": {"zone": value}}
    made.configure(**changes)
    try:
        runs = [made.pulumi("preview", check=False), up(made, check=False), up(made, "--skip-preview", check=False)]
        for run in runs:
            assert run.code, run.output
            assert said in " ".join(run.output.split()), run.output
            assert "protect" not in run.output.replace("leave the protection of both as it is", ""), run.output
        preview = made.pulumi("preview", "--json", "--show-sames", check=False).output
        [error] = digest.read_digest(preview, made.name).errors
        assert said in error, "the gate finds it as the one reason of the failed preview"
    finally:
        file.write_text(kept)
    assert account(made) == before


def test_a_stack_that_was_just_made_has_nothing_left_over_and_no_hole(made: Stack) -> None:
    assert made.pds("orphans").code == 0, "the provider's rules are those of the API"


def test_a_renamed_stack_keeps_tag_and_firewall(made: Stack) -> None:
    made.pulumi("stack", "rename", "renamed")
    old, new = made.project / f"Pulumi.{STACK}.yaml", made.project / "Pulumi.renamed.yaml"
    if old.exists():
        old.rename(new)
    renamed = replace(made, name="renamed")
    refused = up(renamed, check=False)
    assert "'volume: {name: pds-bench}'" in " ".join(refused.output.split()), refused.output
    renamed.configure(volume={"name": "pds-bench"})
    up(renamed)
    up(renamed)
    found = account(made)
    [droplet], [firewall] = found["droplets"].values(), found["firewalls"].values()
    assert droplet["tags"] == firewall["tags"] == ["pds-bench"]
    assert droplet["name"] == firewall["name"] == "pds-renamed"
    done = renamed.pds("orphans", check=False)
    assert "lacks the tag" not in done.output
    # In the panel.
    headers = {"Authorization": f"Bearer {made.env['DIGITALOCEAN_TOKEN']}"}
    body = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    with httpx.Client(base_url=made.api.url, headers=headers, trust_env=False) as client:
        client.request("DELETE", "/v2/tags/pds-bench/resources", json=body).raise_for_status()
    assert "lacks the tag pds-bench" in renamed.pds("orphans", check=False).output
    up(renamed)
    assert account(made)["droplets"][next(iter(found["droplets"]))]["tags"] == [], "a plain `up` does not see it"
    names = ("pds-host-droplet", "pds-host-network-firewall")
    renamed.pulumi("refresh", "--yes", *(part for name in names for part in ("--target", f"**::{name}")))
    up(renamed)
    assert "lacks the tag" not in renamed.pds("orphans", check=False).output, "as `rescue` does"


def test_without_a_token_the_preview_ends_in_a_sentence(made: Stack) -> None:
    env = {name: value for name, value in made.env.items() if not name.startswith("DIGITALOCEAN_TOKEN")}
    done = replace(made, env=env).pulumi("preview", check=False)
    assert done.code
    said = " ".join(done.output.split())
    assert "pds:operators.ssh_keys: DigitalOcean gives no key 'laptop'" in said, done.output
    assert "Set DIGITALOCEAN_TOKEN" in said
    assert "get_ssh_key" not in done.output, "no traceback of the SDK's"


HOST = """\
import pulumi
import pulumi_random as random

from components.dynamic.resources import HostInUse

class Host(pulumi.ComponentResource):
    def __init__(self):
        super().__init__("pds:index:Pds", "pds", None, None)
        for name in ("one", "two"):
            random.RandomPassword(f"pds-{name}", length=32, opts=pulumi.ResourceOptions(parent=self))
        keys = dict.fromkeys(("ca_pem", "cert_pem", "key_pem"), "")
        urn = "urn:pulumi:inuse::pds::pulumi-python:dynamic/pds:HostInUse::pds-host-in-use"
        inputs = {"address": pulumi.Config().require("hostname"), "token": pulumi.Output.secret("ADMIN"), **keys}
        inputs |= {"clubs": ["chess"], "stack": "inuse", "urn": urn}
        HostInUse("pds-host-in-use", inputs, pulumi.ResourceOptions(depends_on=[self]))
        self.register_outputs({})

Host()
"""


def test_a_host_is_asked_before_anything_of_it_is_destroyed(made: Stack) -> None:
    program = made.project / "__main__.py"
    kept = program.read_text()
    program.write_text(HOST)
    try:
        with serve(FakeNomad(tokens={"ADMIN": "accessor-1"})) as nomad:
            host = made.beside("inuse", {"pds:hostname": nomad.address})
            up(host)
            nomad.jobs_of = {"chess": [{"ID": "pds", "ParentID": "", "Stop": False}]}
            refused = host.pulumi("destroy", "--yes", check=False)
            assert refused.code, refused.output
            said = " ".join(refused.output.split())
            assert "The PDS of stack chess is on this host" in said
            assert "`pulumi destroy --stack chess` ends it" in said
            assert "deleted" not in refused.output, "nothing of the host went"
            nomad.jobs_of = {}
            resources = host.pulumi("stack", "export").output.count('"urn"')
            assert resources >= 5, "stack, component, both passwords, and what asks"
            host.pulumi("destroy", "--yes")
        # A Nomad that is permanently gone: the command in the refusal.
        with serve(FakeNomad(tokens={"ADMIN": "accessor-1"})) as nomad:
            host.configure(hostname=nomad.address)
            up(host)
        refused = host.pulumi("destroy", "--yes", check=False)
        assert refused.code
        [urn] = set(re.findall(r"'(urn:pulumi:inuse::\S+)'", " ".join(refused.output.split())))
        host.pulumi("state", "delete", urn, "--yes")
        host.pulumi("destroy", "--yes")
    finally:
        program.write_text(kept)
