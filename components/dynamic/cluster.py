"""The provider that asks DigitalOcean, before anything of a cluster is created, whether the account can carry it."""

from components.clients import cluster_account
from components.dynamic.base import PollingProvider, Props


class ClusterAccountProvider(PollingProvider, pickled_as="ClusterAccountProvider"):
    """Refuses sizes that the region does not have, and a takeover's token with too few rights or too many."""

    def _run(self, news: Props, olds: Props) -> Props:
        cluster_account.refuse_missing_sizes(news["region"], news["sizes"])
        if news["takeover_token"]:
            cluster_account.refuse_wrong_rights(news["takeover_token"], news["api_url"])
        return dict(news)
