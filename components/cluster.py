"""`Cluster`: servers of Nomad, hosts and workers, for the PDSes of other stacks. It has no PDS of its own.

First the machines, then the ingress of each host, and the takeover.
"""

from dataclasses import dataclass

import pulumi

from components.connection import HostConnection, nomad_outputs
from components.dynamic.resources import ClusterAccount
from components.edge.ingress import Ingress, IngressArgs
from components.host.clubs import refuse_destroy_while_in_use
from components.host.cluster.fleet import Fleet, FleetArgs
from components.host.connect import stack_identity
from components.nomad_target import NomadTarget
from components.operations.nomad_snapshots import NomadSnapshots, NomadSnapshotsArgs
from components.operations.takeover import Takeover, TakeoverArgs
from components.render.cluster.user_data import server_names, server_tag, worker_names, worker_tag
from components.secret_values import as_secret
from components.settings.cluster_hosts import host_settings
from components.settings.host_contract import ingress_namespace
from components.settings.ingress_state import IngressState
from components.settings.sections.cluster import ServersOptions, WorkersOptions, generation_of
from components.settings.sections.settings import Settings

Outputs = dict[str, pulumi.Input[object]]


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    """Arguments of `Cluster`: the settings, the stack's name, and the project's name in the engine."""

    settings: Settings
    stack: str
    project: str


class Cluster(pulumi.ComponentResource):
    """A cluster with hosts for the PDSes of other stacks."""

    outputs: Outputs
    """The stack's exports."""

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Cluster", name, None, opts)
        settings, stack, child = args.settings, args.stack, pulumi.ResourceOptions(parent=self)
        cluster = settings.cluster
        assert cluster
        account = _account(f"{name}-cluster-account", settings, stack, child)
        first = pulumi.ResourceOptions(parent=self, depends_on=[account])
        identity = stack_identity(f"{name}-identity", settings, stack, first)
        fleet = Fleet(f"{name}-cluster", FleetArgs(settings=settings, stack=stack, identity=identity), child)
        if settings.ingress.kind != "none":
            for host in cluster.hosts:
                self._ingress(f"{name}-ingress-{host}", host, args, fleet)
        if cluster.takeover:
            takeover = TakeoverArgs(
                settings=settings,
                stack=stack,
                target=fleet.nomad.target,
                admin=fleet.nomad.admin,
                hosts=fleet.hosts.by_name,
                endpoint=fleet.network.endpoint.ip_address,
            )
            # Once the hosts are placed: a takeover that finds volumes on no droplet would place them too.
            after = pulumi.ResourceOptions(parent=self, depends_on=[fleet.placed, fleet.servers_pool])
            Takeover(f"{name}-takeover", takeover, after)
        snapshots = None
        if cluster.snapshots:
            arguments = NomadSnapshotsArgs(
                settings=settings, stack=stack, target=fleet.nomad.target, admin=fleet.nomad.admin
            )
            after = pulumi.ResourceOptions(parent=self, depends_on=[fleet.placed, fleet.servers_pool])
            snapshots = NomadSnapshots(f"{name}-snapshots", arguments, after)
        if settings.clubs:
            clubs = list(settings.clubs)
            refuse_destroy_while_in_use(f"{name}-host-in-use", clubs, stack, args.project, _connection(fleet), self)
        self.outputs = _outputs(args, fleet, snapshots)
        self.register_outputs({"endpoint": fleet.network.endpoint.ip_address})

    def _ingress(self, name: str, host: str, args: ClusterArgs, fleet: Fleet) -> None:
        target = fleet.nomad.target
        own = NomadTarget(
            provider=target.provider,
            cluster_id=target.cluster_id,
            droplet=target.droplet,
            namespace=ingress_namespace(host),
        )
        ingress = IngressArgs(
            settings=host_settings(args.settings, host),
            stack=args.stack,
            # It serves the hostnames of clubs, whose files are there once their names resolve.
            ingress_state=pulumi.Output.from_input(IngressState.OPEN.value),
            target=own,
            admin=fleet.nomad.admin,
            file=None,
            policy=f"{args.settings.ingress.kind}-files-{host}",
            after=(fleet.namespaces[host], fleet.placed),
        )
        Ingress(name, ingress, pulumi.ResourceOptions(parent=self))


def _account(name: str, settings: Settings, stack: str, opts: pulumi.ResourceOptions) -> ClusterAccount:
    cluster = settings.cluster
    assert cluster
    takeover = cluster.takeover
    return ClusterAccount(
        name,
        {
            "region": settings.host.region,
            "sizes": {"cluster.servers.size": cluster.servers.size, "cluster.workers.size": cluster.workers.size},
            "servers": {
                "endpoint": cluster.servers.endpoint,
                "tag": server_tag(stack),
                "names": server_names(stack),
                "generations": _generations(cluster.servers, cluster.servers.count),
            },
            "workers": {
                "tag": worker_tag(stack),
                "names": worker_names(stack),
                "generations": _generations(cluster.workers, cluster.worker_count),
            },
            "takeover_token": pulumi.Output.secret(takeover.token.get_secret_value() if takeover else ""),
            "api_url": takeover.api_url if takeover else "",
            "is_preview": pulumi.runtime.is_dry_run(),
        },
        opts,
    )


def _generations(droplets: ServersOptions | WorkersOptions, count: int) -> list[int]:
    return [generation_of(droplets, number) for number in range(1, count + 1)]


def _connection(fleet: Fleet) -> HostConnection:
    nomad = fleet.nomad
    return HostConnection(
        ipv4=fleet.network.endpoint.ip_address,
        api=nomad.api,
        target=nomad.target,
        files=nomad.target,
        admin=nomad.admin,
        host_id=nomad.target.cluster_id,
        management_token=nomad.management_token,
    )


def _outputs(args: ClusterArgs, fleet: Fleet, snapshots: NomadSnapshots | None) -> Outputs:
    """The stack's exports, by name (docs/outputs.md)."""
    nomad, droplets = fleet.nomad, fleet.droplets
    exports: Outputs = {
        "ipv4": fleet.network.endpoint.ip_address,
        "hosts": fleet.hosts.by_name,
        "servers": [droplet.id for droplet in droplets.servers],
        "workers": [droplet.id for droplet in droplets.workers],
        "worker_tag": fleet.network.worker_tag,
        **nomad_outputs(nomad.api),
        "nomad_management_token": nomad.management_token,
    }
    if fleet.clubs:
        exports |= {"clubs": fleet.clubs.terms, "club_access": fleet.clubs.access}
    exports["escrow"] = as_secret(
        pulumi.Output.all(
            stack=args.stack,
            hosts=pulumi.Output.from_input(fleet.hosts.by_name),
            nomad_management_token=nomad.management_token,
            nomad_ca_pem=fleet.certificates.ca_pem,
            nomad_ca_key_pem=fleet.certificates.ca_key_pem,
            **({"snapshots": snapshots.items, "snapshots_repository": snapshots.repository} if snapshots else {}),
        )
    )
    return exports
