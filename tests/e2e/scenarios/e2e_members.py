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
        # Servers of the current line ask no directory at a private address, and `check` asks them for their handles.
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


def test_without_an_ingress_up_ends_well_and_members_are_pending(running: E2eEnvironment) -> None:
    done = up(running)
    member = running.outputs()["members"][FAN]
    assert (member["did"], member["account"][:8]) == ("", "pending:"), member
    assert f"The account of {FAN}: pending" in done.output
    assert _txt(running, f"_atproto.{FAN}") == '"no account yet"'
    preview = running.pulumi("preview")
    assert f"pds-people-member-{FAN}-account" in preview.output, "the preview is not empty, and shows what is pending"
    assert "pending" in preview.output, "and why"


def test_the_seed_s_section_on_users_is_one_up(running: E2eEnvironment, ingress: Callable[[], object]) -> None:
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


def test_what_mail_would_have_carried_is_read_in_the_server_s_own_container(running: E2eEnvironment) -> None:
    """`./pds email-token` by Nomad's exec endpoint, in a container with a read-only root and no capabilities."""
    outputs = running.outputs()
    did, password = outputs["members"][FAN]["did"], outputs["member_passwords"][FAN]
    client = Client(running.health_url(), HOSTNAME)
    with client.http:
        session = client.procedure("com.atproto.server.createSession", {"identifier": did, "password": password})
        client.log_in(session["accessJwt"])
        names = ("address", "ca_pem", "client_cert_pem", "client_key_pem", "token")
        nomad = {name: outputs[f"nomad_{name}"] for name in names}
        assert email_token.read_tokens(nomad, did) == [], "she has asked for none"
        request = "/xrpc/com.atproto.identity.requestPlcOperationSignature"
        client.http.post(request, headers={"Authorization": f"Bearer {session['accessJwt']}"}).raise_for_status()
        [token] = email_token.read_tokens(nomad, did)
        assert token.purpose == "plc_operation"
        signed = client.procedure("com.atproto.identity.signPlcOperation", {"token": token.token})
        assert signed["operation"]["sig"], "she can leave"


def test_the_owner_s_own_questions_are_answered(running: E2eEnvironment) -> None:
    """`./pds members` and `./pds check`, after an `up`."""
    did = running.outputs()["members"][FAN]["did"]
    [hers] = [line for line in running.pds("members").output.splitlines() if FAN in line]
    assert hers.split()[:3] == [FAN, did, "DNS"], "by the name servers that the stack file gives"
    found = running.pds("check", check=False)
    print(found.output)
    todo = {line[7:].partition(":")[0] for line in found.output.splitlines() if line.startswith("to do")}
    assert todo == {"DID documents", "backup"}, (
        "the e2e environment's directory has a name that containers alone know, and this stack makes no backups"
    )


def test_the_switch_is_told_of_volume_and_accounts(running: E2eEnvironment, tmp_path: Path) -> None:
    """The monitoring job, run by Nomad before its time."""
    address = gateway(running.docker_host)
    with _switch(address, running.authority.issue(address), tmp_path) as (url, told):
        running.pulumi("config", "set", "--secret", "--path", "pds:alerts.ping_url", url)
        up(running)
        _watch(running)
        path, text = told.get(timeout=120)
        assert re.fullmatch(rf"{HOSTNAME}: volume \d+ % full, 1 accounts", text), text
        assert path == "/of-the-bench"
        running.configure(alerts={"accounts": 1})
        up(running)
        _watch(running)
        path, text = told.get(timeout=120)
        assert text.startswith(f"{HOSTNAME}: 1 accounts: a relay stops at 100"), text
        assert path == "/of-the-bench/fail"
    running.configure(alerts=None)
    up(running)


def _watch(running: E2eEnvironment) -> None:
    with httpx.Client(base_url=running.nomad, trust_env=False, timeout=30) as nomad:
        nomad.headers["X-Nomad-Token"] = running.outputs()["nomad_management_token"]
        nomad.put("/v1/job/pds-alerts/periodic/force").raise_for_status()


@contextmanager
def _switch(address: str, pair: Pair, folder: Path) -> Iterator[tuple[str, "Queue[tuple[str, str]]"]]:
    """A dead man's switch that containers reach: its URL, and its pings, path and text."""
    told: Queue[tuple[str, str]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served(Handler, address=address, tls=server_context(pair, folder)) as port:
        yield f"https://{address}:{port}/of-the-bench", told


def test_a_changed_handle_and_address_are_the_same_account_confirmed_again(running: E2eEnvironment) -> None:
    did, password = running.outputs()["members"][FAN]["did"], running.outputs()["member_passwords"][FAN]
    renamed = {**MEMBER, "handle": f"kexp.{HOSTNAME}", "was": FAN, "email": f"kexp@{HOSTNAME}.com"}
    running.configure(members=[renamed])
    done = up(running)
    info = _info(running, did)
    assert (info["handle"], info["email"]) == (f"kexp.{HOSTNAME}", f"kexp@{HOSTNAME}.com")
    assert "emailConfirmedAt" in info
    assert steps(done)[f"pds-people-member-kexp.{HOSTNAME}-account"] == ["updated"], (
        "her state was found under the old name"
    )
    assert running.outputs()["member_passwords"] == {f"kexp.{HOSTNAME}": password}
    assert _txt(running, f"_atproto.kexp.{HOSTNAME}") == f'"did={did}"'
    running.configure(members=[{key: value for key, value in renamed.items() if key != "was"}])
    up(running)
    running.pulumi("preview", "--expect-no-changes")


def test_with_her_state_lost_the_same_account_is_found_and_removing_her_here_leaves_it(running: E2eEnvironment) -> None:
    handle = f"kexp.{HOSTNAME}"
    did, password = running.outputs()["members"][handle]["did"], running.outputs()["member_passwords"][handle]
    state = json.loads(running.pulumi("stack", "export").output)
    hers = [item for item in state["deployment"]["resources"] if f"pds-people-member-{handle}" in item["urn"]]
    for item in reversed(hers):
        # With their dependents, so some are gone when their turn comes.
        running.pulumi("state", "delete", item["urn"], "--yes", "--force", "--target-dependents", check=False)
    assert f"pds-people-member-{handle}" not in running.pulumi("stack", "export").output
    # The records are the zone's, and DigitalOcean keeps two of one name: they are removed as their owner would remove
    # them.
    for zone in running.world.records.values():
        for number in [key for key, record in zone.items() if "kexp" in record["name"]]:
            del zone[number]
    up(running)
    assert running.outputs()["members"][handle]["did"] == did
    assert running.outputs()["member_passwords"][handle] == "", "the new password is not hers, and not shown as such"
    assert _log_in(running, handle, password) == 200, "hers still is"
    running.configure(members=[])
    up(running)
    assert _info(running, did)["handle"] == handle, "an account is its member's"
    assert _log_in(running, handle, password) == 200
