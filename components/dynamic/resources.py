"""The dynamic resources, for tasks that no provider supports. The modules beside this one define their providers.

All outputs are secret unless listed. `version` is an input, so changed code alone is not a diff.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi.dynamic import Resource

from components.dynamic.accounts import (
    AccountProvider,
    AccountRemovalsProvider,
    HandleProvider,
    InvitesProvider,
    UnlistedAccountsProvider,
)
from components.dynamic.base import PollingProvider
from components.dynamic.cluster import ClusterAccountProvider
from components.dynamic.dns import DnsReadyProvider, SoleRecordsProvider
from components.dynamic.identity import StackIdentityProvider
from components.dynamic.nomad import (
    BootstrapProvider,
    ClubNamespaceProvider,
    HostInUseProvider,
    NomadJobRunProvider,
    NomadRequirementsProvider,
    PlacedHostsProvider,
)
from components.dynamic.server import ServerReadyProvider


class DynamicResource(Resource):
    """A dynamic resource whose outputs are all secret unless listed: the host of dynamic providers drops the secret
    marks of the inputs that it returns."""

    def __init__(
        self,
        provider: PollingProvider,
        name: str,
        inputs: Mapping[str, Any],
        found: Sequence[str],
        secret: Sequence[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {**inputs, "version": provider.VERSION}
        secret_outputs = pulumi.ResourceOptions(additional_secret_outputs=list(secret))
        declared = dict.fromkeys(found)
        super().__init__(provider, name, {**props, **declared}, pulumi.ResourceOptions.merge(opts, secret_outputs))


_NOMAD_SECRETS = ("ca_pem", "cert_pem", "key_pem", "token")


class StackIdentity(DynamicResource, module="pds", name="StackIdentity"):
    """Values that must not change in a stack's life. Inputs: those of `identity.fault`. All risky resources wait for
    it."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(StackIdentityProvider(), name, inputs, (), (), opts)


class ClusterAccount(DynamicResource, module="pds", name="ClusterAccount"):
    """An account that can carry the cluster. Inputs: `region`, `sizes` (key in the stack file to slug), `servers`
    and `workers` as in `clients/cluster/account.py`, `takeover_token` (empty without a takeover), `api_url`, and
    `is_preview`, which is no change of its own. Everything of the cluster waits for it."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(ClusterAccountProvider(), name, inputs, ("pending_workers",), ("takeover_token",), opts)


class HostInUse(DynamicResource, module="pds", name="HostInUse"):
    """Clubs on a host, which prevent its destruction. Inputs: those of the Nomad API with a management token, `clubs`
    (their names), `stack`, and its own `urn`, by which it can be removed from the state."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(HostInUseProvider(), name, inputs, (), _NOMAD_SECRETS, opts)


class Bootstrap(DynamicResource, module="pds", name="NomadBootstrap"):
    """A Nomad that answers, with our ACLs. Inputs: `address`, `ca_pem`, `cert_pem`, `key_pem`, `token`, and the IDs of
    droplet and volume, whose change repeats the wait."""

    address: pulumi.Output[str]
    """The endpoint's URL, known to answer. It is known at a preview, because it is an input too."""
    cluster_id: pulumi.Output[str]
    """Changes if this Nomad has lost its state."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(BootstrapProvider(), name, inputs, ("cluster_id",), _NOMAD_SECRETS, opts)


class NomadRequirements(DynamicResource, module="pds", name="NomadRequirements"):
    """Another operator's Nomad that meets the PDS's requirements. Inputs: those of the Nomad API, and `required`
    (`clients/nomad_requirements.py`)."""

    address: pulumi.Output[str]
    """Equals the input; resources that use it wait for the check."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(NomadRequirementsProvider(), name, inputs, (), _NOMAD_SECRETS, opts)


class ClubNamespace(DynamicResource, module="pds", name="ClubNamespace"):
    """A club's namespace and volume. Inputs: those of the Nomad API with a management token, `cluster_id`, whose change
    creates it again, `club`, `volume` (its name), `disk_gib`."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(ClubNamespaceProvider(), name, inputs, ("volume_id",), _NOMAD_SECRETS, opts)


class PlacedHosts(DynamicResource, module="pds", name="PlacedHosts"):
    """The hosts of a cluster, each on a worker. Inputs: those of the Nomad API with a management token, `hosts` (name
    to `volume_id` and `address`), `tag` of the workers, and `workers` (their IDs), whose change looks again."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(PlacedHostsProvider(), name, inputs, (), _NOMAD_SECRETS, opts)


class DnsReady(DynamicResource, module="pds", name="DnsReady"):
    """Whether the hostname resolves. Inputs: `hostname`, `ip`, `zone` (empty if its records are made by hand),
    `nameservers`, `issuer` (the domain of the CA that the ingress orders from, or empty), `wait` (seconds)."""

    ingress_state: pulumi.Output[str]
    """OPEN or CLOSED (`IngressState`), for the ingress job's variable."""
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(DnsReadyProvider(), name, inputs, ("ingress_state", "state"), (), opts)


class SoleRecords(DynamicResource, module="pds", name="SoleRecords"):
    """Names at which no other record exists. Inputs: `zone`, `nameservers`, `wait` (seconds), `existing_spf` (text that
    the stack's SPF record replaces, or empty), and `records`: each a `role`, the whole `name`, how the texts of which
    there can be one begin (`begins`), and the stack's `value`."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(SoleRecordsProvider(), name, inputs, (), (), opts)


class ServerReady(DynamicResource, module="pds", name="ServerReady"):
    """Whether the PDS serves. Inputs: those of the Nomad API, `management_token` and `tokens` (names to the current
    accessor ID; other tokens of that name are deleted), `hostname`, `ip`, `ingress_state`, `paused`, `job`, the files'
    hash, `secrets_path`, a digest of the secrets, the host's ID, and its `configuration`, empty if it is another
    stack's."""

    state: pulumi.Output[str]
    host_configuration: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = ("state", "host_configuration")
        super().__init__(
            ServerReadyProvider(), name, inputs, found, (*_NOMAD_SECRETS, "management_token", "secrets_digest"), opts
        )


class Account(DynamicResource, module="pds", name="Account"):
    """One member's account. Inputs: those of `PdsProvider`, `handle`, `was` (a list), `temporary` (the handle for its
    creation, or empty), `email`, `password`, `recovery_key`."""

    did: pulumi.Output[str]
    """Empty while it is pending."""
    initial_password: pulumi.Output[str]
    live_handle: pulumi.Output[str]
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        secret = ("admin_password", "password", "initial_password", "email", "live_email", "applied_email")
        super().__init__(AccountProvider(), name, inputs, (*AccountProvider.FOUND, "state"), secret, opts)


class Handle(DynamicResource, module="pds", name="Handle"):
    """One account's handle. Inputs: those of `PdsProvider`, `did`, `handle`, `was`, `temporary`, `external`,
    `nameservers`, `wait` (seconds)."""

    live_handle: pulumi.Output[str]
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = (*HandleProvider.FOUND, "state")
        super().__init__(HandleProvider(), name, inputs, found, ("admin_password",), opts)


class AccountRemovals(DynamicResource, module="pds", name="AccountRemovals"):
    """Accounts taken down and deleted. Inputs: those of `PdsProvider`, `takedown`, `delete`. `./pds restore` reads the
    outputs `taken_down`, `deleted` and `returned`."""

    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = (*AccountRemovalsProvider.FOUND, "state")
        super().__init__(AccountRemovalsProvider(), name, inputs, found, ("admin_password",), opts)


class Invites(DynamicResource, module="pds", name="Invites"):
    """Invite codes. Inputs: those of `PdsProvider`, `count`, `uses`."""

    codes: pulumi.Output[list[str]]
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = (*InvitesProvider.FOUND, "state")
        super().__init__(InvitesProvider(), name, inputs, found, ("admin_password", "codes"), opts)


class UnlistedAccounts(DynamicResource, module="pds", name="UnlistedAccounts"):
    """Accounts that the stack file does not name. Inputs: those of `PdsProvider`, `dids` of the members, and `known`:
    handles or DIDs to omit as well."""

    unlisted: pulumi.Output[list[str]]
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = (*UnlistedAccountsProvider.FOUND, "state")
        super().__init__(UnlistedAccountsProvider(), name, inputs, found, ("admin_password",), opts)


class NomadJobRun(DynamicResource, module="pds", name="NomadJobRun"):
    """A run of a Nomad job. Inputs: those of the Nomad API, `job`, `list`, `paused`, and any that trigger another
    run."""

    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(NomadJobRunProvider(), name, inputs, ("state",), (*_NOMAD_SECRETS, "addresses"), opts)
