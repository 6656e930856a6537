"""The resources that outlive every droplet: tag, firewall, reserved IP, VPC.

Not here: the volume (`volume.py`), and what runs on the host (`render/host`).
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.settings.sections import NOMAD_PORT
from components.settings.sections.settings import Settings

EVERYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, kw_only=True)
class HostNetworkArgs:
    """Arguments of `HostNetwork`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region, before the engine examines the reserved IP."""


class HostNetwork(pulumi.ComponentResource):
    """Tag, firewall, reserved IP and VPC of a host. They outlive its droplets."""

    ipv4: pulumi.Output[str]
    """The reserved address; known before any droplet exists."""
    tag: pulumi.Output[str]
    firewall: digitalocean.Firewall
    reserved_ip: digitalocean.ReservedIp
    vpc_uuid: pulumi.Output[str] | None

    def __init__(self, name: str, args: HostNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:HostNetwork", name, None, opts)
        host = args.settings.host
        child = pulumi.ResourceOptions(parent=self)
        first = [args.identity]

        # The tag keeps its original name. A renamed stack would delete it first, and DigitalOcean removes a deleted tag
        # from droplet and firewall at once, so the host would have no firewall.
        tag = digitalocean.Tag(
            f"{name}-tag",
            name=f"pds-{args.stack}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=first, ignore_changes=["name"]),
        )
        self.tag = tag.name
        # It selects droplets by tag and is created before the droplet, so it applies from the droplet's first second.
        self.firewall = digitalocean.Firewall(
            f"{name}-firewall",
            name=f"pds-{args.stack}",
            tags=[tag.name],
            inbound_rules=_inbound(args.settings),
            outbound_rules=[
                digitalocean.FirewallOutboundRuleArgs(
                    protocol="tcp", port_range="1-65535", destination_addresses=list(EVERYWHERE)
                ),
                digitalocean.FirewallOutboundRuleArgs(
                    protocol="udp", port_range="1-65535", destination_addresses=list(EVERYWHERE)
                ),
                digitalocean.FirewallOutboundRuleArgs(protocol="icmp", destination_addresses=list(EVERYWHERE)),
            ],
            opts=child,
        )
        self.reserved_ip = digitalocean.ReservedIp(
            f"{name}-ip",
            region=host.region,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=first, protect=True, retain_on_delete=True, import_=host.reserved_ip_adopt
            ),
        )
        self.ipv4 = self.reserved_ip.ip_address
        self.vpc_uuid = None
        if host.vpc_ip_range:
            vpc = digitalocean.Vpc(
                f"{name}-vpc", name=f"pds-{args.stack}", region=host.region, ip_range=host.vpc_ip_range, opts=child
            )
            self.vpc_uuid = vpc.id
        self.register_outputs({"ipv4": self.ipv4, "tag": self.tag})


def _inbound(settings: Settings) -> list[digitalocean.FirewallInboundRuleArgs]:
    assert settings.operators, "only a PDS on another host has none"
    operators = settings.operators.cidrs
    rules = [(80, EVERYWHERE), (443, EVERYWHERE), (22, operators)]
    if settings.ingress.kind == "io":
        rules.append((settings.ingress.ssh_port, operators))
    rules.append((NOMAD_PORT, EVERYWHERE if settings.operators.nomad_anywhere else operators))
    return [
        digitalocean.FirewallInboundRuleArgs(protocol="tcp", port_range=str(port), source_addresses=list(sources))
        for port, sources in rules
    ]
