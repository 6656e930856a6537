"""Queries during `up`: Nomad's API, and the PDS over HTTPS. `resolving.py` queries name servers.

Plain functions with deadlines, no Pulumi. The dynamic providers use them; these are pickled by name and so must load
fast: the standard library only. This module writes no file: certificates and keys reach OpenSSL through pipes.
"""

import http.client
import json
import os
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

Json = Any


class ProbeError(Exception):
    """A failed check, in a sentence for the operator, with the next step."""


class LateError(ProbeError):
    """`until` reached its deadline."""


class NotYetError(ProbeError):
    """No answer, or a temporary refusal; a later attempt may succeed."""


class NomadApi:
    """Nomad's HTTP API, most often behind an endpoint that requires a client certificate.

    `token` is an ACL secret, `namespace` that of every request; requests end after `timeout` seconds. Raises
    ProbeError.
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
        where = urlsplit(self.address)
        assert where.hostname, "the settings build this address"
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection(
                where.hostname, where.port, context=self._tls, timeout=self._timeout
            )
        else:
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=self._timeout)
        if self._namespace != "default":
            path += f"{'&' if '?' in path else '?'}namespace={quote(self._namespace)}"
        secret = self._token if token is None else token
        headers = {"X-Nomad-Token": secret} if secret else {}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text) if text else None
        except ValueError:
            return answer.status, text

    def get(self, path: str) -> Json:
        """The decoded answer. Raises ProbeError unless it is 200."""
        status, answer = self._ask("GET", path)
        if status != 200:
            raise ProbeError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return answer

    def post(self, path: str, body: Json) -> Json:
        """The decoded answer. Raises ProbeError unless it is 200."""
        return self._changed("POST", path, body)

    def _changed(self, method: str, path: str, body: Json) -> Json:
        status, answer = self._ask(method, path, body)
        if status != 200:
            raise ProbeError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return answer

    def put(self, path: str, body: Json) -> Json:
        """The decoded answer. Raises ProbeError unless it is 200."""
        return self._changed("PUT", path, body)

    def _ask(self, method: str, path: str, body: Json = None, token: str | None = None) -> tuple[int, Json]:
        """Like `request`, but raises NotYetError if Nomad does not answer or has no leader."""
        try:
            status, answer = self.request(method, path, body, token)
        except OSError as error:
            raise NotYetError(f"Nomad at {self.address} does not answer ({error}).") from error
        if status >= 500:
            raise NotYetError(f"Nomad at {self.address} answered {status} to {path}: {str(answer).strip()[:200]}")
        return status, answer

    def wait_for_leader(self, seconds: float) -> None:
        """Return once a server leads and a node is ready."""

        def ready() -> str | None:
            status, leader = self.request("GET", "/v1/status/leader")
            return None if status == 200 and leader else f"it has no leader yet (status {status})"

        until(ready, seconds, f"Nomad at {self.address}")

    def bootstrap(self, token: str) -> str:
        """Bootstrap the ACLs with `token`. Returns its accessor ID, also if that was done before.

        Raises ProbeError if Nomad was bootstrapped with another token.
        """
        status, answer = self._ask("POST", "/v1/acl/bootstrap", {"BootstrapSecret": token})
        if status == 200:
            return str(answer["AccessorID"])
        accessor = self.accessor(token)
        if accessor:
            return accessor
        raise ProbeError(
            f"Nomad at {self.address} was bootstrapped with a token that this stack does not have ({status}). Is it "
            "another stack's host? If its state was lost, restore the state; the escrow file holds the token."
        )

    def accessor(self, token: str) -> str | None:
        """The accessor ID of `token`, or None if it is unknown here. Raises NotYetError if Nomad cannot answer."""
        status, answer = self._ask("GET", "/v1/acl/token/self", token=token)
        return str(answer["AccessorID"]) if status == 200 else None

    def forget_tokens(self, name: str, but: str) -> None:
        """Delete every ACL token named `name` except the one with the accessor ID `but`."""
        for item in self.get("/v1/acl/tokens"):
            if item["Name"] == name and item["AccessorID"] != but:
                self._ask("DELETE", f"/v1/acl/token/{item['AccessorID']}")


def say(text: str) -> None:
    """Print to the operator: the engine shows the output of its host of dynamic providers."""
    print(text, file=sys.stderr, flush=True)


def said(name: str) -> str:
    """The operator's shell variable `name`, for a confirmation that must not stay in a file; empty if unset."""
    return os.environ.get(name, "")


def until(ready: Callable[[], str | None], seconds: float, what: str, pause: float = 2) -> None:
    """Call `ready` until it returns None, for at most `seconds`; else LateError with its last reason."""
    deadline = time.monotonic() + seconds
    reason: str | None = "it was not asked"
    while True:
        try:
            reason = ready()
        except NotYetError as error:
            reason = str(error).rstrip(".")
        except OSError as error:
            reason = f"it does not answer ({error})"
        if reason is None:
            return
        if time.monotonic() + pause > deadline:
            raise LateError(f"{what}: {reason}{f', after {seconds:.0f} s' if seconds else ''}.")
        time.sleep(pause)


def client_tls(ca_pem: str, cert_pem: str, key_pem: str) -> ssl.SSLContext:
    """A TLS context that trusts `ca_pem` only and presents the client certificate. No key touches a disk.

    Without `ca_pem` the system's CAs are trusted; without a certificate none is presented. Raises ProbeError if
    certificate and key are not a pair.
    """
    context = ssl.create_default_context(cadata=ca_pem or None)
    if not cert_pem:
        return context
    if ca_pem:
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # the endpoint is ours
    with _pipe(cert_pem) as cert, _pipe(key_pem) as key:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:  # ssl.SSLError too
            raise ProbeError(
                f"The client certificate and its key are not a pair that OpenSSL reads ({error})."
            ) from error
    return context


@contextmanager
def _pipe(text: str) -> Iterator[str]:
    # OpenSSL accepts a certificate by path only. A named pipe is a path that stores nothing.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        os.mkfifo(path, 0o600)

        def feed() -> None:
            with suppress(OSError):  # the reader ended; load_cert_chain reports why
                path.write_text(text)

        writer = threading.Thread(target=feed, daemon=True)
        writer.start()
        try:
            yield str(path)
        finally:
            # A missing reader leaves the writer waiting: open and close the other end.
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            writer.join(5)


def connection_to(url: str, address: str, timeout: float) -> http.client.HTTPConnection:
    """An HTTP connection for `url` directly to `address`, so that a stale DNS cache does not affect the result.

    The certificate is checked for the URL's name.
    """
    where = urlsplit(url)
    assert where.hostname, "the settings build this URL"
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=timeout)
    else:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout)
    connection._create_connection = lambda there, *rest: _connect((address, there[1]), *rest)  # type: ignore[attr-defined]
    return connection


def https_health(hostname: str, address: str, seconds: float) -> str | None:
    """None once `https://HOSTNAME/xrpc/_health` at `address` answers 200 with a valid certificate, else why not."""

    def healthy() -> str | None:
        connection = connection_to(f"https://{hostname}", address, timeout=10)
        try:
            connection.request("GET", "/xrpc/_health")
            status = connection.getresponse().status
            return None if status == 200 else f"it answers {status}"
        except http.client.HTTPException as error:
            return f"{type(error).__name__}"
        finally:
            connection.close()

    try:
        until(healthy, seconds, f"https://{hostname}/xrpc/_health", pause=5)
    except ProbeError as error:
        return str(error)
    return None


def _connect(*arguments: Any) -> Any:
    import socket

    return socket.create_connection(*arguments)


_NO_PLACE = ("DimensionExhausted", "ConstraintFiltered")


class JobRunning:
    """Checks at each call whether a task of `job` runs with its checks passing: None, or why not.

    The task must have started after the given time (Unix, ns). A task that fails twice during the wait is a ProbeError
    with its own message: the first failure may be the last retry before a fault was fixed.
    """

    def __init__(self, api: NomadApi, job: str, started_after_ns: int = 0) -> None:
        self._api, self._job, self._started_after_ns = api, job, started_after_ns
        self._refused: set[str] = set()
        self._old_ends: set[int] | None = None

    def __call__(self) -> str | None:
        """None if it runs, else the reason."""
        job = self._job
        every = self._api.get(f"/v1/job/{quote(job)}/allocations")
        if not every:
            return f"job {job} has no allocation; {self._no_place() or 'it was stopped, or Nomad has not looked yet'}"
        newest = max(every, key=lambda item: int(item["CreateIndex"]))
        if newest["JobVersion"] != self._api.get(f"/v1/job/{quote(job)}")["Version"]:
            return f"Nomad has not placed the newest version of job {job} yet; {self._no_place()}".removesuffix("; ")
        tasks = newest.get("TaskStates") or {}
        failed = [name for name, task in tasks.items() if task.get("Failed")]
        if failed:
            self._give_up_on(newest["ID"], failed[0], tasks[failed[0]])
        task = tasks.get(job)
        ends = {event["Time"] for event in (task or {}).get("Events") or [] if event.get("ExitCode")}
        self._old_ends = ends if self._old_ends is None else self._old_ends
        if len(ends - self._old_ends) > 1:
            raise _words_of(self._api, job, newest["ID"], job, task, "twice ")
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

    def _no_place(self) -> str:
        """What its node lacks for the job, by Nomad's last placement attempt (AllocMetric in nomad/structs)."""
        looks = self._api.get(f"/v1/job/{quote(self._job)}/evaluations") or []
        last: Json = max(looks, key=lambda look: int(look["CreateIndex"]), default={})
        metrics = (last.get("FailedTGAllocs") or {}).values()
        lacks = {what for metric in metrics for kind in _NO_PLACE for what in metric.get(kind) or {}}
        return f"Nomad found no room for it ({', '.join(sorted(lacks))})" if lacks else ""

    def _give_up_on(self, allocation: str, task: str, state: Json) -> None:
        self._refused.add(allocation)
        if len(self._refused) > 1:
            raise _words_of(self._api, self._job, allocation, task, state, "twice ")


def stopping(api: NomadApi, job: str) -> str | None:
    """None once no task of `job` runs any more."""
    every = api.get(f"/v1/job/{quote(job)}/allocations") or []
    there = [item["ID"] for item in every if item["ClientStatus"] in ("pending", "running")]
    return f"its server is still stopping (allocation {there[0]})" if there else None


def _words_of(api: NomadApi, job: str, allocation: str, task: str, state: Json, often: str = "") -> ProbeError:
    events = "; ".join(event.get("DisplayMessage", "") for event in (state.get("Events") or [])[-3:])
    where = f"/v1/client/fs/logs/{allocation}?task={task}&type=stderr&plain=true&origin=end&offset=2000"
    said = str(api.request("GET", where)[1] or "").strip()
    return ProbeError(f"Job {job}: its task {task} failed {often}({events}).\n{said}")


def run_dispatched(api: NomadApi, job: str, seconds: float) -> None:
    """Dispatch a parameterized job and wait for its end. Raises ProbeError with the message of a failed task."""
    child = api.post(f"/v1/job/{quote(job)}/dispatch", {})["DispatchedJobID"]

    def ended() -> str | None:
        every = api.get(f"/v1/job/{quote(child, safe='')}/allocations")
        if not every:
            return "it has no allocation; Nomad found no room for it"
        for name, task in (every[0].get("TaskStates") or {}).items():
            if task.get("Failed"):
                raise _words_of(api, job, every[0]["ID"], name, task)
        status = every[0]["ClientStatus"]
        if status in ("failed", "lost"):
            raise ProbeError(f"Job {job} is {status}. The next `pulumi up` runs it again.")
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
