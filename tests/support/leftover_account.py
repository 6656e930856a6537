"""A DigitalOcean account on loopback and a stack's state, for code that compares the two."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.drift import orphans
from cli.drift.orphan import Orphan
from cli.drift.orphans import OrphanReport
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import Stack
from tests.e2e.environment.api_client import FIREWALL, TOKEN, Client, Unconnected, served
from tests.support.fake_pulumi import FakePulumi, Made

ZONE = "noted.at"
RULES: Mapping[str, Any] = {
    "inboundRules": [{"protocol": "tcp", "portRange": "443", "sourceAddresses": ["0.0.0.0/0", "::/0"]}],
    "outboundRules": [{"protocol": "icmp", "portRange": "", "destinationAddresses": ["0.0.0.0/0"]}],
}
"""`FIREWALL`'s, as the provider writes them into the state."""

POLICY: Mapping[str, Any] = {
    "type": "v1/insights/droplet/disk_utilization_percent",
    "description": "pds-dev disk above 80 %",
    "compare": "GreaterThan",
    "value": 80,
    "window": "5m",
    "tags": ["pds-dev"],
    "enabled": True,
}
"""An alert policy without its recipients."""


@dataclass
class Owner:
    """The operator of an account and of the stack `dev`; `made` has the resources that the program created."""

    client: Client
    pulumi: FakePulumi
    made: dict[str, Made]

    @property
    def stack(self) -> Stack:
        """The stack."""
        return Stack("dev", self.pulumi.root)

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Write the stack file: the worked example's two required options, and `sections`."""
        config: dict[str, Any] = {
            "pds:hostname": ZONE,
            "pds:operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
            **{f"pds:{key}": dict(value) for key, value in sections.items()},
        }
        (self.pulumi.root / "Pulumi.dev.yaml").write_text(yaml.dump({"config": config}, Dumper=yaml.CSafeDumper))

    def remember(
        self, *without: str, pending: tuple[tuple[str, str], ...] = (), replacing: tuple[str, ...] = ()
    ) -> None:
        """Let the state hold everything that was created, without these names."""
        kept = [item for name, item in self.made.items() if name not in without]
        cut = [(kind, self.made[name]) for kind, name in pending]
        self.pulumi.state(*kept, pending=cut, replacing=replacing)

    def forget_all(self) -> None:
        """Let the state be empty, as after `pulumi destroy`."""
        self.pulumi.state()

    def delete(self, name: str) -> None:
        """Delete a resource from the account, outside the engine."""
        kind, number = self.made[name][1].rpartition(":")[2], self.made[name][2]
        path = {"Droplet": "droplets", "Volume": "volumes", "ReservedIp": "reserved_ips", "Firewall": "firewalls"}[kind]
        self.client.ask("DELETE", f"/{path}/{number}", status=204)
        self.client.gone(f"/{path}/{number}")

    def look(self) -> OrphanReport:
        """The findings of `./pds orphans`."""
        with self.account() as account:
            return orphans.find_orphans(self.stack, account)

    def account(self) -> DigitalOceanAccount:
        """A client of the account."""
        return DigitalOceanAccount(TOKEN, self.client.api.url)

    def orphan(self, kind: str) -> Orphan:
        """The one orphan of this kind."""
        [orphan] = [item for item in self.look().orphans if item.kind == kind]
        return orphan

    def assign(self, ip: str, droplet: int) -> None:
        """Assign the reserved IP to the droplet."""
        body = {"type": "assign", "droplet_id": droplet}
        self.client.finished(self.client.ask("POST", f"/reserved_ips/{ip}/actions", body, 201)["action"])

    def new_ip(self) -> str:
        """Create a further reserved IP."""
        return str(self.client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"])

    def record(self, name: str, data: str) -> str:
        """Create a further record of type A; returns its id."""
        body = {"type": "A", "name": name, "data": data, "ttl": 300}
        return str(self.client.ask("POST", f"/domains/{ZONE}/records", body, 201)["domain_record"]["id"])


@contextmanager
def owner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """An operator whose state and account agree; the account also has resources of another stack."""
    with served(folder / "api", action_seconds=0, client=Unconnected) as client:
        operator = Owner(client, FakePulumi(folder, monkeypatch), {})
        operator.configure()
        _other_stack(client)
        client.ask("POST", "/tags", {"name": "pds-dev"}, 201)
        firewall = client.ask("POST", "/firewalls", {**FIREWALL, "name": "pds-dev", "tags": ["pds-dev"]}, 202)
        volume = client.volume(name="pds-dev")["id"]
        ip = operator.new_ip()
        droplet = client.droplet(name="pds-dev", tags=["pds-dev"], volumes=[volume])["id"]
        operator.assign(ip, droplet)
        client.ask("POST", "/domains", {"name": ZONE}, 201)
        index = "digitalocean:index"
        made: list[Made] = [
            ("pds-host-network-tag", f"{index}/tag:Tag", "pds-dev", {}),
            ("pds-host-network-firewall", f"{index}/firewall:Firewall", firewall["firewall"]["id"], dict(RULES)),
            ("pds-host-data-volume", f"{index}/volume:Volume", volume, {}),
            ("pds-host-network-ip", f"{index}/reservedIp:ReservedIp", ip, {}),
            ("pds-host-droplet", f"{index}/droplet:Droplet", str(droplet), {}),
            (
                "pds-host-address",
                f"{index}/reservedIpAssignment:ReservedIpAssignment",
                f"{droplet}-{ip}-20261123",
                {"ipAddress": ip, "dropletId": droplet},
            ),
            ("pds-dns-a", f"{index}/dnsRecord:DnsRecord", operator.record("@", ip), {"domain": ZONE}),
            ("pds-dns-wildcard", f"{index}/dnsRecord:DnsRecord", operator.record("*", ip), {"domain": ZONE}),
            ("pds-host-nomad-bootstrap", "pulumi-python:dynamic/pds:NomadBootstrap", "BootstrapProvider", {}),
        ]
        operator.made = {item[0]: item for item in made}
        operator.remember()
        yield operator


def _other_stack(client: Client) -> None:
    """Create resources of another stack, which no comparison may report."""
    client.ask("POST", "/tags", {"name": "pds-other"}, 201)
    client.ask("POST", "/firewalls", {**FIREWALL, "name": "pds-other", "tags": ["pds-other"]}, 202)
    volume = client.volume(name="pds-other")["id"]
    number = client.droplet(name="pds-other", tags=["pds-other"], volumes=[volume])["id"]
    ip = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    client.finished(
        client.ask("POST", f"/reserved_ips/{ip}/actions", {"type": "assign", "droplet_id": number}, 201)["action"]
    )


def add_alerts(alice: Owner) -> None:
    """Adds an uptime check with an alert, an alert policy, and a Spaces key."""
    check = {"name": "pds-dev", "type": "https", "target": f"https://{ZONE}", "regions": ["eu_west"], "enabled": True}
    recipients = {"email": ["owner@bench.test"], "slack": []}
    rule = {"type": "down_global", "threshold": 1, "comparison": "less_than", "period": "2m"}
    alert = {"name": "pds-dev down", **rule, "notifications": recipients}
    uptime = alice.client.ask("POST", "/uptime/checks", check, 201)["check"]["id"]
    down = alice.client.ask("POST", f"/uptime/checks/{uptime}/alerts", alert, 201)["alert"]["id"]
    policy = alice.client.ask("POST", "/monitoring/alerts", {**POLICY, "alerts": recipients})["policy"]["uuid"]
    key = alice.client.ask("POST", "/spaces/keys", {"name": "pds-dev-backup", "grants": []}, 201)["key"]["access_key"]
    index, sent = "digitalocean:index", {"emails": recipients["email"]}  # the state's names
    of_alert = {**rule, "checkId": uptime, "notifications": [sent]}
    for name, kind, number, outputs in (
        ("pds-alerts-uptime", f"{index}/uptimeCheck:UptimeCheck", uptime, check),
        ("pds-alerts-down", f"{index}/uptimeAlert:UptimeAlert", down, of_alert),
        ("pds-alerts-disk", f"{index}/monitorAlert:MonitorAlert", policy, {**POLICY, "alerts": sent}),
        ("pds-backup-key", f"{index}/spacesKey:SpacesKey", key, {}),
    ):
        alice.made[name] = (name, kind, number, outputs)
