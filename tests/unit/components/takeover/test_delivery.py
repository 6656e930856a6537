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


def _answering(*statuses: int) -> tuple[type[BaseHTTPRequestHandler], list[str]]:
    """A webhook that gives these answers, then the last one again; and the texts that it got."""
    texts: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(statuses[min(len(texts), len(statuses)) - 1])
            self.end_headers()

    return Webhook, texts


@pytest.mark.parametrize("status", [503, 429, 408, 403])
def test_a_message_that_does_not_arrive_is_sent_again_before_the_next_one(status: int) -> None:
    """A healthy cluster sends no further message, so nothing else would clear the note of the failure."""
    webhook, texts = _answering(status, status, 200)
    now, noted = [0.0], list[str]()
    with served(webhook) as port:
        failures = Failures(notify=(url := f"http://{LOOPBACK}:{port}/secret"))

        def pause(seconds: float) -> None:
            now[0] += seconds
            noted.append(json.loads(failures.items({})["notify_failed"])["why"])

        send = sender(url, failures, pause, lambda: now[0])
        send("first")
        send("second")
    assert texts == ["first", *["first (of 1970-01-01 00:00 UTC)"] * 2, "second"]
    assert (noted, now) == ([str(status)] * 2, [120.0])
    assert failures.items({}) == {"notify_failed": ""}


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_message_that_the_webhook_never_takes_is_sent_once(status: int) -> None:
    webhook, texts = _answering(status)
    with served(webhook) as port:
        failures = Failures(notify=(url := f"http://{LOOPBACK}:{port}/secret"))
        sender(url, failures)("first")
    assert texts == ["first"]
    assert json.loads(failures.items({})["notify_failed"])["why"] == str(status)


def test_a_text_that_the_webhook_cannot_take_does_not_mute_the_others_for_ever() -> None:
    now, texts = [0.0], list[str]()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(500 if "\u2028" in texts[-1] else 200)
            self.end_headers()

    def pause(_seconds: float) -> None:
        now[0] += 21_600

    with served(Webhook) as port:
        url = f"http://{LOOPBACK}:{port}/secret"
        send = sender(url, Failures(notify=url), pause, lambda: now[0])
        send("Cluster fleet: host a: \u2028.")
        send("second")
    late = " (of 1970-01-01 00:00 UTC)"
    assert texts[-2:] == [f"Cluster fleet: a message could not be sent. The takeover's log has it.{late}", "second"]


def test_a_program_that_begins_after_a_lost_message_sends_one_which_clears_the_note() -> None:
    """The messages that waited for the webhook ended with the program before."""
    webhook, texts = _answering(200)
    with served(webhook) as port:
        url = f"http://{LOOPBACK}:{port}/secret"
        earlier = Failures(notify=url)
        earlier.note("notify", "503")
        noted = earlier.items({})
        failures = Failures(notify=url)
        failures.missed = sender(url, failures)
        for _ in range(3):
            noted = {**noted, **failures.items(noted)}
    assert len(texts) == 1
    assert texts[0].startswith("a message to you did not arrive")
    assert noted == {"notify_failed": ""}


def test_the_job_sends_that_message(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook, texts = _answering(200)
    with served(webhook) as port:
        url = f"http://{LOOPBACK}:{port}/secret"
        earlier = Failures(notify=url)
        earlier.note("notify", "503")
        passes, _reporter, _switch = _started(monkeypatch, TAKEOVER_NOTIFY_URL=url)
        notes = passes.notes(earlier.items({}))
        while not texts or notes.get("notify_failed") != "":
            notes = passes.notes(earlier.items({}))
    assert texts[0].startswith("Cluster fleet: a message to you did not arrive")


@pytest.mark.parametrize("item", ["x", "[]", "null", "3", '{"at": 1}'])
def test_a_note_that_a_person_has_changed_stops_no_pass(item: str) -> None:
    cluster = FakeCluster({"a": 1, "b": 2}, workers=3)
    cluster.items["notify_failed"] = item
    failures = Failures(notify="https://a.secret", ping="")
    passes = Passes(cluster, cluster, cluster.places, "workers", Rules(), "job", cluster.now, notes=failures.items)
    assert [step.kind for step in passes.once()] == ["fine", "fine"]
    assert "notify_failed" not in cluster.items
