"""Providers that work on Nomad: bootstrap, requirements, clubs' namespaces, and single runs of jobs."""

from pathlib import Path

from pulumi.dynamic import ReadResult

from components.clients import nomad_clubs, nomad_requirements
from components.clients.cluster import hosts as cluster_hosts
from components.clients.cluster import snapshot as nomad_snapshot
from components.clients.console import shell_variable
from components.clients.nomad import run_dispatched
from components.dynamic.accounts import NOT_QUERIED
from components.dynamic.base import PollingProvider, Props, hide_traceback, nomad_api
from components.settings.ingress_state import IngressState

_HOST_DEADLINE = 900  # seconds: a droplet's first boot installs Docker and fetches Nomad
_RUN_DEADLINE = 300  # seconds: a placement, a container of a present image, one transaction


class BootstrapProvider(PollingProvider, pickled_as="BootstrapProvider"):
    """Waits for Nomad and bootstraps its ACLs with a predefined token.

    Output `cluster_id` is the token's accessor ID, which Nomad generates at each bootstrap. An emptied Nomad therefore
    has another `cluster_id`. After a rebuild Nomad is usually bootstrapped already and knows the token.

    If the shell variable PDS_NOMAD_SNAPSHOT names a file, an emptied Nomad gets its state from that snapshot, and with
    it the old `cluster_id`: then nothing else of the stack changes (`./pds restore` of a cluster).
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = nomad_api(news)
        api.wait_for_leader(_HOST_DEADLINE)
        cluster_id = api.bootstrap(news["token"])
        file, old = shell_variable("PDS_NOMAD_SNAPSHOT"), olds.get("cluster_id")
        if file and old and cluster_id != old:
            cluster_id = nomad_snapshot.restore(api, Path(file), news["token"], old)
        return {**news, "cluster_id": cluster_id}

    def _is_done(self, olds: Props) -> bool:
        return bool(olds.get("cluster_id"))

    @hide_traceback
    def read(self, id_: str, props: Props) -> ReadResult:
        """A Nomad that answers and does not know the token is empty. The next `up` bootstraps and refills it."""
        return ReadResult(id_, {**props, "cluster_id": nomad_api(props).accessor(props["token"]) or ""})


class NomadRequirementsProvider(PollingProvider, pickled_as="NomadRequirementsProvider"):
    """Checks that an existing Nomad meets the PDS's requirements, before anything is created in it."""

    def _run(self, news: Props, olds: Props) -> Props:
        nomad_requirements.require(nomad_api(news), news["required"])
        return dict(news)


class ClubNamespaceProvider(PollingProvider, pickled_as="ClubNamespaceProvider"):
    """A club's namespace and volume on this host. Only this provider's `delete` removes something; the data are
    renamed, never deleted.

    Output `volume_id` is empty if a refresh found none: the next `up` creates it again, on the same directory.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        volume_id = nomad_clubs.create_club(
            nomad_api(news),
            news["club"],
            news["volume"],
            int(news["disk_gib"]),
            news.get("datacenter", ""),
            news.get("leaving", ""),
        )
        return {**news, "volume_id": volume_id}

    def _is_done(self, olds: Props) -> bool:
        return bool(olds.get("volume_id"))

    @hide_traceback
    def read(self, id_: str, props: Props) -> ReadResult:
        volume_id = nomad_clubs.volume_id(
            nomad_api(props), props["club"], props["volume"], props.get("datacenter") or ""
        )
        return ReadResult(id_, {**props, "volume_id": volume_id})

    @hide_traceback
    def delete(self, _id: str, _props: Props) -> None:
        nomad_clubs.remove_club(nomad_api(_props), _props["club"], _props["volume"])


class PlacedHostsProvider(PollingProvider, pickled_as="PlacedHostsProvider"):
    """Attaches the volumes of hosts that no droplet has to workers, assigns their addresses, and waits for their nodes.

    It takes no volume from a droplet: that is a takeover's task, or that of `./pds`. A takeover changes nothing here.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        cluster_hosts.place(news, news["hosts"], news["tag"], _HOST_DEADLINE)
        return dict(news)


class HostInUseProvider(PollingProvider, pickled_as="HostInUseProvider"):
    """Refuses its deletion while the PDS of a club is on the host.

    Destroying the host would stop that PDS, and then its own stack could no longer be destroyed. The resource depends
    on all others of the stack, so the engine deletes it before them.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        return dict(news)

    @hide_traceback
    def delete(self, _id: str, _props: Props) -> None:
        nomad_clubs.refuse_in_use(nomad_api(_props), _props["clubs"], _props["stack"], _props["urn"])


class NomadJobRunProvider(PollingProvider, pickled_as="NomadJobRunProvider"):
    """Runs a parameterized Nomad job to its end whenever an input changes. Does nothing while `list` is empty, or the
    PDS is `paused`: its data may not exist yet."""

    def _run(self, news: Props, olds: Props) -> Props:
        if news["paused"]:
            return {**news, "state": olds.get("state") or f"pending: {NOT_QUERIED[IngressState.PAUSED]}"}
        if not news["list"]:
            return {**news, "state": "done"}
        run_dispatched(nomad_api(news), news["job"], _RUN_DEADLINE)
        return {**news, "state": "done"}

    def _is_done(self, olds: Props) -> bool:
        return not str(olds.get("state")).startswith("pending")
