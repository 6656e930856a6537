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
from tools.trial.xrpc import RefusedError

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("clock")]


@pytest.fixture(scope="module")
def place(member_server: HostConnection) -> HostConnection:
    return member_server


# Taken down, deleted, invited.


def test_an_account_is_taken_down_and_shown_again_as_the_list_says(place: HostConnection) -> None:
    account = made(place, f"{place.new_name()}.noted.at")
    provider = AccountRemovalsProvider()
    listed = {**place.common(), "takedown": [account["handle"]], "delete": {}}
    done = provider.create(listed).outs or {}
    assert done["taken_down"] == {account["handle"]: account["did"]}
    with pytest.raises(RefusedError, match="taken down"):
        log_in(place, account["did"], PASSWORD)
    assert made(place, account["handle"])["did"] == account["did"], "hidden, and still found: no second account"
    assert not provider.diff("id", done, listed).changes
    lifted = provider.update("id", done, {**listed, "takedown": []}).outs or {}
    assert lifted["taken_down"] == {}
    assert log_in(place, account["did"], PASSWORD) == account["did"]
    with pytest.raises(ServiceError, match=r"lists unknown.noted.at, which is no account"):
        provider.create({**listed, "takedown": ["unknown.noted.at"]})


def test_an_account_is_deleted_only_where_handle_and_did_are_one(place: HostConnection) -> None:
    one, two = (made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    provider = AccountRemovalsProvider()
    for handle, did in ((one["handle"], two["did"]), (one["handle"], "did:plc:unknown")):
        with pytest.raises(ServiceError, match=f"'delete' lists {one['handle']} as {did}.*Nothing was deleted"):
            provider.create({**place.common(), "takedown": [], "delete": {handle: did}})
    asked = {**place.common(), "takedown": [], "delete": {one["handle"]: one["did"]}}
    done = provider.create(asked).outs or {}
    assert done["deleted"] == {one["handle"]: one["did"]}
    dids = {account.did for account in pds_admin.hosted(place.server)}
    assert (one["did"] in dids, two["did"] in dids) == (False, True)
    assert provider.update("id", done, asked).outs == done, "once more is nothing"


def test_invite_codes_are_made_once_and_further_ones_when_more_are_asked_for(place: HostConnection) -> None:
    provider = InvitesProvider()
    asked = {**place.common(), "count": 2, "uses": 3}
    first = provider.create(asked).outs or {}
    assert len(set(first["codes"])) == 2
    assert (provider.update("id", first, asked).outs or {})["codes"] == first["codes"]
    more = provider.update("id", first, {**asked, "count": 3}).outs or {}
    assert more["codes"][:2] == first["codes"]
    assert len(more["codes"]) == 3
    body = {"handle": f"{place.new_name()}.noted.at", "email": "invited@noted.at", "password": PASSWORD}
    assert place.client.procedure("com.atproto.server.createAccount", {**body, "inviteCode": more["codes"][0]})["did"]


def test_a_relay_is_asked_in_the_words_that_a_real_server_answers_to(place: HostConnection) -> None:
    """The server itself answers this question of the protocol as a relay does."""
    did = made(place, f"{place.new_name()}.noted.at")["did"]
    relay = str(place.client.http.base_url).rstrip("/")
    (account,) = [one for one in pds_admin.hosted(place.server) if one.did == did]
    assert members.seen_by(relay, account) == "yes"
    assert members.seen_by(relay, replace(account, revision="z" * 13)) == "behind"
    assert members.seen_by(relay, replace(account, did="did:plc:" + "a" * 24)) == "no"
    pds_admin.take_down(place.server, did, applied=True)
    assert members.seen_by(relay, account) == "takendown"


# People who sign up.


def _sign_up(place: HostConnection) -> Props:
    """A person with a code, whom no stack file names."""
    (code,) = pds_admin.invite_codes(place.server, 1, 1)
    handle = f"{place.new_name()}.noted.at"
    body = {"handle": handle, "email": f"{handle.replace('.', '-')}@noted.at", "password": PASSWORD, "inviteCode": code}
    return {**body, "did": str(place.client.procedure("com.atproto.server.createAccount", body)["did"])}


def test_who_signs_up_is_told_of_from_the_next_preview_on_until_she_is_a_member(
    place: HostConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [one.did for one in pds_admin.hosted(place.server)]
    provider, asked = UnlistedAccountsProvider(), {**place.common(), "dids": there, "known": [], "unlisted": None}
    quiet = provider.create(asked).outs or {}
    assert (quiet["unlisted"], quiet["state"]) == ([], "done")
    assert not provider.diff("id", quiet, asked).changes, "an empty preview stays empty"
    stranger = _sign_up(place)
    assert provider.diff("id", quiet, asked).changes, "the stack file is unchanged; the server has changed"
    assert f"{stranger['handle']}: on the PDS, and not in the stack file" in capsys.readouterr().err
    told = provider.update("id", quiet, asked).outs or {}
    assert told["unlisted"] == [stranger["handle"]]
    assert not provider.diff("id", told, asked).changes, "told once is known; the warning comes from the output"
    for change in ({"known": [stranger["handle"]]}, {"known": [stranger["did"]]}, {"dids": [*there, stranger["did"]]}):
        assert provider.diff("id", told, {**asked, **change}).changes
        assert (provider.update("id", told, {**asked, **change}).outs or {})["unlisted"] == []


def test_a_server_that_cannot_be_asked_changes_no_preview(place: HostConnection) -> None:
    provider, asked = UnlistedAccountsProvider(), {**place.common(), "dids": [], "known": [], "unlisted": None}
    told = provider.create(asked).outs or {}
    for change in ({"url": "http://noted.at:1"}, {"admin_password": "wrong"}, {"ingress_state": "paused"}):
        assert not provider.diff("id", {**told, **change}, {**asked, **change}).changes
    pending = provider.update("id", told, {**asked, "url": "http://noted.at:1"}).outs or {}
    assert (pending["state"][:8], pending["unlisted"]) == ("pending:", told["unlisted"])


def test_who_signed_up_is_written_into_the_stack_file_and_found_as_its_member(
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
    assert (account["did"], account["initial_password"]) == (stranger["did"], ""), "found, not made"
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], handle_of(place, stranger["did"])) == ("set", stranger["handle"])
    assert log_in(place, stranger["did"], PASSWORD) == stranger["did"], "and nothing of hers was changed"


# What an owner does beside `pulumi`.


def test_a_new_password_is_set_and_printed_and_an_unknown_handle_named(place: HostConnection) -> None:
    account = made(place, f"{place.new_name()}.noted.at")
    password = members.new_password(place.server, account["handle"])
    assert log_in(place, account["did"], password) == account["did"]
    with pytest.raises(RefusedError, match="Invalid identifier or password"):
        log_in(place, account["did"], PASSWORD)
    with pytest.raises(members.UnknownMemberError, match=rf"unknown\.noted\.at\. There are: .*{account['handle']}"):
        members.new_password(place.server, "unknown.noted.at")


def test_the_table_of_members_shows_what_each_is(place: HostConnection, monkeypatch: pytest.MonkeyPatch) -> None:
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
