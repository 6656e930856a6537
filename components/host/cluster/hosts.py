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
    """Volumes and addresses by host. Which droplet has them is not a resource."""

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
                # An adopted volume keeps its own name; DigitalOcean renames none.
                opts=_imported(kept, options.adopt.volume if options.adopt else None, "name"),
            )
            for host, options in settings.cluster.hosts.items()
        }
        self.addresses = {
            host: digitalocean.ReservedIp(
                f"{name}-{host}-ip",
                region=settings.host.region,
                # A refresh learns where a takeover has assigned it.
                opts=_imported(kept, str(options.adopt.address) if options.adopt else None, "dropletId"),
            )
            for host, options in settings.cluster.hosts.items()
        }
        self.register_outputs({"hosts": list(self.volumes)})

    @property
    def by_name(self) -> dict[str, dict[str, pulumi.Output[str]]]:
        """`volume_id` and `address` of each host, as a takeover reads them."""
        return {
            host: {"volume_id": volume.id, "address": self.addresses[host].ip_address}
            for host, volume in self.volumes.items()
        }


def _imported(opts: pulumi.ResourceOptions, existing: str | None, ignored: str) -> pulumi.ResourceOptions:
    """Options with which the engine takes over `existing`, unchanged, if the state does not have it yet."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(import_=existing, ignore_changes=[ignored]))
