"""The provider that checks, before anything of a cluster is created or rebuilt, whether that can go well."""

from components.clients.cluster import account as cluster_account
from components.dynamic.base import PollingProvider, Props


class ClusterAccountProvider(PollingProvider, pickled_as="ClusterAccountProvider"):
    """Refuses sizes that the region does not have, a takeover's token with too few rights or too many, rebuilds of
    servers that would lose Nomad's state, and rebuilds or deletions of workers that carry a host."""

    def _run(self, news: Props, olds: Props) -> Props:
        cluster_account.refuse_rebuilt_servers(olds.get("servers") or {}, news["servers"])
        cluster_account.refuse_rebuilt_carriers(olds.get("workers") or {}, news["workers"])
        cluster_account.refuse_missing_sizes(news["region"], news["sizes"])
        if news["takeover_token"]:
            cluster_account.refuse_wrong_rights(news["takeover_token"], news["api_url"])
        return dict(news)
