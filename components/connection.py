"""`HostConnection`: how the other components reach a PDS's host, whichever component in `host/` made it.

`pds.py` passes it from the one that made it to those that use it. No resource is created here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from components.nomad_target import NomadTarget


@dataclass(frozen=True, kw_only=True)
class HostConnection:
    """A Nomad that answers, and the address on which its ingress listens."""

    ipv4: pulumi.Output[str]
    """The address that the hostname must have."""
    api: Mapping[str, pulumi.Input[str]]
    """Connection to Nomad: address, ca_pem, cert_pem, key_pem, token, namespace; inputs of the dynamic resources."""
    target: NomadTarget
    """For all of this PDS's own resources."""
    files: NomadTarget
    """For its file among those of the ingress."""
    files_namespace: pulumi.Output[str] | None = None
    """The namespace of that file on a host of a cluster; resolves to None on any other."""
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


def nomad_outputs(api: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[object]]:
    """The stack's exports for connections to Nomad, under the names that the CLI reads."""
    outputs: dict[str, pulumi.Input[object]] = {
        "nomad_address": api["address"],
        "nomad_token": api["token"],
        "nomad_ca_pem": api["ca_pem"],
        "nomad_client_cert_pem": api["cert_pem"],
        "nomad_client_key_pem": api["key_pem"],
    }
    return outputs | ({"nomad_namespace": api["namespace"]} if "namespace" in api else {})
