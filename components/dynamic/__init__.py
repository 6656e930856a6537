"""The providers of our dynamic resources, for tasks that no provider supports; they run where `pulumi` runs.

FROZEN: this package's name and the name that each provider is pickled under (`pickled_as`). Stacks hold the providers
pickled as `components.dynamic.NAME`, so every one of them is imported here. A test pins the names. Files and classes
can be renamed. A change of behaviour raises the provider's VERSION, which is an input.

Only the standard library and Pulumi are imported, because every operation loads this package. Each provider defines
diff, read, update and delete, and returns every output from create and update alike: the engine replaces all outputs by
the result of update. Providers never delete anything, except ClubNamespace, which renames the club's data directory.
One `delete` only refuses. `resources.py` has the resources of these providers.
"""

from components.dynamic.accounts import (
    AccountProvider,
    AccountRemovalsProvider,
    HandleProvider,
    InvitesProvider,
    UnlistedAccountsProvider,
)
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

__all__ = [
    "AccountProvider",
    "AccountRemovalsProvider",
    "BootstrapProvider",
    "ClubNamespaceProvider",
    "ClusterAccountProvider",
    "DnsReadyProvider",
    "HandleProvider",
    "HostInUseProvider",
    "InvitesProvider",
    "NomadJobRunProvider",
    "NomadRequirementsProvider",
    "PlacedHostsProvider",
    "ServerReadyProvider",
    "SoleRecordsProvider",
    "StackIdentityProvider",
    "UnlistedAccountsProvider",
]
