"""The provider of `DnsReady`."""

from components.clients import dns
from components.clients.errors import ServiceError
from components.clients.wait import until
from components.dynamic.base import PollingProvider, Props
from components.settings.ingress_state import IngressState


class DnsReadyProvider(PollingProvider, pickled_as="DnsReadyProvider"):
    """Queries the zone's own name servers for the hostname, for at most `wait` seconds.

    Output `ingress_state` is OPEN once they all answer with the reserved IP, and stays so. Until then it is CLOSED, and
    `state` gives the reason.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        def answer() -> str | None:
            return dns.resolves(news["hostname"], news["ip"], news["zone"], list(news["nameservers"]), news["issuer"])

        try:
            until(answer, float(news["wait"]), "DNS", pause=5)
        except ServiceError as error:
            return {**news, "ingress_state": IngressState.CLOSED.value, "state": f"pending: {error}"}
        return {
            **news,
            "ingress_state": IngressState.OPEN.value,
            "state": f"{news['hostname']} resolves to {news['ip']}",
        }

    def _is_done(self, olds: Props) -> bool:
        return olds.get("ingress_state") == IngressState.OPEN
