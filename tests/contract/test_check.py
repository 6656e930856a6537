"""`./pds check` against the real server behind an ingress with TLS: green as it is, and red for each fault planted."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from components.settings.environment import env_file
from tests import fake_dns
from tests.certificates import Authority, server_context
from tests.ingress import Ingress, Planted
from tools import pds as verbs
from tools.check.run import LINES, Result, check
from tools.check.site import Site
from tools.check.subject import Subject
from tools.live.directory import PlcDirectory
from tools.live.owner import ACCOUNT
from tools.live.pds import PdsProcess
from tools.live.xrpc import Client

from .conftest import StartPds

pytestmark = pytest.mark.contract

HOST = "noted.at"
HANDLE = f"{ACCOUNT}.{HOST}"
EMAIL = f"{ACCOUNT}@{HOST}"
CONFIGURATION = "of today"
ELSEWHERE = {
    *("DNS", "records", "firewall", "account", "Nomad", "jobs", "disk", "backup", "drill", "accounts", "metadata"),
}
"""Lines that ask others than the server, which here are not there; `tests/test_behind_the_back.py` has them."""


class Relay(socketserver.ThreadingTCPServer):
    """A mail relay on loopback that takes every message and keeps whom it was for; `busy` refuses them."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.busy = False
        self.taken: list[str] = []
        self.port = int(self.server_address[1])


class _Smtp(socketserver.StreamRequestHandler):
    server: Relay

    def handle(self) -> None:
        self._say("220 relay")
        while line := self.rfile.readline().decode(errors="replace").strip():
            match line.upper().split(" ")[0].split(":")[0]:
                case "RCPT" if self.server.busy:
                    self._say("550 not here")
                case "RCPT":
                    self.server.taken.append(line)
                    self._say("250 ok")
                case "DATA":
                    self._say("354 go on")
                    while self.rfile.readline() not in (b".\r\n", b""):
                        pass
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@dataclass
class Place:
    """A server with one account behind its ingress, and the subject that is all green."""

    pds: PdsProcess
    ingress: Ingress
    subject: Subject
    authority: Authority
    relay: Relay
    folder: Path

    def results(self, **changes: Any) -> dict[str, Result]:
        """What is found, by name."""
        return {result.name: result for result in check(replace(self.subject, **changes))}

    def red(self, **changes: Any) -> dict[str, str]:
        """What there is to do, by name."""
        return {name: result.remark for name, result in self.results(**changes).items() if result.ok is False}

    def behind(self, ingress: Ingress) -> Site:
        """The site at another ingress."""
        return Site.at(HOST, ingress.url, str(self.folder / "ca.pem"))


@pytest.fixture(scope="module")
def place(
    start_pds: StartPds,
    directory: PlcDirectory,
    program_env: dict[str, str],
    program_secrets: frozenset[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """The program's own environment, except for what a server on loopback cannot have."""
    folder = tmp_path_factory.mktemp("check")
    authority = Authority()
    (folder / "ca.pem").write_text(authority.pem)
    tls = server_context(authority.issue(HOST, f"*.{HOST}", days=60), folder)
    relay = Relay()
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    mail = {"PDS_EMAIL_SMTP_URL": f"smtp://127.0.0.1:{relay.port}", "PDS_EMAIL_FROM_ADDRESS": f"pds@{HOST}"}
    with start_pds(program_env, mail) as pds:
        port = int(pds.url.rpartition(":")[2])
        client = Client(pds.url, HOST)
        admin = program_env["PDS_ADMIN_PASSWORD"]
        invite = client.procedure("com.atproto.server.createInviteCode", {"useCount": 1}, admin_password=admin)
        body = {"handle": HANDLE, "email": EMAIL, "password": "a password", "inviteCode": invite["code"]}
        client.procedure("com.atproto.server.createAccount", body)
        version = client.query("_health", {})["version"]
        client.http.close()
        env = program_env | mail | {"PDS_DID_PLC_URL": directory.url, "PDS_CRAWLERS": ""}
        with Ingress(port, tls) as ingress, fake_dns.serve({}) as nobody:
            site = Site.at(HOST, ingress.url, str(folder / "ca.pem"))
            subject = Subject(
                stack="dev",
                outputs={
                    "pds_env": env_file(env),
                    "package_version": version,
                    "state": "serving",
                    "host_configuration": CONFIGURATION,
                    "escrow": _escrow(env, program_secrets),
                },
                site=site,
                second=replace(site, source="127.0.0.2"),
                escrow="made",
                configuration=CONFIGURATION,
                nameservers=(nobody,),  # it knows no name: handles resolve by HTTPS alone
            )
            yield Place(pds, ingress, subject, authority, relay, folder)
    relay.shutdown()
    relay.server_close()


def _escrow(env: dict[str, str], secrets: frozenset[str]) -> dict[str, Any]:
    names = ("stack", "package_version", "ipv4", "volume_id", "nomad_management_token", "nomad_ca_pem")
    return {
        "hostname": HOST,
        "environment": {"TZ": "UTC"},
        "secrets": {name: env[name] for name in secrets},
        "nomad_ca_key_pem": "a key",
        **dict.fromkeys(names, "there"),
    }


def test_a_server_that_is_as_it_should_be_is_green(place: Place) -> None:
    results = place.results(mail=EMAIL)
    assert {name: result.remark for name, result in results.items() if result.ok is False} == {}
    asked = {name for name, result in results.items() if result.ok}
    assert set(results) - asked == {"relay", *ELSEWHERE}, "only the relays are asked when one says so"
    assert "two addresses are told apart" in results["rate limit"].remark
    assert "by HTTPS" in results["handles"].remark
    assert any(EMAIL in line for line in place.relay.taken), "the message went through the server to its own relay"


def test_a_version_that_is_reported_as_the_image_s_tag_is_the_one_that_the_stack_asks_for(place: Place) -> None:
    """`getEnv` in service/index.ts of bluesky-social/pds, from the line 0.4.50xx on."""
    package = place.subject.outputs["package_version"]
    tag = f"0.4.50{package.rpartition('.')[2]}" if package.startswith("0.5.") else package
    place.ingress.planted[f"{HOST}/xrpc/_health"] = Planted(200, json.dumps({"version": tag}))
    try:
        assert place.results()["health"].ok
    finally:
        place.ingress.planted.clear()


def test_no_secret_is_said(place: Place, program_env: dict[str, str], program_secrets: frozenset[str]) -> None:
    said = "\n".join(map(str, place.results().values()))
    assert [name for name in program_secrets if program_env[name] in said] == []


def test_no_secret_is_sent(place: Place, program_env: dict[str, str], program_secrets: frozenset[str]) -> None:
    place.results()
    log = place.pds.log.read_text()
    assert "request completed" in log, "the server logs each request with its headers"
    assert [name for name in program_secrets if program_env[name] in log] == []
    assert '"authorization"' not in log.partition("createAccount")[2]


PLANTED: dict[str, tuple[str, Planted, str]] = {
    "a sick server": (f"{HOST}/xrpc/_health", Planted(503, "{}"), "health"),
    "a server of another version": (f"{HOST}/xrpc/_health", Planted(200, '{"version": "0.4.1"}'), "health"),
    "no OAuth metadata": (f"{HOST}/.well-known/oauth-authorization-server", Planted(404, ""), "OAuth"),
    "another's OAuth metadata": (
        f"{HOST}/.well-known/oauth-protected-resource",
        Planted(200, '{"resource": "https://other.at"}'),
        "OAuth",
    ),
    "an answer for every handle": ("*/.well-known/atproto-did", Planted(200, "did:plc:x", "text/plain"), "handles"),
    "a handle that is somebody else's": (
        f"{HANDLE}/.well-known/atproto-did",
        Planted(200, "did:plc:somebodyelse", "text/plain"),
        "handles",
    ),
    "a handle that does not resolve": (f"{HANDLE}/.well-known/atproto-did", Planted(404, ""), "handles"),
    "invites not required": (
        f"{HOST}/xrpc/com.atproto.server.describeServer",
        Planted(200, '{"inviteCodeRequired": false}'),
        "invites",
    ),
    "a server that limits nobody": (
        f"{HOST}/xrpc/com.atproto.server.describeServer",
        Planted(200, '{"inviteCodeRequired": true}'),
        "rate limit",
    ),
    "an answer that is no protocol": (f"{HOST}/xrpc/com.atproto.sync.listRepos", Planted(200, "{}"), "DID documents"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_is_found_by_its_check(place: Place, fault: str) -> None:
    where, planted, name = PLANTED[fault]
    place.ingress.planted[where] = planted
    try:
        red = place.red()
    finally:
        place.ingress.planted.clear()
    assert name in red, f"{fault} was not found"
    assert red.keys() - {name} <= {"rate limit", "handles"}, "what one answer spoils, and no more"
    assert len(red[name]) > 30, "it says what to do"


def test_a_handle_that_resolves_by_dns_alone_is_green(place: Place) -> None:
    (did,) = (repo["did"] for repo in _repos(place))
    place.ingress.planted[f"{HANDLE}/.well-known/atproto-did"] = Planted(404, "")
    try:
        with fake_dns.serve({f"TXT _atproto.{HANDLE}": [f"did={did}"]}) as known:
            assert "by DNS" in place.results(nameservers=(known,))["handles"].remark
        with fake_dns.serve({f"TXT _atproto.{HANDLE}": ["did=did:plc:somebodyelse"]}) as wrong:
            assert "did:plc:somebodyelse" in place.red(nameservers=(wrong,))["handles"]
    finally:
        place.ingress.planted.clear()


INGRESSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no WebSockets": ({"websockets": False}, "WebSocket", "let the ingress pass WebSockets"),
    "a limit of its own": ({"body_limit": 1_000_000}, "blob limit", "raise the ingress's limit"),
    "claimed addresses believed": ({"forwarded": "pass"}, "rate limit", "let the ingress replace that header"),
    "addresses hidden": ({"forwarded": "drop"}, "rate limit", "the server sees one client"),
}


@pytest.mark.parametrize("fault", INGRESSES)
def test_a_fault_of_the_ingress_is_found_by_its_check(place: Place, fault: str) -> None:
    changes, name, said = INGRESSES[fault]
    before = {key: getattr(place.ingress, key) for key in changes}
    vars(place.ingress).update(changes)
    try:
        red = place.red()
    finally:
        vars(place.ingress).update(before)
    assert list(red) == [name]
    assert said in red[name]


def test_with_one_address_it_says_what_it_cannot_show(place: Place) -> None:
    result = place.results(second=None)["rate limit"]
    assert result.ok
    assert "a second address shows" in result.remark


@pytest.mark.parametrize(
    ("issue", "said"),
    [
        (lambda authority: authority.issue(HOST, days=-0.5), "expired"),
        (lambda authority: authority.issue("other.at", days=60), "ostname mismatch"),
        (lambda _authority: Authority("a stranger").issue(HOST, days=60), "issuer"),
        (lambda authority: authority.issue(HOST, f"*.{HOST}", days=3.5), "in 3 days"),
    ],
    ids=["expired", "another name's", "an unknown CA's", "about to end"],
)
def test_a_bad_certificate_is_one_red_line(
    place: Place, tmp_path: Path, issue: Callable[[Authority], Any], said: str
) -> None:
    with Ingress(place.ingress.upstream, server_context(issue(place.authority), tmp_path)) as ingress:
        red = place.red(site=place.behind(ingress), second=None)
    assert list(red) == ["certificate"], "the questions that need it are not asked"
    assert said in red["certificate"]


def test_a_server_that_is_not_there_is_one_red_line(place: Place) -> None:
    red = place.red(site=replace(place.subject.site, port=1), second=None)
    assert list(red) == ["health"]
    assert "docs/operating.md" in red["health"]


def test_a_paused_server_is_said_to_be_paused(place: Place) -> None:
    outputs = {**place.subject.outputs, "state": "paused"}
    assert "paused" in place.red(site=replace(place.subject.site, port=1), outputs=outputs)["health"]


def _with_env(place: Place, **changes: str) -> dict[str, Any]:
    env = place.subject.environment | changes
    return {**place.subject.outputs, "pds_env": env_file(env)}


def test_documents_that_our_key_cannot_change_are_found(place: Place) -> None:
    red = place.red(outputs=_with_env(place, PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX="5d" * 32))
    assert list(red) == ["DID documents"]
    assert "our rotation key" in red["DID documents"]


def test_an_account_whose_document_names_another_server_is_found(place: Place, directory: PlcDirectory) -> None:
    (did,) = (repo["did"] for repo in _repos(place))
    document = {"rotationKeys": [], "alsoKnownAs": [f"at://{HANDLE}"], "services": {}}
    with Ingress(int(directory.url.rpartition(":")[2]), planted={}) as other:
        genuine = place.results(outputs=_with_env(place, PDS_DID_PLC_URL=other.url))["DID documents"]
        assert genuine.ok, genuine
        keys = _directory_data(other.url, did)["rotationKeys"]
        moved = {**document, "rotationKeys": keys, "services": {"atproto_pds": {"endpoint": "https://other.at"}}}
        other.planted[f"127.0.0.1/{did}/data"] = Planted(200, json.dumps(moved))
        red = place.red(outputs=_with_env(place, PDS_DID_PLC_URL=other.url))
    assert list(red) == ["DID documents"]
    assert "points at https://other.at" in red["DID documents"]


def _repos(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.subject.site.request("GET", "/xrpc/com.atproto.sync.listRepos").json()["repos"]
    return found


def _directory_data(url: str, did: str) -> dict[str, Any]:
    from tools.live.identity import directory_data

    return directory_data(url, did)


def test_mail_that_the_relay_refuses_and_an_address_that_nobody_has_are_found(place: Place) -> None:
    place.relay.busy = True
    try:
        refused = place.red(mail=EMAIL)
    finally:
        place.relay.busy = False
    assert list(refused) == ["mail"]
    assert "could not hand a message" in refused["mail"]
    assert "no account here" in place.red(mail="nobody@noted.at")["mail"]


def test_nothing_is_sent_unless_asked(place: Place) -> None:
    before = len(place.relay.taken)
    assert place.results()["mail"].ok is None
    assert len(place.relay.taken) == before


@pytest.mark.parametrize(
    ("status", "body", "ok"),
    [
        (200, {"status": "active", "accountCount": 3, "seq": 0}, True),
        (200, {"status": "idle", "accountCount": 3, "seq": 1_000_000}, False),
        (200, {"status": "throttled"}, False),
        (200, {"status": "banned"}, False),
        (400, {"error": "HostNotFound"}, False),
    ],
    ids=["active", "ahead of the server", "throttled", "banned", "unknown"],
)
def test_the_relays_are_asked_when_wanted(place: Place, status: int, body: dict[str, Any], ok: bool) -> None:
    answer = Planted(status, json.dumps(body))
    with Ingress(1, planted={"*/xrpc/com.atproto.sync.getHostStatus": answer}) as relay:
        found = place.results(outputs=_with_env(place, PDS_CRAWLERS=relay.url), relay=True)["relay"]
    assert found.ok is ok, found


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"configuration": "of tomorrow"}, "host", "generation"),
        ({"escrow": "pending"}, "escrow", "./pds escrow dev"),
    ],
)
def test_what_the_project_lacks_is_found(place: Place, changes: dict[str, Any], name: str, said: str) -> None:
    red = place.red(**changes)
    assert list(red) == [name]
    assert said in red[name]


def test_an_escrow_that_would_not_suffice_is_found_though_the_stack_file_calls_it_made(place: Place) -> None:
    content = {**place.subject.outputs["escrow"], "volume_id": ""}
    assert "volume_id" in place.red(outputs={**place.subject.outputs, "escrow": content})["escrow"]


def test_the_command_prints_a_line_each_and_its_exit_code_says_whether_there_is_something_to_do(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {**place.subject.outputs, "url": f"https://{HOST}", "ipv4": "203.0.113.10"}
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    cli = tmp_path / "pulumi"
    said = f'echo "$@" >> {tmp_path}/arguments; cat {tmp_path}/outputs.json'
    cli.write_text(f'#!/bin/sh\ncase "$1 $2" in "stack output") {said} ;; *) exit 1 ;; esac\n')
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("components.resolving.resolves", lambda *_names, **_more: None)
    monkeypatch.setattr("components.resolving.leads_to", lambda *_names: True)
    monkeypatch.delenv("DIGITALOCEAN_TOKEN", raising=False)
    monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN", raising=False)
    code = verbs.main(["check", "dev", "--at", place.ingress.url, "--ca", str(place.folder / "ca.pem")])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1, "Pulumi.dev.yaml has no escrow yet, and this host was born from another cloud-init"
    assert [line[7:].partition(":")[0] for line in lines if line.startswith("to do")] == [
        *("host", "escrow", "backup"),
    ], "and it makes no backups"
    assert lines[-1] == "10 ok, 3 to do, 11 not looked at."
    assert len(lines) == len(LINES) + 2
    assert "--show-secrets" in (tmp_path / "arguments").read_text()
