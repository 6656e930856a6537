"""`ServerReady` with a Nomad and a PDS on loopback: whether the server serves, and the error of `up` if it does not."""

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.clients.errors import ServiceError
from components.clients.https import _connect
from components.clients.nomad import rfc3339_ns
from components.dynamic.server import ServerReadyProvider
from tests.conftest import Clock
from tests.support.certificates import Authority, server_context
from tests.support.fake_nomad import FakeNomad, serve

pytestmark = pytest.mark.usefixtures("clock")

IP, HOST = "203.0.113.10", "noted.at"
TOKEN, MANAGEMENT, NAME = "06b05181-token", "9e0c9a3f-management", "pds-program"
BEFORE, WRITTEN = "2026-06-01T11:00:00Z", 1_780_315_200_000_000_000  # 2026-06-01T12:00:00Z, in ns


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    tokens, names = {MANAGEMENT: "root", TOKEN: "ours", "old": "left-over"}, {"ours": NAME, "left-over": NAME}
    with serve(FakeNomad(tokens=tokens, names=names)) as fake:
        fake.run(BEFORE)
        yield fake


def _ready(nomad: FakeNomad, **more: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {"address": nomad.address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": TOKEN}
    inputs |= {
        "management_token": MANAGEMENT,
        "tokens": {NAME: "ours"},
        "configuration": "of today",
        "hostname": HOST,
        "ip": IP,
        "ingress_state": "none",
        "job": "pds",
        "secrets_path": "nomad/jobs/pds",
    }
    return {
        **inputs,
        "paused": False,
        "ingress_sha256": "",
        "secrets_digest": "one",
        "files_sha256": "f",
        "version": "1",
        **more,
    }


def test_server_with_a_passing_check_is_serving(nomad: FakeNomad) -> None:
    found = ServerReadyProvider().create(_ready(nomad)).outs or {}
    assert found["state"] == "serving"
    assert found["host_configuration"] == "0123456789abcdef", "the cloud-init with which the host was created"


def test_deletes_left_over_tokens_of_an_earlier_host(nomad: FakeNomad) -> None:
    nomad.tokens["another club's"], nomad.names["theirs"] = "theirs", "club"
    ServerReadyProvider().create(_ready(nomad))
    assert set(nomad.tokens.values()) == {"root", "ours", "theirs"}, (
        "only unused tokens with the stack's name are deleted"
    )


def test_club_queries_only_its_namespace(nomad: FakeNomad) -> None:
    found = (
        ServerReadyProvider().create(_ready(nomad, management_token="", configuration="", namespace="chess")).outs or {}
    )
    assert (found["state"], found["host_configuration"]) == ("serving", "")
    paths = [path for _method, path, _token in nomad.asked]
    assert all(path.endswith("namespace=chess") for path in paths), "its token grants access to no other"
    assert not [path for path in paths if "/acl/" in path or "/node" in path], "its token grants no access to these"
    assert "old" in nomad.tokens, "only the host's stack deletes left-over tokens"


def test_configuration_is_empty_if_the_host_does_not_report_it(nomad: FakeNomad) -> None:
    nomad.meta = {}
    assert (ServerReadyProvider().create(_ready(nomad)).outs or {})["host_configuration"] == ""


def test_host_configuration_is_queried_after_the_wait(nomad: FakeNomad) -> None:
    ServerReadyProvider().create(_ready(nomad))
    paths = [path for _method, path, _token in nomad.asked]
    assert paths.index("/v1/nodes?resources=false") > paths.index("/v1/job/pds/allocations"), (
        "a slow host joins Nomad late"
    )


def test_paused_server_must_have_stopped(nomad: FakeNomad) -> None:
    nomad.allocations = []
    assert (ServerReadyProvider().create(_ready(nomad, paused=True)).outs or {})["state"] == "paused"
    nomad.run(BEFORE, status="complete")
    assert (ServerReadyProvider().create(_ready(nomad, paused=True)).outs or {})["state"] == "paused"
    nomad.run(BEFORE)
    with pytest.raises(ServiceError, match="its server is still stopping"):
        ServerReadyProvider().create(_ready(nomad, paused=True))


def test_reports_a_server_behind_a_closed_ingress(nomad: FakeNomad) -> None:
    provider, inputs = ServerReadyProvider(), _ready(nomad, ingress_state="closed")
    found = provider.create(inputs).outs or {}
    assert found["state"] == "serving on the host; not open to the Internet yet"
    assert provider.diff("id", found, inputs).changes, "the next `up` checks again"


def _then(nomad: FakeNomad, **changes: Any) -> dict[str, Any]:
    olds = ServerReadyProvider().create(_ready(nomad)).outs or {}
    return ServerReadyProvider().update("id", olds, _ready(nomad, **changes)).outs or {}


def test_changed_secrets_wait_for_the_restart_that_reads_them(nomad: FakeNomad) -> None:
    olds = ServerReadyProvider().create(_ready(nomad)).outs or {}
    nomad.modify_time, nomad.restarts_after = WRITTEN, 5
    found = ServerReadyProvider().update("id", olds, _ready(nomad, secrets_digest="two")).outs or {}
    assert found["state"] == "serving"
    polls = [path for _method, path, _token in nomad.asked if path.endswith("/allocations")]
    assert len(polls) == 7, "one for the creation, then until the task had started after the variable was written"


def test_waits_until_the_server_of_an_adopted_nomad_has_read_the_secrets(nomad: FakeNomad) -> None:
    # It serves already, with the previous secrets: the volume check has not checked the new ones yet.
    nomad.modify_time, nomad.restarts_after = WRITTEN, 3
    assert (ServerReadyProvider().create(_ready(nomad)).outs or {})["state"] == "serving"
    polls = [path for _method, path, _token in nomad.asked if path.endswith("/allocations")]
    assert len(polls) == 4


def test_server_that_fails_twice_during_the_wait_fails_with_its_error_output(nomad: FakeNomad) -> None:
    nomad.stderr = "REFUSED: this volume belongs to a PDS with another key"
    answer, tries = nomad.answer, itertools.count(1)

    def failing(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.endswith("/allocations"):
            number = next(tries)
            task = nomad.allocations[0]["TaskStates"]["pds"]
            task |= {"State": "pending", "Events": [{"Time": time, "ExitCode": 1} for time in range(number)]}
        return answer(method, path, body, token)

    nomad.answer = failing  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match=r"(?s)its task pds failed twice.*REFUSED: this volume"):
        ServerReadyProvider().create(_ready(nomad))


def test_secrets_that_no_task_restarts_for_fail_with_the_reason(nomad: FakeNomad) -> None:
    nomad.modify_time = WRITTEN
    with pytest.raises(ServiceError, match=r"job pds has not restarted with the new secrets yet, after 900 s\."):
        _then(nomad, secrets_digest="two")


def test_unchanged_secrets_need_no_wait(nomad: FakeNomad) -> None:
    nomad.modify_time = WRITTEN
    assert _then(nomad, files_sha256="other")["state"] == "serving", "without a restart there is nothing to wait for"


def test_update_returns_every_output_that_create_does(nomad: FakeNomad) -> None:
    created = ServerReadyProvider().create(_ready(nomad)).outs or {}
    assert _then(nomad, host_id="2").keys() == created.keys() | {"host_id"}


def test_failing_check_fails_with_the_reason(nomad: FakeNomad) -> None:
    nomad.checks = {"/xrpc/_health": "failure"}
    with pytest.raises(ServiceError, match="The PDS: the health check of pds does not pass yet, after 900 s"):
        ServerReadyProvider().create(_ready(nomad))


def test_check_result_from_before_the_restart_is_ignored(nomad: FakeNomad) -> None:
    # Nomad keeps the last result. Just after a restart, that is the result of the stopped server.
    nomad.checked = rfc3339_ns(BEFORE) // 1_000_000_000
    with pytest.raises(ServiceError, match="does not pass yet"):
        ServerReadyProvider().create(_ready(nomad))


def test_check_that_has_not_run_yet_does_not_count_as_passed(nomad: FakeNomad) -> None:
    nomad.checks = {}
    with pytest.raises(ServiceError, match="does not pass yet"):
        ServerReadyProvider().create(_ready(nomad))


def test_server_of_the_previous_job_version_is_not_accepted(nomad: FakeNomad) -> None:
    nomad.version = 1
    with pytest.raises(ServiceError, match="has not placed the newest version of job pds yet, after 900 s"):
        ServerReadyProvider().create(_ready(nomad))


def test_job_without_an_allocation_fails_with_the_reason(nomad: FakeNomad) -> None:
    nomad.allocations = []
    with pytest.raises(ServiceError, match="job pds has no allocation; it was stopped"):
        ServerReadyProvider().create(_ready(nomad))
    full = {"DimensionExhausted": {"cpu": 1}, "ConstraintFiltered": None}
    nomad.evaluations = [{"CreateIndex": 7, "FailedTGAllocs": {"pds": full}}, {"CreateIndex": 3}]
    with pytest.raises(ServiceError, match=r"no allocation; Nomad found no room for it \(cpu\), after 900 s"):
        ServerReadyProvider().create(_ready(nomad))


def test_refusal_of_the_volume_check_is_the_error_of_up(nomad: FakeNomad) -> None:
    nomad.run(BEFORE, status="failed", events=("Started", "Exit Code: 1"))
    nomad.stderr = "REFUSED: this volume belongs to a PDS with hostname other.test"
    answer, tries = nomad.answer, itertools.count(1)

    def rescheduled(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.endswith("/allocations"):
            number = next(tries)
            nomad.allocations[0] |= {"ID": f"{number}", "CreateIndex": number}
        return answer(method, path, body, token)

    nomad.answer = rescheduled  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match=r"(?s)failed twice \(Started; Exit Code: 1\).*REFUSED: this volume"):
        ServerReadyProvider().create(_ready(nomad))


def test_server_that_recovers_after_one_refusal_is_serving(nomad: FakeNomad) -> None:
    nomad.run(BEFORE, status="failed", events=("Started", "Exit Code: 1"))
    answer, tries = nomad.answer, itertools.count(1)

    def put_right(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.endswith("/allocations") and next(tries) == 3:
            nomad.run(BEFORE)
        return answer(method, path, body, token)

    nomad.answer = put_right  # type: ignore[method-assign]
    assert (ServerReadyProvider().create(_ready(nomad)).outs or {})["state"] == "serving"


def test_query_is_repeated_while_nomad_elects_a_leader(nomad: FakeNomad, clock: Clock) -> None:
    answer, rounds = nomad.answer, iter(range(100))

    def shaky(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.endswith("/allocations") and next(rounds) < 2:
            return 500, "No cluster leader"
        return answer(method, path, body, token)

    nomad.answer = shaky  # type: ignore[method-assign]
    assert (ServerReadyProvider().create(_ready(nomad)).outs or {})["state"] == "serving"


def test_refused_token_fails_immediately(nomad: FakeNomad, clock: Clock) -> None:
    nomad.empty()
    with pytest.raises(ServiceError, match="answered 403"):
        ServerReadyProvider().create(_ready(nomad))
    assert clock.now == 0, "a retry would not help"


# HTTPS, on a loopback port that stands for 443 of the reserved address.


@pytest.fixture
def pds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A PDS behind TLS for `noted.at`; its status can be set, and whether its CA is trusted."""
    ca, state = Authority(), dict[str, Any](status=200, paths=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state["paths"].append((self.headers["Host"], self.path))
            body = json.dumps({"version": "0.4.5037"}).encode()
            self.send_response(state["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not trust the certificate is expected."""

    server = Server(("127.0.0.1", 0), Handler)
    context = server_context(ca.issue(HOST), tmp_path)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    connect = _connect

    def redirected(where: tuple[str, int], *rest: Any) -> Any:
        assert where == (IP, 443), "it must connect to the reserved address, without name resolution"
        return connect(("127.0.0.1", server.server_port), *rest)

    monkeypatch.setattr("components.clients.https._connect", redirected)
    (tmp_path / "ca.pem").write_text(ca.pem)
    state["trust"] = lambda: monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    yield state
    server.shutdown()
    server.server_close()
    thread.join(600)


def test_server_with_a_valid_certificate_is_serving(nomad: FakeNomad, pds: dict[str, Any]) -> None:
    pds["trust"]()
    assert (ServerReadyProvider().create(_ready(nomad, ingress_state="open")).outs or {})["state"] == "serving"
    assert pds["paths"] == [(HOST, "/xrpc/_health")]


def test_pending_https_is_a_state_that_the_next_up_checks_again(nomad: FakeNomad, pds: dict[str, Any]) -> None:
    provider, inputs = ServerReadyProvider(), _ready(nomad, ingress_state="open")
    found = provider.create(inputs).outs or {}
    assert found["state"].startswith("serving on the host; HTTPS pending: https://noted.at/xrpc/_health: ")
    assert "certificate" in found["state"], "no authority trusts its certificate"
    assert provider.diff("id", found, inputs).changes
    pds["trust"]()
    assert (provider.update("id", found, inputs).outs or {})["state"] == "serving"


def test_ingress_without_a_server_is_pending(nomad: FakeNomad, pds: dict[str, Any]) -> None:
    pds["trust"]()
    pds["status"] = 502
    assert "it answers 502" in (ServerReadyProvider().create(_ready(nomad, ingress_state="open")).outs or {})["state"]


def test_text_that_caddy_refused_fails_up_once_the_server_answers(
    nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch
) -> None:
    required_digests: list[str] = []

    def refused(hostname: str, address: str, sha256: str, seconds: float) -> None:
        required_digests.append(sha256)
        raise ServiceError("Caddy refused this stack's text")

    monkeypatch.setattr("components.clients.caddy.require", refused)
    monkeypatch.setattr("components.dynamic.server.https_health", lambda *_: None)
    assert (ServerReadyProvider().create(_ready(nomad, ingress_state="open")).outs or {})["state"] == "serving", (
        "IO is not queried"
    )
    with pytest.raises(ServiceError, match="Caddy refused"):
        ServerReadyProvider().create(_ready(nomad, ingress_state="open", ingress_sha256="5" * 64))
    assert required_digests == ["5" * 64]
    monkeypatch.setattr("components.dynamic.server.https_health", lambda *_: "no certificate yet")
    pending = ServerReadyProvider().create(_ready(nomad, ingress_state="open", ingress_sha256="5" * 64)).outs or {}
    assert pending["state"].endswith("HTTPS pending: no certificate yet"), (
        "a site that does not answer is not queried, either"
    )
