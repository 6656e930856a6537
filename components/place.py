"""`Place`: the properties of a PDS's host, whichever component made it. No resource is created here.

`pds.py` passes it from the components that made the connection (`host.py` and `nomad.py`, `shared.py` or `existing.py`)
to those that use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from components.target import NomadTarget


@dataclass(frozen=True, kw_only=True)
class Place:
    """A Nomad that answers, and the address on which its ingress listens."""

    ipv4: pulumi.Output[str]
    """The address that the hostname must have."""
    api: Mapping[str, pulumi.Input[str]]
    """Connection to Nomad: address, ca_pem, cert_pem, key_pem, token, namespace; inputs of the dynamic resources."""
    target: NomadTarget
    """For all of this PDS's own resources."""
    files: NomadTarget
    """For its file among those of the ingress."""
    admin: NomadTarget | None
    """For rights of the ingress; None if the ingress is not this stack's."""
    host_id: pulumi.Output[str]
    """Changes with a rebuild of the host."""
    configuration: str = ""
    """Hash of the cloud-init that the program renders now; empty if the host is not this stack's."""
    management_token: pulumi.Input[str] = ""
    """For deleting tokens that a rebuilt host remembers; empty if that is not this stack's task."""
    tokens: Mapping[str, pulumi.Output[str]] = field(default_factory=dict)
    """Accessor IDs of the tokens that this stack has created, by name."""
    tag: pulumi.Output[str] | None = None
    """DigitalOcean's tag of the droplet; None if it is not this stack's."""
    outputs: Mapping[str, pulumi.Input[object]] = field(default_factory=dict)
    """The stack's exports about the host."""
    escrow: Mapping[str, pulumi.Input[object]] = field(default_factory=dict)
    """The host's part of the escrow file, needed to rebuild the PDS elsewhere."""
