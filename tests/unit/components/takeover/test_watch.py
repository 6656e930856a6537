"""Servers that are down and spares that are missing, which no host shows."""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from components.takeover.decide import Droplet, Node, Rules
from components.takeover.interfaces import UPGRADE
from components.takeover.passes import Passes
from components.takeover.reporting import Reporter
from components.takeover.services import Unavailable
from components.takeover.watch import Watch
from tests.support.fake_cluster import FakeCluster

MINUTE, HOUR, DAY = 60, 3600, 86_400
UP = "`pulumi up --stack fleet`"


@dataclass
class Account:
    """Workers and servers with a clock, what is told of them, and how often DigitalOcean was asked."""

    now: float = 0.0
    nodes: dict[str, Node] = field(default_factory=lambda: {f"fleet-server-{n}": Node(True, 0.0) for n in (1, 2, 3)})
    droplets: dict[int, Droplet] = field(
        default_factory=lambda: {
            n: Droplet(n, True, frozenset({"v"} if n < 3 else ()), f"pds-fleet-worker-{n}") for n in (1, 2, 3)
        }
    )
    retired: dict[int, str] = field(default_factory=dict)
    is_silent: bool = False
    looks: int = 0
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(self, self, "fleet", "pds-fleet-worker", servers=3, spares=1)
        self.reporter = Reporter("fleet", self.sent.append, lambda: self.now)

    def server_nodes(self) -> dict[str, Node]:
        return self.nodes

    def workers(self, tag: str) -> dict[int, Droplet]:
        assert tag == "pds-fleet-worker"
        self.looks += 1
        if self.is_silent:
            raise Unavailable("no answer")
        return self.droplets

    def passes(self, seconds: float) -> list[str]:
        """What is told in this time, with a pass each half minute."""
        before, end = len(self.sent), self.now + seconds
        while self.now < end:
            for name, step in self.watch.once(self.now, lambda: self.retired):
                self.reporter.report(name, step)
            self.now += 30
        return self.sent[before:]


def test_a_server_that_is_down_is_told_once_a_day_and_its_end() -> None:
    account = Account()
    account.nodes["fleet-server-3"] = Node(False, 0.0)
    assert account.passes(14 * MINUTE) == [], "a reboot is over sooner"
    (told,) = account.passes(23 * HOUR)
    assert told.startswith("Cluster fleet, action required: server 3 is down. If one more server is lost, Nomad does")
    assert UP in told
    assert account.passes(DAY) == [told]
    account.nodes["fleet-server-3"] = Node(True, account.now)
    assert account.passes(DAY) == ["Cluster fleet: server 3 is well again."]


def test_a_server_that_nomad_has_forgotten_is_down_too() -> None:
    """Nomad forgets a node that is down for a day."""
    account = Account()
    del account.nodes["fleet-server-2"]
    assert [text.split(". ")[0] for text in account.passes(HOUR)] == [
        "Cluster fleet, action required: server 2 is not known to Nomad"
    ]


def test_a_single_server_is_not_looked_at() -> None:
    account = Account()
    account.watch.servers, account.nodes = 1, {}
    assert account.passes(HOUR) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"retired": {3: "a"}},
            f"worker 3 lost host a: raise its generation in 'cluster.workers.generations', then run {UP}",
        ),
        ({"retired": {3: UPGRADE}}, "worker 3 waits for `./pds upgrade fleet`, which is to rebuild it"),
        ({"off": 3}, "worker 3 is off"),
        ({"gone": 3}, f"Run {UP}"),
    ],
)
def test_a_missing_spare_is_told_before_a_host_needs_it(change: dict[str, object], reason: str) -> None:
    account = Account(retired=change.get("retired", {}))  # type: ignore[arg-type]
    if change.get("off"):
        account.droplets[3] = replace(account.droplets[3], is_active=False)
    if change.get("gone"):
        del account.droplets[3]
    (told,) = account.passes(23 * HOUR)
    start = "Cluster fleet, action required: 0 of 1 spares are ready, and a host that dies needs one. "
    assert told == f"{start}{reason}."
    account.retired.clear()
    account.droplets = Account().droplets
    assert account.passes(HOUR) == ["Cluster fleet: all spares are ready again."]


def test_asks_digitalocean_seldom_and_again_soon_after_no_answer() -> None:
    account = Account()
    account.passes(HOUR)
    assert account.looks == 12
    account.is_silent = True
    for _ in range(10):
        with suppress(Unavailable):
            account.watch.once(account.now, lambda: account.retired)
        account.now += 5
    assert account.looks == 13, "a request without an answer takes 20 seconds of a pass over the hosts"
    account.is_silent = False
    account.passes(90)
    assert account.looks == 14


def _watched() -> tuple[FakeCluster, Account, Passes]:
    fake, account = FakeCluster({"a": 1, "b": 2}, workers=3), Account()
    passes = Passes(fake, fake, fake.places, "pds-fleet-worker", Rules(), "job", fake.now, watch=account.watch)
    return fake, account, passes


def test_a_pass_without_an_answer_about_the_spares_is_not_complete() -> None:
    fake, account, passes = _watched()
    account.is_silent = True
    for _ in range(3):
        assert [step.kind for step in passes.once()] == ["fine", "fine"], "the hosts do not wait for it"
        assert not passes.is_complete, "not before the spares were looked at"
    account.is_silent = False
    fake.pass_time(61)
    passes.once()
    assert passes.is_complete


def test_the_spares_are_not_looked_at_while_a_host_is_moved() -> None:
    fake, account, passes = _watched()
    fake.cut_power(1)
    fake.pass_time(61)
    while fake.volumes["a"].address_at != 3:
        before = account.looks
        if any(step.kind in ("retire", "detach", "attach", "assign") for step in passes.once()):
            assert account.looks == before
        fake.pass_time(5)
    fake.pass_time(60)
    passes.once()
    assert account.looks, "afterwards they are"
