"""Messages to a webhook and pings of a dead man's switch: what happens if either service does not answer."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler

import pytest

from components.takeover import program
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from components.takeover.reporting import DeadMansSwitch, Failures, Reporter, in_background, pinger, sender
from tests.support.fake_cluster import FakeCluster
from tests.support.serving import LOOPBACK, served
from tests.unit.components.takeover.test_program import ENVIRONMENT


def test_a_webhook_that_does_not_answer_delays_no_step() -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.cut_power(1)
    cluster.pass_time(61)
    answer, sent = threading.Event(), queue.Queue[str]()

    def send(text: str) -> None:
        assert answer.wait(600)
        sent.put(text)

    background = in_background("test")
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

    put = in_background("test")
    put(partial(send, "first"))
    put(partial(send, "second"))
    assert sent.get(timeout=600) == "second"
    assert capsys.readouterr().out == "a request could not be sent (RuntimeError)\n"


def test_messages_that_wait_for_a_dead_webhook_have_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    answer = threading.Event()

    def wait() -> None:
        answer.wait(600)

    put = in_background("test")
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


class _StartedError(BaseException):
    """The program is about to repeat its passes."""


def _started(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[Passes, Reporter, DeadMansSwitch]:
    """The program as it is before its first pass."""
    found = list[tuple[Passes, Reporter, DeadMansSwitch]]()

    def repeat(passes: Passes, reporter: Reporter, switch: DeadMansSwitch) -> None:
        found.append((passes, reporter, switch))
        raise _StartedError

    monkeypatch.setattr(program, "repeat", repeat)
    for name, text in {**ENVIRONMENT, **environment}.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(_StartedError):
        program.main()
    return found[0]


def test_a_webhook_that_does_not_answer_delays_no_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead man's switch would call the takeover dead, which it is not."""
    answer, pinged, arrived = threading.Event(), threading.Event(), queue.Queue[str]()

    class Services(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer.wait(600)
            self.send_response(200)
            self.end_headers()
            arrived.put(self.path)

        def do_GET(self) -> None:
            pinged.set()
            self.send_response(200)
            self.end_headers()

    with served(Services) as port:
        base = f"http://{LOOPBACK}:{port}"
        _passes, reporter, switch = _started(
            monkeypatch, TAKEOVER_NOTIFY_URL=f"{base}/message", TAKEOVER_PING_URL=f"{base}/ping"
        )
        for number in range(20):
            reporter.tell(f"message {number}", urgent=False)
        switch.after_pass(is_complete=True)
        assert pinged.wait(600)
        assert arrived.empty(), "the ping waited for the messages"
        answer.set()
        for _ in range(20):
            arrived.get(timeout=600)
