"""A PDS in an existing Nomad, like the one of the post's author. Creates and changes nothing on that host.

`needs.py` checks first what that Nomad provides, and reports everything it lacks in one list.
"""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.facts import Offers
from components.render.pds_job import JOB
from components.settings.capacity import processor_asked
from components.settings.checks import memory_asked
from components.settings.placement import On
from components.settings.settings import Settings
from components.target import NomadTarget


@dataclass(frozen=True, kw_only=True)
class ExistingNomadArgs:
    """Arguments of `ExistingNomad`."""

    settings: Settings
    on: On
    identity: pulumi.Resource
    """Refuses another hostname before anything in Nomad changes."""


class ExistingNomad(pulumi.ComponentResource):
    """The connection to a Nomad of another operator."""

    api: dict[str, pulumi.Input[str]]
    target: NomadTarget

    def __init__(self, name: str, args: ExistingNomadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:ExistingNomad", name, None, opts)
        settings, on = args.settings, args.on
        key, token = on.nomad_client_key_pem, on.nomad_token
        self.api = {
            "address": str(on.nomad_address),
            "ca_pem": on.nomad_ca_pem or "",
            "cert_pem": on.nomad_client_cert_pem or "",
            "key_pem": pulumi.Output.secret(key.get_secret_value() if key else ""),
            "token": pulumi.Output.secret(token.get_secret_value() if token else ""),
            "namespace": on.namespace,
        }
        offers = Offers(
            f"{name}-offers",
            {
                **self.api,
                "wants": {
                    "volume": on.volume,
                    "job": JOB,
                    "namespace": on.namespace,
                    "datacenter": settings.nomad.datacenter,
                    "memory_mib": sum(memory_asked(settings).values()),
                    "mhz": sum(processor_asked(settings).values()),
                    "ports": [settings.pds.port] if settings.fixed_port else [],
                    "ingress": settings.ingress.kind if settings.ingress_is_ours else "",
                },
            },
            pulumi.ResourceOptions(parent=self, depends_on=[args.identity]),
        )
        provider = nomad.Provider(
            f"{name}-provider",
            address=offers.address,
            region=settings.nomad.region,
            ca_pem=on.nomad_ca_pem,
            cert_pem=on.nomad_client_cert_pem,
            key_pem=self.api["key_pem"] if key else None,
            secret_id=self.api["token"],
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self),
        )
        # That Nomad's state is its operator's: this stack cannot detect its loss.
        known = pulumi.Output.from_input(str(on.nomad_address))
        namespace = None if on.namespace == "default" else on.namespace
        self.target = NomadTarget(provider=provider, cluster_id=known, droplet=None, namespace=namespace)
        self.register_outputs({"address": self.api["address"]})
