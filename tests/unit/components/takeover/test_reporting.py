"""What a takeover tells a person, how often, and over which service."""

from collections.abc import Callable

import pytest

from components.render.cluster.user_data import worker_tag
from components.takeover.decide import Rules, Step
from components.takeover.endpoint import ENDPOINT
from components.takeover.passes import Passes, cluster_of
from components.takeover.reporting import DeadMansSwitch, Reporter
from components.takeover.services import Refused, Unavailable
from tests.support.fake_cluster import FakeCluster


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


@pytest.mark.parametrize("minutes", [6, 10, 40])
def test_a_fault_that_comes_and_goes_slowly_is_told_some_times_a_day(minutes: int) -> None:
    now = [0.0]
    reporter, sent = _at(now)
    for minute in range(1440):
        now[0] = minute * 60.0
        reporter.report("a", Step("fine") if minute // minutes % 2 else Step("ask", "fault"))
    assert 2 < len(sent) < 15
    assert sent[-1].endswith("fault."), "the last word is not that all is well"


def test_a_fault_that_comes_back_after_its_end_was_told_is_told_at_once() -> None:
    now = [0.0]
    reporter, sent = _at(now)
    reporter.report("a", Step("ask", "fault"))
    now[0] = 301.0
    reporter.report("a", Step("fine"))
    now[0] = 302.0
    reporter.report("a", Step("ask", "fault"))
    assert [text.rpartition(": ")[2] for text in sent] == ["fault.", "host a is well again.", "fault."]


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


def _days_of_silence(hosts: int, silent: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told if DigitalOcean does not answer about some of the hosts for 20 minutes of two hours."""
    droplets: dict[str, int | None] = {f"h{number:02}": number for number in range(1, hosts + 1)}
    cluster = FakeCluster(droplets, workers=hosts + 1)
    began, carrier = cluster.time, cluster.carrier

    def answer(volume: str) -> int | None:
        if began + 600 <= cluster.time < began + 1800 and int(volume[1:]) <= silent:
            raise Unavailable(f"GET https://api.digitalocean.com/v2/volumes/{volume} returned 503: {cluster.time}")
        return carrier(volume)

    monkeypatch.setattr(cluster, "carrier", answer)
    sent: list[str] = []
    reporter = Reporter("fleet", sent.append, cluster.now)
    passes = Passes(cluster, cluster, cluster.places, "workers", Rules(), "job", cluster.now, tell=reporter.report)
    while cluster.time < began + 7200:
        try:
            passes.once()
        except Unavailable as error:
            reporter.report("", Step("wait", str(error)))
        cluster.pass_time(20)
    return sent


@pytest.mark.parametrize("silent", [30, 20])
def test_a_service_that_does_not_answer_about_many_hosts_is_told_once(
    silent: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = (
        "Cluster fleet, action required: no progress for 5 minutes: more than 3 hosts cannot be looked at, because a "
        "service does not answer. The log has why."
    )
    assert _days_of_silence(30, silent, monkeypatch) == [
        fault,
        fault,
        "Cluster fleet: nearly all hosts can be looked at again.",
    ]
    assert "host h01: GET https://api.digitalocean.com/v2/volumes/h01 returned 503" in capsys.readouterr().out


def test_a_service_that_does_not_answer_about_one_host_is_told_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "host h01" in _days_of_silence(30, 1, monkeypatch)[0]
