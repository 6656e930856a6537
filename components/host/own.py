"""A host of this stack's own: a droplet at DigitalOcean with Nomad, and the resources that outlive it."""

from dataclasses import dataclass

import pulumi

from components.connection import HostConnection, nomad_outputs
from components.host.certificates import CertificatesArgs, NomadCertificates
from components.host.clubs import Clubs, ClubsArgs
from components.host.droplet import DropletArgs, add_to_project, assign_address, host_droplet
from components.host.network import HostNetwork, HostNetworkArgs
from components.host.nomad import PROGRAM_TOKEN, NomadAccess, NomadArgs
from components.host.volume import DataVolume, DataVolumeArgs
from components.render.host.cloud_init import UserDataTooLongError, configuration_hash
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class OwnHostArgs:
    """Arguments of `OwnHost`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region or volume, before the engine examines either."""


class OwnHost(pulumi.ComponentResource):
    """Network, data volume, certificates, droplet, Nomad, and the clubs' namespaces in it."""

    connection: HostConnection

    def __init__(self, name: str, args: OwnHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        settings, stack = args.settings, args.stack
        try:
            configuration = configuration_hash(settings, stack)
        except UserDataTooLongError as error:
            raise pulumi.RunError(f"Pulumi.{stack}.yaml: {error}") from None
        super().__init__("pds:index:OwnHost", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        network = HostNetwork(
            f"{name}-network", HostNetworkArgs(settings=settings, stack=stack, identity=args.identity), child
        )
        volume = DataVolume(
            f"{name}-data", DataVolumeArgs(settings=settings, stack=stack, identity=args.identity), child
        ).volume
        certificates = NomadCertificates(f"{name}-certificates", CertificatesArgs(ipv4=network.ipv4), child)
        droplet = host_droplet(
            f"{name}-droplet",
            DropletArgs(settings=settings, stack=stack, network=network, volume=volume, certificates=certificates),
            self,
        )
        assignment = assign_address(f"{name}-address", network.reserved_ip, droplet, self)
        if settings.host.project:
            add_to_project(f"{name}-project", settings.host.project, droplet, self)
        nomad = NomadAccess(
            f"{name}-nomad",
            NomadArgs(
                settings=settings,
                ipv4=network.ipv4,
                certificates=certificates,
                droplet=droplet,
                volume=volume,
                firewall=network.firewall,
                assignment=assignment,
            ),
            child,
        )
        clubs = self._clubs(f"{name}-clubs", settings, nomad, network) if settings.clubs else None
        self.connection = HostConnection(
            ipv4=network.ipv4,
            api=nomad.api,
            target=nomad.target,
            files=nomad.target,
            admin=nomad.admin,
            host_id=droplet.id,
            configuration=configuration,
            management_token=nomad.management_token,
            tokens={PROGRAM_TOKEN: nomad.accessor_id} | (clubs.tokens if clubs else {}),
            tag=network.tag,
            outputs=nomad_outputs(nomad.api)
            | {"nomad_management_token": nomad.management_token}
            | ({"clubs": clubs.terms, "club_access": clubs.access} if clubs else {}),
            escrow={
                "volume_id": volume.id,
                "nomad_management_token": nomad.management_token,
                "nomad_ca_pem": certificates.ca_pem,
                "nomad_ca_key_pem": certificates.ca_key_pem,
            },
        )
        self.register_outputs({"ipv4": network.ipv4})

    def _clubs(
        self,
        name: str,
        settings: Settings,
        nomad: NomadAccess,
        network: HostNetwork,
    ) -> Clubs:
        return Clubs(
            name,
            ClubsArgs(
                settings=settings,
                admin=nomad.admin,
                addresses={None: network.ipv4},
                api=nomad.api,
                management_token=nomad.management_token,
            ),
            pulumi.ResourceOptions(parent=self),
        )
