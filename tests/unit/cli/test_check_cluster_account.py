"""The lines `firewall` and `account` of `./pds check` for a cluster, on a test account."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli.check.digitalocean import cluster_firewalls, cluster_resources
from cli.check.subject import CheckVerdict
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import Resource, State
from tests.e2e.environment.api_client import FIREWALL, TOKEN, Client, served
from tests.support.programs import cluster

SSH = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}
RPC = {"protocol": "tcp", "ports": "4647", "sources": {"tags": ["pds-fleet-server"], "addresses": ["10.118.0.0/20"]}}
RULES = {
    "inboundRules": [
        {"protocol": "tcp", "portRange": "443", "sourceAddresses": ["0.0.0.0/0", "::/0"]},
        {
            "protocol": "tcp",
            "portRange": "4647",
            "sourceTags": ["pds-fleet-server"],
            "sourceAddresses": ["10.118.0.0/20"],
        },
    ],
    "outboundRules": [{"protocol": "icmp", "portRange": "", "destinationAddresses": ["0.0.0.0/0"]}],
}
"""As the provider writes them into the state."""


@dataclass
class Fleet:
    """The account and the state of a cluster with two servers and two workers."""

    client: Client
    ids: dict[str, str] = field(default_factory=dict)
    resources: list[Resource] = field(default_factory=list)

    def make(self) -> None:
        """Create everything."""
        for role in ("server", "worker"):
            tag = f"pds-fleet-{role}"
            self.client.ask("POST", "/tags", {"name": tag}, 201)
            self.remember(f"network-{role}-tag", "tag:Tag", tag)
        for role in ("server", "worker"):
            tag = f"pds-fleet-{role}"
            made = self.client.ask("POST", "/firewalls", self.rules(role), 202)["firewall"]["id"]
            self.remember(f"network-{role}-firewall", "firewall:Firewall", made, RULES)
            for number in (1, 2):
                droplet = self.client.droplet(name=f"{tag}-{number}", tags=[tag])["id"]
                self.remember(f"droplets-{role}-{number}", "droplet:Droplet", str(droplet))
        volume = self.client.volume(name="pds-fleet-a")["id"]
        self.remember("hosts-volume-a", "volume:Volume", volume)

    def remember(self, name: str, kind: str, number: str, outputs: dict[str, Any] | None = None) -> None:
        """Let the state have it."""
        urn = f"urn:pulumi:fleet::pds::digitalocean:index/{kind}::pds-cluster-{name}"
        self.ids[name] = number
        self.resources.append(Resource(urn, kind.rpartition(":")[2], number, outputs or {}))

    def rules(self, role: str, *more: dict[str, Any]) -> dict[str, Any]:
        """A firewall as the program makes it, with further rules."""
        inbound = [*FIREWALL["inbound_rules"], RPC, *more]
        return {**FIREWALL, "name": f"pds-fleet-{role}", "tags": [f"pds-fleet-{role}"], "inbound_rules": inbound}

    def firewall(self) -> CheckVerdict:
        """The line."""
        with DigitalOceanAccount(TOKEN, self.client.api.url) as account:
            return cluster_firewalls("fleet", State(tuple(self.resources)), account)

    def account(self) -> CheckVerdict:
        """The line."""
        with DigitalOceanAccount(TOKEN, self.client.api.url) as account:
            return cluster_resources("fleet", State(tuple(self.resources)), account)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with served(tmp_path / "api", action_seconds=0) as client:
        made = Fleet(client)
        made.make()
        yield made


def _delete_firewall(fleet: Fleet) -> None:
    fleet.client.ask("DELETE", f"/firewalls/{fleet.ids['network-worker-firewall']}", status=204)


def _open_port(fleet: Fleet) -> None:
    fleet.client.ask("PUT", f"/firewalls/{fleet.ids['network-server-firewall']}", fleet.rules("server", SSH))


def _untag(fleet: Fleet) -> None:
    body = {"resources": [{"resource_id": fleet.ids["droplets-worker-2"], "resource_type": "droplet"}]}
    fleet.client.ask("DELETE", "/tags/pds-fleet-worker/resources", body, status=204)


def _add_droplet(fleet: Fleet) -> None:
    fleet.client.droplet(name="mine", tags=["pds-fleet-server"])


def test_the_state_has_the_names_of_the_program(fleet: Fleet) -> None:
    names = {item.name for item in cluster().resources}
    found = {item.name for item in fleet.resources if "hosts" not in item.name}
    assert found <= names, "otherwise the tests below look at nothing"


def test_a_cluster_as_it_was_made_has_nothing_to_do(fleet: Fleet) -> None:
    assert fleet.firewall().ok, fleet.firewall().remark
    assert fleet.account().ok, fleet.account().remark


@pytest.mark.parametrize(
    ("change", "finding", "remedy"),
    [
        (_delete_firewall, "is gone: every port of droplet", "pds-cluster-network-worker-firewall"),
        (_open_port, "lets tcp port 22 in from 0.0.0.0/0, which the stack", "pds-cluster-network-server-firewall"),
        (_untag, "lacks the tag pds-fleet-worker", "`doctl compute droplet tag {droplet} --tag-name pds-fleet-worker`"),
        (_add_droplet, "(mine) has the tag pds-fleet-server, too", "remove the tag from the other droplet"),
    ],
)
def test_a_change_made_in_the_panel_is_found(
    fleet: Fleet, change: Callable[[Fleet], None], finding: str, remedy: str
) -> None:
    change(fleet)
    verdict = fleet.firewall()
    assert verdict.ok is False
    assert finding in verdict.remark
    assert remedy.format(droplet=fleet.ids["droplets-worker-2"]) in verdict.remark
    assert "-droplets-" not in verdict.remark, "a refresh of a droplet would record the volumes that it has just now"
    assert "./pds repair" not in verdict.remark, "for a cluster it does something else"


def test_another_firewall_is_named_once_however_many_droplets_it_covers(fleet: Fleet) -> None:
    body = {**FIREWALL, "name": "mine", "inbound_rules": [SSH], "tags": ["pds-fleet-worker"]}
    fleet.client.ask("POST", "/firewalls", body, 202)
    verdict = fleet.firewall()
    assert verdict.ok is False
    assert verdict.remark.count("firewall mine covers the droplet too and lets tcp port 22 in") == 1


def test_a_temporary_firewall_of_allow_ip_is_not_a_gap(fleet: Fleet) -> None:
    rule = {"protocol": "tcp", "ports": "4650", "sources": {"addresses": ["203.0.113.8/32"]}}
    body = {"name": "pds-fleet-allow-ip-laptop", "inbound_rules": [rule], "tags": ["pds-fleet-server"]}
    fleet.client.ask("POST", "/firewalls", body, 202)
    assert fleet.firewall().ok, fleet.firewall().remark


def test_a_resource_that_the_account_lost_is_found(fleet: Fleet) -> None:
    fleet.client.ask("DELETE", f"/volumes/{fleet.ids['hosts-volume-a']}", status=204)
    verdict = fleet.account()
    assert verdict.ok is False
    assert f"Volume {fleet.ids['hosts-volume-a']} (pds-cluster-hosts-volume-a) does not exist" in verdict.remark
    assert "Run `pulumi refresh --yes --skip-preview --target '**::pds-cluster-hosts-volume-a' --stack fleet`" in (
        verdict.remark
    )


def test_where_a_takeover_led_the_servers_address_is_no_fault(fleet: Fleet) -> None:
    address = fleet.client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    other = int(fleet.ids["droplets-server-1"])
    outputs = {"ipAddress": address, "dropletId": other}
    fleet.remember("address", "reservedIpAssignment:ReservedIpAssignment", f"{other}-{address}", outputs)
    assert fleet.account().ok
