"""Members with the real engine, providers, Nomad, Docker, PDS and PLC directory: `pytest
tests/e2e/scenarios/e2e_members.py -x`.

One e2e_env and one scenario for each ingress, as in `e2e_ingress.py`, as root. Identities are created in the e2e
environment's own directory.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue
from typing import Any

import dns.message
import dns.query
import httpx
import pytest

from cli.people import email_tokens as email_token
from tests.e2e.environment.directory import directory
from tests.e2e.environment.docker import gateway
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.tools import missing
from tests.e2e.environment.watching import steps
from tests.support.certificates import Pair, server_context
from tests.support.serving import served
from tools.trial.xrpc import Client

FAN = f"kexpfan.{HOSTNAME}"
MEMBER: dict[str, Any] = {"handle": FAN, "email": f"fan@{HOSTNAME}.com", "email_verified": True}


@pytest.fixture(scope="module", params=list(INGRESSES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ingress(kind: str, running: E2eEnvironment) -> Iterator[Callable[[], object]]:
    """Start the ingress, and add it to the stack file; called once."""
    with ExitStack() as stack:
        yield lambda: INGRESSES[kind](running, stack)


@pytest.fixture(scope="module")
def running(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2eEnvironment]:
    lines = missing(*PROGRAMS, "go")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp(kind), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        # Without it, servers of the current line query no directory at a private address, and `check` needs that.
        private = {"PDS_DISABLE_SSRF_PROTECTION": "true"}
        made.configure(pds={"plc_url": plc.url, "image": plc.pds_image, "extra_env": private})
        made.configure(members=[MEMBER], invites={"count": 2, "uses": 1})
        yield made


def up(running: E2eEnvironment) -> Any:
    """`pulumi up`."""
    return running.pulumi("up", "--yes", "--skip-preview")


def _info(running: E2eEnvironment, did: str) -> dict[str, Any]:
    url = f"{running.health_url()}/xrpc/com.atproto.admin.getAccountInfo"
    auth = ("admin", running.outputs()["admin_password"])
    found: dict[str, Any] = httpx.get(url, params={"did": did}, auth=auth, trust_env=False).raise_for_status().json()
    return found


def _log_in(running: E2eEnvironment, identifier: str, password: str) -> int:
    url = f"{running.health_url()}/xrpc/com.atproto.server.createSession"
    body = {"identifier": identifier, "password": password}
    return httpx.post(url, json=body, trust_env=False, timeout=30).status_code


def _txt(running: E2eEnvironment, name: str) -> str:
    host, _, port = running.nameserver.partition(":")
    answer = dns.query.udp(dns.message.make_query(name, "TXT"), host, port=int(port), timeout=5)
    return " ".join(item.to_text() for rrset in answer.answer for item in rrset)


def test_without_an_ingress_up_succeeds_and_members_are_pending(running: E2eEnvironment) -> None:
    done = up(running)
    member = running.outputs()["members"][FAN]
    assert (member["did"], member["account"][:8]) == ("", "pending:"), member
    assert f"The account of {FAN}: pending" in done.output
    assert _txt(running, f"_atproto.{FAN}") == '"no account yet"'
    preview = running.pulumi("preview")
    assert f"pds-people-member-{FAN}-account" in preview.output, "the preview must show what is pending"
    assert "pending" in preview.output, "the preview must name the reason"


def test_one_up_does_everything_of_the_post_s_section_on_users(
    running: E2eEnvironment, ingress: Callable[[], object]
) -> None:
    """Account, password, DNS record and confirmed address of the post's `kexpfan`, then no change."""
    ingress()
    up(running)
    outputs = running.outputs()
    did = outputs["members"][FAN]["did"]
    assert did.startswith("did:plc:"), outputs["members"]
    assert _log_in(running, FAN, outputs["member_passwords"][FAN]) == 200
    assert _txt(running, f"_atproto.{FAN}") == f'"did={did}"'
    assert "emailConfirmedAt" in _info(running, did)
    assert len(outputs["invite_codes"]) == 2
    running.pulumi("preview", "--expect-no-changes")
    running.pulumi("preview", "--refresh", "--expect-no-changes")


def test_email_token_is_read_in_the_container_of_the_server(running: E2eEnvironment) -> None:
    """`./pds email-token` by Nomad's exec endpoint, in a container with a read-only root and no capabilities."""
    outputs = running.outputs()
    did, password = outputs["members"][FAN]["did"], outputs["member_passwords"][FAN]
    client = Client(running.health_url(), HOSTNAME)
    with client.http:
        session = client.procedure("com.atproto.server.createSession", {"identifier": did, "password": password})
        client.log_in(session["accessJwt"])
        names = ("address", "ca_pem", "client_cert_pem", "client_key_pem", "token")
        nomad = {name: outputs[f"nomad_{name}"] for name in names}
        assert email_token.read_tokens(nomad, did) == [], "no token was requested yet"
        request = "/xrpc/com.atproto.identity.requestPlcOperationSignature"
        client.http.post(request, headers={"Authorization": f"Bearer {session['accessJwt']}"}).raise_for_status()
        [token] = email_token.read_tokens(nomad, did)
        assert token.purpose == "plc_operation"
        signed = client.procedure("com.atproto.identity.signPlcOperation", {"token": token.token})
        assert signed["operation"]["sig"], "the member can move away"


def test_members_and_check_commands_report_the_member(running: E2eEnvironment) -> None:
    """`./pds members` and `./pds check`, after an `up`."""
    did = running.outputs()["members"][FAN]["did"]
    [member_line] = [line for line in running.pds("members").output.splitlines() if FAN in line]
    assert member_line.split()[:3] == [FAN, did, "DNS"], "as the name servers of the stack file answer"
    found = running.pds("check", check=False)
    print(found.output)
    todo = {line[7:].partition(":")[0] for line in found.output.splitlines() if line.startswith("to do")}
    assert todo == {"DID documents", "backup"}, (
        "only containers resolve the e2e environment's directory, and this stack has no backups"
    )


def test_dead_man_s_switch_gets_volume_usage_and_account_count(running: E2eEnvironment, tmp_path: Path) -> None:
    """The alerts job, run by Nomad on request."""
    address = gateway(running.docker_host)
    with _switch(address, running.authority.issue(address), tmp_path) as (url, pings):
        running.pulumi("config", "set", "--secret", "--path", "pds:alerts.ping_url", url)
        up(running)
        _run_alerts_job(running)
        path, text = pings.get(timeout=120)
        assert re.fullmatch(rf"{HOSTNAME}: volume \d+ % full, 1 accounts", text), text
        assert path == "/of-the-bench"
        running.configure(alerts={"accounts": 1})
        up(running)
        _run_alerts_job(running)
        path, text = pings.get(timeout=120)
        assert text.startswith(f"{HOSTNAME}: 1 accounts: a relay stops at 100"), text
        assert path == "/of-the-bench/fail"
    running.configure(alerts=None)
    up(running)


def _run_alerts_job(running: E2eEnvironment) -> None:
    with httpx.Client(base_url=running.nomad, trust_env=False, timeout=30) as nomad:
        nomad.headers["X-Nomad-Token"] = running.outputs()["nomad_management_token"]
        nomad.put("/v1/job/pds-alerts/periodic/force").raise_for_status()


@contextmanager
def _switch(address: str, pair: Pair, folder: Path) -> Iterator[tuple[str, "Queue[tuple[str, str]]"]]:
    """A dead man's switch that containers reach: its URL, and its pings, path and text."""
    pings: Queue[tuple[str, str]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pings.put((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served(Handler, address=address, tls=server_context(pair, folder)) as port:
        yield f"https://{address}:{port}/of-the-bench", pings


def test_changed_handle_and_address_keep_the_account_and_are_confirmed(running: E2eEnvironment) -> None:
    did, password = running.outputs()["members"][FAN]["did"], running.outputs()["member_passwords"][FAN]
    renamed = {**MEMBER, "handle": f"kexp.{HOSTNAME}", "was": FAN, "email": f"kexp@{HOSTNAME}.com"}
    running.configure(members=[renamed])
    done = up(running)
    info = _info(running, did)
    assert (info["handle"], info["email"]) == (f"kexp.{HOSTNAME}", f"kexp@{HOSTNAME}.com")
    assert "emailConfirmedAt" in info
    assert steps(done)[f"pds-people-member-kexp.{HOSTNAME}-account"] == ["updated"], (
        "the state must be found under the old name"
    )
    assert running.outputs()["member_passwords"] == {f"kexp.{HOSTNAME}": password}
    assert _txt(running, f"_atproto.kexp.{HOSTNAME}") == f'"did={did}"'
    running.configure(members=[{key: value for key, value in renamed.items() if key != "was"}])
    up(running)
    running.pulumi("preview", "--expect-no-changes")


def test_lost_state_finds_the_account_and_removing_the_member_keeps_it(running: E2eEnvironment) -> None:
    handle = f"kexp.{HOSTNAME}"
    did, password = running.outputs()["members"][handle]["did"], running.outputs()["member_passwords"][handle]
    state = json.loads(running.pulumi("stack", "export").output)
    member_resources = [
        item for item in state["deployment"]["resources"] if f"pds-people-member-{handle}" in item["urn"]
    ]
    for item in reversed(member_resources):
        # Dependents are deleted, too, so some resources may no longer exist.
        running.pulumi("state", "delete", item["urn"], "--yes", "--force", "--target-dependents", check=False)
    assert f"pds-people-member-{handle}" not in running.pulumi("stack", "export").output
    # DigitalOcean keeps several records of one name: they are removed from the zone as the operator would do it.
    for zone in running.world.records.values():
        for number in [key for key, record in zone.items() if "kexp" in record["name"]]:
            del zone[number]
    up(running)
    assert running.outputs()["members"][handle]["did"] == did
    assert running.outputs()["member_passwords"][handle] == "", "a password that does not work must not be reported"
    assert _log_in(running, handle, password) == 200, "the old password must still work"
    running.configure(members=[])
    up(running)
    assert _info(running, did)["handle"] == handle, "the account must not be changed"
    assert _log_in(running, handle, password) == 200
