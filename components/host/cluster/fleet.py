"""The machines of a cluster: network, hosts, servers and workers, Nomad, the placed hosts, and the clubs on them."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad_provider

from components.dynamic.resources import PlacedHosts
from components.host.certificates import CertificatesArgs, NomadCertificates
from components.host.clubs import Clubs, ClubsArgs
from components.host.cluster.droplets import ClusterDroplets, ClusterDropletsArgs, MachineCertificates
from components.host.cluster.hosts import ClusterHosts, ClusterHostsArgs
from components.host.cluster.network import ClusterNetwork, ClusterNetworkArgs
from components.host.droplet import assign_address
from components.host.nomad import NomadAccess, NomadArgs
from components.render.cluster.agents import SERVERS_POOL
from components.settings.host_contract import ingress_namespace
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class FleetArgs:
    """Arguments of `Fleet`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another region, before the engine examines anything."""


class Fleet(pulumi.ComponentResource):
    """Everything of a cluster beside what runs on its hosts."""

    network: ClusterNetwork
    hosts: ClusterHosts
    droplets: ClusterDroplets
    certificates: NomadCertificates
    nomad: NomadAccess
    namespaces: dict[str, nomad_provider.Namespace]
    """Of the ingress of each host."""
    servers_pool: nomad_provider.NodePool
    """Of the servers' own clients. Nomad refuses a job whose node pool does not exist (`job_endpoint.go`)."""
    placed: PlacedHosts
    clubs: Clubs | None

    def __init__(self, name: str, args: FleetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Fleet", name, None, opts)
        settings, stack = args.settings, args.stack
        child = pulumi.ResourceOptions(parent=self)
        self.network = ClusterNetwork(
            f"{name}-network", ClusterNetworkArgs(settings=settings, stack=stack, identity=args.identity), child
        )
        self.hosts = ClusterHosts(
            f"{name}-hosts", ClusterHostsArgs(settings=settings, stack=stack, identity=args.identity), child
        )
        self.certificates = NomadCertificates(
            f"{name}-certificates",
            CertificatesArgs(ipv4=self.network.endpoint.ip_address, region=settings.nomad.region),
            child,
        )
        self.droplets = self._droplets(f"{name}-droplets", args)
        self.nomad = self._nomad(name, args)
        self.namespaces = {
            host: nomad_provider.Namespace(
                f"{name}-namespace-{host}",
                name=ingress_namespace(host),
                description=f"The ingress of host {host}.",
                capabilities=nomad_provider.NamespaceCapabilitiesArgs(enabled_task_drivers=["docker"]),
                # An emptied Nomad refuses to delete a namespace that it does not know, and `up` would fail.
                opts=self.nomad.admin.options(self, retained=True),
            )
            for host in self.hosts.volumes
        }
        self.servers_pool = nomad_provider.NodePool(
            f"{name}-servers-pool",
            name=SERVERS_POOL,
            description="The servers of the cluster.",
            # The first client to join makes it too. A pool with nodes cannot be deleted, and the servers go last.
            opts=self.nomad.admin.options(self, retained=True),
        )
        self.placed = self._placed(f"{name}-placed")
        self.clubs = self._clubs(f"{name}-clubs", settings) if settings.clubs else None
        self.register_outputs({"endpoint": self.network.endpoint.ip_address})

    def _droplets(self, name: str, args: FleetArgs) -> ClusterDroplets:
        ca_pem = self.certificates.ca_pem
        worker_cert, worker_key = self.certificates.worker(f"{name}-worker-certificate", args.settings.nomad.region)
        return ClusterDroplets(
            name,
            ClusterDropletsArgs(
                settings=args.settings,
                stack=args.stack,
                network=self.network,
                server=MachineCertificates(
                    ca_pem=ca_pem,
                    cert_pem=self.certificates.server_cert_pem,
                    key_pem=self.certificates.server_key_pem,
                ),
                worker=MachineCertificates(ca_pem=ca_pem, cert_pem=worker_cert, key_pem=worker_key),
            ),
            pulumi.ResourceOptions(parent=self),
        )

    def _nomad(self, name: str, args: FleetArgs) -> NomadAccess:
        assert args.settings.cluster
        server = self.droplets.servers[args.settings.cluster.servers.endpoint - 1]
        assignment = assign_address(f"{name}-address", self.network.endpoint, server, self)
        return NomadAccess(
            f"{name}-nomad",
            NomadArgs(
                settings=args.settings,
                ipv4=self.network.endpoint.ip_address,
                certificates=self.certificates,
                droplet=server,
                volume=None,
                firewall=self.network.firewalls[0],
                assignment=assignment,
            ),
            # The first election needs every server.
            pulumi.ResourceOptions(parent=self, depends_on=self.droplets.servers),
        )

    def _placed(self, name: str) -> PlacedHosts:
        return PlacedHosts(
            name,
            {
                **self.nomad.api,
                "token": self.nomad.management_token,
                "cluster_id": self.nomad.admin.cluster_id,
                "hosts": self.hosts.by_name,
                "tag": self.network.worker_tag,
                "workers": [worker.id for worker in self.droplets.workers],
            },
            pulumi.ResourceOptions(parent=self),
        )

    def _clubs(self, name: str, settings: Settings) -> Clubs:
        return Clubs(
            name,
            ClubsArgs(
                settings=settings,
                admin=self.nomad.admin,
                addresses={host: address.ip_address for host, address in self.hosts.addresses.items()},
                api=self.nomad.api,
                management_token=self.nomad.management_token,
            ),
            # A club's volume is a directory on its host's node.
            pulumi.ResourceOptions(parent=self, depends_on=[self.placed]),
        )
