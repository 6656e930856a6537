"""The takeover as a program: its environment, and what it tells a person."""

from components.takeover.decide import Step
from components.takeover.program import Reporter, passes_of

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
