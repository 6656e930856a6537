"""A cluster's VPC, tags, firewalls, and the reserved IP that leads operators, workers and servers to a server."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.host.network import EVERYWHERE
from components.render.cluster.user_data import server_tag, worker_tag
from components.settings.sections import NOMAD_PORT
from components.settings.sections.settings import Settings

_RPC, _GOSSIP = 4647, 4648


@dataclass(frozen=True, kw_only=True)
class ClusterNetworkArgs:
    """Arguments of `ClusterNetwork`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region."""


class ClusterNetwork(pulumi.ComponentResource):
    """What outlives every droplet of the cluster, beside the hosts."""

    vpc_uuid: pulumi.Output[str]
    server_tag: pulumi.Output[str]
    worker_tag: pulumi.Output[str]
    firewalls: tuple[digitalocean.Firewall, ...]
    endpoint: digitalocean.ReservedIp

    def __init__(self, name: str, args: ClusterNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:ClusterNetwork", name, None, opts)
        settings, stack = args.settings, args.stack
        assert settings.cluster
        first = [args.identity]
        vpc = digitalocean.Vpc(
            f"{name}-vpc",
            name=f"pds-{stack}",
            region=settings.host.region,
            ip_range=settings.cluster.vpc_ip_range,
            opts=pulumi.ResourceOptions(parent=self, depends_on=first),
        )
        self.vpc_uuid = vpc.id
        tagged = pulumi.ResourceOptions(parent=self, depends_on=first, ignore_changes=["name"])
        servers = digitalocean.Tag(f"{name}-server-tag", name=server_tag(stack), opts=tagged)
        workers = digitalocean.Tag(f"{name}-worker-tag", name=worker_tag(stack), opts=tagged)
        self.server_tag, self.worker_tag = servers.name, workers.name
        self.firewalls = (
            self._firewall(f"{name}-server-firewall", f"pds-{stack}-server", servers.name, self._of_servers(settings)),
            self._firewall(f"{name}-worker-firewall", f"pds-{stack}-worker", workers.name, _of_workers(settings)),
        )
        self.endpoint = digitalocean.ReservedIp(
            f"{name}-endpoint",
            region=settings.host.region,
            opts=pulumi.ResourceOptions(parent=self, depends_on=first, protect=True, retain_on_delete=True),
        )
        self.register_outputs({"endpoint": self.endpoint.ip_address})

    def _firewall(
        self,
        name: str,
        label: str,
        tag: pulumi.Output[str],
        inbound: Sequence[digitalocean.FirewallInboundRuleArgs],
    ) -> digitalocean.Firewall:
        outbound = [
            digitalocean.FirewallOutboundRuleArgs(
                protocol=protocol, port_range="1-65535", destination_addresses=list(EVERYWHERE)
            )
            for protocol in ("tcp", "udp")
        ]
        outbound.append(digitalocean.FirewallOutboundRuleArgs(protocol="icmp", destination_addresses=list(EVERYWHERE)))
        return digitalocean.Firewall(
            name,
            name=label,
            tags=[tag],
            inbound_rules=list(inbound),
            outbound_rules=outbound,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _of_servers(self, settings: Settings) -> list[digitalocean.FirewallInboundRuleArgs]:
        assert settings.operators
        assert settings.cluster
        operators = settings.operators.cidrs
        within = [settings.cluster.vpc_ip_range]
        return [
            _from(22, operators),
            _from(NOMAD_PORT, EVERYWHERE if settings.operators.nomad_anywhere else operators),
            # By the VPC's range, and by tag: a droplet reaches the reserved IP from its public address.
            digitalocean.FirewallInboundRuleArgs(
                protocol="tcp",
                port_range=str(_RPC),
                source_tags=[self.server_tag, self.worker_tag],
                source_addresses=within,
            ),
            *(
                digitalocean.FirewallInboundRuleArgs(
                    protocol=protocol, port_range=str(_GOSSIP), source_tags=[self.server_tag], source_addresses=within
                )
                for protocol in ("tcp", "udp")
            ),
        ]


def _of_workers(settings: Settings) -> list[digitalocean.FirewallInboundRuleArgs]:
    assert settings.operators
    rules = [_from(80, EVERYWHERE), _from(443, EVERYWHERE), _from(22, settings.operators.cidrs)]
    if settings.ingress.kind == "io":
        rules.append(_from(settings.ingress.ssh_port, settings.operators.cidrs))
    return rules


def _from(port: int, sources: Sequence[str]) -> digitalocean.FirewallInboundRuleArgs:
    return digitalocean.FirewallInboundRuleArgs(protocol="tcp", port_range=str(port), source_addresses=list(sources))
