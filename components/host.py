"""The droplet, and the resources that must outlive it.

`Ground` is created first and survives every droplet: tag, firewall, reserved IP, volume, VPC. `Host` is the droplet,
its address assignment and the project. Not here: what runs on the host (`render/` renders cloud-init), and the
connection to Nomad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.entropy import as_secret
from components.render.cloud_init import Certificates, user_data, volume_name
from components.settings.names import is_fingerprint
from components.settings.settings import Settings

EVERYWHERE = ("0.0.0.0/0", "::/0")

NOMAD_PORT = 4650
"""Port of the endpoint in front of Nomad's loopback API. It requires a client certificate."""


@dataclass(frozen=True, kw_only=True)
class GroundArgs:
    """Arguments of `Ground`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region or volume, before the engine examines either."""


class Ground(pulumi.ComponentResource):
    """The resources that outlive a droplet: tag, firewall, reserved IP, volume, VPC."""

    ipv4: pulumi.Output[str]
    """The reserved address; known before any droplet exists."""
    tag: pulumi.Output[str]
    volume: digitalocean.Volume
    firewall: digitalocean.Firewall
    reserved_ip: digitalocean.ReservedIp
    vpc_uuid: pulumi.Output[str] | None

    def __init__(self, name: str, args: GroundArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Ground", name, None, opts)
        host, volume = args.settings.host, args.settings.volume
        child = pulumi.ResourceOptions(parent=self)
        first = [args.identity]

        # It keeps its original name. A renamed stack would delete it first, and DigitalOcean removes a deleted tag from
        # droplet and firewall at once: the host would have no firewall.
        tag = digitalocean.Tag(
            f"{name}-tag",
            name=f"pds-{args.stack}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=first, ignore_changes=["name"]),
        )
        self.tag = tag.name
        # By tag, and before the droplet: it applies from the droplet's first second.
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
        self.volume = digitalocean.Volume(
            f"{name}-volume",
            name=volume_name(args.settings, args.stack),
            region=host.region,
            size=volume.size_gib,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=first, protect=True, retain_on_delete=True, import_=volume.adopt
            ),
        )
        self.vpc_uuid = None
        if host.vpc_ip_range:
            vpc = digitalocean.Vpc(
                f"{name}-vpc", name=f"pds-{args.stack}", region=host.region, ip_range=host.vpc_ip_range, opts=child
            )
            self.vpc_uuid = vpc.id
        self.register_outputs({"ipv4": self.ipv4, "tag": self.tag})


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """Arguments of `Host`. The certificates are for its Nomad endpoint; only the server's key is secret."""

    settings: Settings
    stack: str
    tag: pulumi.Output[str]
    firewall: digitalocean.Firewall
    reserved_ip: digitalocean.ReservedIp
    volume: digitalocean.Volume
    vpc_uuid: pulumi.Output[str] | None
    ca_pem: pulumi.Output[str]
    server_cert_pem: pulumi.Output[str]
    server_key_pem: pulumi.Output[str]


class Host(pulumi.ComponentResource):
    """The droplet. Raising `host.generation` rebuilds it; nothing else does."""

    droplet: digitalocean.Droplet
    assignment: digitalocean.ReservedIpAssignment

    def __init__(self, name: str, args: HostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Host", name, None, opts)
        host, operators = args.settings.host, args.settings.operators
        assert operators, "a host of one's own has them"
        boot = pulumi.Output.all(args.ca_pem, args.server_cert_pem, args.server_key_pem).apply(
            lambda pems: user_data(args.settings, args.stack, Certificates(*pems))
        )
        self.droplet = digitalocean.Droplet(
            f"{name}-droplet",
            name=f"pds-{args.stack}",
            image=host.image,
            size=host.size,
            region=host.region,
            resize_disk=False,  # a larger disk could never shrink again; the data are on the volume
            vpc_uuid=args.vpc_uuid,
            ssh_keys=[_key_id(key) for key in operators.account_keys],
            tags=[args.tag, *_account_tags(host.tags)],
            volume_ids=[args.volume.id],
            user_data=as_secret(boot),
            monitoring=True,
            droplet_agent=False,
            graceful_shutdown=True,
            ipv6=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.firewall],
                # A volume attaches to one droplet, and text edits must not rebuild a machine with people's data on it.
                delete_before_replace=True,
                replacement_trigger=host.generation,
                ignore_changes=["userData", "sshKeys", "image"],
                # The provider's own delete waits 60 s, less than a PDS may take to stop cleanly.
                custom_timeouts=pulumi.CustomTimeouts(create="20m", delete="10m"),
            ),
        )
        self.assignment = digitalocean.ReservedIpAssignment(
            f"{name}-address",
            ip_address=args.reserved_ip.ip_address,
            droplet_id=self.droplet.id.apply(int),
            # DigitalOcean ends the assignment with its droplet. The provider's delete crashes if the droplet is gone,
            # as it is after an interrupted rebuild (resource_reserved_ip_assignment.go).
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True, retain_on_delete=True),
        )
        if host.project:
            project = digitalocean.Project(
                f"{name}-project",
                name=host.project,
                purpose="Web Application",
                environment="Production",
                opts=pulumi.ResourceOptions(parent=self),
            )
            digitalocean.ProjectResources(
                f"{name}-project-resources",
                project=project.id,
                # Volume and address are in their droplet's project, and move with it. An address alone cannot be moved
                # (412), and it is listed under another URN than it was assigned by, so that each refresh would find a
                # difference (digitalocean/terraform-provider-digitalocean#1264).
                resources=[self.droplet.droplet_urn],
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({"droplet_id": self.droplet.id})


def _inbound(settings: Settings) -> list[digitalocean.FirewallInboundRuleArgs]:
    assert settings.operators, "a host of one's own has them"
    operators = settings.operators.cidrs
    rules = [(80, EVERYWHERE), (443, EVERYWHERE), (22, operators)]
    if settings.ingress.kind == "io":
        rules.append((settings.ingress.ssh_port, operators))
    rules.append((NOMAD_PORT, EVERYWHERE if settings.operators.nomad_anywhere else operators))
    return [
        digitalocean.FirewallInboundRuleArgs(protocol="tcp", port_range=str(port), source_addresses=list(sources))
        for port, sources in rules
    ]


def _key_id(key: str) -> pulumi.Output[str]:
    """The Droplet's input for a key of the account: a fingerprint unchanged, a name looked up."""
    if is_fingerprint(key):
        return pulumi.Output.from_input(key)
    try:
        # Not by an Output, whose failing call ends in a traceback. This is the first query to the account, so it
        # detects a missing token.
        return pulumi.Output.from_input(digitalocean.get_ssh_key(name=key).fingerprint)
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise pulumi.RunError(
            f"pds:operators.ssh_keys: DigitalOcean gives no key '{key}' ({why[:300]}). Set DIGITALOCEAN_TOKEN, or "
            "`pulumi config set --secret digitalocean:token`; `doctl compute ssh-key list` shows the account's keys."
        ) from None


def _account_tags(tags: Sequence[str]) -> list[str]:
    """The tags in the capitals that the account has them in.

    A tag keeps the capitals of its first use, whatever later uses write (digitalocean/openapi, tags/models/tags.yml).
    With others, each `up` would take the tag off the droplet and add it again under its old name.
    """
    if not tags:
        return []
    try:
        names = [item.name for item in digitalocean.get_tags().tags]
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise pulumi.RunError(
            f"pds:host.tags: DigitalOcean does not list the account's tags ({why[:300]}). Set DIGITALOCEAN_TOKEN, and "
            "give the token the scope tag:read."
        ) from None
    canonical = {name.casefold(): name for name in names}
    return [canonical.get(tag.casefold(), tag) for tag in tags]
