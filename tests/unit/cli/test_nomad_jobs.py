"""Runs of Nomad jobs that a command starts: it prints their output once, in order, and reports how they ended."""

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


def allocations(status: str, failed: str | None = None, events: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The allocation of a run with a task `fetch`, then one `restore`."""
    messages = [{"DisplayMessage": text} for text in events]
    tasks = {
        name: {"Failed": name == failed, "StartedAt": f"2026-06-01T12:00:0{number}Z", "Events": messages}
        for number, name in enumerate(("fetch", "restore"))
    }
    return [{"ID": "11111111", "ClientStatus": status, "DesiredStatus": "run", "TaskStates": tasks}]


def test_prints_each_line_of_a_run_s_output_once(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [[], allocations("pending"), allocations("running"), allocations("running"), allocations("complete")]
    nomad.logs = {
        ("fetch", "stdout"): "fetching\nfetched 3 MiB\n",
        ("restore", "stdout"): "ready                        3 accounts, ümlaut\nno end of a line",
    }
    shown: list[str] = []
    run = nomad_jobs.dispatch(_api(nomad), "pds-restore", {"snapshot": "1a2b", "sequence": ""})
    assert run == "pds-restore/dispatch-1-a"
    assert nomad.dispatched == [{"lent": "", "snapshot": "1a2b"}], "empty meta is not sent"
    assert nomad_jobs.follow(_api(nomad), run, 600, shown.append)
    assert shown == [
        "fetching",
        "fetched 3 MiB",
        "ready                        3 accounts, ümlaut",
        "no end of a line",
    ]


def test_starts_a_periodic_job_after_its_active_run_has_ended(nomad: FakeNomad, clock: Clock) -> None:
    nomad.children = [["dead", "running"], ["dead", "running"], ["dead", "dead"]]
    assert nomad_jobs.force(_api(nomad), "pds-backup") == "pds-backup/dispatch-1-a"
    queries = [path for _method, path, _token in nomad.asked if "prefix=pds-backup%2F" in path]
    assert len(queries) == 3, "two runs at once would remove each other's files"


def test_prints_the_error_output_of_a_failed_run(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [allocations("failed", "restore")]
    nomad.logs = {("restore", "stderr"): "REFUSED: the server is running on these data. Pause it first.\n"}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, shown.append)
    assert shown == ["REFUSED: the server is running on these data. Pause it first."]


def test_waits_for_the_last_task_of_a_failed_run(nomad: FakeNomad, clock: Clock) -> None:
    def last(state: str) -> list[dict[str, Any]]:
        (allocation,) = allocations("failed", "restore")
        return [allocation | {"TaskStates": allocation["TaskStates"] | {"serve": {"State": state, "Failed": False}}}]

    nomad.runs = [last("pending"), last("running"), last("dead")]
    nomad.logs = {("serve", "stdout"): "the outcome is left"}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-drill/dispatch-1-a", 600, shown.append)
    assert shown == ["the outcome is left"]
    nomad.runs = [last("pending")]
    assert not nomad_jobs.follow(_api(nomad), "pds-drill/dispatch-1-a", 600, shown.append), "a task that never starts"


def test_prints_nomad_s_events_if_a_failed_run_has_no_output(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [allocations("failed", "fetch", events=("Received", "Driver Failure: no such image"))]
    nomad.logs = {("fetch", "stdout"): ""}
    shown: list[str] = []
    assert not nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, shown.append)
    assert shown == ["fetch: Received; Driver Failure: no such image"]


def test_stops_waiting_for_a_run_that_is_not_placed(nomad: FakeNomad, clock: Clock) -> None:
    nomad.runs = [[]]
    with pytest.raises(DeadlineError, match=r"not placed on the host.*It was stopped\."):
        nomad_jobs.follow(_api(nomad), "pds-restore/dispatch-1-a", 600, lambda line: None)
    assert clock.now < 180
    assert nomad.stopped == ["pds-restore/dispatch-1-a"], "it would begin once the host is back"


def test_a_run_that_was_stopped_has_not_succeeded(nomad: FakeNomad, clock: Clock) -> None:
    """Nomad reports its allocation as complete, and no task as failed."""
    api, run = _api(nomad), "pds-restore/dispatch-1-a"
    nomad.runs = [allocations("running")]
    nomad.logs = {("fetch", "stdout"): "fetching\n"}
    nomad_jobs.stop(api, run)
    assert nomad.runs[0][0]["ClientStatus"] == "complete"
    assert nomad_jobs.has_failed(api, run)
    shown: list[str] = []
    assert not nomad_jobs.follow(api, run, 60, shown.append)
    assert shown == ["fetching", "pds-restore/dispatch-1-a was stopped before its end."]


def test_a_run_that_ended_before_it_was_stopped_keeps_its_result(nomad: FakeNomad, clock: Clock) -> None:
    api, run = _api(nomad), "pds-restore/dispatch-1-a"
    nomad.runs = [allocations("complete")]
    nomad_jobs.stop(api, run)
    assert nomad_jobs.has_failed(api, run) is False
    assert nomad_jobs.follow(api, run, 60, lambda line: None)


def test_starts_a_periodic_job_at_once(nomad: FakeNomad) -> None:
    assert nomad_jobs.force(_api(nomad), "pds-backup") == "pds-backup/dispatch-1-a"


def test_reports_a_run_that_ran_out_of_memory_and_the_option_to_raise(nomad: FakeNomad, clock: Clock) -> None:
    allocation = allocations("failed", "restore")
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
    assert shown[-1] == "restore: it ran out of memory and was killed. Raise 'backup.memory_mib'."
