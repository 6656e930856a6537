"""A PDS on another stack's host: what that stack offers, held against what this one asks for.

The offer is read through a stack reference, at each preview. What is rendered here does not come from it: the stack
file says port, ingress and datacenter itself, so that every file is known offline, and any difference is an error
before anything is made (docs/decisions/0012). What is offered is in `settings/offer.py` and `clubs.py`.
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
    """What `SharedHost` is told; `reference` is the engine's full name of the host's stack."""

    settings: Settings
    stack: str
    reference: str
    identity: pulumi.Resource
    """What refuses another hostname or name of the stack, before anything in Nomad is touched."""


class SharedHost(pulumi.ComponentResource):
    """The way in to a Nomad that another stack made."""

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
        # Where Nomad is, is no secret: whoever asks it says so, where it does not answer.
        self.api = {"address": pulumi.Output.unsecret(access["address"])} | {key: access[key] for key in names}
        provider = nomad.Provider(
            # With another host it is another one: one that changed would look there for what is to be deleted on
            # the old host (docs/decisions/0015).
            f"{name}-provider-{args.settings.on.stack}",
            address=self.api["address"],
            region=args.settings.nomad.region,
            ca_pem=access["ca_pem"],
            cert_pem=access["cert_pem"],
            key_pem=access["key_pem"],
            secret_id=access["token"],
            # The operator's own shell may point at another Nomad.
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
