"""The droplets of a cluster: its servers, and its workers. Nothing on them has to be kept."""

from collections.abc import Callable
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.host.cluster.network import ClusterNetwork
from components.host.droplet import account_key_id
from components.render.cluster.user_data import (
    MachineIdentity,
    server_names,
    server_user_data,
    worker_names,
    worker_user_data,
)
from components.render.host.cloud_init import Certificates
from components.secret_values import as_secret
from components.settings.sections.cluster import generation_of
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class MachineCertificates:
    """CA, certificate and key of a droplet, as PEM; the key is secret."""

    ca_pem: pulumi.Output[str]
    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True)
class ClusterDropletsArgs:
    """Arguments of `ClusterDroplets`."""

    settings: Settings
    stack: str
    network: ClusterNetwork
    server: MachineCertificates
    worker: MachineCertificates


class ClusterDroplets(pulumi.ComponentResource):
    """Servers and workers. Each is rebuilt when its generation is raised, and by nothing else."""

    servers: list[digitalocean.Droplet]
    workers: list[digitalocean.Droplet]

    def __init__(self, name: str, args: ClusterDropletsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:ClusterDroplets", name, None, opts)
        settings, stack = args.settings, args.stack
        cluster = settings.cluster
        assert cluster

        def server(number: int) -> Callable[[MachineIdentity], str]:
            return lambda identity: server_user_data(settings, stack, number, identity)

        self.servers = [
            self._droplet(
                f"{name}-server-{number}",
                args,
                label=f"{server_names(stack)}{number}",
                size=cluster.servers.size,
                tag=args.network.server_tag,
                generation=generation_of(cluster.servers, number),
                user_data=_rendered(args.server, args.network, server(number)),
            )
            for number in range(1, cluster.servers.count + 1)
        ]
        self.workers = [
            self._droplet(
                f"{name}-worker-{number}",
                args,
                label=f"{worker_names(stack)}{number}",
                size=cluster.workers.size,
                tag=args.network.worker_tag,
                generation=generation_of(cluster.workers, number),
                user_data=_rendered(
                    args.worker, args.network, lambda identity: worker_user_data(settings, stack, identity)
                ),
            )
            for number in range(1, cluster.worker_count + 1)
        ]
        self.register_outputs({})

    def _droplet(
        self,
        name: str,
        args: ClusterDropletsArgs,
        *,
        label: str,
        size: str,
        tag: pulumi.Output[str],
        generation: int,
        user_data: pulumi.Output[str],
    ) -> digitalocean.Droplet:
        host, operators = args.settings.host, args.settings.operators
        assert operators
        return digitalocean.Droplet(
            name,
            name=label,
            image=host.image,
            size=size,
            region=host.region,
            resize_disk=False,
            vpc_uuid=args.network.vpc_uuid,
            ssh_keys=[account_key_id(key) for key in operators.account_keys],
            tags=[tag],
            user_data=as_secret(user_data),
            monitoring=True,
            droplet_agent=False,
            graceful_shutdown=True,
            ipv6=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=list(args.network.firewalls),
                delete_before_replace=True,
                replacement_trigger=generation,
                # A host's volume comes and goes at run time. A resize would turn off all of them at once.
                ignore_changes=["userData", "sshKeys", "image", "size", "volumeIds"],
                custom_timeouts=pulumi.CustomTimeouts(create="20m", delete="10m"),
            ),
        )


def _rendered(
    certificates: MachineCertificates, network: ClusterNetwork, render: Callable[[MachineIdentity], str]
) -> pulumi.Output[str]:
    values = pulumi.Output.all(
        certificates.ca_pem, certificates.cert_pem, certificates.key_pem, network.endpoint.ip_address
    )
    return values.apply(
        lambda known: render(MachineIdentity(certificates=Certificates(known[0], known[1], known[2]), address=known[3]))
    )
