"""`Pds`: one complete Personal Data Server. The order of its parts is the design.

First the host with the resources that must outlive its droplet, then secrets and job; once the name resolves, the
ingress; then the check that the PDS serves; last, what concerns people. Each part receives values of the earlier ones.
"""

from dataclasses import dataclass

import pulumi

from components.edge.dns import Dns, DnsArgs, dns_ready, dns_wait
from components.edge.ingress import create_ingress
from components.host.clubs import refuse_destroy_while_in_use
from components.host.connect import HostArgs, connect_host, stack_identity
from components.notices import warn_if_not_serving
from components.operations.blobs import blob_bucket
from components.operations.operations import OperationsArgs, create_operations
from components.outputs import Outputs, Parts, outputs
from components.people.people import People, PeopleArgs
from components.server.ready import ServerReadyArgs, server_ready
from components.server.secrets import PdsSecrets, PdsSecretsArgs
from components.server.server import PdsServer, PdsServerArgs
from components.settings.ingress_state import IngressState
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PdsArgs:
    """Arguments of `Pds`: the settings, the stack's name, and the project's name in the engine, ORGANIZATION/NAME."""

    settings: Settings
    stack: str
    project: str
    blobs_moved: str = ""
    """The place at which the operator's shell says that all blobs are (`stack_identity.BLOBS_MOVED`); empty without."""


class Pds(pulumi.ComponentResource):
    """A PDS with host, address, name, secrets, job and ingress."""

    outputs: Outputs
    """The stack's exports."""

    def __init__(self, name: str, args: PdsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Pds", name, None, opts)
        settings, stack, moved = args.settings, args.stack, args.blobs_moved
        child = pulumi.ResourceOptions(parent=self)
        identity = stack_identity(f"{name}-identity", settings, stack, child)
        host_args = HostArgs(settings=settings, stack=stack, project=args.project, identity=identity)
        host = connect_host(f"{name}-host", host_args, child)

        blobs = blob_bucket(f"{name}-blobs", settings, stack, identity, child)
        key = blobs.server_items if blobs else None
        secrets_args = PdsSecretsArgs(settings=settings, target=host.target, blobs=key)
        secrets = PdsSecrets(f"{name}-secrets", secrets_args, child)
        server_args = PdsServerArgs(
            settings=settings, stack=stack, target=host.target, secrets=secrets.variable, blobs=key, blobs_moved=moved
        )
        server = PdsServer(f"{name}-server", server_args, child)

        dns = Dns(f"{name}-dns", DnsArgs(settings=settings, ipv4=host.ipv4, identity=identity), child)
        resolves = dns_ready(f"{name}-dns-ready", settings, host.ipv4, self._after(dns, server.job))
        ingress = create_ingress(f"{name}-ingress", settings, stack, host, resolves.ingress_state, child)
        ingress_state = resolves.ingress_state if ingress.file else IngressState.NONE.value
        files = {"pds_job": server.jobspec} | ingress.texts
        ready_args = ServerReadyArgs(
            settings=settings, host=host, secrets=secrets, files=files, ingress_state=ingress_state
        )
        ready = server_ready(f"{name}-server-ready", ready_args, self._after(server.job, *ingress.last))
        warn_if_not_serving(ready, resolves, host.configuration)

        extras = OperationsArgs(settings=settings, stack=stack, host=host, blobs=blobs, server=server.job, ready=ready)
        operations = create_operations(name, extras, child)

        people_args = PeopleArgs(
            settings=settings,
            stack=stack,
            host=host,
            ingress_state=IngressState.PAUSED.value if settings.pds.paused else ingress_state,
            admin_password=secrets.admin_password,
            zone=dns.zone,
            dns_wait=dns_wait(settings),
            ready=ready,
        )
        people = People(f"{name}-people", people_args, child)

        if settings.clubs:
            refuse_destroy_while_in_use(f"{name}-host-in-use", list(settings.clubs), stack, args.project, host, self)
        self.outputs = outputs(
            Parts(
                settings=settings,
                stack=stack,
                host=host,
                secrets=secrets,
                dns=dns,
                dns_ready=resolves,
                ingress=ingress,
                ready=ready,
                operations=operations,
                people=people,
            )
        )
        self.register_outputs({"url": self.outputs["url"], "ipv4": host.ipv4})

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=list(resources))
