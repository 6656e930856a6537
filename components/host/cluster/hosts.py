"""The hosts of a cluster: a volume and a reserved IP each, which outlive every droplet."""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.render.cluster.user_data import volume_prefix
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ClusterHostsArgs:
    """Arguments of `ClusterHosts`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region, before the engine examines a volume."""


class ClusterHosts(pulumi.ComponentResource):
    """Volumes and addresses by host. Which droplet has them is no resource."""

    volumes: dict[str, digitalocean.Volume]
    addresses: dict[str, digitalocean.ReservedIp]

    def __init__(self, name: str, args: ClusterHostsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:ClusterHosts", name, None, opts)
        settings = args.settings
        assert settings.cluster
        kept = pulumi.ResourceOptions(parent=self, depends_on=[args.identity], protect=True, retain_on_delete=True)
        self.volumes = {
            host: digitalocean.Volume(
                f"{name}-{host}-volume",
                name=f"{volume_prefix(args.stack)}{host}",
                region=settings.host.region,
                size=options.volume_gib,
                opts=kept,
            )
            for host, options in settings.cluster.hosts.items()
        }
        self.addresses = {
            host: digitalocean.ReservedIp(
                f"{name}-{host}-ip",
                region=settings.host.region,
                # A refresh learns where a takeover has assigned it.
                opts=pulumi.ResourceOptions.merge(kept, pulumi.ResourceOptions(ignore_changes=["dropletId"])),
            )
            for host in settings.cluster.hosts
        }
        self.register_outputs({"hosts": list(self.volumes)})

    @property
    def by_name(self) -> dict[str, dict[str, pulumi.Output[str]]]:
        """`volume_id` and `address` of each host, as a takeover reads them."""
        return {
            host: {"volume_id": volume.id, "address": self.addresses[host].ip_address}
            for host, volume in self.volumes.items()
        }
