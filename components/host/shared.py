"""A PDS on another stack's host: compares the terms that the host grants with this stack's settings.

A stack reference reads the terms at each preview. Rendered files do not use them: the stack file sets port, ingress and
datacenter itself, so that every file is known offline. A difference is an error before any resource is created
(docs/decisions/0012). `settings/host_contract.py` and `clubs.py` make the terms.
"""

from dataclasses import dataclass
from typing import cast

import pulumi
import pulumi_nomad as nomad

from components.connection import HostConnection, nomad_outputs
from components.nomad_target import NomadTarget
from components.secret_values import as_secret
from components.settings.host_contract import Terms, accepted_terms, terms_warning
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SharedHostArgs:
    """Arguments of `SharedHost`; `reference` is the engine's full name of the host's stack."""

    settings: Settings
    stack: str
    reference: str
    identity: pulumi.Resource
    """Refuses another hostname or name of the stack, before anything in Nomad changes."""


class SharedHost(pulumi.ComponentResource):
    """The connection to a Nomad that another stack made."""

    connection: HostConnection

    def __init__(self, name: str, args: SharedHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:SharedHost", name, None, opts)
        assert args.settings.on
        host = pulumi.StackReference(
            f"{name}-reference", stack_name=args.reference, opts=pulumi.ResourceOptions(parent=self)
        )
        # Only this club's values. `get_output` copies every output of the host, for each club on it, and so does `all`.
        secret = as_secret(host.outputs.apply(lambda outputs: (outputs.get("club_access") or {}).get(args.stack)))
        granted = host.outputs.apply(lambda outputs: (outputs.get("clubs") or {}).get(args.stack))
        readable = pulumi.Output.unsecret(secret.apply(bool))
        terms = pulumi.Output.unsecret(
            pulumi.Output.all(granted, readable).apply(lambda both: _accepted_terms(args, *both))
        )
        ipv4, cluster_id = terms["ipv4"], terms["cluster_id"]
        access = as_secret(pulumi.Output.all(terms, secret).apply(lambda both: both[1]))
        # Nomad's address is not secret: an error about an unreachable Nomad names it.
        api: dict[str, pulumi.Input[str]] = {"address": pulumi.Output.unsecret(access["address"])}
        api |= {key: access[key] for key in ("ca_pem", "cert_pem", "key_pem", "token", "namespace")}
        provider = nomad.Provider(
            # Another host is another provider. A changed provider would search the new host for the resources that it
            # has to delete on the old one (docs/decisions/0015).
            f"{name}-provider-{args.settings.on.stack}",
            address=api["address"],
            region=args.settings.nomad.region,
            ca_pem=access["ca_pem"],
            cert_pem=access["cert_pem"],
            key_pem=access["key_pem"],
            secret_id=access["token"],
            # The operator's own shell may name another Nomad.
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.identity]),
        )
        self.connection = HostConnection(
            ipv4=ipv4,
            api=api,
            target=NomadTarget(provider=provider, cluster_id=cluster_id, droplet=None, namespace=args.stack),
            files=NomadTarget(provider=provider, cluster_id=cluster_id, droplet=None),
            files_namespace=terms.apply(_ingress_namespace),
            admin=None,
            host_id=cluster_id,
            outputs=nomad_outputs(api),
            escrow={"on": args.settings.on.stack},
        )
        self.register_outputs({"ipv4": ipv4})


def _ingress_namespace(terms: Terms) -> str:
    """Of a cluster's host; None, which the engine takes for no value, on any other."""
    return cast(str, terms.get("ingress_namespace"))


def _accepted_terms(args: SharedHostArgs, granted: Terms | None, secret_readable: bool) -> Terms:
    try:
        terms_by_club = None if granted is None else {args.stack: granted}
        terms = accepted_terms(args.settings, args.stack, terms_by_club, secret_readable)
    except ValueError as error:
        raise pulumi.RunError(str(error)) from None
    if warning := terms_warning(args.settings, terms):
        pulumi.warn(warning)
    return terms
