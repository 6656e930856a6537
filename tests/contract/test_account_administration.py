"""Accounts are taken down, deleted, invited and adopted, and the operator's commands on them, against a real PDS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.people import members
from cli.people.adopt_members import adopt
from components.clients import pds_admin
from components.clients.errors import ServiceError
from components.dynamic.accounts import (
    AccountRemovalsProvider,
    HandleProvider,
    InvitesProvider,
    UnlistedAccountsProvider,
)
from offline.stackfile import read_settings
from tests.contract.member_server import PASSWORD, HostConnection, Props, handle_of, log_in, made
from tools.trial.xrpc import Client, RefusedError

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("clock")]


@pytest.fixture(scope="module")
def place(member_server: HostConnection) -> HostConnection:
    return member_server


# Taken down, deleted, invited.


def test_account_is_taken_down_and_restored_as_listed(place: HostConnection) -> None:
    account = made(place, f"{place.new_name()}.noted.at")
    provider = AccountRemovalsProvider()
    listed = {**place.common(), "takedown": [account["handle"]], "delete": {}}
    done = provider.create(listed).outs or {}
    assert done["taken_down"] == {account["handle"]: account["did"]}
    with pytest.raises(RefusedError, match="taken down"):
        log_in(place, account["did"], PASSWORD)
    assert made(place, account["handle"])["did"] == account["did"], (
        "it is taken down but still found: no second account is created"
    )
    assert not provider.diff("id", done, listed).changes
    lifted = provider.update("id", done, {**listed, "takedown": []}).outs or {}
    assert lifted["taken_down"] == {}
    assert log_in(place, account["did"], PASSWORD) == account["did"]
    with pytest.raises(ServiceError, match=r"lists unknown.noted.at, which is not an account"):
        provider.create({**listed, "takedown": ["unknown.noted.at"]})


def _to_delete(place: HostConnection, delete: dict[str, str], **change: str) -> Props:
    return {**place.common(), "takedown": [], "delete": delete, **change}


def test_account_is_deleted_only_if_handle_and_did_match(place: HostConnection) -> None:
    one, two = (made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    provider = AccountRemovalsProvider()
    empty = provider.create(_to_delete(place, {})).outs or {}
    for handle, did in ((one["handle"], two["did"]), (one["handle"], "did:plc:unknown")):
        with pytest.raises(ServiceError, match=f"'delete' lists {one['handle']} as {did}.*Nothing was deleted"):
            provider.update("id", empty, _to_delete(place, {handle: did}))
    inputs = _to_delete(place, {one["handle"]: one["did"]})
    done = provider.update("id", empty, inputs).outs or {}
    assert done["deleted"] == {one["handle"]: one["did"]}
    dids = {account.did for account in pds_admin.hosted(place.server)}
    assert (one["did"] in dids, two["did"] in dids) == (False, True)
    assert provider.update("id", done, inputs).outs == done, "a second run changes nothing"
    repeated = {**done, "deleted": {}, "unfinished": inputs["delete"], "state": "pending: it timed out"}
    assert provider.update("id", repeated, inputs).outs == done, "the server deletes an account again that is gone"


def _client(place: HostConnection, token: str) -> Client:
    client = Client(str(place.client.http.base_url), "noted.at")
    client.log_in(token)
    return client


def _proof_of_identity(place: HostConnection, did: str) -> str:
    """A token that lets the member create an account with this DID on the server, as another server would sign it."""
    body = {"identifier": did, "password": PASSWORD}
    client = _client(place, place.client.procedure("com.atproto.server.createSession", body)["accessJwt"])
    lxm = "com.atproto.server.createAccount"
    return str(client.query("com.atproto.server.getServiceAuth", {"aud": "did:web:noted.at", "lxm": lxm})["token"])


def _come_back(place: HostConnection, did: str, handle: str, proof: str) -> None:
    (code,) = pds_admin.invite_codes(place.server, 1, 1)
    body = {"did": did, "handle": handle, "email": "back@her-mail.org", "password": PASSWORD, "inviteCode": code}
    assert _client(place, proof).procedure("com.atproto.server.createAccount", body)["did"] == did


def test_member_who_comes_back_after_a_deletion_is_not_deleted_by_the_next_pause(
    place: HostConnection,
) -> None:
    member = made(place, f"{place.new_name()}.noted.at")
    did, handle = member["did"], member["handle"]
    proof = _proof_of_identity(place, did)
    provider = AccountRemovalsProvider()
    inputs = _to_delete(place, {handle: did})
    done = provider.update("id", provider.create(_to_delete(place, {})).outs or {}, inputs).outs or {}
    _come_back(place, did, handle, proof)
    for state in ("paused", "open"):
        done = provider.update("id", done, _to_delete(place, {handle: did}, ingress_state=state)).outs or {}
    assert handle_of(place, did) == handle
    assert done["state"].startswith(f"'delete' still lists {handle} ({did})")
    assert provider.create(inputs).outs == done, "a replaced resource keeps the member, too"


def test_invite_codes_are_created_once_and_more_when_the_count_grows(place: HostConnection) -> None:
    provider = InvitesProvider()
    inputs = {**place.common(), "count": 2, "uses": 3}
    first = provider.create(inputs).outs or {}
    assert len(set(first["codes"])) == 2
    assert (provider.update("id", first, inputs).outs or {})["codes"] == first["codes"]
    more = provider.update("id", first, {**inputs, "count": 3}).outs or {}
    assert more["codes"][:2] == first["codes"]
    assert len(more["codes"]) == 3
    body = {"handle": f"{place.new_name()}.noted.at", "email": "invited@noted.at", "password": PASSWORD}
    assert place.client.procedure("com.atproto.server.createAccount", {**body, "inviteCode": more["codes"][0]})["did"]


def test_relay_query_gets_the_answers_that_a_real_server_gives(place: HostConnection) -> None:
    """The server answers this query of the protocol as a relay does."""
    did = made(place, f"{place.new_name()}.noted.at")["did"]
    relay = str(place.client.http.base_url).rstrip("/")
    (account,) = [one for one in pds_admin.hosted(place.server) if one.did == did]
    assert members.seen_by(relay, account) == "yes"
    assert members.seen_by(relay, replace(account, revision="z" * 13)) == "behind"
    assert members.seen_by(relay, replace(account, did="did:plc:" + "a" * 24)) == "no"
    pds_admin.take_down(place.server, did, applied=True)
    assert members.seen_by(relay, account) == "takendown"


# Accounts that sign up by themselves.


def _sign_up(place: HostConnection) -> Props:
    """An account created with an invite code that no stack file lists."""
    (code,) = pds_admin.invite_codes(place.server, 1, 1)
    handle = f"{place.new_name()}.noted.at"
    body = {"handle": handle, "email": f"{handle.replace('.', '-')}@noted.at", "password": PASSWORD, "inviteCode": code}
    return {**body, "did": str(place.client.procedure("com.atproto.server.createAccount", body)["did"])}


def test_preview_reports_an_unlisted_account_until_it_is_listed(
    place: HostConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    listed_dids = [one.did for one in pds_admin.hosted(place.server)]
    provider, inputs = (
        UnlistedAccountsProvider(),
        {**place.common(), "dids": listed_dids, "known": [], "unlisted": None},
    )
    quiet = provider.create(inputs).outs or {}
    assert (quiet["unlisted"], quiet["state"]) == ([], "done")
    assert not provider.diff("id", quiet, inputs).changes, "an empty preview stays empty"
    stranger = _sign_up(place)
    assert provider.diff("id", quiet, inputs).changes, "the stack file is unchanged; the server has changed"
    assert f"{stranger['handle']}: on the PDS, and not in the stack file" in capsys.readouterr().err
    reported = provider.update("id", quiet, inputs).outs or {}
    assert reported["unlisted"] == [stranger["handle"]]
    assert not provider.diff("id", reported, inputs).changes, "it was reported once; the warning comes from the output"
    for change in (
        {"known": [stranger["handle"]]},
        {"known": [stranger["did"]]},
        {"dids": [*listed_dids, stranger["did"]]},
    ):
        assert provider.diff("id", reported, {**inputs, **change}).changes
        assert (provider.update("id", reported, {**inputs, **change}).outs or {})["unlisted"] == []


def test_unreachable_server_does_not_change_the_preview(place: HostConnection) -> None:
    provider, inputs = UnlistedAccountsProvider(), {**place.common(), "dids": [], "known": [], "unlisted": None}
    reported = provider.create(inputs).outs or {}
    for change in ({"url": "http://noted.at:1"}, {"admin_password": "wrong"}, {"ingress_state": "paused"}):
        assert not provider.diff("id", {**reported, **change}, {**inputs, **change}).changes
    pending = provider.update("id", reported, {**inputs, "url": "http://noted.at:1"}).outs or {}
    assert (pending["state"][:8], pending["unlisted"]) == ("pending:", reported["unlisted"])


def test_adopted_account_is_written_to_the_stack_file_and_found_as_a_member(
    place: HostConnection, tmp_path: Path
) -> None:
    stranger = _sign_up(place)
    file = tmp_path / "Pulumi.club.yaml"
    file.write_text("config:\n  pds:hostname: noted.at\n  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [x]}\n")
    rest = {one.handle: {"did": one.did} for one in pds_admin.hosted(place.server) if one.did != stranger["did"]}
    adopt("club", pds_admin.hosted(place.server), rest, tmp_path).write()
    member = read_settings("club", tmp_path).members[0]
    assert (member.handle, member.email) == (stranger["handle"], stranger["email"])
    account = made(place, member.handle, email=member.email, password="e1" * 16)
    assert (account["did"], account["initial_password"]) == (stranger["did"], ""), "found, not created"
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], handle_of(place, stranger["did"])) == ("set", stranger["handle"])
    assert log_in(place, stranger["did"], PASSWORD) == stranger["did"], "nothing of the account was changed"


# Commands of the operator besides `pulumi`.


def test_new_password_is_set_and_an_unknown_handle_is_named(place: HostConnection) -> None:
    account = made(place, f"{place.new_name()}.noted.at")
    password = members.new_password(place.server, account["handle"])
    assert log_in(place, account["did"], password) == account["did"]
    with pytest.raises(RefusedError, match="Invalid identifier or password"):
        log_in(place, account["did"], PASSWORD)
    with pytest.raises(members.UnknownMemberError, match=rf"unknown\.noted\.at\. There are: .*{account['handle']}"):
        members.new_password(place.server, "unknown.noted.at")


def test_members_table_shows_the_status_of_each_member(place: HostConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    seen = {one["handle"]: "DNS", two["handle"]: "neither"}
    monkeypatch.setattr(members, "resolves_by", lambda _server, handle, _did, _nameservers: seen.get(handle, "HTTPS"))
    found = members.rows(place.server, {one["handle"]: {"did": one["did"]}})
    rows = [line.split() for line in members.table(found).splitlines()]
    newest = {
        did: place.client.query("com.atproto.sync.getLatestCommit", {"did": did})["rev"]
        for did in (one["did"], two["did"])
    }
    assert [one["handle"], one["did"], "DNS", "no", newest[one["did"]], "yes"] in rows
    assert [two["handle"], two["did"], "neither", "no", newest[two["did"]], "no"] in rows
    assert len(rows) == len(pds_admin.hosted(place.server)) + 1
