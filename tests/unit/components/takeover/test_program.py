"""The takeover as a program: its environment, and what it tells a person."""

import queue
import threading
from pathlib import Path

import pytest

from components import takeover
from components.render.cluster.user_data import worker_tag
from components.takeover.decide import Rules, Step
from components.takeover.passes import Passes, cluster_of
from components.takeover.program import Reporter, in_background, passes_of, sender
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster
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
    assert len(reporter._last) == 1, "a program that runs for months keeps no list of them"


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

    reporter = Reporter("fleet", in_background(send), cluster.now)
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

    put = in_background(send)
    put("first")
    put("second")
    assert sent.get(timeout=600) == "second"
    assert capsys.readouterr().out == "the message could not be sent (RuntimeError)\n"


def test_messages_that_wait_for_a_dead_webhook_have_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    answer = threading.Event()

    def send(_text: str) -> None:
        answer.wait(600)

    put = in_background(send)
    for number in range(200):
        put(str(number))
    answer.set()
    assert "could not be sent (100 wait)" in capsys.readouterr().out


def test_a_message_that_cannot_be_sent_stops_nothing_and_its_url_stays_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # http.client refuses the control character before it connects, and its error names the path.
    sender("https://127.0.0.1/services/T1\x01/XXXX")("host a: attach")
    assert capsys.readouterr().out == "the message could not be sent (InvalidURL)\n"
