"""The takeover as a program: its environment, and what it tells a person."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from components.takeover.decide import Rules, Step
from components.takeover.passes import Passes
from components.takeover.program import Reporter, passes_of, pause, sender
from tests.support.fake_cluster import FakeCluster

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


@pytest.mark.parametrize("hosts", [1, 2, 10, 100])
def test_watching_stays_within_the_requests_that_digitalocean_allows(
    hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(dict.fromkeys((f"h{number}" for number in range(hosts)), 1), workers=1)
    asked: list[str] = []
    for name in ("workers", "carrier", "actions", "address_at"):
        monkeypatch.setattr(cluster, name, partial(_asked, asked, name, getattr(cluster, name)))
    steps = Passes(cluster, cluster, cluster.places, "workers", Rules(), "one", cluster.now).once()
    assert {step.kind for step in steps} == {"fine"}
    assert len(asked) * 3600 / pause(hosts, moving=False) < 5_000
    assert len(asked) * 60 / pause(hosts, moving=True) < 250


def _asked(asked: list[str], name: str, answer: Callable[..., Any], *arguments: str) -> Any:
    asked.append(name)
    return answer(*arguments)


def test_tells_a_person_each_step_and_a_question_again_after_a_while() -> None:
    sent: list[str] = []
    now = [0.0]
    reporter = Reporter(sent.append, lambda: now[0])
    for _ in range(3):
        reporter.report(
            [Step("fine", "a"), Step("wait", "b"), Step("attach", "host a: attach"), Step("ask", "no spare")]
        )
        now[0] += 5
    assert sent == ["host a: attach.", "A person has to act: no spare."]
    now[0] += 600
    reporter.report([Step("ask", "no spare")])
    assert sent[2:] == ["A person has to act: no spare."]


def test_a_message_that_cannot_be_sent_stops_nothing_and_its_url_stays_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # http.client refuses the control character before it connects, and its error names the path.
    sender("https://127.0.0.1/services/T1\x01/XXXX")("host a: attach")
    assert capsys.readouterr().out == "the message could not be sent (InvalidURL)\n"
