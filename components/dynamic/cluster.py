"""The provider that checks, before anything of a cluster is created or rebuilt, whether that can go well."""

from pulumi.dynamic import DiffResult

from components.clients.cluster import account as cluster_account
from components.clients.console import show
from components.clients.errors import ServiceError
from components.dynamic.base import PollingProvider, Props


class ClusterAccountProvider(PollingProvider, pickled_as="ClusterAccountProvider"):
    """Refuses sizes that the region does not have, a takeover's token with too few rights or too many, rebuilds of
    servers that would lose Nomad's state, and rebuilds or deletions of workers that carry a host.

    Output `pending_workers`: the droplets that the last `up` was to rebuild or delete, each with the generation that it
    had.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        cluster_account.refuse_rebuilt_servers(olds.get("servers") or {}, news["servers"])
        pending = cluster_account.refuse_rebuilt_carriers(olds.get("workers") or {}, news["workers"], _pending(olds))
        cluster_account.refuse_missing_sizes(news["region"], news["sizes"])
        if news["takeover_token"]:
            cluster_account.refuse_wrong_rights(news["takeover_token"], news["api_url"])
        return {**news, "pending_workers": {str(droplet): generation for droplet, generation in pending.items()}}

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        """A change, too, if a takeover has chosen a worker that the last `up` did not come to rebuild: the next one
        refuses. If the account cannot be asked, an `up` runs and says why, for it may rebuild that worker. A preview
        rebuilds nothing, and most lists are those of workers that are rebuilt: it only warns."""
        found = super().diff(_id, _olds, {**_news, "is_preview": None})
        try:
            changes = cluster_account.has_carrier(_olds.get("workers") or {}, _pending(_olds))
        except ServiceError as error:
            changes = not _news.get("is_preview")
            if not changes:
                show(f"Whether a worker that the last `up` was to rebuild runs a host by now is unknown. {error}")
        return DiffResult(changes=found.changes or changes, replaces=[])


def _pending(olds: Props) -> dict[int, float]:
    return {int(droplet): generation for droplet, generation in (olds.get("pending_workers") or {}).items()}
