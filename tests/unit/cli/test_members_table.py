"""`./pds members` and `./pds password`: how a handle resolves, and what they print."""

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
    ("dns", "https", "resolution"),
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
def test_reports_how_a_handle_resolves(
    dns: str | None, https: str, resolution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "names_did", lambda _handle, _did, _servers: dns)
    monkeypatch.setattr(resolving, "leads_to", lambda _handle, _address, _servers: True)
    monkeypatch.setattr(members, "_well_known", lambda _server, _handle: https)
    assert members.resolves_by(SERVER, "ann.noted.at", DID) == resolution


def test_queries_https_only_for_names_that_point_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    queried: list[str] = []

    def well_known(_server: pds_admin.Server, handle: str) -> str:
        queried.append(handle)
        return DID

    monkeypatch.setattr(members, "_well_known", well_known)
    with fake_dns.serve({"bob.noted.at": ["127.0.0.1"], "eve.noted.at": ["198.51.100.1"]}) as server:
        resolutions = [members.resolves_by(SERVER, f"{name}.noted.at", DID, [server]) for name in ("ann", "bob", "eve")]
    assert resolutions == ["neither", "HTTPS", "neither"]
    assert queried == ["bob.noted.at"], "for any other name the ingress would order a certificate in vain"


def test_queries_the_stack_file_s_name_servers_for_names_in_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = [pds_admin.Account(did=DID, handle=handle, email="") for handle in ("ann.noted.at", "ann.her.org")]
    monkeypatch.setattr(pds_admin, "hosted", lambda _server: hosted)
    queried: dict[str, Any] = {}
    monkeypatch.setattr(members, "resolves_by", lambda _server, handle, _did, names: queried.update({handle: names}))
    members.rows(SERVER, {}, settings=settings_of(dns={"nameservers": ["192.0.2.53"]}))
    assert queried == {"ann.noted.at": ("192.0.2.53",), "ann.her.org": ()}


def test_a_member_with_a_temporary_handle_is_listed_under_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = temporary_handle("ann.her.org", (".noted.at",)) or ""
    monkeypatch.setattr(pds_admin, "hosted", lambda _server: [pds_admin.Account(did=DID, handle=temporary, email="")])
    monkeypatch.setattr(members, "resolves_by", lambda *_arguments: "neither")
    [row] = members.rows(SERVER, {"ann.her.org": {"did": DID}})
    assert row.handle == f"ann.her.org (waits as {temporary})"
    [renamed] = members.rows(SERVER, {"ann.noted.at": {"did": DID}})
    assert renamed.handle == temporary, "the member chose this handle"


def test_a_server_that_does_not_answer_resolves_nothing() -> None:
    assert members._well_known(SERVER, "ann.noted.at") == "", "no server listens on 443 here"


def test_the_columns_of_the_table_are_aligned() -> None:
    rows = [
        members.MemberRow("a.noted.at", DID, "DNS", True, "3l", True),
        members.MemberRow("bob.noted.at", DID, "neither", False, "3labc", False),
    ]
    heading, one, two = members.table(rows).splitlines()
    assert heading.index("DID") == one.index("did:") == two.index("did:")
    assert one.split() == ["a.noted.at", DID, "DNS", "yes", "3l", "yes"]
    assert two.split() == ["bob.noted.at", DID, "neither", "no", "3labc", "no"]
    assert "relay" not in heading, "the relay was not queried"
    queried = [members.MemberRow("a.noted.at", DID, "DNS", True, "3l", True, "behind")]
    heading, one = members.table(queried).splitlines()
    assert heading.index("seen by the relay") == one.index("behind")


@pytest.mark.parametrize(
    ("status", "body", "word"),
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
def test_each_response_of_a_relay_has_its_own_word(
    status: int, body: object, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def get(url: str, **options: Any) -> httpx.Response:
        requests.append((url, options["params"]))
        return httpx.Response(status, json=body)

    monkeypatch.setattr(httpx, "get", get)
    account = pds_admin.Account(did=DID, handle="ann.noted.at", email="", revision="3lb")
    assert members.seen_by("https://relay.test", account) == word
    assert requests == [("https://relay.test/xrpc/com.atproto.sync.getRepoStatus", {"did": DID})]


def test_reports_a_relay_that_does_not_answer() -> None:
    account = pds_admin.Account(did=DID, handle="ann.noted.at", email="")
    assert members.seen_by("http://127.0.0.1:1", account) == "no answer"


def test_a_stack_without_a_state_gives_an_error_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = tmp_path / "pulumi"
    cli.write_text("#!/bin/sh\necho 'no stack named dev found' >&2\nexit 1\n")
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for arguments in (["members", "dev"], ["password", "dev", "ann.noted.at"]):
        assert app.main(arguments) == 2
        assert "no stack named dev found" in capsys.readouterr().err
