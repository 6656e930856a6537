"""A PDS in an existing Nomad, like the one of the post's author. Creates and changes nothing on that host.

`clients/nomad_requirements.py` first checks that Nomad, and reports everything it lacks in one list.
"""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.connection import HostConnection, nomad_outputs
from components.dynamic.resources import NomadRequirements
from components.nomad_target import NomadTarget
from components.render.jobs.pds import JOB
from components.settings.checks.capacity import memory_demand, processor_demand
from components.settings.sections.placement import OnOptions
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ExistingNomadArgs:
    """Arguments of `ExistingNomad`."""

    settings: Settings
    on: OnOptions
    identity: pulumi.Resource
    """Refuses another hostname before anything in Nomad changes."""


class ExistingNomad(pulumi.ComponentResource):
    """The connection to a Nomad of another operator."""

    connection: HostConnection

    def __init__(self, name: str, args: ExistingNomadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:ExistingNomad", name, None, opts)
        settings, on = args.settings, args.on
        key, token = on.nomad_client_key_pem, on.nomad_token
        api: dict[str, pulumi.Input[str]] = {
            "address": str(on.nomad_address),
            "ca_pem": on.nomad_ca_pem or "",
            "cert_pem": on.nomad_client_cert_pem or "",
            "key_pem": pulumi.Output.secret(key.get_secret_value() if key else ""),
            "token": pulumi.Output.secret(token.get_secret_value() if token else ""),
            "namespace": on.namespace,
        }
        requirements = NomadRequirements(
            f"{name}-requirements",
            {
                **api,
                "required": {
                    "volume": on.volume,
                    "job": JOB,
                    "namespace": on.namespace,
                    "datacenter": settings.nomad.datacenter,
                    "memory_mib": memory_demand(settings),
                    "mhz": processor_demand(settings),
                    "ports": [settings.pds.port] if settings.fixed_port else [],
                    "ingress": settings.ingress.kind if settings.ingress_is_ours else "",
                },
            },
            pulumi.ResourceOptions(parent=self, depends_on=[args.identity]),
        )
        provider = nomad.Provider(
            f"{name}-provider",
            address=requirements.address,
            region=settings.nomad.region,
            ca_pem=on.nomad_ca_pem,
            cert_pem=on.nomad_client_cert_pem,
            key_pem=api["key_pem"] if key else None,
            secret_id=api["token"],
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self),
        )
        # This stack cannot detect that an existing Nomad has lost its state.
        cluster_id = pulumi.Output.from_input(str(on.nomad_address))
        namespace = None if on.namespace == "default" else on.namespace
        target = NomadTarget(provider=provider, cluster_id=cluster_id, droplet=None, namespace=namespace)
        self.connection = HostConnection(
            ipv4=pulumi.Output.from_input(str(on.ipv4)),
            api=api,
            target=target,
            files=target,
            admin=target,
            host_id=cluster_id,
            outputs=nomad_outputs(api),
            escrow={"on": str(on.nomad_address)},
        )
        self.register_outputs({"address": api["address"]})
