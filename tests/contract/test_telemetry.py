"""The server's own metrics, with the variables and the preload of the rendered job; an image without them starts."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from tests.support.programs import run
from tests.support.serving import served
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import LOOPBACK, free_port
from tools.trial.trial import task_environment

pytestmark = pytest.mark.contract


METRICS = {
    "store": True,
    "otlp": {"endpoint": "https://otlp.my-club.org/v1/metrics", "headers": {"Authorization": "Bearer a, b=c"}},
}


@contextmanager
def receiver() -> Iterator[tuple[int, "queue.Queue[tuple[str, str, str, bytes]]"]]:
    """An OTLP endpoint: its port, and path, type, credentials and body of each request."""
    requests: queue.Queue[tuple[str, str, str, bytes]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b""  # in chunks (RFC 9112, section 7.1)
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            requests.put((self.path, self.headers["Content-Type"], self.headers["Authorization"], body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served(Handler) as port:
        yield port, requests


def test_a_server_shows_and_sends_its_metrics_if_its_package_has_them_and_starts_without_otherwise(
    pds_installs: dict[str, Install], directory: PlcDirectory, line: str, tmp_path: Path
) -> None:
    env = dict(task_environment(run(metrics=METRICS))[0])
    (tmp_path / "pds").mkdir()
    local = differences(env, data=tmp_path / "pds", plc_url=directory.url, port=free_port(), line=line)
    port = free_port()
    with receiver() as (otlp, requests):
        changed = applied(env, local) | {
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://{LOOPBACK}:{otlp}/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_METRIC_EXPORT_TIMEOUT": "500",
        }
        with PdsProcess(pds_installs[line], changed, tmp_path / "pds.log") as server:
            httpx.get(f"{server.url}/xrpc/com.atproto.server.describeServer", trust_env=False).raise_for_status()
            log = (tmp_path / "pds.log").read_text()
            assert "what the server acknowledges is flushed to the disk" in log, "telemetry hinders no other preload"
            assert ("this image has no telemetry" in log) == (line == "0.4")
            if line == "0.4":
                return
            page = httpx.get(f"http://{LOOPBACK}:{port}/metrics", trust_env=False).text
            sent = requests.get(timeout=600)
    assert 'http_route="/xrpc/com.atproto.server.describeServer"' in page
    for name in ("http_server_request_duration_bucket", "nodejs_eventloop_delay_p99", "v8js_memory_heap_used"):
        assert f"\n{name}{{" in page
    assert 'service_instance_id="noted.at"' in page
    assert sent[:3] == ("/v1/metrics", "application/x-protobuf", "Bearer a, b=c")
    assert b"noted.at" in sent[3]
