"""`./pds members` and `./pds password`: how a handle resolves, and the output."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from cli import app
from cli.people import members
from components.clients import dns as resolving
from components.clients import pds_admin
from components.people.members import temporary_handle
from tests.support import fake_dns
from tests.support.programs import settings_of

SERVER = pds_admin.Server("https://noted.at", "127.0.0.1", "an admin password")
DID = "did:plc:qo2urk437ss36eyefp5jgoyw"
NOTHING = "name server 192.0.2.1 answers nothing for _atproto.ann.noted.at, not did=x"


@pytest.mark.parametrize(
    ("dns", "https", "said"),
    [
        (None, "", "DNS"),
        (NOTHING, DID, "HTTPS"),
        (NOTHING, "", "neither"),
        (NOTHING, "<html>", "neither"),
        (NOTHING, "did:plc:other", "another account"),
        ("name server 192.0.2.1 answers did=did:plc:other for _atproto.ann.noted.at, not did=x", "", "another account"),
        ("the zone noted.at is not delegated: x", "", "neither"),
    ],
)
def test_a_handle_resolves_by_dns_or_https_or_to_another_account(
    dns: str | None, https: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "names_did", lambda _handle, _did, _servers: dns)
    monkeypatch.setattr(resolving, "leads_to", lambda _handle, _address, _servers: True)
    monkeypatch.setattr(members, "_well_known", lambda _server, _handle: https)
    assert members.resolves_by(SERVER, "ann.noted.at", DID) == said


def test_a_name_that_leads_elsewhere_is_not_asked_over_https(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def well_known(_server: pds_admin.Server, handle: str) -> str:
        asked.append(handle)
        return DID

    monkeypatch.setattr(members, "_well_known", well_known)
    with fake_dns.serve({"bob.noted.at": ["127.0.0.1"], "eve.noted.at": ["198.51.100.1"]}) as server:
        found = [members.resolves_by(SERVER, f"{name}.noted.at", DID, [server]) for name in ("ann", "bob", "eve")]
    assert found == ["neither", "HTTPS", "neither"]
    assert asked == ["bob.noted.at"], "for another name the ingress would order a certificate that fails"


def test_the_name_servers_of_the_stack_file_are_asked_for_names_in_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = [pds_admin.Account(did=DID, handle=handle, email="") for handle in ("ann.noted.at", "ann.her.org")]
    monkeypatch.setattr(pds_admin, "hosted", lambda _server: hosted)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(members, "resolves_by", lambda _server, handle, _did, names: asked.update({handle: names}))
    members.rows(SERVER, {}, settings=settings_of(dns={"nameservers": ["192.0.2.53"]}))
    assert asked == {"ann.noted.at": ("192.0.2.53",), "ann.her.org": ()}


def test_a_member_who_waits_is_shown_under_her_own_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    live = temporary_handle("ann.her.org", (".noted.at",)) or ""
    monkeypatch.setattr(pds_admin, "hosted", lambda _server: [pds_admin.Account(did=DID, handle=live, email="")])
    monkeypatch.setattr(members, "resolves_by", lambda *_asked: "neither")
    [row] = members.rows(SERVER, {"ann.her.org": {"did": DID}})
    assert row.handle == f"ann.her.org (waits as {live})"
    [renamed] = members.rows(SERVER, {"ann.noted.at": {"did": DID}})
    assert renamed.handle == live, "a handle that she has chosen herself is hers"


def test_a_host_that_does_not_answer_is_no_resolution() -> None:
    assert members._well_known(SERVER, "ann.noted.at") == "", "no server listens on 443 here"


def test_the_columns_of_the_table_stand_below_each_other() -> None:
    rows = [
        members.MemberRow("a.noted.at", DID, "DNS", True, "3l", True),
        members.MemberRow("bob.noted.at", DID, "neither", False, "3labc", False),
    ]
    heading, one, two = members.table(rows).splitlines()
    assert heading.index("DID") == one.index("did:") == two.index("did:")
    assert one.split() == ["a.noted.at", DID, "DNS", "yes", "3l", "yes"]
    assert two.split() == ["bob.noted.at", DID, "neither", "no", "3labc", "no"]
    assert "relay" not in heading, "they were not queried"
    asked = [members.MemberRow("a.noted.at", DID, "DNS", True, "3l", True, "behind")]
    heading, one = members.table(asked).splitlines()
    assert heading.index("seen by the relay") == one.index("behind")


@pytest.mark.parametrize(
    ("status", "said", "seen"),
    [
        (200, {"active": True, "rev": "3lb"}, "yes"),
        (200, {"active": True}, "yes"),
        (200, {"active": True, "rev": "3la"}, "behind"),
        (200, {"active": False, "status": "throttled"}, "throttled"),
        (200, {"active": False}, "inactive"),
        (404, {"error": "RepoNotFound"}, "no"),
        (502, {"error": "UpstreamFailure"}, "it answers 502"),
        (200, ["what"], "it answers 200"),
    ],
)
def test_what_a_relay_says_of_an_account_is_a_word(
    status: int, said: object, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get(url: str, **how: Any) -> httpx.Response:
        asked.append((url, how["params"]))
        return httpx.Response(status, json=said)

    monkeypatch.setattr(httpx, "get", get)
    account = pds_admin.Account(did=DID, handle="ann.noted.at", email="", revision="3lb")
    assert members.seen_by("https://relay.test", account) == seen
    assert asked == [("https://relay.test/xrpc/com.atproto.sync.getRepoStatus", {"did": DID})]


def test_a_relay_that_does_not_answer_ends_no_table() -> None:
    account = pds_admin.Account(did=DID, handle="ann.noted.at", email="")
    assert members.seen_by("http://127.0.0.1:1", account) == "no answer"


def test_a_stack_without_a_state_is_a_sentence_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = tmp_path / "pulumi"
    cli.write_text("#!/bin/sh\necho 'no stack named dev found' >&2\nexit 1\n")
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for verb in (["members", "dev"], ["password", "dev", "ann.noted.at"]):
        assert app.main(verb) == 2
        assert "no stack named dev found" in capsys.readouterr().err
