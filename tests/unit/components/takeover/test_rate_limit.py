"""DigitalOcean's rate limit: no request before the time that it names, and the first ones for a host that is away."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from components.takeover import program
from components.takeover.decide import DETACH_SECONDS, Rules, Step
from components.takeover.passes import RATE, Passes
from components.takeover.program import Reporter, pause
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
        self.url = ""

    def cloud(self) -> DigitalOcean:
        return DigitalOcean("token", self.url, lambda: self.time)


@pytest.fixture
def account() -> Iterator[Account]:
    made = Account()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.requests += 1
            self.send_response_only(200 if made.headers is None else 429)
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
        for name in ("workers", "carrier", "actions", "address_at", "detach", "attach", "assign"):
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
    assert {step.text for step in steps[:3]} == {"takes no more requests, perhaps because another program uses it"}
    assert metered.refused == 1
    for _ in range(10):
        cluster.pass_time(passes.limited_seconds or 5)
        steps = passes.once()
    assert [step.kind for step in steps] == ["fine"] * 4
    assert cluster.is_serving("d")
    assert metered.refused == 1, "nothing was sent before the time that the refusal named"


@pytest.mark.parametrize("hosts", [10, 100])
def test_every_host_is_looked_at_within_the_limits(hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"h{number}" for number in range(hosts)]
    cluster = FakeCluster({name: number for number, name in enumerate(names, 1)}, workers=hosts + 1)
    metered = Metered(cluster, monkeypatch)
    sent: list[str] = []
    passes = _passes(cluster, tell=Reporter(sent.append, cluster.now).report)
    began, longest = cluster.time, 0.0
    seen = dict.fromkeys(names, began)
    while cluster.time < began + 3 * 3600:
        metered.asked.clear()
        steps = passes.once()
        assert len(steps) == hosts
        for name in set(metered.asked) & set(names):
            longest, seen[name] = max(longest, cluster.time - seen[name]), cluster.time
        cluster.pass_time(passes.limited_seconds or pause(hosts, moving=False))
    assert longest <= pause(hosts, moving=False) + 120, "a pass that is cut short does not begin with the same hosts"
    last_hour = [at for at in metered.times if at > cluster.time - 3600]
    assert len(last_hour) < HOURLY - 500, "the rest is for the steps of a takeover"
    assert sent == [], "a cluster that uses its own limit up is no person's matter"


def test_a_limit_that_lasts_is_told_to_a_person_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    metered = Metered(cluster, monkeypatch)
    sent: list[str] = []
    passes = _passes(cluster, tell=Reporter(sent.append, cluster.now).report)
    for _ in range(DETACH_SECONDS // 5):
        metered.next = cluster.time + 5
        passes.once()
        assert sent == []
        cluster.pass_time(passes.limited_seconds)
    metered.next = cluster.time + 5
    cluster.pass_time(1)
    passes.once()
    assert sent == [
        "A person has to act: takes no more requests, perhaps because another program uses it. It has been waiting "
        "for more than 5 minutes."
    ]


def test_a_limit_that_ends_is_forgotten() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter(sent.append, lambda: now[0])
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
    assert slept == [60, 60, pause(100, moving=False)], "each pass is the rest of the one that was cut short"
