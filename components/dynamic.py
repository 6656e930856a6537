"""The dynamic resources: what no provider offers, done from the machine that runs `pulumi`.

FROZEN: live stacks hold these providers pickled by module path and class name. Renaming this module or a provider class
breaks every one of them; a test pins both. A change of behaviour raises the provider's VERSION instead, which is an
input. Only the standard library and Pulumi are imported at the top, since every operation loads this module.

Each provider writes out diff, read, update and delete, and returns every output from create and update alike: the
engine replaces all outputs by what update returns. All outputs are secret unless listed. Nothing is ever deleted here:
these resources are waits and facts, not things.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from components import probes

Props = dict[str, Any]

_HOST_DEADLINE = 900  # seconds: a droplet's first boot installs Docker and fetches Nomad
_SETTLE_DEADLINE = 900  # seconds: an image pull on a first start, a stop of at most 60, a start and a check
_NOTICE_DEADLINE = 30  # seconds: Nomad's template sees a written variable within some
_HTTPS_DEADLINE = 180  # seconds: one certificate order


class _Wait(ResourceProvider):
    """A provider whose create and update are the same wait; outputs are the inputs and what was found out."""

    VERSION = "1"
    serialize_as_secret_always = False

    def _run(self, news: Props, olds: Props) -> Props:
        raise NotImplementedError

    def _settled(self, olds: Props) -> bool:
        """Whether the last run reached its aim; if not, the next `up` goes on."""
        return True

    def create(self, props: Props) -> CreateResult:
        return CreateResult(id_=type(self).__name__.strip("_"), outs=self._run(props, {}))

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        # Outputs stand among the inputs as None, to be declared; they are no wish.
        wishes = {key: value for key, value in _news.items() if key != "__provider" and value is not None}
        changed = any(_olds.get(key) != value for key, value in wishes.items())
        return DiffResult(changes=changed or not self._settled(_olds), replaces=[])

    def read(self, id_: str, props: Props) -> ReadResult:
        return ReadResult(id_, props)

    def update(self, _id: str, _olds: Props, _news: Props) -> UpdateResult:
        return UpdateResult(outs=self._run(_news, _olds))

    def delete(self, _id: str, _props: Props) -> None:
        return None


def _api(props: Props) -> probes.NomadApi:
    return probes.NomadApi(props["address"], props["ca_pem"], props["cert_pem"], props["key_pem"], props.get("token"))


class BootstrapProvider(_Wait):
    """Waits for Nomad and bootstraps its ACLs with a token chosen in advance.

    Output `cluster_id` is the token's accessor id, which Nomad draws anew at each bootstrap: an emptied Nomad shows
    as a changed `cluster_id`. 'Already done', with our token known, is the normal case after a rebuild.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = _api(news)
        api.wait_for_leader(_HOST_DEADLINE)
        return {**news, "cluster_id": api.bootstrap(news["token"])}

    def _settled(self, olds: Props) -> bool:
        return bool(olds.get("cluster_id"))

    def read(self, id_: str, props: Props) -> ReadResult:
        """A Nomad that answers and does not know the token was emptied: the next `up` bootstraps and refills it."""
        return ReadResult(id_, {**props, "cluster_id": _api(props).accessor(props["token"]) or ""})


class ResolvesProvider(_Wait):
    """Asks the zone's own name servers for the hostname, for at most `wait` seconds.

    Output `open` is "1" once they all answer with the reserved IP, and stays so; "0" is pending, and `state` says why.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        def answer() -> str | None:
            return probes.resolves(news["hostname"], news["ip"], news["zone"], list(news["nameservers"]))

        try:
            probes.until(answer, float(news["wait"]), "DNS", pause=5)
        except probes.ProbeError as error:
            return {**news, "open": "0", "state": f"pending: {error}"}
        return {**news, "open": "1", "state": f"{news['hostname']} resolves to {news['ip']}"}

    def _settled(self, olds: Props) -> bool:
        return olds.get("open") == "1"


class ReadyProvider(_Wait):
    """The PDS answers again after whatever changed: on the host by Nomad's check, then over HTTPS.

    Input `open` is "1" or "0", or "none" where the ingress is not ours. Output `state` tells how far it came; HTTPS
    that is not there yet is a state, not a failure, and the next `up` looks again. Output `host_configuration` is the
    hash of the cloud-init that the host was born with.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = _api(news)
        nodes = api.get("/v1/nodes?resources=false")
        born = api.get(f"/v1/node/{nodes[0]['ID']}")["Meta"].get("pds_configuration", "") if nodes else ""
        found = {**news, "host_configuration": born}
        # A rebuilt host's Nomad may have kept the token that the state replaced.
        admin = _api({**news, "token": news["management_token"]})
        admin.forget_tokens(news["token_name"], but=api.accessor(news["token"]) or "")
        if news["paused"]:
            return {**found, "state": "paused"}
        self._wait_for_health(api, news, olds)
        if news["open"] == "none":
            return {**found, "state": "serving"}
        if news["open"] != "1":
            return {**found, "state": "serving on the host; not open to the Internet yet"}
        fault = probes.https_health(news["hostname"], news["ip"], _HTTPS_DEADLINE)
        return {**found, "state": f"serving on the host; HTTPS pending: {fault}" if fault else "serving"}

    def _wait_for_health(self, api: probes.NomadApi, news: Props, olds: Props) -> None:
        """A changed secret restarts the task some moments after the variable was written. Where the same secrets are
        written again nothing restarts, and there is nothing to wait for."""
        written = api.get(f"/v1/var/{news['secrets_path']}")["ModifyTime"]
        if not olds:
            # An adopted Nomad may run the job already, with the secrets of before; it gets a moment to notice.
            with suppress(probes.LateError):
                probes.until(probes.JobRunning(api, news["job"], written), _NOTICE_DEADLINE, "The PDS")
                return
        changed = olds and olds.get("secrets_digest") != news["secrets_digest"]
        probes.until(probes.JobRunning(api, news["job"], written if changed else 0), _SETTLE_DEADLINE, "The PDS")

    def _settled(self, olds: Props) -> bool:
        return olds.get("state") in ("serving", "paused")


class _Fact(Resource):
    """A dynamic resource whose outputs are all secret unless listed: the host of dynamic providers loses the secret
    marks of the inputs that it echoes."""

    def __init__(
        self,
        provider: _Wait,
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


class Bootstrap(_Fact, module="pds", name="NomadBootstrap"):
    """A Nomad that answers, with ACLs of ours. Inputs: `address`, `ca_pem`, `cert_pem`, `key_pem`, `token`, and the
    ids of droplet and volume, with which it is asked again."""

    address: pulumi.Output[str]
    """The endpoint's URL, known to answer. At a preview it stays known, for it is an input too."""
    cluster_id: pulumi.Output[str]
    """Changes when this Nomad has lost its state."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(BootstrapProvider(), name, inputs, ("cluster_id",), _NOMAD_SECRETS, opts)


class Resolves(_Fact, module="pds", name="Resolves"):
    """Whether the hostname resolves. Inputs: `hostname`, `ip`, `zone`, `nameservers`, `wait` (seconds)."""

    open: pulumi.Output[str]
    """"1" or "0", for the ingress job's variable."""
    state: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(ResolvesProvider(), name, inputs, ("open", "state"), (), opts)


class Ready(_Fact, module="pds", name="Ready"):
    """Whether the PDS serves. Inputs: those of the Nomad API, `management_token`, `token_name`, `hostname`, `ip`,
    `open`, `paused`, `job`, the files' hash, `secrets_path`, a digest of the secrets, and the droplet's id."""

    state: pulumi.Output[str]
    host_configuration: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions) -> None:
        found = ("state", "host_configuration")
        super().__init__(
            ReadyProvider(), name, inputs, found, (*_NOMAD_SECRETS, "management_token", "secrets_digest"), opts
        )
