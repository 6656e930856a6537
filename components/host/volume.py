"""The volume with all of a host's data. It outlives every droplet."""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.render.host.cloud_init import volume_name
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DataVolumeArgs:
    """Arguments of `DataVolume`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region, name or a smaller size, before the engine examines the volume."""


class DataVolume(pulumi.ComponentResource):
    """A protected block storage volume: created once, grown, never replaced."""

    volume: digitalocean.Volume

    def __init__(self, name: str, args: DataVolumeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:DataVolume", name, None, opts)
        self.volume = digitalocean.Volume(
            f"{name}-volume",
            name=volume_name(args.settings, args.stack),
            region=args.settings.host.region,
            size=args.settings.volume.size_gib,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.identity],
                protect=True,
                retain_on_delete=True,
                import_=args.settings.volume.adopt,
            ),
        )
        self.register_outputs({"volume_id": self.volume.id})
