"""A stack's permanent properties, with the real engine and provider: our error is printed first, and a renamed stack
keeps its firewall. The host is only a record of the account; nothing boots."""

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
"""The real components that need no running host."""


@pytest.fixture(scope="module")
def existing_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose resources at DigitalOcean exist."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, so its first error cannot be tested. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(tmp_path_factory.mktemp("life"), world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        (found.project / "__main__.py").write_text(PROGRAM)
        up(found)
        yield found


def up(existing_stack: Stack, *more: str, check: bool = True) -> Run:
    """Run `pulumi up`."""
    return existing_stack.pulumi("up", "--yes", *more, check=check)


def account(existing_stack: Stack) -> dict[str, Any]:
    """The account's resources, without the times of actions."""
    dump = existing_stack.api.dump()
    return {kind: dump[kind] for kind in ("droplets", "volumes", "reserved_ips", "firewalls", "tags", "records")}


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("hostname", "noted.tset", f"Write 'hostname: {HOSTNAME}' back"),
        ("host", {"region": "ams3"}, "Write 'region: fra1' back"),
        ("volume", {"size_gib": 10}, "Write 'size_gib: 25'"),
    ],
)
def test_preview_and_up_print_only_the_one_line_error_and_change_nothing(
    existing_stack: Stack, section: str, value: Any, message: str
) -> None:
    before, file = account(existing_stack), existing_stack.project / f"Pulumi.{existing_stack.name}.yaml"
    kept = file.read_text()
    changes = {section: value} if section != "hostname" else {"hostname": value, "dns": {"zone": value}}
    existing_stack.configure(**changes)
    try:
        runs = [
            existing_stack.pulumi("preview", check=False),
            up(existing_stack, check=False),
            up(existing_stack, "--skip-preview", check=False),
        ]
        for run in runs:
            assert run.code, run.output
            assert message in " ".join(run.output.split()), run.output
            assert "protect" not in run.output.replace("leave the protection of both as it is", ""), run.output
        preview = existing_stack.pulumi("preview", "--json", "--show-sames", check=False).output
        [error] = digest.read_digest(preview, existing_stack.name).errors
        assert message in error, "preflight must find it as the only reason of the failed preview"
    finally:
        file.write_text(kept)
    assert account(existing_stack) == before


def test_new_stack_has_no_orphans_and_nothing_missing(existing_stack: Stack) -> None:
    assert existing_stack.pds("orphans").code == 0, "the provider's rules must equal those of the API"


def test_preview_without_a_token_fails_with_a_one_line_error(existing_stack: Stack) -> None:
    env = {name: value for name, value in existing_stack.env.items() if not name.startswith("DIGITALOCEAN_TOKEN")}
    done = replace(existing_stack, env=env).pulumi("preview", check=False)
    assert done.code
    output = " ".join(done.output.split())
    assert "pds:operators.ssh_keys: DigitalOcean returns no key 'laptop'" in output, done.output
    assert "Set DIGITALOCEAN_TOKEN" in output
    assert "get_ssh_key" not in done.output, "there must be no traceback of the SDK"


def test_renamed_stack_keeps_tag_and_firewall(existing_stack: Stack) -> None:
    existing_stack.pulumi("stack", "rename", "renamed")
    old, new = existing_stack.project / f"Pulumi.{STACK}.yaml", existing_stack.project / "Pulumi.renamed.yaml"
    if old.exists():
        old.rename(new)
    renamed = replace(existing_stack, name="renamed")
    refused = up(renamed, check=False)
    assert "'name: pds-bench'" in " ".join(refused.output.split()), refused.output
    renamed.configure(volume={"name": "pds-bench"})
    up(renamed)
    up(renamed)
    found = account(existing_stack)
    [droplet], [firewall] = found["droplets"].values(), found["firewalls"].values()
    assert droplet["tags"] == firewall["tags"] == ["pds-bench"]
    assert droplet["name"] == firewall["name"] == "pds-renamed"
    done = renamed.pds("orphans", check=False)
    assert "lacks the tag" not in done.output
    # As by hand in the control panel.
    headers = {"Authorization": f"Bearer {existing_stack.env['DIGITALOCEAN_TOKEN']}"}
    body = {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}
    with httpx.Client(base_url=existing_stack.api.url, headers=headers, trust_env=False) as client:
        client.request("DELETE", "/v2/tags/pds-bench/resources", json=body).raise_for_status()
    assert "lacks the tag pds-bench" in renamed.pds("orphans", check=False).output
    up(renamed)
    assert account(existing_stack)["droplets"][next(iter(found["droplets"]))]["tags"] == [], (
        "an `up` without a refresh does not detect it"
    )
    names = ("pds-host-droplet", "pds-host-network-firewall")
    renamed.pulumi("refresh", "--yes", *(part for name in names for part in ("--target", f"**::{name}")))
    up(renamed)
    assert "lacks the tag" not in renamed.pds("orphans", check=False).output, "as `./pds repair` does"


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


def test_host_is_checked_for_clubs_before_anything_is_destroyed(existing_stack: Stack) -> None:
    program = existing_stack.project / "__main__.py"
    kept = program.read_text()
    program.write_text(HOST)
    try:
        with serve(FakeNomad(tokens={"ADMIN": "accessor-1"})) as nomad:
            host = existing_stack.beside("inuse", {"pds:hostname": nomad.address})
            up(host)
            nomad.jobs_of = {"chess": [{"ID": "pds", "ParentID": "", "Stop": False}]}
            refused = host.pulumi("destroy", "--yes", check=False)
            assert refused.code, refused.output
            output = " ".join(refused.output.split())
            assert "The PDS of stack chess is on this host" in output
            assert "`pulumi destroy --stack chess` ends it" in output
            assert "deleted" not in refused.output, "nothing of the host may be deleted"
            nomad.jobs_of = {}
            resources = host.pulumi("stack", "export").output.count('"urn"')
            assert resources >= 5, "stack, component, both passwords, and HostInUse"
            host.pulumi("destroy", "--yes")
        # With a Nomad that is permanently gone: run the command of the error.
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
