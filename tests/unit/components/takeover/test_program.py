"""The takeover as a program: its environment, and passes that end in every way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components import takeover
from components.takeover import program
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from components.takeover.program import passes_of, repeat
from components.takeover.reporting import DeadMansSwitch, Reporter
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_servers import FakeClusterWithServers
from tests.support.programs import cluster

ENVIRONMENT = {
    "TAKEOVER_TOKEN": "token",
    "TAKEOVER_HOSTS": '{"b": {"volume_id": "vb", "address": "ib"}, "a": {"volume_id": "va", "address": "ia"}}',
    "TAKEOVER_TAG": "pds-fleet-worker",
    "TAKEOVER_AFTER_SECONDS": "90",
    "NOMAD_TOKEN": "identity",
    "NOMAD_ALLOC_ID": "alloc",
}


def test_reads_its_hosts_and_rules_from_its_environment() -> None:
    passes = passes_of(ENVIRONMENT)
    assert [(host.name, host.volume, host.address) for host in passes.places] == [("a", "va", "ia"), ("b", "vb", "ib")]
    assert (passes.rules.after_seconds, passes.rules.may_detach) == (90, True)
    assert (passes.holder, passes.seizes) == ("alloc", False), "only a person takes another's lease"


def test_the_job_has_each_file_that_the_program_imports() -> None:
    job = cluster().jobspec("pds-takeover")
    for file in Path(takeover.__file__).parent.glob("*.py"):
        assert f'"local/components/takeover/{file.name}"' in job


def test_looks_at_as_many_servers_and_spares_as_the_stack_file_has() -> None:
    watch = passes_of(ENVIRONMENT | {"TAKEOVER_SERVERS": "3", "TAKEOVER_SPARES": "2"}).watch
    assert watch
    assert (watch.servers, watch.spares, watch.cluster, watch.tag) == (3, 2, "fleet", "pds-fleet-worker")


class _EndError(BaseException):
    """The end of a test's program."""


class World:
    """A program over a cluster with a clock of its own: what it sends, and when it pings."""

    def __init__(self, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch, *, with_servers: bool = False) -> None:
        self.fake, self.sent, self.pings = fake, list[str](), list[float]()
        self.passes = Passes(fake, fake, fake.places, "pds-fleet-worker", Rules(), "job", fake.now)
        if isinstance(fake, FakeClusterWithServers) and with_servers:
            self.passes.endpoint = fake.endpoint()
        self.monkeypatch = monkeypatch
        self.reporter = Reporter("fleet", self.sent.append, fake.now)
        self.passes.tell = self.reporter.report

    def run(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Run the program for so long."""
        end = self.fake.time + seconds

        def sleep(pause: float) -> None:
            assert pause >= 1, "it must not use up the processor, or DigitalOcean's limits"
            self.fake.pass_time(pause)
            each()
            if self.fake.time >= end:
                raise _EndError

        self.monkeypatch.setattr("components.takeover.program.time.sleep", sleep)
        with pytest.raises(_EndError):
            repeat(self.passes, self.reporter, DeadMansSwitch(lambda: self.pings.append(self.fake.time), self.fake.now))


@pytest.mark.parametrize(
    "error", [KeyError("volume_ids"), ValueError("Expecting value"), TypeError("NoneType"), RuntimeError("recursion")]
)
def test_an_unexpected_error_ends_one_pass_and_not_the_program(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(FakeCluster({"a": 1, "b": 2}, workers=3), monkeypatch)

    def fail(_number: int) -> None:
        raise error

    world.fake.before = fail
    began = world.fake.time
    world.run(120)
    assert len(world.sent) == 1
    assert f"a pass over the hosts ended with {type(error).__name__} in passes:" in world.sent[0]
    assert world.pings == [], "the dead man's switch tells it as well"
    world.fake.before = lambda _number: None
    world.fake.cut_power(1)
    world.run(120)
    assert world.fake.is_serving("a"), "the next passes work as ever"
    assert world.pings
    assert min(world.pings) >= began + 120


def test_an_error_at_one_host_keeps_no_other_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(FakeCluster({"a": 1, "b": 2}, workers=3), monkeypatch)
    actions = world.fake.actions

    def fail(volume: str) -> object:
        if volume == "a":
            raise KeyError("started_at")
        return actions(volume)

    monkeypatch.setattr(world.fake, "actions", fail)
    world.fake.cut_power(2)
    world.run(300)
    assert world.fake.is_serving("b")
    assert sum("KeyError" in text for text in world.sent) == 1
    assert world.pings == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", range(1, 60))
def test_an_unexpected_error_in_any_call_of_a_takeover_leads_to_no_wrong_step(
    call: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(FakeCluster({"a": 1, "b": 2}, workers=3), monkeypatch)
    world.fake.cut_power(1)
    world.fake.pass_time(61)

    def fail(number: int) -> None:
        if number == call:
            raise KeyError("an answer of another form")

    setattr(world.fake, when, fail)
    world.run(120)
    assert world.fake.is_serving("a")
    assert world.fake.violations == []
    assert len([action for action in world.fake.volumes["a"].actions if action.kind == "detach"]) == 1


def _unclear_address(world: World, error: Exception) -> list[str]:
    """From now on nothing is known of the servers' address; the addresses that are looked at."""
    looks: list[str] = []
    address_at = world.fake.address_at

    def fail(address: str) -> int | None:
        looks.append(address)
        if not address.startswith("ip-"):
            raise error
        return address_at(address)

    world.monkeypatch.setattr(world.fake, "address_at", fail)
    return looks


@pytest.mark.parametrize("is_known", [True, False], ids=["after a look", "from the beginning"])
@pytest.mark.parametrize("error", [KeyError("droplet"), Refused(403, "no scope"), RuntimeError("recursion")])
def test_an_error_about_the_servers_address_keeps_no_host_dead(
    error: Exception, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One droplet with the servers' tag and a field of another form is enough for it."""
    fake = FakeClusterWithServers({"a": 1, "b": 2}, workers=3)
    world = World(fake, monkeypatch, with_servers=True)
    if is_known:
        world.run(5)
    looks = _unclear_address(world, error)
    fake.pass_time(120)
    fake.cut_power(1)
    fake.pass_time(61)
    world.run(120)
    assert fake.is_serving("a")
    assert fake.volumes["a"].carrier == 3
    assert fake.assignments == [], "the address stays"
    (told,) = (text for text in world.sent if "action required" in text)
    assert type(error).__name__ in told or "no scope" in told
    assert [time for time in world.pings if time > fake.time - 180] == [], "the dead man's switch tells it as well"
    assert sum(not address.startswith("ip-") for address in looks) >= 2, "the next passes ask again"


def test_no_host_that_could_not_join_is_moved_on_an_older_look_at_the_servers_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its node may be down because the address leads to no server. Each further droplet would fail likewise."""
    fake = FakeClusterWithServers({"a": 1, "b": 2}, workers=4)
    world = World(fake, monkeypatch, with_servers=True)
    world.run(5)
    fake.pass_time(120)
    fake.never_starts.add("a")
    fake.cut_power(1)
    fake.pass_time(61)
    world.run(60)
    assert fake.volumes["a"].carrier == 3
    _unclear_address(world, KeyError("droplet"))
    world.run(2400)
    assert fake.volumes["a"].carrier == 3


def test_does_not_ping_while_a_service_does_not_answer_or_another_program_has_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(FakeCluster({"a": 1, "b": 2}, workers=3), monkeypatch)
    carrier = world.fake.carrier

    def silent(volume: str) -> int | None:
        if volume == "b":
            raise Unavailable("GET b returned 500")
        return carrier(volume)

    with monkeypatch.context() as patched:
        patched.setattr(world.fake, "carrier", silent)
        world.run(120)
    assert world.pings == [], "nothing is known of host b"
    world.run(60)
    assert len(world.pings) == 1
    world.fake.items["lease"] = f'{{"holder": "laptop", "until": {world.fake.time + 100}}}'
    world.run(60)
    assert len(world.pings) == 1


def test_pings_although_a_pass_looks_at_some_of_many_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: dict[str, int | None] = {f"h{number:02}": number for number in range(1, 41)}
    world = World(FakeCluster(hosts, workers=41), monkeypatch)
    world.passes.calm_seconds = program.calm_seconds(len(hosts))
    began = world.fake.time
    world.run(1800)
    first = min(world.pings)
    assert first >= began + 60, "not before each host was looked at once"
    assert len(world.pings) >= 20


def test_what_could_not_be_sent_is_in_the_variable_until_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(FakeCluster({"a": 1, "b": 2}, workers=3), monkeypatch)
    world.passes.notes = lambda _items: {"notify_failed": '{"why": "404"}'}
    world.run(5)
    world.passes.notes = lambda _items: {}
    world.run(5)
    assert world.fake.items["notify_failed"] == '{"why": "404"}', "a program that begins removes none"
    world.passes.notes = lambda items: dict.fromkeys(items.keys() & {"notify_failed"}, "")
    world.run(5)
    assert "notify_failed" not in world.fake.items
    assert "lease" in world.fake.items
