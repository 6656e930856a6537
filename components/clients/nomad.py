"""Nomad's HTTP API: requests, ACL bootstrap, and waits for jobs. The standard library only.

Source: developer.hashicorp.com/nomad/api-docs.
"""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any
from urllib.parse import quote, urlsplit

from components.clients.errors import PendingError, ServiceError
from components.clients.https import client_tls
from components.clients.wait import until

Json = Any

_SNAPSHOT_SECONDS = 300.0
"""A leader takes in the whole snapshot, and replaces its state, before it answers."""


class NomadApi:
    """Nomad's HTTP API, most often behind an endpoint that requires a client certificate.

    `token` is an ACL secret, `namespace` that of every request; requests end after `timeout` seconds. Raises
    ServiceError.
    """

    def __init__(
        self,
        address: str,
        ca_pem: str,
        cert_pem: str,
        key_pem: str,
        token: str | None = None,
        namespace: str = "default",
        timeout: float = 10,
    ) -> None:
        self.address = address
        self._token = token
        self._namespace = namespace
        self._timeout = timeout
        self._tls = client_tls(ca_pem, cert_pem, key_pem) if address.startswith("https:") else None

    def request(self, method: str, path: str, body: Json = None, token: str | None = None) -> tuple[int, Json]:
        """Status and decoded answer (text if it is not JSON). Raises OSError if the connection fails."""
        connection, answer = self._send(method, path, self._timeout, body, token)
        try:
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text) if text else None
        except ValueError:
            return answer.status, text

    @contextmanager
    def open(self, path: str, timeout: float) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET as a stream, for the block. A read that gets nothing for `timeout` seconds is a
        TimeoutError. Raises OSError if the connection fails."""
        connection, answer = self._send("GET", path, timeout)
        try:
            yield answer
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, timeout: float, body: Json = None, token: str | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Raises OSError if the connection fails; else the caller closes it."""
        target = urlsplit(self.address)
        assert target.hostname, "the settings build this address"
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection(target.hostname, target.port, context=self._tls, timeout=timeout)
        else:
            connection = http.client.HTTPConnection(target.hostname, target.port, timeout=timeout)
        if self._namespace != "default":
            path += f"{'&' if '?' in path else '?'}namespace={quote(self._namespace)}"
        secret = self._token if token is None else token
        headers = {"X-Nomad-Token": secret} if secret else {}
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method, path, content, headers)
            return connection, connection.getresponse()
        except BaseException as error:
            connection.close()
            if isinstance(error, http.client.HTTPException):
                raise OSError(f"{type(error).__name__}: {error}") from error
            raise

    def get(self, path: str) -> Json:
        """The decoded answer. Raises ServiceError unless it is 200."""
        status, answer = self._ask("GET", path)
        if status != 200:
            raise ServiceError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return answer

    def find(self, path: str) -> Json | None:
        """The decoded answer; None if there is no such thing (404). Raises ServiceError otherwise."""
        status, answer = self._ask("GET", path)
        if status not in (200, 404):
            raise ServiceError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return answer if status == 200 else None

    def post(self, path: str, body: Json) -> Json:
        """The decoded answer. Raises ServiceError unless it is 200."""
        return self._changed("POST", path, body)

    def _changed(self, method: str, path: str, body: Json) -> Json:
        status, answer = self._ask(method, path, body)
        if status != 200:
            raise ServiceError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return answer

    def put(self, path: str, body: Json) -> Json:
        """The decoded answer. Raises ServiceError unless it is 200."""
        return self._changed("PUT", path, body)

    def delete(self, path: str) -> None:
        """Delete it; nothing to do if there is no such thing (404). Raises ServiceError otherwise."""
        status, answer = self._ask("DELETE", path)
        if status not in (200, 404):
            raise ServiceError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")

    def _ask(self, method: str, path: str, body: Json = None, token: str | None = None) -> tuple[int, Json]:
        """Like `request`, but raises PendingError if Nomad does not answer or has no leader."""
        try:
            status, answer = self.request(method, path, body, token)
        except OSError as error:
            raise PendingError(f"Nomad at {self.address} does not answer ({error}).") from error
        if status >= 500:
            raise PendingError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return status, answer

    def wait_for_leader(self, seconds: float) -> None:
        """Return once a server leads and a node is ready."""

        def ready() -> str | None:
            status, leader = self.request("GET", "/v1/status/leader")
            return None if status == 200 and leader else f"it has no leader yet (status {status})"

        until(ready, seconds, f"Nomad at {self.address}")

    def bootstrap(self, token: str) -> str:
        """Bootstrap the ACLs with `token`. Returns its accessor ID, also if that was done before.

        Raises ServiceError if Nomad was bootstrapped with another token.
        """
        status, answer = self._ask("POST", "/v1/acl/bootstrap", {"BootstrapSecret": token})
        if status == 200:
            return str(answer["AccessorID"])
        accessor = self.accessor(token)
        if accessor:
            return accessor
        raise ServiceError(
            f"Nomad at {self.address} was bootstrapped with a token that this stack does not have ({status}). Is it "
            "another stack's host? If its state was lost, restore the state. The escrow file holds the token."
        )

    def accessor(self, token: str) -> str | None:
        """The accessor ID of `token`, or None if it is unknown here. Raises PendingError if Nomad cannot answer."""
        status, answer = self._ask("GET", "/v1/acl/token/self", token=token)
        return str(answer["AccessorID"]) if status == 200 else None

    def restore_snapshot(self, snapshot: bytes) -> None:
        """Replace the whole state by a snapshot of Raft, once or again. Raises PendingError, ServiceError."""
        patient = copy(self)
        patient._timeout = _SNAPSHOT_SECONDS
        patient._changed("PUT", "/v1/operator/snapshot", snapshot)

    def forget_tokens(self, name: str, but: str) -> None:
        """Delete every ACL token named `name` except the one with the accessor ID `but`."""
        for item in self.get("/v1/acl/tokens"):
            if item["Name"] == name and item["AccessorID"] != but:
                self._ask("DELETE", f"/v1/acl/token/{item['AccessorID']}")


_PLACEMENT_METRICS = ("DimensionExhausted", "ConstraintFiltered")


class JobRunning:
    """Checks at each call whether a task of `job` runs with its checks passing: None, or why not.

    The task must have started after the given time (Unix, ns). If a task fails twice during the wait, its message
    becomes a ServiceError. The first failure may be the last retry before a fault was fixed.
    """

    def __init__(self, api: NomadApi, job: str, started_after_ns: int = 0) -> None:
        self._api, self._job, self._started_after_ns = api, job, started_after_ns
        self._refused: set[str] = set()
        self._old_ends: set[int] | None = None

    def __call__(self) -> str | None:
        """None if it runs, else the reason."""
        job = self._job
        allocations = self._api.get(f"/v1/job/{quote(job)}/allocations")
        if not allocations:
            reason = self._placement_failure() or "it was stopped, or Nomad has not evaluated it yet"
            return f"job {job} has no allocation; {reason}"
        newest = max(allocations, key=lambda item: int(item["CreateIndex"]))
        if newest["JobVersion"] != self._api.get(f"/v1/job/{quote(job)}")["Version"]:
            return (
                f"Nomad has not placed the newest version of job {job} yet; {self._placement_failure()}".removesuffix(
                    "; "
                )
            )
        tasks = newest.get("TaskStates") or {}
        failed = [name for name, task in tasks.items() if task.get("Failed")]
        if failed:
            self._record_failure(newest["ID"], failed[0], tasks[failed[0]])
        task = tasks.get(job)
        ends = {event["Time"] for event in (task or {}).get("Events") or [] if event.get("ExitCode")}
        self._old_ends = ends if self._old_ends is None else self._old_ends
        if len(ends - self._old_ends) > 1:
            raise _task_failure(self._api, job, newest["ID"], job, task, "twice ")
        if newest["DesiredStatus"] != "run" or newest["ClientStatus"] != "running" or not task:
            return f"job {job} is {newest['ClientStatus']}{_last_event(tasks)}"
        if task["State"] != "running":
            return f"job {job} is {task['State']}{_last_event(tasks)}"
        if rfc3339_ns(task["StartedAt"]) < self._started_after_ns:
            return f"job {job} has not restarted with the new secrets yet"
        checks = (self._api.get(f"/v1/client/allocation/{newest['ID']}/checks") or {}).values()
        # A result has whole seconds. One from before a restart of the task is outdated.
        started = rfc3339_ns(task["StartedAt"]) // 1_000_000_000
        passing = [check["Status"] == "success" and check["Timestamp"] > started for check in checks]
        return None if passing and all(passing) else f"the health check of {job} does not pass yet"

    def _placement_failure(self) -> str:
        """What the node lacks for the job, by Nomad's last placement attempt (AllocMetric in nomad/structs)."""
        evaluations = self._api.get(f"/v1/job/{quote(self._job)}/evaluations") or []
        newest: Json = max(evaluations, key=lambda item: int(item["CreateIndex"]), default={})
        metrics = (newest.get("FailedTGAllocs") or {}).values()
        lacking = {name for metric in metrics for kind in _PLACEMENT_METRICS for name in metric.get(kind) or {}}
        return f"Nomad found no room for it ({', '.join(sorted(lacking))})" if lacking else ""

    def _record_failure(self, allocation: str, task: str, state: Json) -> None:
        self._refused.add(allocation)
        if len(self._refused) > 1:
            raise _task_failure(self._api, self._job, allocation, task, state, "twice ")


def stopping(api: NomadApi, job: str) -> str | None:
    """None once no task of `job` runs any more."""
    allocations = api.get(f"/v1/job/{quote(job)}/allocations") or []
    active = [item["ID"] for item in allocations if item["ClientStatus"] in ("pending", "running")]
    return f"its server is still stopping (allocation {active[0]})" if active else None


def _task_failure(api: NomadApi, job: str, allocation: str, task: str, state: Json, often: str = "") -> ServiceError:
    events = "; ".join(event.get("DisplayMessage", "") for event in (state.get("Events") or [])[-3:])
    log_path = f"/v1/client/fs/logs/{allocation}?task={task}&type=stderr&plain=true&origin=end&offset=2000"
    log = str(api.request("GET", log_path)[1] or "").strip()
    return ServiceError(f"Job {job}: its task {task} failed {often}({events}).\n{log}")


def run_dispatched(api: NomadApi, job: str, seconds: float) -> None:
    """Dispatch a parameterized job and wait for its end. Raises ServiceError with the message of a failed task."""
    child = api.post(f"/v1/job/{quote(job)}/dispatch", {})["DispatchedJobID"]

    def ended() -> str | None:
        allocations = api.get(f"/v1/job/{quote(child, safe='')}/allocations")
        if not allocations:
            return "it has no allocation; Nomad found no room for it"
        for name, task in (allocations[0].get("TaskStates") or {}).items():
            if task.get("Failed"):
                raise _task_failure(api, job, allocations[0]["ID"], name, task)
        status = allocations[0]["ClientStatus"]
        if status in ("failed", "lost"):
            raise ServiceError(f"Job {job} is {status}. The next `pulumi up` runs it again.")
        return None if status == "complete" else f"it is {status}"

    until(ended, seconds, f"Job {job}")


def _last_event(tasks: Json) -> str:
    for name, task in tasks.items():
        if task.get("Failed") and task.get("Events"):
            return f": task {name}: {task['Events'][-1].get('DisplayMessage', '')}"
    return ""


def rfc3339_ns(text: str) -> int:
    """A time of Nomad's API ("2026-01-02T03:04:05.678901234Z") as Unix time in ns."""
    import calendar

    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int(rest.ljust(9, "0")[:9] or 0)
