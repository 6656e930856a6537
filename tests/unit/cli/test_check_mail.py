"""The lines mail, SPF, DKIM and DMARC of `./pds check`, with a server, a Nomad and broken DNS records on loopback."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cli import app
from cli.check.mail import SEND_SCRIPT
from cli.check.run import CheckResult, run_check
from cli.check.site import Site
from cli.check.subject import HostStatus, Subject
from components.clients import dns
from components.clients.nomad import NomadApi
from components.render.records import DnsRecord, mail_records
from components.settings.checks.pds_env import configured_secrets, env_file, plain_environment
from tests.support import fake_dns
from tests.support.fake_exec import exec_endpoint, frame
from tests.support.mail import KEY, LONG_KEY, RESEND, RETURN_PATH, SPF, dkim_key
from tests.support.programs import settings_of
from tests.support.serving import LOOPBACK, served

TO = "ann@her-domain.org"
PASSWORD = "re_p@ss w/rd"
DNS: dict[str, Any] = {
    "spf": ["include:_spf.noted.at"],
    "dkim": {"resend": KEY, "second": "key.noted.at"},
    "dmarc": {"policy": "reject", "reports": ["a@noted.at"]},
    "return_path": {**RETURN_PATH, "spf": ["include:_spf.noted.at"]},
}
GOOD: dict[str, list[str]] = {
    "TXT noted.at": ["another text", "v=spf1 include:_spf.noted.at ~all"],
    "TXT _spf.noted.at": ["v=spf1 ip4:192.0.2.0/24 -all"],
    "TXT send.noted.at": ["v=spf1 include:_spf.noted.at ~all"],
    "TXT resend._domainkey.noted.at": [KEY],
    "CNAME second._domainkey.noted.at": ["key.noted.at."],
    "TXT key.noted.at": [f"v=DKIM1; k=rsa; {KEY}"],
    "TXT _dmarc.noted.at": ["v=DMARC1; p=reject; rua=mailto:a@noted.at"],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dns.stay_on_loopback(monkeypatch)


def subject_with(options: dict[str, Any] | None, *nameservers: str, **changes: Any) -> Subject:
    """A stack with these mail options."""
    settings = settings_of(mail={**RESEND, "password": PASSWORD, **options}) if options is not None else settings_of()
    environment = plain_environment(settings) | configured_secrets(settings)
    subject = Subject(
        stack="dev",
        outputs={"pds_env": env_file(environment)},
        site=Site.at("noted.at", "http://127.0.0.1:1"),
        nameservers=nameservers,
        settings=settings,
    )
    return replace(subject, **changes)


# The message.


@contextmanager
def _server(status: int) -> Iterator[Site]:
    """A PDS that answers a request for a password reset."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (self.path, body) == ("/xrpc/com.atproto.server.requestPasswordReset", {"email": TO})
            assert "Authorization" not in self.headers, "it needs no secret"
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with served(Handler) as port:
        yield Site.at("noted.at", f"http://{LOOPBACK}:{port}")


def _line(
    status: int, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, to: str | None = TO
) -> tuple[CheckResult, dict[str, Any]]:
    """The line `mail`, and the query of Nomad's exec endpoint, for a server and the answer from its container."""
    running = [{"ID": "11111111-0000-0000-0000-000000000000", "ClientStatus": "running"}]
    monkeypatch.setattr(NomadApi, "get", lambda _self, _path: running)
    frames = (frame("stdout", f"the volume is that of noted.at\n{json.dumps(answer)}\n"), _END)
    with exec_endpoint(*frames) as (nomad, asked), _server(status) as site:
        host = HostStatus({f"nomad_{name}": value for name, value in nomad.items()})
        result = run_check("mail", subject_with({}, mail=to, site=site, host=host))
    assert PASSWORD not in result.remark
    return result, parse_qs(urlsplit(asked[0][0]).query) if asked else {}


_END = {"exited": True, "result": {"exit_code": 0}}


def test_an_account_s_message_goes_through_the_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    result, query = _line(200, {}, monkeypatch)
    assert result.ok
    assert f"smtp.resend.com:2465 accepted a message of the server to {TO}" in result.remark
    assert query == {}, "no second message from the container"


def test_without_an_account_a_test_message_leaves_from_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    result, query = _line(400, {"sent": True, "response": "250 2.0.0 Ok: queued as 1"}, monkeypatch)
    assert result.ok
    assert f"no account here has the address {TO}" in result.remark
    assert "'250 2.0.0 Ok: queued as 1'" in result.remark
    command = json.loads(query["command"][0])
    assert command == ["node", "-e", SEND_SCRIPT.read_text(), TO], "the address alone is on the command line"
    assert PASSWORD not in str(query)


REFUSALS = [
    ("535 5.7.8 invalid", "EAUTH", "AUTH PLAIN", "'mail.user' and 'mail.password'"),
    ("550 not verified", "EENVELOPE", "MAIL FROM", "refuses the sender pds@noted.at: verify its domain"),
    ("554 sandbox", "EENVELOPE", "RCPT TO", f"refuses the recipient {TO}"),
    ("421 4.7.0 busy", "EPROTOCOL", "EHLO", "It refuses for now: repeat the check later"),
    ("454 4.7.0 Temporary authentication failure", "EAUTH", "AUTH PLAIN", "It refuses for now: repeat the check later"),
    ("451 greylisted", "EENVELOPE", "RCPT TO", "It refuses for now: repeat the check later"),
    ("554 rejected", "EMESSAGE", "DATA", "verify its domain at the relay, and read its log"),
    ("Connection timeout", "ETIMEDOUT", "CONN", "DigitalOcean blocks the ports 25, 465, 587"),
    ("getaddrinfo ENOTFOUND", "EDNS", "CONN", "'mail.host'"),
    ("wrong version number", "ESOCKET", "CONN", "'mail.port' and 'mail.tls'"),
    ("self-signed certificate", "ESOCKET", "CONN", "certificate is not valid"),
    ("Error upgrading connection with STARTTLS", "ETLS", "STARTTLS", "'mail.tls'"),
]


@pytest.mark.parametrize(("response", "code", "command", "remedy"), REFUSALS, ids=[each[0] for each in REFUSALS])
def test_a_server_that_cannot_send_shows_the_relay_s_answer_and_the_option(
    response: str, code: str, command: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"sent": False, "response": response, "code": code, "command": command}
    result, _query = _line(500, answer, monkeypatch)
    assert result.ok is False
    assert "the server could not hand a message to the relay" in result.remark
    assert f"smtp.resend.com:2465: '{response}'" in result.remark
    assert remedy in result.remark


def test_without_an_address_the_container_only_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired credentials show in no other check, and members get no password resets."""
    result, query = _line(500, {"sent": True, "response": ""}, monkeypatch, to=None)
    assert result.ok, result
    assert "smtp.resend.com:2465 accepts the server's login; --mail ADDRESS sends" in result.remark
    assert json.loads(query["command"][0]) == ["node", "-e", SEND_SCRIPT.read_text()]


@pytest.mark.parametrize(("response", "code", "command", "remedy"), [REFUSALS[0], REFUSALS[3], *REFUSALS[7:9]])
def test_a_login_that_the_relay_refuses_or_does_not_answer_is_to_do(
    response: str, code: str, command: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"sent": False, "response": response, "code": code, "command": command}
    result, _query = _line(500, answer, monkeypatch, to=None)
    assert result.ok is False
    assert f"smtp.resend.com:2465 does not accept the server's login: '{response}'" in result.remark
    assert remedy in result.remark


def test_the_login_is_not_tried_without_a_container() -> None:
    result = run_check("mail", subject_with({}))
    assert (result.ok, "the server's container cannot be reached" in result.remark) == (None, True)
    nomad = {f"nomad_{name}": "x" for name in ("ca_pem", "client_cert_pem", "client_key_pem", "token")}
    away = HostStatus({"nomad_address": "http://127.0.0.1:1", **nomad})
    result = run_check("mail", subject_with({}, host=away))
    assert (result.ok, "the relay was not asked" in result.remark) == (None, True), "Nomad's fault has its own line"


def test_a_server_that_sent_too_many_is_asked_through_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _query = _line(429, {"sent": True, "response": "250 ok"}, monkeypatch)
    assert result.ok
    assert "few such messages an hour" in result.remark


@pytest.mark.parametrize("status", [400, 429, 500])
def test_without_nomad_the_reason_is_shown_without_the_relay_s_answer(status: int) -> None:
    with _server(status) as site:
        result = run_check("mail", subject_with({}, mail=TO, site=site))
    assert result.ok is False
    assert "cannot be reached through Nomad" in result.remark


def test_a_stack_without_a_relay_is_red_only_if_a_message_is_asked_for() -> None:
    assert run_check("mail", subject_with(None)).ok is None
    assert "Add 'mail'" in run_check("mail", subject_with(None, mail=TO)).remark
    for name in ("SPF", "DKIM", "DMARC"):
        assert run_check(name, subject_with(None, mail=TO)).ok is None


@pytest.mark.parametrize("address", ["ann", "ann@localhost", "--eval@her-domain.org", "a b@her-domain.org", "@a.org"])
def test_text_that_is_no_address_is_refused_before_anything_is_asked(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["check", "dev", f"--mail={address}"]) == 2
    assert "is not an e-mail address" in capsys.readouterr().err


def test_a_stack_file_that_cannot_be_read_is_not_called_one_without_a_relay() -> None:
    for name in ("SPF", "DKIM", "DMARC"):
        assert run_check(name, subject_with({}, settings=None)).remark == "Pulumi.dev.yaml cannot be read here"


# The records.


def _records(name: str, mail: dict[str, Any], records: dict[str, list[str]], to: str | None = None) -> CheckResult:
    with fake_dns.serve(records) as server:
        return run_check(name, subject_with(mail, server, mail=to))


def test_good_records_are_green() -> None:
    with fake_dns.serve(GOOD) as server:
        subject = subject_with({"dns": DNS}, server)
        found = {name: run_check(name, subject) for name in ("SPF", "DKIM", "DMARC")}
    assert {name: result.ok for name, result in found.items()} == dict.fromkeys(found, True)
    assert "send.noted.at (1 of 10 lookups)" in found["SPF"].remark
    assert "the policy reject, and DKIM and SPF are aligned" in found["DMARC"].remark


def _chain(count: int) -> dict[str, list[str]]:
    """Records that include each other, `count` lookups in all."""
    return {f"TXT c{n}.noted.at": [f"v=spf1 include:c{n + 1}.noted.at -all"] for n in range(1, count)} | {
        f"TXT c{count}.noted.at": ["v=spf1 -all"]
    }


BROKEN: dict[str, tuple[str, dict[str, list[str]], str]] = {
    "no SPF record": ("SPF", {"TXT noted.at": ["another text"]}, "noted.at has no SPF record. Write 'v=spf1"),
    "two SPF records": (
        "SPF",
        {"TXT noted.at": ["v=spf1 mx -all", "v=spf1 include:_spf.noted.at ~all"]},
        "has 2 SPF records, and receivers apply none of them. Keep one: 'v=spf1 include:_spf.noted.at mx ~all'",
    ),
    "no SPF record at the return path": ("SPF", {"TXT send.noted.at": []}, "send.noted.at has no SPF record"),
    "an SPF record without the relay": (
        "SPF",
        {"TXT noted.at": ["v=spf1 mx -all"]},
        "lacks include:_spf.noted.at. Change it to 'v=spf1 mx include:_spf.noted.at -all'",
    ),
    "a misspelled SPF record": ("SPF", {"TXT noted.at": ["v=spf1 includes:_spf.noted.at"]}, "is not a term"),
    "an include without a record": ("SPF", {"TXT _spf.noted.at": []}, "includes _spf.noted.at, which has no SPF"),
    "eleven lookups": ("SPF", {"TXT _spf.noted.at": ["v=spf1 include:c1.noted.at"], **_chain(10)}, "needs 11 DNS"),
    "a circle of includes": ("SPF", {"TXT _spf.noted.at": ["v=spf1 include:noted.at"]}, "DNS lookups"),
    "no DKIM key": ("DKIM", {"TXT resend._domainkey.noted.at": []}, "resend._domainkey.noted.at has no TXT record"),
    "two DKIM keys": ("DKIM", {"TXT resend._domainkey.noted.at": [KEY, "p=x"]}, "has 2 TXT records"),
    "a truncated DKIM key": ("DKIM", {"TXT resend._domainkey.noted.at": [KEY[:-40]]}, "is incomplete"),
    "another DKIM key": ("DKIM", {"TXT resend._domainkey.noted.at": [dkim_key()]}, "another key than"),
    "a revoked DKIM key": ("DKIM", {"TXT key.noted.at": ["p="]}, "revoked"),
    "a CNAME that leads nowhere": ("DKIM", {"TXT key.noted.at": []}, "CNAME record for key.noted.at, or that host"),
    "no DMARC record": ("DMARC", {"TXT _dmarc.noted.at": []}, "neither noted.at nor a domain above it"),
    "two DMARC records": (
        "DMARC",
        {"TXT _dmarc.noted.at": ["v=DMARC1; p=none", "v=DMARC1; p=reject"]},
        "has 2 DMARC records, and receivers apply none",
    ),
    "a DMARC policy that is none": ("DMARC", {"TXT _dmarc.noted.at": ["v=DMARC1; p=rejects"]}, "has no policy"),
    "reports without 'mailto:'": ("DMARC", {"TXT _dmarc.noted.at": ["v=DMARC1; p=none; rua=a@noted.at"]}, "'mailto:'"),
    "reports that are not accepted": (
        "DMARC",
        {"TXT _dmarc.noted.at": ["v=DMARC1; p=none; rua=mailto:a@noted.at,mailto:b@elsewhere.noted.test!10m"]},
        "noted.at._report._dmarc.elsewhere.noted.test needs the TXT record 'v=DMARC1'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_record_turns_its_line_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes, said = BROKEN[fault]
    with fake_dns.serve({**GOOD, **changes}) as server, fake_dns.serve({}) as elsewhere:
        monkeypatch.setattr(dns, "zone_of", lambda name: (name, [elsewhere]))
        found = {each: run_check(each, subject_with({"dns": DNS}, server)) for each in ("SPF", "DKIM", "DMARC")}
    assert [each for each, result in found.items() if result.ok is False] == [name]
    assert said in found[name].remark


def test_strict_alignment_with_a_verified_subdomain_is_red() -> None:
    mail = {"dns": {"domain": "mg.noted.at", "dkim": {"resend": LONG_KEY}, "dmarc": {"policy": "none"}}}
    strict = _records("DMARC", mail, {"TXT _dmarc.noted.at": ["v=DMARC1; p=none; adkim=s"]})
    assert "neither DKIM nor SPF is aligned" in strict.remark
    relaxed = _records("DMARC", mail, {"TXT _dmarc.noted.at": ["v=DMARC1; p=none"]})
    assert "DKIM is aligned" in relaxed.remark


def test_a_key_longer_than_one_string_is_whole() -> None:
    found = {"TXT resend._domainkey.noted.at": [f'{LONG_KEY[:250]}" "{LONG_KEY[250:]}']}
    assert _records("DKIM", {"dns": {"dkim": {"resend": LONG_KEY}}}, found).ok


def test_the_dmarc_record_of_a_domain_above_applies() -> None:
    mail = {"from": "pds@mail.noted.at", "dns": {"dmarc": {"policy": "none"}}}
    found = _records("DMARC", mail, {"TXT _dmarc.noted.at": ["v=DMARC1; p=none"]})
    assert found.ok
    assert "_dmarc.noted.at has the policy none" in found.remark


def test_undeclared_records_are_checked_only_with_a_message() -> None:
    for name in ("SPF", "DKIM", "DMARC"):
        assert _records(name, {}, GOOD).ok is None
    assert _records("SPF", {}, {"TXT noted.at": ["v=spf1 mx -all", "v=spf1 -all"]}, TO).ok is False
    assert "Receivers then depend on DKIM" in _records("SPF", {}, {}, TO).remark
    assert _records("SPF", {}, GOOD, TO).ok
    assert "names no selector" in _records("DKIM", {}, GOOD, TO).remark
    assert "declares neither DKIM nor SPF" in _records("DMARC", {}, GOOD, TO).remark
    assert _records("DMARC", {}, {}, TO).ok is False


def test_a_silent_name_server_is_a_sentence() -> None:
    result = run_check("DMARC", subject_with({"dns": DNS}, "127.0.0.1:1"))
    assert result.ok is False
    assert "does not answer" in result.remark


def test_an_include_of_another_zone_is_not_asked_of_the_stack_s_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    zones: list[str] = []

    def zone_of(name: str) -> tuple[str, list[str]]:
        zones.append(name)
        return name, [elsewhere]

    with fake_dns.serve({"TXT amazonses.com": ["v=spf1 ip4:192.0.2.1 -all"]}) as elsewhere:
        monkeypatch.setattr(dns, "zone_of", zone_of)
        result = _records("SPF", {"dns": {"spf": [SPF]}}, {"TXT noted.at": [f"v=spf1 {SPF} ~all"]})
    assert result.ok
    assert set(zones) == {"amazonses.com"}


def test_the_line_records_finds_each_record_that_the_stack_lists() -> None:
    """In the form of the output: a priority before the server, a dot at the end of a name, a long text as a whole."""
    mail = {"dns": {**DNS, "dkim": {"resend": LONG_KEY, "second": "key.noted.at"}}}
    rows = [record.row(settings_of(mail={**RESEND, **mail}), str(record.value)) for record in _listed(mail)]
    records = {
        **GOOD,
        "TXT resend._domainkey.noted.at": [f'{LONG_KEY[:250]}" "{LONG_KEY[250:]}'],
        "MX send.noted.at": ["10 feedback-smtp.eu-west-1.amazonses.com."],
    }
    with fake_dns.serve(records) as server:
        subject = subject_with(mail, server, resolves={}, outputs={"records": rows})
        assert run_check("records", subject).remark == f"all {len(rows)} exist"
    with fake_dns.serve({**records, "MX send.noted.at": ["20 elsewhere.test."]}) as server:
        subject = subject_with(mail, server, resolves={}, outputs={"records": rows})
        assert "send.noted.at has no MX 10 feedback-smtp" in run_check("records", subject).remark


def _listed(mail: dict[str, Any]) -> list[DnsRecord]:
    return mail_records(settings_of(mail={**RESEND, **mail}))


def test_a_cname_without_target_at_the_zone_s_own_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_dns.serve({"CNAME a.noted.at": ["b.noted.at."]}) as server:
        monkeypatch.setattr(dns, "zone_of", lambda name: (name, [server]))
        assert dns.values("a.noted.at", "TXT", [server]) == []
