"""Runs of Nomad's jobs that a command starts: their output is shown once, in order, and their end is reported."""

from collections.abc import Iterator
from typing import Any

import pytest

from cli.lib import nomad_jobs
from components.clients.errors import DeadlineError
from components.clients.nomad import NomadApi
from tests.conftest import Clock
from tests.support.fake_nomad import FakeNomad, serve

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    with serve(FakeNomad(tokens={TOKEN: "accessor"})) as fake:
        yield fake


def _api(nomad: FakeNomad) -> NomadApi:
    return NomadApi(nomad.address, "", "", "", TOKEN)


def look(status: str, failed: str | None = None, events: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The allocation of a run with a task `fetch`, then one `restore`."""
    told = [{"DisplayMessage": text} for text in events]
    tasks = {
        name: {"Failed": name == failed, "StartedAt": f"2026-06-01T12:00:0{number}Z", "Events": told}
        for number, name in enumerate(("fetch", "restore"))
    }
    return [{"ID": "11111111", "ClientStatus": status, "TaskStates": tasks}]


def test_what_a_run_says_is_shown_line_by_line_and_once(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [[], look("pending"), look("running"), look("running"), look("complete")]
    nomad.logs = {
        ("fetch", "stdout"): "fetching\nfetched 3 MiB\n",
        ("restore", "stdout"): "ready                        3 accounts, ümlaut\nno end of a line",
    }
    shown: list[str] = []
    run = nomad_jobs.dispatch(_api(nomad), "pds-restore", {"snapshot": "1a2b", "sequence": ""})
    assert run == "pds-restore/dispatch-1-a"
    assert nomad.dispatched == [{"lent": "", "snapshot": "1a2b"}], "what is not asked for is not said"
    assert nomad_jobs.follow(_api(nomad), run, 600, shown.append)
    assert shown == [
        "fetching",
        "fetched 3 MiB",
        "ready                        3 accounts, ümlaut",
        "no end of a line",
    ]


def test_a_periodic_job_is_started_when_its_other_run_is_over(nomad: FakeNomad, clock: Clock) -> None:
    nomad.children = [["dead", "running"], ["dead", "running"], ["dead", "dead"]]
    assert nomad_jobs.force(_api(nomad), "pds-backup") == "pds-backup/dispatch-1-a"
    looked = [path for _method, path, _token in nomad.asked if "prefix=pds-backup%2F" in path]
    assert len(looked) == 3, "two at once would take each other's files away"


def test_a_run_that_fails_is_told_in_its_own_words(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [look("failed", "restore")]
    nomad.logs = {("restore", "stderr"): "REFUSED: the server is running on these data. Pause it first.\n"}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, shown.append)
    assert shown == ["REFUSED: the server is running on these data. Pause it first."]


def test_the_last_task_of_a_run_that_failed_is_waited_for(nomad: FakeNomad, clock: Clock) -> None:
    def last(state: str) -> list[dict[str, Any]]:
        (found,) = look("failed", "restore")
        return [found | {"TaskStates": found["TaskStates"] | {"serve": {"State": state, "Failed": False}}}]

    nomad.runs = [last("pending"), last("running"), last("dead")]
    nomad.logs = {("serve", "stdout"): "the outcome is left"}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-drill/dispatch-1-a", 600, shown.append)
    assert shown == ["the outcome is left"]
    nomad.runs = [last("pending")]
    assert not nomad_jobs.follow(_api(nomad), "pds-drill/dispatch-1-a", 600, shown.append), "one that never comes"


def test_a_run_that_fails_without_a_word_is_told_in_nomad_s(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [look("failed", "fetch", events=("Received", "Driver Failure: no such image"))]
    nomad.logs = {("fetch", "stdout"): ""}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, shown.append)
    assert shown == ["fetch: Received; Driver Failure: no such image"]


def test_a_run_without_a_place_is_not_waited_for_long(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [[]]
    with pytest.raises(DeadlineError, match="not placed on the host"):
        nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, lambda line: None)
    assert clock.now < 180


def test_a_periodic_job_s_next_run_is_begun_now(nomad: FakeNomad) -> None:
    assert nomad_jobs.force(_api(nomad), "pds-backup") == "pds-backup/dispatch-1-a"


def test_a_run_that_ran_out_of_memory_is_named_with_the_option_to_raise(nomad: FakeNomad, clock: Clock) -> None:
    allocation = look("failed", "restore")
    # As Nomad's Docker driver reports it.
    allocation[0]["TaskStates"]["restore"]["Events"] = [
        {
            "Type": "Terminated",
            "DisplayMessage": "Exit Code: 137",
            "Details": {"oom_killed": "true", "exit_code": "137"},
        }
    ]
    nomad.runs = [allocation]
    nomad.logs = {("restore", "stdout"): "snapshot of today\n"}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 60, shown.append)
    assert shown[-1] == "restore: it ran out of memory and was killed. Raise 'backup: {memory_mib: …}'."
