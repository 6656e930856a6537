"""The metrics pages of a host with clubs, as the store finds them: Nomad's, the host's, the server's.

Names and labels are those of hashicorp/nomad 2.0.5 (`client/client.go`, `client/allocrunner/taskrunner/task_runner.go`,
`nomad/leader.go`) and of the page that @atproto/pds 0.5.35 served in `tests/contract/test_telemetry.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.support.serving import LOOPBACK, served

MIB = 1024 * 1024
TASKS = {"pds": 512, "caddy": 256, "metrics": 128}
"""Tasks of the host's own namespace, with their limits in MiB."""
METHODS = (
    "sync.getBlob", "sync.getRepo", "sync.getRepoStatus", "sync.listRepos", "sync.getLatestCommit", "sync.listBlobs",
    "repo.createRecord", "repo.applyWrites", "repo.deleteRecord", "repo.getRecord", "repo.listRecords",
    "repo.uploadBlob", "repo.describeRepo", "server.getSession", "server.refreshSession", "server.createSession",
    "server.describeServer", "server.getServiceAuth", "identity.resolveHandle", "identity.updateHandle",
)  # fmt: skip
"""Methods of the server that were called."""
_NODE = 'datacenter="dc1",host="pds",node_class="none",node_id="2f1e",node_pool="default"'


def nomad_page(clubs: int = 2, used: Mapping[str, float] | None = None, *, failing: str = "") -> str:
    """The agent's page. `used` is the share of its limit that a task uses (default 0.5), by `NAMESPACE/TASK`; the task
    `failing` has just restarted after it ran out of memory."""
    lines = [
        f"nomad_client_host_memory_total{{{_NODE}}} {2048 * MIB}",
        f"nomad_client_host_memory_available{{{_NODE}}} {900 * MIB}",
        f"nomad_client_host_memory_used{{{_NODE}}} {1000 * MIB}",
        f"nomad_client_host_memory_free{{{_NODE}}} {300 * MIB}",
        f"nomad_client_allocated_memory{{{_NODE}}} 1280",
        f"nomad_client_unallocated_memory{{{_NODE}}} 133",
        f"nomad_client_uptime{{{_NODE}}} 86400",
        'nomad_raft_apply{host="pds"} 17',
        "go_goroutines 210",
        "process_resident_memory_bytes 1.2e+08",
    ]
    for cpu in ("cpu0", "cpu1"):
        lines += [
            f'nomad_client_host_cpu_{name}{{cpu="{cpu}",{_NODE}}} 12.5' for name in ("total_percent", "user", "idle")
        ]
    for disk in ("/dev/vda1", "/dev/sda"):
        lines += [
            f'nomad_client_host_disk_{name}{{disk="{disk}",{_NODE}}} {value}'
            for name, value in {"size": 25e9, "used": 5e9, "available": 20e9, "used_percent": 20.0}.items()
        ]
    for namespace in ["default", *(f"club{number}" for number in range(clubs))]:
        for task, limit in (TASKS if namespace == "default" else {"pds": 512}).items():
            lines += _task(namespace, task, limit, (used or {}).get(f"{namespace}/{task}", 0.5))
            if failing == f"{namespace}/{task}":
                labels = _labels(namespace, task)
                lines += [f"nomad_client_allocs_{name}{{{labels}}} 1" for name in ("oom_killed", "restart")]
        # A run of a periodic job, which has another name each time.
        lines += _task(namespace, "send", 256, 0.3, job="pds-backup/periodic-1795754964", parent="pds-backup")
        lines += [
            f'nomad_nomad_job_summary_{state}{{exported_job="pds",host="pds",job="pds",namespace="{namespace}"}} 0'
            for state in ("failed", "lost", "queued", "running", "complete")
        ]
    return "\n".join(lines) + "\n"


def _labels(namespace: str, task: str, job: str = "", parent: str = "") -> str:
    more = f',parent_id="{parent}",periodic_id="1795754964"' if parent else ""
    return (
        f'alloc_id="0b1c-{namespace}-{task}",host="pds",job="{job or task}",namespace="{namespace}",task="{task}",'
        f'task_group="{job or task}"{more}'
    )


def _task(namespace: str, task: str, limit: int, share: float, job: str = "", parent: str = "") -> Iterator[str]:
    labels = _labels(namespace, task, job, parent)
    cache = 20 * MIB
    values = {
        "memory_usage": limit * MIB * share + cache,
        "memory_cache": cache,
        "memory_rss": limit * MIB * share,
        "memory_swap": 0,
        "memory_allocated": limit * MIB,
        "cpu_total_percent": 3.5,
        "cpu_throttled_time": 0,
    }
    for name, value in values.items():
        yield f"nomad_client_allocs_{name}{{{labels}}} {value}"


def server_page(routes: int = len(METHODS), *, requests: int = 5) -> str:
    """The server's page, after this number of requests to each route."""
    scope = 'otel_scope_name="@opentelemetry/instrumentation-http",otel_scope_version="0.219.0"'
    lines = [
        'nodejs_eventloop_delay_p50{otel_scope_name="x"} 0.01',
        'nodejs_eventloop_delay_p99{otel_scope_name="x"} 0.02',
    ]
    lines += [f'v8js_memory_heap_{name}{{v8js_heap_space_name="old_space"}} {value}' for name, value in
              {"used": 9e7, "limit": 2e8}.items()]  # fmt: skip
    for route in [*(f"/xrpc/com.atproto.{method}" for method in METHODS[:routes]), "/wp-login.php", "/.env"]:
        labels = f'http_request_method="GET",http_route="{route}",http_response_status_code="200",{scope}'
        lines += [
            f'http_server_request_duration_bucket{{{labels},le="{le}"}} {requests}'
            for le in ("0.005", "0.1", "1", "+Inf")
        ]
        lines += [
            f"http_server_request_duration_sum{{{labels}}} 0.2",
            f"http_server_request_duration_count{{{labels}}} {requests}",
        ]
        lines += [f'http_client_request_duration_count{{server_address="{route}.example.net"}} 1']
    lines += ['oauth_authorization_total{clientFirstParty="true"} 2']
    lines += ['session_created_total{source="oauth"} 3', 'account_created_total{source="invite"} 1']
    return "\n".join(lines) + "\n"


@contextmanager
def page_server(pages: Mapping[str, Callable[[], str]]) -> Iterator[str]:
    """A server of these pages by path and query on loopback; returns HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            data = page().encode() if page else b"no such page"
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with served(Handler) as port:
        yield f"{LOOPBACK}:{port}"
