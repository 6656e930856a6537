"""A stand-in for Nomad on loopback, with plain HTTP or mutual TLS, and the responses that the dynamic providers use.

Responses and status codes are those of Nomad 2.0. A test sets attributes of the object; `asked` has every request with
its token.
"""

import json
import re
import ssl
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from tests.support import fake_logs
from tests.support.fake_logs import FakeLogs
from tests.support.serving import LOOPBACK, served

_Answer = tuple[int, Any]
"""Status and body."""


@dataclass(frozen=True)
class _Request:
    """A request with a valid token."""

    method: str
    path: str
    """Without the namespace `chess`."""
    complete_path: str
    body: Any
    token: str


@dataclass
class FakeNomad:
    """The state of the stand-in."""

    address: str = ""
    leaderless_answers: int = 0
    """The number of requests before it has a leader."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Secret to accessor id; not empty once bootstrapped."""
    names: dict[str, str] = field(default_factory=dict)
    """Accessor id to name, for tokens made after the bootstrap."""
    meta: dict[str, str] = field(default_factory=lambda: {"pds_configuration": "0123456789abcdef"})
    allocations: list[dict[str, Any]] = field(default_factory=list)
    allocations_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Other jobs to their allocations."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=lambda: {"/xrpc/_health": "success"})
    """Check to status, for the newest allocation."""
    checked: int = 4_102_444_800
    """Unix time in s of the checks' newest results; by default later than any start."""
    stderr: str = ""
    """The output of the failed task."""
    version: int = 0
    """The PDS job's."""
    jobs: dict[str, int] = field(default_factory=dict)
    """Job to the index of its last change."""
    jobs_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Namespace to the stubs of its jobs; a missing namespace has none."""
    submitted: int = 0
    """Unix time in ns when every job was last registered."""
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Job to the changes that Nomad reports for a registration of its text; nothing if it is missing."""
    free: int | None = None
    """Free bytes of the host's volume; None if the client does not report it."""
    modify_time: int = 0
    """Unix time in ns when the PDS's variable was written."""
    restarts_after: int | None = None
    """The number of queries of the allocations after which the task restarts with the new secrets."""
    services: dict[str, tuple[str, int]] | None = None
    """Service to address and port, for anonymous clients; None if they may read no jobs."""
    runs: list[list[dict[str, Any]]] = field(default_factory=list)
    """Allocations of a dispatched job, for each query in turn; the last one stays."""
    children: list[list[str]] = field(default_factory=list)
    """Statuses of a periodic job's runs, for each query in turn; none after the last."""
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    """Task and stream to its output; if it is empty every task wrote `stderr`."""
    files: dict[str, FakeLogs] = field(default_factory=dict)
    """Allocation to its logs, for `logs` and `traffic`; if it is empty, `logs` is the output of every allocation."""
    every_allocation: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Namespace to the stubs of its allocations."""
    namespaces: dict[str, frozenset[str]] = field(default_factory=dict)
    """Token to the namespaces whose jobs and logs it may read; a missing token may read every one."""
    dispatched: list[dict[str, str]] = field(default_factory=list)
    """Meta of each dispatched run."""
    runs_of: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    """The same for the run with this ID."""
    stopped: list[str] = field(default_factory=list)
    """Runs that were stopped, in order."""
    every_job: list[list[dict[str, Any]]] = field(default_factory=lambda: [[]])
    """All jobs, for each query in turn; the last one stays."""
    snapshots: dict[bytes, dict[str, str]] = field(default_factory=dict)
    """Snapshot to the `tokens` in it. Any other is refused."""
    snapshot_faults: int = 0
    """The number of restores before it takes one in."""
    snapshot_seconds: float = 0
    """How long a restore takes."""
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    """Path to items, as written."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def empty(self) -> None:
        """Lose all state, as a wiped disk does."""
        self.tokens.clear()
        self.names.clear()

    def run(self, started: str, status: str = "running", events: tuple[str, ...] = ()) -> None:
        """Let the PDS run since `started` (RFC 3339)."""
        state = "running" if status == "running" else "dead"
        self.allocations = [
            {
                "ID": "11111111-0000-0000-0000-000000000000",
                "DesiredStatus": "run",
                "ClientStatus": status,
                "CreateIndex": 12,
                "JobVersion": 0,
                "TaskStates": {
                    "volume-check": {
                        "State": "dead",
                        "StartedAt": started,
                        "Failed": bool(events),
                        "Events": [{"DisplayMessage": text} for text in events],
                    },
                    "pds": {"State": state, "StartedAt": started, "Failed": False, "Events": []},
                },
            }
        ]

    def _restored(self, snapshot: bytes) -> _Answer:
        Event().wait(self.snapshot_seconds)
        self.snapshot_faults -= 1
        if self.snapshot_faults >= 0 or snapshot not in self.snapshots:
            return 500, "failed to restore the snapshot"
        self.tokens = dict(self.snapshots[snapshot])
        return 200, None

    def answer(self, method: str, path: str, body: Any, token: str | None) -> _Answer:
        """Status and answer of one request."""
        self.asked.append((method, path, token))
        complete_path, path = path, path.removesuffix("namespace=chess").rstrip("?&")
        if self.leaderless_answers > 0:
            self.leaderless_answers -= 1
            return 500, "No cluster leader"
        if path == "/v1/status/leader":
            return 200, "127.0.0.1:4647"
        if path == "/v1/acl/bootstrap":
            if self.tokens:
                return 400, "ACL bootstrap already done (reset index: 7)"
            accessor = self.tokens[body["BootstrapSecret"]] = str(uuid.uuid4())
            return 200, {"AccessorID": accessor, "SecretID": body["BootstrapSecret"]}
        if self.services is not None and path.startswith("/v1/service/"):
            service = self.services.get(path.rpartition("/")[2])
            return 200, [{"Address": service[0], "Port": service[1]}] if service else []
        if self.files and path.startswith(fake_logs.PREFIX):
            return fake_logs.answer(self.files, complete_path, self._readable(token))
        if token not in self.tokens:
            return 403, "ACL token not found" if token else "Permission denied"
        if path.startswith("/v1/allocations"):
            namespace = dict(parse_qsl(urlsplit(complete_path).query)).get("namespace", "default")
            if namespace not in (self._readable(token) or frozenset()):
                return 403, "Permission denied"
            return 200, self.every_allocation.get(namespace, [])
        request = _Request(method, path, complete_path, body, token)
        for known in (self._acl_and_nodes, self._jobs, self._runs, self._variables_and_logs):
            if (answer := known(request)) is not None:
                return answer
        return 404, f"no answer for {path}"

    def _readable(self, token: str | None) -> frozenset[str] | None:
        """The namespaces whose jobs and logs the token may read; None if it is unknown."""
        if token not in self.tokens:
            return None
        return self.namespaces.get(token, frozenset({"default", *self.every_allocation}))

    def _acl_and_nodes(self, request: _Request) -> _Answer | None:
        """ACL tokens and the one node."""
        method, path, token = request.method, request.path, request.token
        if (method, path) == ("PUT", "/v1/operator/snapshot"):
            return self._restored(request.body)
        if path == "/v1/acl/token/self":
            return 200, {"AccessorID": self.tokens[token]}
        if path == "/v1/acl/tokens":
            return 200, [
                {"AccessorID": accessor, "Name": self.names.get(accessor, "")} for accessor in self.tokens.values()
            ]
        if method == "DELETE" and path.startswith("/v1/acl/token/"):
            gone = path.rpartition("/")[2]
            self.tokens = {secret: accessor for secret, accessor in self.tokens.items() if accessor != gone}
            return 200, None
        if path == "/v1/nodes":
            return 200, [{"ID": "node-1", "Datacenter": "dc1", "Status": "ready"}]
        if path == "/v1/client/stats?node_id=node-1":
            disks = [] if self.free is None else [{"Mountpoint": "/srv/nomad", "Available": self.free}]
            return 200, {"DiskStats": [{"Mountpoint": "/", "Available": 9 * 1024**3}, *disks]}
        if path == "/v1/nodes?resources=false":
            return 200, [{"ID": "node-1"}]
        if path == "/v1/node/node-1":
            return 200, {"ID": "node-1", "Meta": self.meta}
        return None

    def _jobs(self, request: _Request) -> _Answer | None:
        """Registered jobs, and the allocations and evaluations of the PDS's job."""
        method, path, complete_path, body = request.method, request.path, request.complete_path, request.body
        if self.jobs_of and (namespace := complete_path.partition("/v1/jobs?namespace=")[2]):
            return 200, self.jobs_of.get(namespace, [])
        if path == "/v1/jobs":
            return 200, self.every_job.pop(0) if len(self.every_job) > 1 else self.every_job[0]
        if path == "/v1/jobs/parse":
            name = re.search(r'job "([^"]+)"', body["JobHCL"])
            return (200, {"ID": name[1]}) if name else (500, "Failed to parse job")
        if method == "POST" and path.endswith("/plan"):
            return 200, {"Diff": self.plans.get(path.split("/")[3], {"Type": "None"})}
        if path == "/v1/job/pds" and "pds" not in self.plans:
            index = self.jobs.get("pds", 0)
            return 200, {"Version": self.version, "JobModifyIndex": index, "SubmitTime": self.submitted}
        if path.removeprefix("/v1/job/") in self.jobs:
            return 200, {"JobModifyIndex": self.jobs[path.removeprefix("/v1/job/")], "SubmitTime": self.submitted}
        if path == "/v1/job/pds/allocations":
            self._restart()
            return 200, self.allocations
        if path.endswith("/allocations") and (job := path.split("/")[3]) in self.allocations_of:
            return 200, self.allocations_of[job]
        if path == "/v1/job/pds/evaluations":
            return 200, self.evaluations
        return None

    def _runs(self, request: _Request) -> _Answer | None:
        """Dispatched and periodic runs."""
        method, path, body = request.method, request.path, request.body
        if method == "POST" and path.endswith("/dispatch"):
            self.dispatched.append({"lent": " ".join(self.variables)} | (body.get("Meta") or {}))
            return 200, {"DispatchedJobID": f"{path.split('/')[3]}/dispatch-1-a", "EvalID": "1"}
        if path.endswith("%2Fdispatch-1-a/allocations"):
            return 200, self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
        if path.startswith("/v1/job/") and path.endswith("/allocations") and "%2F" in path:
            known = self.runs_of.get(
                unquote(path.split("/")[3]), [[]]
            )  # it answers also for a job that it does not know
            return 200, known.pop(0) if len(known) > 1 else known[0]
        if path.startswith("/v1/job/") and "%2F" in path and method in ("GET", "DELETE"):
            run = unquote(path.removeprefix("/v1/job/"))
            if not run.endswith("/dispatch-1-a") and all(job["ID"] != run for jobs in self.every_job for job in jobs):
                return (
                    (404, "job not found") if method == "GET" else (500, f"job {run} doesn't exist to be deregistered")
                )
            if method == "GET":
                return 200, {"ID": run}
            self.stopped.append(run)
            self._stop_allocations(run)
            self.every_job = [[job for job in jobs if job["ID"] not in self.stopped] for jobs in self.every_job]
            return 200, {"EvalID": "1"}
        if path.startswith("/v1/jobs?prefix="):
            return 200, [{"Status": status} for status in (self.children.pop(0) if self.children else [])]
        if method == "POST" and path.endswith("/periodic/force"):
            return 200, {"EvalID": path.split("/")[3]}
        if path.startswith("/v1/evaluation/"):
            return 200, {"JobID": f"{path.rpartition('/')[2]}/dispatch-1-a"}
        return None

    def _stop_allocations(self, run: str) -> None:
        """End a run's allocations that have not ended: Nomad 2.0 then counts them as complete, and no task as
        failed."""
        if run.endswith("/dispatch-1-a") and self.runs:
            self.runs = [_stopped(self.runs[0])]
        if run in self.runs_of:
            self.runs_of[run] = [_stopped(self.runs_of[run][0])]
        if (name := run.replace("/", "%2F")) in self.allocations_of:
            self.allocations_of[name] = _stopped(self.allocations_of[name])

    def _variables_and_logs(self, request: _Request) -> _Answer | None:
        """Variables, checks and the output of tasks."""
        method, path, body = request.method, request.path, request.body
        if method == "PUT" and path.startswith("/v1/var/"):
            self.variables[body["Path"]] = body["Items"]
            return 200, {"Path": body["Path"]}
        if method == "DELETE" and path.startswith("/v1/var/"):
            self.variables.pop(path.removeprefix("/v1/var/"), None)
            return 200, None
        if path == "/v1/var/nomad/jobs/pds":
            return 200, {"Path": "nomad/jobs/pds", "ModifyTime": self.modify_time}
        if method == "GET" and path.startswith("/v1/var/"):
            name = urlsplit(path).path.removeprefix("/v1/var/")
            return (
                (200, {"Path": name, "Items": self.variables[name]}) if name in self.variables else (404, "not found")
            )
        if path.startswith("/v1/client/allocation/") and path.endswith("/checks"):
            return 200, {
                str(index): {"Check": name, "Status": status, "Timestamp": self.checked}
                for index, (name, status) in enumerate(self.checks.items())
            }
        if path.startswith("/v1/client/fs/logs/"):
            query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
            if self.logs:
                written = self.logs.get((query["task"], query["type"]), "").encode()
                return 200, written[int(query["offset"]) :].decode()
            return 200, self.stderr
        return None

    def _restart(self) -> None:
        if self.restarts_after is not None:
            self.restarts_after -= 1
            if self.restarts_after < 0:
                for task in self.allocations[0]["TaskStates"].values():
                    task["StartedAt"] = "2026-06-01T12:00:30.5Z"


def _stopped(allocations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        item
        if item["ClientStatus"] in ("complete", "failed", "lost")
        else item
        | {
            "ClientStatus": "complete",
            "DesiredStatus": "stop",
            "TaskStates": {name: task | {"State": "dead"} for name, task in (item.get("TaskStates") or {}).items()},
        }
        for item in allocations
    ]


@contextmanager
def serve(nomad: FakeNomad, tls: ssl.SSLContext | None = None) -> Iterator[FakeNomad]:
    """Serve `nomad` on a free port of loopback while the context is open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            body = content if self.path == "/v1/operator/snapshot" else json.loads(content) if length else None
            status, answer = nomad.answer(self.command, self.path, body, self.headers.get("X-Nomad-Token"))
            if isinstance(answer, Generator):
                return self._stream(answer)
            plain = status != 200 and isinstance(answer, str)
            payload = answer.encode() if plain else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _stream(self, body: Generator[bytes, None, None]) -> None:
            """Send a body of unknown length, as Go's server does."""
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with closing(body), suppress(OSError):  # a client that has seen enough
                for data in body:
                    if data:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 (the names of http.server)

    with served(Handler, tls=tls) as port:
        nomad.address = f"{'https' if tls else 'http'}://{LOOPBACK}:{port}"
        yield nomad
