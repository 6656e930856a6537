"""A PDS on another stack's host: compares that stack's offer with this one's settings.

A stack reference reads the offer at each preview. Rendered files do not use it: the stack file sets port, ingress and
datacenter itself, so that every file is known offline, and any difference is an error before any resource is created
(docs/decisions/0012). `settings/offer.py` and `clubs.py` make the offer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_nomad as nomad

from components.entropy import as_secret
from components.settings.offer import accepted, warning
from components.settings.settings import Settings
from components.target import NomadTarget


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

    ipv4: pulumi.Output[str]
    api: dict[str, pulumi.Output[str]]
    target: NomadTarget
    files: NomadTarget
    cluster_id: pulumi.Output[str]

    def __init__(self, name: str, args: SharedHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:SharedHost", name, None, opts)
        assert args.settings.on
        host = pulumi.StackReference(
            f"{name}-reference", stack_name=args.reference, opts=pulumi.ResourceOptions(parent=self)
        )
        secret = host.get_output("club_access")
        opens = pulumi.Output.unsecret(secret.apply(lambda clubs: bool((clubs or {}).get(args.stack))))
        offer = pulumi.Output.all(host.get_output("clubs"), opens).apply(lambda both: _accepted(args, *both))
        self.ipv4, self.cluster_id = offer["ipv4"], offer["cluster_id"]
        access = as_secret(pulumi.Output.all(offer, secret).apply(lambda both: both[1][args.stack]))
        names = ("ca_pem", "cert_pem", "key_pem", "token", "namespace")
        # Nomad's address is not secret: an error about an unreachable Nomad names it.
        self.api = {"address": pulumi.Output.unsecret(access["address"])} | {key: access[key] for key in names}
        provider = nomad.Provider(
            # Another host is another provider: a changed one would look on the new host for what it has to delete on
            # the old one (docs/decisions/0015).
            f"{name}-provider-{args.settings.on.stack}",
            address=self.api["address"],
            region=args.settings.nomad.region,
            ca_pem=access["ca_pem"],
            cert_pem=access["cert_pem"],
            key_pem=access["key_pem"],
            secret_id=access["token"],
            # The operator's own shell may name another Nomad.
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.identity]),
        )
        self.target = NomadTarget(provider=provider, cluster_id=self.cluster_id, droplet=None, namespace=args.stack)
        self.files = NomadTarget(provider=provider, cluster_id=self.cluster_id, droplet=None)
        self.register_outputs({"ipv4": self.ipv4})


def _accepted(args: SharedHostArgs, offers: Mapping[str, Any] | None, opens: bool) -> Mapping[str, Any]:
    try:
        found = accepted(args.settings, args.stack, offers, opens)
    except ValueError as error:
        raise pulumi.RunError(str(error)) from None
    if text := warning(args.settings, found):
        pulumi.warn(text)
    return found
