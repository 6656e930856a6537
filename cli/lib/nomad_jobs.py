"""Runs of Nomad's batch jobs that a command starts: waits for their end and shows their output as it arrives.

A run is a child of a job that the engine registered; nothing is registered here. Nomad keeps a run's log for some
hours, and shows it to every client that may read logs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from cli.lib import nomad_exec
from cli.lib.stack import Stack
from components.clients.errors import DeadlineError, ServiceError
from components.clients.nomad import NomadApi
from components.clients.wait import until

_NAMES = ("nomad_address", "nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem", "nomad_token")
_PLACED = 120  # seconds: Nomad places it immediately, or not at all
_OTHER_RUN = 24 * 3600  # seconds; a restore of a full volume
_LAST_LOOKS = 5
_ENDED = ("complete", "failed", "lost")

Show = Callable[[str], None]


def stack_nomad_api(stack: Stack) -> NomadApi:
    """Return Nomad, with the program's own token. Raises StackError."""
    return nomad_exec.nomad_api(nomad_exec.nomad_access(stack.required_outputs(*_NAMES)))


def dispatch(api: NomadApi, job: str, meta: Mapping[str, str]) -> str:
    """Start a run of a parameterized job; return its id. Raises ServiceError."""
    given_meta = {name: value for name, value in meta.items() if value}
    return str(api.post(f"/v1/job/{quote(job)}/dispatch", {"Meta": given_meta})["DispatchedJobID"])


def wait_for_other_runs(api: NomadApi, job: str) -> None:
    """Wait until no run of `job` is active. Raises ServiceError.

    Nomad itself separates only runs that the schedule of a periodic job starts, and two at once delete each other's
    files. A killed command may have started one.
    """

    reported = False

    def idle() -> str | None:
        nonlocal reported
        children = api.get(f"/v1/jobs?{urlencode({'prefix': f'{job}/'})}")
        if all(run["Status"] == "dead" for run in children):
            return None
        if not reported:
            print(f"Another run of {job} is active; this one starts after it.", flush=True)
        reported = True
        return "another run is active"

    until(idle, _OTHER_RUN, f"Job {job}")


def force(api: NomadApi, job: str) -> str:
    """Start a run of a periodic job before its time, once no other is active; return its id. Raises ServiceError."""
    wait_for_other_runs(api, job)
    evaluation = api.post(f"/v1/job/{quote(job)}/periodic/force", {})["EvalID"]
    return str(api.get(f"/v1/evaluation/{evaluation}")["JobID"])


def active_runs(api: NomadApi) -> list[str]:
    """Return runs of batch jobs that are active, or wait for their placement, in the namespace. Raises ServiceError."""
    return [job["ID"] for job in api.get("/v1/jobs") if job.get("ParentID") and job["Status"] != "dead"]


def is_placed(api: NomadApi, run: str) -> bool:
    """Return whether a host has begun `run`, and has not ended it. Raises ServiceError."""
    return any(item["ClientStatus"] not in _ENDED for item in api.get(_allocations(run)))


def has_failed(api: NomadApi, run: str) -> bool | None:
    """Return whether `run` failed or was stopped; None if Nomad has no allocation of it: it waits, or is forgotten.
    Raises ServiceError."""
    allocations = api.get(_allocations(run))
    if not allocations:
        return None
    newest = _newest(allocations)
    return newest["ClientStatus"] in _ENDED and not _has_succeeded(newest)


def stop(api: NomadApi, run: str) -> None:
    """Stop `run`, also if it is not placed yet; one that Nomad has forgotten is stopped. Raises ServiceError."""
    path = f"/v1/job/{quote(run, safe='')}"
    if api.find(path) is not None:  # Nomad answers 500 to the DELETE of an unknown job
        api.delete(path)


def _allocations(run: str) -> str:
    return f"/v1/job/{quote(run, safe='')}/allocations"


def _newest(allocations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The allocation that counts: that of a node that went down has a successor."""
    return max(allocations, key=lambda item: int(item.get("CreateIndex", 0)))


def _is_stopped(allocation: Mapping[str, Any]) -> bool:
    """Return whether Nomad was told to stop it. One that was stopped counts as complete, without a failed task."""
    return allocation.get("DesiredStatus") == "stop"


def _has_succeeded(allocation: Mapping[str, Any]) -> bool:
    return allocation["ClientStatus"] == "complete" and not _is_stopped(allocation)


def _wait_for_placement(api: NomadApi, run: str) -> None:
    """Wait until `run` is placed. One that is not placed is stopped: it would begin after its command was given up."""

    def placed() -> str | None:
        if api.get(_allocations(run)):
            return None
        return "it is not placed on the host. Is the host down, another run active, or memory short?"

    try:
        until(placed, _PLACED, f"Job {run}")
    except DeadlineError as error:
        try:
            stop(api, run)
        except ServiceError as fault:
            raise DeadlineError(f"{error} It could not be stopped, and may still begin: {fault}") from error
        raise DeadlineError(f"{error} It was stopped.") from error


def follow(api: NomadApi, run: str, seconds: float, show: Show = print) -> bool:
    """Wait for the end of `run` and show the output of its tasks; return whether all succeeded. Raises ServiceError."""
    path = _allocations(run)
    _wait_for_placement(api, run)
    logs: dict[tuple[str, str], _Log] = {}
    allocation: dict[str, Any] = {}
    polls = 0

    def ended() -> str | None:
        nonlocal polls
        allocation.update(_newest(api.get(path)))
        tasks = allocation.get("TaskStates") or {}
        # A run counts as failed with its main task; the last one then still has to start, or never does.
        states = {task.get("State") for task in tasks.values()}
        polls += allocation["ClientStatus"] in _ENDED
        over = polls > 0 and "running" not in states and ("pending" not in states or polls > _LAST_LOOKS)
        for name in sorted(tasks, key=lambda name: tasks[name].get("StartedAt") or "~"):
            for stream in ("stdout", "stderr"):
                log = logs.setdefault((name, stream), _Log(allocation["ID"], name, stream))
                log.show(api, show, whole=over)
        return None if over else f"it is {allocation['ClientStatus']}"

    until(ended, seconds, f"Job {run}")
    if _has_succeeded(allocation):
        return True
    if _is_stopped(allocation):
        show(f"{run} was stopped before its end.")
    silent = not any(log.said for log in logs.values())
    for name, task in (allocation.get("TaskStates") or {}).items():
        events = task.get("Events") or []
        if any(_out_of_memory(event) for event in events):
            show(f"{name}: it ran out of memory and was killed. Raise 'backup.memory_mib'.")
        elif task.get("Failed") and silent:
            show(f"{name}: {'; '.join(event.get('DisplayMessage', '') for event in events)}")
    return False


def _out_of_memory(event: Mapping[str, Any]) -> bool:
    """Return whether it ran out of memory, from Nomad's Docker driver (`oom_killed`, nomad/structs
    TaskEvent.SetOOMKilled)."""
    return (event.get("Details") or {}).get("oom_killed") == "true"


@dataclass
class _Log:
    """A task's output, as far as it was shown."""

    allocation: str
    task: str
    stream: str
    at: int = 0
    said: bool = False

    def show(self, api: NomadApi, show: Show, *, whole: bool) -> None:
        """Show further lines; with `whole` also a last one without a line end."""
        query = {"task": self.task, "type": self.stream, "plain": "true", "origin": "start", "offset": self.at}
        status, text = api.request("GET", f"/v1/client/fs/logs/{self.allocation}?{urlencode(query)}")
        if status != 200 or text is None:
            return  # the task has not begun
        text = text if isinstance(text, str) else json.dumps(text)
        ready = text if whole else text[: text.rfind("\n") + 1]
        self.at += len(ready.encode())
        for line in ready.splitlines():
            self.said = True
            show(line)
