"""What a takeover tells a person, how often, and over which service."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler

import pytest

from components.render.cluster.user_data import worker_tag
from components.takeover.decide import Rules, Step
from components.takeover.endpoint import ENDPOINT
from components.takeover.passes import Passes, cluster_of
from components.takeover.reporting import DeadMansSwitch, Failures, Reporter, in_background, pinger, sender
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster
from tests.support.serving import LOOPBACK, served


def test_tells_a_person_each_step_and_a_question_again_after_a_while() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter("fleet", sent.append, lambda: now[0])
    for _ in range(3):
        for step in (Step("fine", "a"), Step("wait", "b"), Step("attach", "host a: attach"), Step("ask", "no spare")):
            reporter.report("a", step)
        now[0] += 5
    assert sent == ["Cluster fleet: host a: attach.", "Cluster fleet, action required: no spare."]
    now[0] += 600
    reporter.report("a", Step("ask", "no spare"))
    assert sent[2:] == ["Cluster fleet, action required: no spare."]


def test_tells_a_person_what_is_waited_for_too_long() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter("fleet", sent.append, lambda: now[0])
    for _ in range(60):
        now[0] += 5
        reporter.report("a", Step("wait", "host a: attach: refused"))
        reporter.report(
            "b",
            Step(
                "wait" if now[0] % 50 else "fine", "host b: Nomad has had no heartbeat of its node for less than 60 s"
            ),
        )
        reporter.report("", Step("wait", "another takeover holds the lease"))
    assert sent == []
    now[0] += 10
    reporter.report("a", Step("wait", "host a: attach: refused"))
    reporter.report("b", Step("wait", "host b: Nomad has had no heartbeat of its node for less than 60 s"))
    assert sent == ["Cluster fleet, action required: no progress for 5 minutes: host a, attach: refused."]
    reporter.report("", Step("wait", "another takeover holds the lease"))
    assert len(sent) == 2


def test_names_the_console_if_a_node_is_what_is_waited_for() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter("fleet", sent.append, lambda: now[0])
    for _ in range(2):
        reporter.report("a", Step("wait", "host a: its node is not ready"))
        now[0] += 301
    assert sent == [
        "Cluster fleet, action required: no progress for 5 minutes: host a, its node is not ready. Check the worker's "
        "console."
    ]


def test_a_message_names_the_cluster_and_the_commands_to_run() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=2)
    cluster.cut_power(1)
    cluster.pass_time(61)
    sent: list[str] = []
    tag = worker_tag("fleet")
    reporter = Reporter(cluster_of(tag), sent.append, cluster.now)
    Passes(cluster, cluster, cluster.places, tag, Rules(), "job", cluster.now, tell=reporter.report).once()
    assert sent == [
        "Cluster fleet, action required: host a is down, and there is no spare worker. Raise 'cluster.workers.spares', "
        "or the generation of a worker that lost a host, and run `pulumi up --stack fleet`."
    ]


def test_a_refusal_is_the_same_whatever_number_its_request_has() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter("fleet", sent.append, lambda: now[0])
    for number in range(100):
        now[0] += 5
        reporter.tell(f'returned 403: {{"id":"forbidden","request_id":"{number}"}}', urgent=True)
    assert len(sent) == 1
    assert len(reporter._told) == 1, "a program that runs for months keeps no list of them"


def test_a_whole_takeover_is_told_although_nothing_is_known_of_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    cluster.pass_time(61)
    carrier = cluster.carrier

    def fails(volume: str) -> int | None:
        if volume == "b":
            raise Unavailable("GET b returned 500")
        return carrier(volume)

    monkeypatch.setattr(cluster, "carrier", fails)
    sent: list[str] = []
    reporter = Reporter("fleet", sent.append, cluster.now)
    passes = Passes(cluster, cluster, cluster.places, "workers", Rules(), "job", cluster.now, tell=reporter.report)
    for _ in range(8):
        passes.once()
        cluster.pass_time(5)
    assert [text.removeprefix("Cluster fleet: host a: ").split()[0] for text in sent] == [
        "droplet",
        "detach",
        "attach",
        "assign",
    ]


def test_a_step_is_told_before_the_next_host_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    cluster.pass_time(61)
    carrier = cluster.carrier

    def refuses(volume: str) -> int | None:
        if volume == "b":
            raise Refused(403, "no scope")
        return carrier(volume)

    monkeypatch.setattr(cluster, "carrier", refuses)
    told: list[tuple[str, str]] = []
    passes = Passes(
        cluster, cluster, cluster.places, "workers", Rules(), "job", cluster.now,
        tell=lambda host, step: told.append((host, step.kind)),
    )  # fmt: skip
    with pytest.raises(Refused):
        passes.once()
    assert told == [("", "fine"), ("a", "retire")]


def test_a_webhook_that_does_not_answer_delays_no_step() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    cluster.pass_time(61)
    answer, sent = threading.Event(), queue.Queue[str]()

    def send(text: str) -> None:
        assert answer.wait(600)
        sent.put(text)

    background = in_background()
    reporter = Reporter("fleet", lambda text: background(partial(send, text)), cluster.now)
    passes = Passes(cluster, cluster, cluster.places, "workers", Rules(), "job", cluster.now, tell=reporter.report)
    for _ in range(8):
        passes.once()
        cluster.pass_time(5)
    assert cluster.volumes["a"].address_at == 3
    assert sent.empty()
    answer.set()
    assert "excluded" in sent.get(timeout=600)
    assert "detach" in sent.get(timeout=600), "in order"


def test_a_message_that_fails_stops_no_later_one(capsys: pytest.CaptureFixture[str]) -> None:
    sent: queue.Queue[str] = queue.Queue()

    def send(text: str) -> None:
        if text == "first":
            raise RuntimeError("https://a.secret")
        sent.put(text)

    put = in_background()
    put(partial(send, "first"))
    put(partial(send, "second"))
    assert sent.get(timeout=600) == "second"
    assert capsys.readouterr().out == "the message could not be sent (RuntimeError)\n"


def test_messages_that_wait_for_a_dead_webhook_have_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    answer = threading.Event()

    def wait() -> None:
        answer.wait(600)

    put = in_background()
    for _ in range(200):
        put(wait)
    answer.set()
    assert "could not be sent (100 wait)" in capsys.readouterr().out


def test_a_message_that_cannot_be_sent_stops_nothing_and_its_url_stays_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # http.client refuses the control character before it connects, and its error names the path.
    sender("https://127.0.0.1/services/T1\x01/XXXX", Failures(notify="secret"))("host a: attach")
    assert capsys.readouterr().out == "the message could not be sent (InvalidURL)\n"


@contextmanager
def _service(status: int, text: str) -> Iterator[tuple[str, list[str]]]:
    """An HTTP service on loopback that gives one answer; its URL, and the requests that it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.do_GET()

    with served(Handler) as port:
        yield f"http://{LOOPBACK}:{port}/secret", requests


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (200, "OK", ""),
        (204, "", ""),
        (200, "OK (not found)", "it does not know this URL"),
        (404, "not found", "404"),
        (410, "", "410"),
    ],
)
def test_a_dead_man_s_switch_that_does_not_exist_is_no_success(
    status: int, text: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with _service(status, text) as (url, requests):
        failures = Failures(ping=url)
        pinger(url, failures)()
    assert requests == [""]
    failed = failures.items({})["ping_failed"]
    assert (json.loads(failed)["why"] if failed else "") == why
    assert "secret" not in capsys.readouterr().out


def test_a_webhook_that_no_longer_exists_is_noted_until_a_message_arrives() -> None:
    failures = Failures(notify="the URL", ping="")
    with _service(404, "no_service") as (url, _requests):
        sender(url, failures)("host a: detach")
    noted = failures.items({})
    assert json.loads(noted["notify_failed"])["why"] == "404"
    with _service(200, "ok") as (url, requests):
        sender(url, failures)("host a: attach")
    assert [json.loads(text) for text in requests] == [{"text": "host a: attach"}]
    assert failures.items(noted)["notify_failed"] == ""


def test_a_failure_outlives_the_program_until_its_url_is_another_one() -> None:
    before = Failures(notify="the URL", ping="the switch")
    before.note("notify", "404")
    before.note("ping", "410")
    noted = before.items({})
    assert Failures(notify="the URL", ping="the switch").items(noted) == {}
    assert Failures(notify="another URL", ping="").items(noted) == {"notify_failed": "", "ping_failed": ""}
    assert "the URL" not in "".join(noted.values())


def test_pings_once_a_minute_at_most_and_only_after_a_pass_that_knew_everything() -> None:
    pings: list[float] = []
    now = [0.0]
    switch = DeadMansSwitch(lambda: pings.append(now[0]), lambda: now[0])
    for second in range(0, 200, 5):
        now[0] = float(second)
        switch.after_pass(is_complete=not 60 <= second < 100)
    assert pings == [0.0, 100.0, 160.0]


def _at(now: list[float], cluster: str = "fleet") -> tuple[Reporter, list[str]]:
    sent: list[str] = []
    return Reporter(cluster, sent.append, lambda: now[0]), sent


def _times(step: Step, days: int, every: int = 60) -> list[int]:
    """The minutes in which a step that lasts is told."""
    now = [0.0]
    reporter, sent = _at(now)
    told = []
    for minute in range(0, days * 1440, every // 60):
        now[0], before = minute * 60.0, len(sent)
        reporter.report("a", step)
        told += [minute] * (len(sent) - before)
    return told


def test_a_request_to_a_person_is_repeated_at_growing_intervals() -> None:
    expected = [0, 10, 10 + 60, 10 + 60 + 360]
    assert _times(Step("ask", "no spare"), 3) == [*expected, expected[-1] + 1440, expected[-1] + 2880]


def test_what_is_no_host_s_is_told_when_it_begins_and_then_daily() -> None:
    assert _times(Step("remind", "server 3 is down"), 3) == [0, 1440, 2880]


@pytest.mark.parametrize(
    ("host", "end"),
    [
        ("a", "host a is well again"),
        ("", "the takeover looks at the hosts again"),
        (ENDPOINT, "the servers' address leads to a ready server again"),
        ("(server 3)", "server 3 is well again"),
    ],
)
def test_the_end_of_a_fault_is_told_once(host: str, end: str) -> None:
    now = [0.0]
    reporter, sent = _at(now)
    reporter.report(host, Step("ask", "fault"))
    for second in range(5, 900, 5):
        now[0] = float(second)
        reporter.report(host, Step("fine"))
    assert sent == ["Cluster fleet, action required: fault.", f"Cluster fleet: {end}."]
    reporter.report(host, Step("ask", "fault"))
    assert len(sent) == 3, "it is another fault"


def test_a_fault_that_comes_and_goes_is_one_fault() -> None:
    now = [0.0]
    reporter, sent = _at(now)
    for minute in range(60):
        now[0] = minute * 60.0
        reporter.report("a", Step("ask", "fault") if minute % 4 == 0 else Step("fine"))
    assert sent == ["Cluster fleet, action required: fault."] * 2, "at its begin, and after some ten minutes"


def test_the_end_of_a_takeover_that_asked_for_nothing_is_not_told() -> None:
    now = [0.0]
    reporter, sent = _at(now)
    reporter.report("a", Step("detach", "host a: detach"))
    now[0] = 1000.0
    reporter.report("a", Step("fine"))
    assert sent == ["Cluster fleet: host a: detach."]


def _raise(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


def test_an_unexpected_error_is_told_once_a_day_for_each_kind_and_without_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    reporter, sent = _at(now)
    kinds: tuple[Callable[[], Exception], ...] = (
        lambda: _raise(KeyError("dop_v1_secret")),
        lambda: _raise(ValueError("dop_v1_secret")),
    )
    for second in range(0, 7200, 5):
        now[0] = float(second)
        for kind in kinds:
            reporter.surprise(kind())
        reporter.report("", Step("fine"))
        reporter.report("a", Step("fine"))
    assert [text.split(" in ")[0] for text in sent] == [
        "Cluster fleet, action required: a pass over the hosts ended with KeyError",
        "Cluster fleet, action required: a pass over the hosts ended with ValueError",
    ]
    now[0] += 86_400
    reporter.surprise(kinds[0]())
    assert len(sent) == 3
    shown = capsys.readouterr().out
    assert "in _raise" in shown, "the log has the frames"
    assert "dop_v1_secret" not in shown + "".join(sent)
