"""`Place`: what a PDS has to know of where it runs, whoever made that. No resource is made here.

Handed by `pds.py` from the components that made the way in (`host.py` and `nomad.py`, `shared.py` or `existing.py`) to
those that use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from components.target import NomadTarget


@dataclass(frozen=True, kw_only=True)
class Place:
    """A Nomad that answers, and the address on which its ingress listens."""

    ipv4: pulumi.Output[str]
    """Where the hostname has to point."""
    api: Mapping[str, pulumi.Input[str]]
    """How Nomad is asked: address, ca_pem, cert_pem, key_pem, token, namespace; inputs of the dynamic resources."""
    target: NomadTarget
    """For everything of this PDS's own."""
    files: NomadTarget
    """For its file among those of the ingress."""
    admin: NomadTarget | None
    """For rights of the ingress; None where the ingress is not this stack's."""
    host_id: pulumi.Output[str]
    """Another one after the host was rebuilt."""
    configuration: str = ""
    """Hash of the cloud-init that the program renders now; empty where the host is not this stack's."""
    management_token: pulumi.Input[str] = ""
    """For sweeping tokens that a rebuilt host remembers; empty where that is not this stack's to do."""
    tokens: Mapping[str, pulumi.Output[str]] = field(default_factory=dict)
    """Accessor ids of the tokens that this stack has made, by name."""
    tag: pulumi.Output[str] | None = None
    """DigitalOcean's tag of the droplet; None where it is not this stack's."""
    outputs: Mapping[str, pulumi.Input[object]] = field(default_factory=dict)
    """What the stack exports about it."""
    escrow: Mapping[str, pulumi.Input[object]] = field(default_factory=dict)
    """What of it is needed to rebuild the PDS elsewhere."""
