"""The provider of `ServerReady`."""

from contextlib import suppress

from components.clients import caddy
from components.clients.errors import DeadlineError
from components.clients.https import https_health
from components.clients.nomad import JobRunning, NomadApi, stopping
from components.clients.wait import until
from components.dynamic.base import PollingProvider, Props, nomad_api
from components.settings.ingress_state import IngressState

_SETTLE_DEADLINE = 900  # seconds: an image pull on a first start, a stop of at most 60, a start and a check
_STOP_DEADLINE = 150  # seconds: a server has 60 to stop, after two without new requests
_NOTICE_DEADLINE = 30  # seconds: Nomad's template notices a written variable within some
_HTTPS_DEADLINE = 180  # seconds: one certificate order
_RELOAD_DEADLINE = 150  # seconds: the change script of Caddy's job has 120


class ServerReadyProvider(PollingProvider, pickled_as="ServerReadyProvider"):
    """Waits until the PDS answers again after any change: on the host by Nomad's check, then over HTTPS.

    Output `state` reports the progress. Missing HTTPS is a state, not a failure, and the next `up` checks again. A text
    that the ingress refused is a failure. Input `ingress_sha256` is the sum of this stack's text, or empty if the
    ingress does not report what it serves. Output `host_configuration` is the hash of the cloud-init that built the
    host.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = nomad_api(news)
        if news["management_token"]:
            # A rebuilt host's Nomad may have kept the tokens that the state replaced.
            admin = nomad_api({**news, "token": news["management_token"]})
            for name, accessor in news["tokens"].items():
                admin.forget_tokens(name, but=accessor)
        state = self._paused(api, news) if news["paused"] else self._serving(api, news, olds)
        # Afterwards: on a slow host the node joins some time after Nomad has a leader.
        configuration = self._configuration(api) if news["configuration"] else ""
        return {**news, "state": state, "host_configuration": configuration}

    @staticmethod
    def _paused(api: NomadApi, news: Props) -> str:
        # Operators pause the PDS to work on the data, which allow only one writer.
        until(lambda: stopping(api, news["job"]), _STOP_DEADLINE, "The PDS")
        return "paused"

    @staticmethod
    def _configuration(api: NomadApi) -> str:
        nodes = api.get("/v1/nodes?resources=false")
        return api.get(f"/v1/node/{nodes[0]['ID']}")["Meta"].get("pds_configuration", "") if nodes else ""

    def _serving(self, api: NomadApi, news: Props, olds: Props) -> str:
        self._wait_for_health(api, news, olds)
        if news["ingress_state"] == IngressState.NONE:
            return "serving"
        if news["ingress_state"] != IngressState.OPEN:
            return "serving on the host; not open to the Internet yet"
        fault = https_health(news["hostname"], news["ip"], _HTTPS_DEADLINE)
        if not fault and news["ingress_sha256"]:
            caddy.require(news["hostname"], news["ip"], news["ingress_sha256"], _RELOAD_DEADLINE)
        return f"serving on the host; HTTPS pending: {fault}" if fault else "serving"

    def _wait_for_health(self, api: NomadApi, news: Props, olds: Props) -> None:
        """Wait until the job runs with the current secrets.

        A changed secret restarts the task some moments after the variable was written. Writing the same secrets again
        restarts nothing.
        """
        written = api.get(f"/v1/var/{news['secrets_path']}")["ModifyTime"]
        if not olds:
            # An adopted Nomad may run the job already with the previous secrets; it gets time to notice.
            with suppress(DeadlineError):
                until(JobRunning(api, news["job"], written), _NOTICE_DEADLINE, "The PDS")
                return
        changed = olds and olds.get("secrets_digest") != news["secrets_digest"]
        until(JobRunning(api, news["job"], written if changed else 0), _SETTLE_DEADLINE, "The PDS")

    def _is_done(self, olds: Props) -> bool:
        return olds.get("state") in ("serving", "paused")
