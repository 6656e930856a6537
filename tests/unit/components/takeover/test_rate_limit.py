"""DigitalOcean's rate limit: no request before the time that it names, and the first ones for a host that is away."""

import contextlib
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from components.takeover import program
from components.takeover.decide import DETACH_SECONDS, Rules, Step
from components.takeover.passes import RATE, Passes
from components.takeover.program import calm_seconds, pause_after
from components.takeover.reporting import Reporter
from components.takeover.services import DigitalOcean, Limited, Unavailable
from tests.e2e.digitalocean.errors import ApiError
from tests.e2e.digitalocean.limits import BURST, HOURLY, RateLimit
from tests.support.fake_cluster import FakeCluster, KilledError
from tests.support.serving import served

DATE, MOMENT = "Wed, 01 Jul 2026 12:00:00 GMT", 1_782_907_200


class Account:
    """DigitalOcean as it is asked, with a clock of the test; `headers` are those of a 429, None for an answer."""

    def __init__(self) -> None:
        self.time, self.requests = 1000.0, 0
        self.headers: dict[str, str] | None = {}
        self.status = 429
        self.url = ""

    def cloud(self) -> DigitalOcean:
        return DigitalOcean("token", self.url, lambda: self.time)


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.requests += 1
            self.send_response_only(200 if made.headers is None else made.status)
            for name, value in (made.headers or {}).items():
                self.send_header(name, value)
            body = b'{"droplets": []}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with served(Handler) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7", "ratelimit-reset": str(MOMENT + 3000), "Date": DATE}, 7),
        ({"ratelimit-reset": str(MOMENT + 30), "Date": DATE}, 31),
        ({"ratelimit-reset": str(MOMENT + 3000), "Date": DATE}, 60),
        ({"Retry-After": "0"}, 1),
    ],
    ids=["burst", "hour", "long", "none"],
)
def test_sends_nothing_before_the_time_that_a_refusal_names(
    account: Account, headers: dict[str, str], seconds: int
) -> None:
    cloud, account.headers = account.cloud(), headers
    with pytest.raises(Limited) as refusal:
        cloud.workers("tag")
    assert refusal.value.seconds == seconds
    account.headers = None
    account.time += seconds - 0.5
    with pytest.raises(Limited) as refusal:
        cloud.workers("tag")
    assert (account.requests, refusal.value.seconds) == (1, 0.5)
    account.time += 0.5
    assert cloud.workers("tag") == {}


@pytest.mark.parametrize("status", [200, 429])
def test_the_time_is_that_of_the_last_answer(account: Account, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, own = account.cloud(), [5.0]
    monkeypatch.setattr(time, "time", lambda: own[0])
    assert cloud.now() == 5
    account.headers, account.status = {"Date": DATE}, status
    with contextlib.suppress(Unavailable):
        cloud.workers("tag")
    own[0] += 10
    assert cloud.now() == MOMENT + 10, "the clock of this machine may be wrong"


def test_a_refusal_that_names_no_time_is_one_of_that_request(account: Account) -> None:
    cloud = account.cloud()
    for _ in range(2):
        with pytest.raises(Unavailable, match="429") as refusal:
            cloud.workers("tag")
        assert not isinstance(refusal.value, Limited)
    assert account.requests == 2


class Metered:
    """A cluster whose cloud takes as many requests as DigitalOcean does, like `services.Http`."""

    def __init__(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.limit, self.next, self.refused = cluster, RateLimit(), 0.0, 0
        self.times: list[float] = []
        self.asked: list[str] = []
        calls = ("workers", "carrier", "actions", "address_at", "address_of", "detach", "attach", "assign", "unassign")
        for name in calls:
            monkeypatch.setattr(cluster, name, partial(self._call, getattr(cluster, name)))

    def _call(self, answer: Callable[..., Any], *arguments: Any) -> Any:
        now = self.cluster.time
        if now < self.next:
            raise Limited("takes no more requests", self.next - now)
        try:
            self.limit.count(now)
        except ApiError as error:
            self.refused += 1
            seconds = min(float(error.headers["Retry-After"]), 60.0)
            self.next = now + seconds
            raise Limited("takes no more requests", seconds) from None
        self.times.append(now)
        self.asked.append(str(arguments[0]))
        return answer(*arguments)

    def use(self, requests: int) -> None:
        """Another program uses the token."""
        for _ in range(requests):
            self.limit.count(self.cluster.time)


def _passes(cluster: FakeCluster, **more: Any) -> Passes:
    return Passes(cluster, cluster, cluster.places, "workers", Rules(), "one", cluster.now, **more)


def test_a_fenced_host_gets_the_few_requests_before_the_hosts_that_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2, "c": 3, "d": 4}, workers=5)
    passes = _passes(cluster)
    cluster.cut_power(4)
    cluster.pass_time(61)
    while cluster.volumes["d"].carrier is not None:
        passes.once()
        cluster.pass_time(1)
    metered = Metered(cluster, monkeypatch)
    metered.use(BURST - 12)
    steps = passes.once()
    assert steps[3].kind == "attach", "the hosts before it are well, and it is on no droplet"
    assert metered.refused == 1
    for _ in range(10):
        cluster.pass_time(passes.limited_seconds or 5)
        steps = passes.once()
    assert [step.kind for step in steps] == ["fine"] * 4
    assert cluster.is_serving("d")
    assert metered.refused == 1, "nothing was sent before the time that the refusal named"


def _watched(hosts: int, hours: float, cluster: FakeCluster, metered: Metered) -> tuple[float, list[str]]:
    """The longest time in which a host was not looked at, and what a person was told."""
    sent: list[str] = []
    passes = _passes(cluster, tell=Reporter("fleet", sent.append, cluster.now).report, calm_seconds=calm_seconds(hosts))
    longest, end = 0.0, cluster.time + hours * 3600
    seen = dict.fromkeys(cluster.volumes, cluster.time)
    while cluster.time < end:
        metered.asked.clear()
        assert len(passes.once()) == hosts
        for name in set(metered.asked) & set(seen):
            longest, seen[name] = max(longest, cluster.time - seen[name]), cluster.time
        cluster.pass_time(pause_after(passes))
    return longest, sent


def _many(hosts: int) -> FakeCluster:
    return FakeCluster({f"h{number}": number for number in range(1, hosts + 1)}, workers=hosts)


@pytest.mark.parametrize("hosts", [1, 10, 100])
def test_hosts_that_are_well_are_looked_at_within_the_limits(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _many(hosts)
    metered = Metered(cluster, monkeypatch)
    longest, sent = _watched(hosts, 2, cluster, metered)
    assert longest <= calm_seconds(hosts) + 120, "a pass that is cut short does not begin with the same hosts"
    assert len([at for at in metered.times if at > cluster.time - 3600]) < HOURLY / 2
    assert sent == [], "a cluster that uses the limit of a minute up by itself is no person's matter"


@pytest.mark.parametrize("hosts", [2, 10, 100])
def test_hosts_that_wait_for_a_person_leave_requests_for_a_takeover(
    hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _many(hosts)
    for droplet in range(1, hosts // 2 + 1):
        cluster.cut_power(droplet)  # and there is no spare
    metered = Metered(cluster, monkeypatch)
    _watched(hosts, 2, cluster, metered)
    assert len([at for at in metered.times if at > cluster.time - 3600]) < HOURLY - 500


@pytest.mark.parametrize("hosts", [2, 10, 50])
def test_many_hosts_that_are_well_delay_no_takeover(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _many(hosts)
    metered = Metered(cluster, monkeypatch)
    passes = _passes(cluster, calm_seconds=calm_seconds(hosts))

    def run(done: Callable[[], bool]) -> None:
        for _ in range(1000):
            if done():
                return
            passes.once()
            cluster.pass_time(pause_after(passes))
        pytest.fail("it does not come so far")

    began = cluster.time
    run(lambda: cluster.time > began + 300)
    cluster.alive[hosts + 1] = True
    cluster.cut_power(1)
    began = cluster.time
    run(lambda: cluster.volumes["h1"].address_at == hosts + 1)
    assert cluster.time - began < Rules().after_seconds + 30, "of which DigitalOcean's two actions take 6 s"
    assert metered.refused == 0


@pytest.mark.parametrize("hosts", [60, 100])
def test_many_hosts_that_are_well_leave_most_of_each_minute_to_others(
    hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = _many(hosts)
    cluster.alive[hosts + 1] = True
    metered = Metered(cluster, monkeypatch)
    passes = _passes(cluster, calm_seconds=calm_seconds(hosts))
    began = cluster.time
    while cluster.time < began + 2 * calm_seconds(hosts) + 300:
        if cluster.time > began + 1.9 * calm_seconds(hosts) and cluster.alive[1]:
            cluster.cut_power(1)
        passes.once()
        cluster.pass_time(pause_after(passes))
        if cluster.time < began + 60 * hosts / 30:
            assert len(passes.last_steps()) >= int((cluster.time - began) / 60) * 30
    assert cluster.is_serving("h1")
    in_a_minute = (index + 1 - bisect_right(metered.times, at - 60) for index, at in enumerate(metered.times))
    assert max(in_a_minute) <= 200, "of 250; the move of a host uses most of it"
    assert len(passes.last_steps()) == hosts


def test_a_caller_that_is_no_program_looks_at_all_hosts_at_once() -> None:
    assert [step.kind for step in _passes(_many(100)).once()] == ["fine"] * 100, "`up` places all hosts in one pass"


def test_a_limit_that_lasts_is_told_to_a_person_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    metered = Metered(cluster, monkeypatch)
    sent: list[str] = []
    passes = _passes(cluster, tell=Reporter("fleet", sent.append, cluster.now).report)
    for _ in range(DETACH_SECONDS // 5):
        metered.next = cluster.time + 5
        passes.once()
        assert sent == []
        cluster.pass_time(passes.limited_seconds)
    metered.next = cluster.time + 5
    cluster.pass_time(1)
    passes.once()
    assert sent == [
        "Cluster fleet, action required: no progress for 5 minutes: takes no more requests, perhaps because another "
        "program uses it."
    ]


def test_a_limit_that_ends_is_forgotten() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter("fleet", sent.append, lambda: now[0])
    for _ in range(10):
        reporter.report(RATE, Step("wait", "takes no more requests"))
        now[0] += 60
        reporter.report(RATE, Step("fine"))
    assert sent == []


def test_the_program_waits_as_long_as_a_refusal_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(dict.fromkeys((f"h{number}" for number in range(100)), 1), workers=1)
    metered = Metered(cluster, monkeypatch)
    metered.use(BURST)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cluster.pass_time(seconds)
        if len(slept) == 3:
            raise KilledError

    monkeypatch.setattr(program, "passes_of", lambda _environment: _passes(cluster))
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KilledError):
        program.main()
    assert slept == [60, 5, 5], "a minute after the refusal there is room again"
