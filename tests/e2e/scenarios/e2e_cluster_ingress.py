"""The ingresses of a cluster's hosts: `pytest tests/e2e/scenarios/e2e_cluster_ingress.py -x`, as root; one scenario for
each kind of ingress.

Two hosts with a club on each, and a spare. Each club is served over TLS at its own host's reserved IP and at no other
one, and its PDS sees the clients' own addresses. Then a host's power is cut. The real engine, Nomad, Docker, PDSes,
Caddy, and an ACME server that counts its orders. A stand-in replaces IO (`images/io`).

All droplets share this machine: `environment/cluster_ingresses.py` says what of the ingresses is mapped.
"""

import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from components.clients.wait import until as wait_until
from tests.contract.club import Club, founded, whole
from tests.e2e.environment.cluster_ingresses import IngressMachines
from tests.e2e.environment.clusters import UP, Cluster, cluster_env, until
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.ingresses import At, caddy_section, io_section, public_ports
from tests.e2e.environment.tools import BUILD_PROGRAMS
from tools.trial.xrpc import Client

PORTS = {"chess": 3161, "rooks": 3162}
ON = {"chess": "a", "rooks": "b"}
_PATIENCE = 120
"""Seconds for what follows an `up`, such as a certificate."""


@dataclass
class Scenario:
    """The cluster's stack, its clubs' stacks, and clients that trust the ingresses' certificates."""

    kind: str
    cluster: E2eEnvironment
    machines: IngressMachines
    clubs: dict[str, E2eEnvironment]
    trust: ssl.SSLContext
    acme_log: Path | None
    members: dict[str, Club] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """Of the hosts, by the stack's outputs."""
    sources: Iterator[int] = field(default_factory=lambda: itertools.count(230))
    """Last numbers of the addresses of clients, each used in one test."""

    def client(self, name: str, host: str, source: str | None = None) -> httpx.Client:
        """A client of `https://NAME` that connects to a host's reserved IP, from the address `source`."""
        transport = At(self.addresses[host], self.trust, source)
        return httpx.Client(base_url=f"https://{name}", transport=transport, timeout=10)

    def health(self, club: str, host: str | None = None) -> int:
        """Status of a club's health through a host's ingress; 0 without an answer."""
        with self.client(f"{club}.test", host or ON[club]) as client:
            try:
                return client.get("/xrpc/_health").status_code
            except httpx.HTTPError:
                return 0

    def certificate(self, name: str, host: str) -> bytes:
        """The certificate that a host's ingress shows for a name. Raises ssl.SSLError if it has none."""
        with (
            socket.create_connection((self.addresses[host], 443), timeout=30) as plain,
            self.trust.wrap_socket(plain, server_hostname=name) as shown,
        ):
            der = shown.getpeercert(binary_form=True)
        assert der, "a trusted connection has a certificate"
        return der

    def orders(self) -> int:
        """How many certificates were ordered so far."""
        assert self.acme_log
        return self.acme_log.read_text().count("Added order ")

    def whole(self, club: str) -> None:
        """Assert that everything acknowledged is there, with its original CID."""
        whole(Client(f"http://127.0.0.1:{PORTS[club]}", f"{club}.test"), self.members[club], time.monotonic())


def _ingress(kind: str, cluster: Cluster, stack: ExitStack) -> tuple[dict[str, object], ssl.SSLContext, Path | None]:
    """The section, what its certificates are trusted by, and the log of the ACME server."""
    stack.enter_context(public_ports(whole=False))
    if kind == "io":
        return io_section(cluster.stack), cluster.stack.authority.trusted(), None
    section, pebble = caddy_section(cluster.stack, stack)
    return section, pebble.trust(), cluster.stack.folder / "acme/pebble.log"


@pytest.fixture(scope="module", params=["caddy", "io"])
def scenario(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    kind = str(request.param)
    with cluster_env("nft", *BUILD_PROGRAMS, kind=IngressMachines) as cluster, ExitStack() as stack:
        assert isinstance(cluster.machines, IngressMachines)
        ingress, trust, acme_log = _ingress(kind, cluster, stack)
        cluster.configure(
            {
                "servers": {"count": 1},
                "hosts": {"a": {"volume_gib": 20}, "b": {"volume_gib": 20}},
                "workers": {"spares": 1},
                "takeover": {},
            },
            ingress=ingress,
            clubs={name: {"host": ON[name], "port": PORTS[name], "memory_mib": 256} for name in PORTS},
        )
        clubs = {name: cluster.club(name, PORTS[name], on="bench", nomad={"datacenter": ON[name]}) for name in PORTS}
        for club in clubs.values():
            club.configure(ingress={"kind": kind})
        yield Scenario(kind, cluster.stack, cluster.machines, clubs, trust, acme_log)


def test_each_club_is_served_at_its_own_host_s_address(scenario: Scenario) -> None:
    scenario.cluster.pulumi(*UP)
    scenario.addresses = {name: host["address"] for name, host in scenario.cluster.outputs()["hosts"].items()}
    assert len(set(scenario.addresses.values())) == 2
    for name, club in scenario.clubs.items():
        club.pulumi(*UP)
        outputs = club.outputs()
        assert outputs["state"] == "serving"
        assert outputs["resolves"] == f"{name}.test resolves to {scenario.addresses[ON[name]]}"
        assert scenario.health(name) == 200
        scenario.certificates[f"{name}.test"] = scenario.certificate(f"{name}.test", ON[name])
    if scenario.kind == "caddy":
        assert scenario.orders() == len(scenario.clubs)
        assert len(set(scenario.certificates.values())) == 2


def test_no_club_is_served_at_the_other_host_s_address(scenario: Scenario) -> None:
    for name, other in {"chess": "b", "rooks": "a"}.items():
        with pytest.raises(ssl.SSLError):
            scenario.certificate(f"{name}.test", other)


def test_the_server_limits_clients_by_their_own_address(scenario: Scenario) -> None:
    """Through the ingress, whatever a client claims; the server's log has the address."""
    network = scenario.cluster.network.rpartition(".")[0]
    for name in scenario.clubs:
        one, another = (f"{network}.{next(scenario.sources)}" for _ in range(2))

        def remaining(source: str, club: str = name, **headers: str) -> int:
            with scenario.client(f"{club}.test", ON[club], source) as client:
                answer = client.get("/xrpc/com.atproto.server.describeServer", headers=headers)
            return int(answer.headers["ratelimit-remaining"])

        first = [remaining(one) for _ in range(3)]
        assert first == [first[0], first[0] - 1, first[0] - 2], "one client is counted"
        assert remaining(another) == first[0], "another client has its own limit"
        forged = {"X-Forwarded-For": "198.51.100.7", "X-Real-IP": "198.51.100.7"}
        assert remaining(one, **forged) == first[0] - 3, "a forged address must not count as a new client"
        log = scenario.clubs[name].pds("logs", "--lines", "200").output
        assert f'"x-forwarded-for":"{one}"' in log
        assert '"x-forwarded-for":"198' not in log


def test_a_member_s_handle_is_served_by_its_own_host_alone(scenario: Scenario) -> None:
    for name in scenario.clubs:
        url = f"http://127.0.0.1:{PORTS[name]}"
        scenario.members[name] = founded(url, f"{name}.test", members=2, posts=3, mail=f"{name}.test.com")
    if scenario.kind == "io":
        for club in scenario.clubs.values():
            club.pulumi(*UP)  # it lists the new accounts, which IO's file does not know
        return
    member = scenario.members["chess"].members[0]
    handle = member.client.query("com.atproto.server.getSession", {})["handle"]
    with scenario.client(handle, "a") as client:

        def answered() -> str | None:
            try:
                answer = client.get("/.well-known/atproto-did")
            except httpx.HTTPError as error:
                return str(error)
            return None if answer.text == member.did else answer.text

        wait_until(answered, _PATIENCE, f"https://{handle}")
    scenario.certificates[handle] = scenario.certificate(handle, "a")
    assert scenario.orders() == len(scenario.clubs) + 1
    with pytest.raises(ssl.SSLError):
        scenario.certificate(handle, "b")
    assert scenario.orders() == len(scenario.clubs) + 1, "the other host orders nothing"


def no_changes(scenario: Scenario) -> None:
    """Assert that no stack has a change, with and without a refresh."""
    for stack in (scenario.cluster, *scenario.clubs.values()):
        stack.pulumi("preview", "--expect-no-changes")
        stack.pulumi("preview", "--refresh", "--expect-no-changes")


def test_preview_after_up_is_empty(scenario: Scenario) -> None:
    no_changes(scenario)


def served_as_before(scenario: Scenario) -> None:
    """Assert that each club is whole and served at its own host's address alone, with the certificates from before."""
    for name in scenario.clubs:
        assert scenario.health(name) == 200
        scenario.whole(name)
    test_no_club_is_served_at_the_other_host_s_address(scenario)
    hosts = scenario.cluster.outputs()["hosts"]
    assert {name: host["address"] for name, host in hosts.items()} == scenario.addresses
    if scenario.kind == "io":
        return  # the stand-in keeps none
    for name, certificate in scenario.certificates.items():
        host = "b" if name.endswith("rooks.test") else "a"
        assert scenario.certificate(name, host) == certificate, name
    assert scenario.orders() == len(scenario.certificates), "nothing was ordered again"


def test_a_host_whose_power_is_cut_serves_at_the_same_address_with_the_same_certificates(scenario: Scenario) -> None:
    dead = scenario.machines.hosts()["a"]
    scenario.machines.cut_power(dead)
    cut = time.monotonic()
    assert scenario.health("chess") == 0
    assert scenario.health("rooks") == 200
    until(lambda: scenario.health("chess") == 200, 400, "the club, through its ingress")
    print(f"\n{scenario.kind}: first answer over TLS {time.monotonic() - cut:.0f} s after the power cut")
    assert scenario.machines.hosts()["a"].droplet_id != dead.droplet_id
    served_as_before(scenario)


def test_the_takeover_is_no_change_and_the_clients_addresses_stay_real(scenario: Scenario) -> None:
    no_changes(scenario)
    test_the_server_limits_clients_by_their_own_address(scenario)


def test_a_changed_text_is_loaded_by_the_ingress_that_moved(scenario: Scenario) -> None:
    if scenario.kind == "io":
        pytest.skip("the text is of Caddy; IO restarts with a changed file, which e2e_ingress.py shows")
    scenario.clubs["chess"].configure(ingress={"site_caddyfile": 'respond /robots.txt "User-agent: *"'})
    scenario.clubs["chess"].pulumi(*UP)
    with scenario.client("chess.test", "a") as client:
        assert client.get("/robots.txt").text == "User-agent: *"
    with scenario.client("rooks.test", "b") as client:
        assert client.get("/robots.txt").text != "User-agent: *"
    served_as_before(scenario)


def test_a_drained_host_serves_at_the_same_address_with_the_same_certificates(scenario: Scenario) -> None:
    carrying = {machine.droplet_id for machine in scenario.machines.hosts().values()}
    workers = [int(worker) for worker in scenario.cluster.outputs()["workers"]]
    (number,) = (at for at, worker in enumerate(workers, 1) if worker not in carrying)
    scenario.cluster.configure(cluster={"workers": {"spares": 1, "generations": {str(number): 2}}})
    scenario.cluster.pulumi(*UP)
    before = scenario.machines.hosts()["b"].droplet_id
    began = time.monotonic()
    scenario.cluster.pds_command("drain", "bench", "b", "--yes")
    until(lambda: scenario.health("rooks") == 200, 200, "the club, through its ingress")
    print(f"\n{scenario.kind}: drained, and answered over TLS, after {time.monotonic() - began:.0f} s")
    assert scenario.machines.hosts()["b"].droplet_id != before
    served_as_before(scenario)
    no_changes(scenario)
