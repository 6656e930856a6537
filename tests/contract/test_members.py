"""The providers of accounts and handles with a real PDS, a real PLC directory and the tests' own name server.

`test_account_administration.py` has removals, invites and sign-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cli.snapshot.did_keys import did_key
from components.clients import pds_admin
from components.clients.errors import PendingError, ServiceError
from components.dynamic.accounts import AccountProvider, AccountRemovalsProvider, HandleProvider, InvitesProvider
from components.people.members import temporary_handle
from tests.contract.member_server import DOMAINS, PASSWORD, HostConnection, handle_of, log_in, made
from tests.support import fake_dns

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("clock")]


@pytest.fixture(scope="module")
def place(member_server: HostConnection) -> HostConnection:
    return member_server


# Creation.


def test_account_under_the_hostname_is_created_and_can_log_in(place: HostConnection) -> None:
    handle = f"{place.new_name()}.noted.at"
    account = made(place, handle)
    assert account["state"] == "active"
    assert place.document(account["did"])["alsoKnownAs"] == [f"at://{handle}"]
    assert log_in(place, account["did"], account["initial_password"]) == account["did"]
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], done["live_handle"]) == ("set", handle)


def test_recovery_key_is_first_among_the_rotation_keys(place: HostConnection, program_env: dict[str, str]) -> None:
    recovery_key = did_key("3ee68ca0" * 8)
    account = made(place, f"{place.new_name()}.noted.at", recovery_key=recovery_key)
    server_key = did_key(program_env["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"])
    assert place.document(account["did"])["rotationKeys"] == [recovery_key, server_key]


def test_reserved_handle_is_set_by_way_of_a_temporary_one(place: HostConnection) -> None:
    account = made(place, "support.noted.at")
    assert account["live_handle"] == temporary_handle("support.noted.at", DOMAINS)
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert handle_of(place, account["did"]) == "support.noted.at" == done["live_handle"]


def test_settings_have_the_handle_rules_of_the_server(place: HostConnection) -> None:
    for front in ("ab", "a" * 19, "a.b", "info", "10downingstreet"):
        with pytest.raises(ServiceError, match="refuses the account"):
            pds_admin.create(
                place.server, handle=f"{front}.noted.at", email="rules@noted.at", password=PASSWORD, recovery_key=""
            )
    with pytest.raises(ServiceError, match="Not a supported handle domain"):
        made(place, "ann.her-domain.test", temporary="")


# A domain of the member's own.


def test_own_domain_is_pending_until_dns_confirms_it_and_the_pds_is_not_queried(
    place: HostConnection,
) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = made(place, handle)
    provider, inputs = HandleProvider(), place.handle(account)
    pending = provider.create(inputs).outs or {}
    assert pending["state"].startswith("pending: DNS: name server "), pending["state"]
    assert f"answers nothing for _atproto.{handle}, not did={account['did']}" in pending["state"]
    assert provider.diff("id", pending, inputs).changes, "the next `up` continues"
    assert place.asked.count(f"TXT _atproto.{handle}") == 1, (
        "only the provider queried; the PDS must not cache a negative answer"
    )
    place.records[f"TXT _atproto.{handle}"] = [f"did={account['did']}", "something else"]
    done = provider.update("id", pending, inputs).outs or {}
    assert (done["state"], handle_of(place, account["did"])) == ("set", handle)
    assert place.asked.count(f"TXT _atproto.{handle}") >= 3, "the provider queries, then the PDS"
    assert place.document(account["did"])["alsoKnownAs"] == [f"at://{handle}"]
    assert not provider.diff("id", done, inputs).changes
    again = made(place, f"{place.new_name()}.her-domain.test")
    assert again["did"] != account["did"], "each account must have its own temporary handle"


def test_record_of_another_did_is_reported_and_changes_nothing(place: HostConnection) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = made(place, handle)
    place.records[f"TXT _atproto.{handle}"] = ["did=did:plc:somebodyelse"]
    pending = HandleProvider().create(place.handle(account)).outs or {}
    assert f"answers did=did:plc:somebodyelse for _atproto.{handle}, not did={account['did']}" in pending["state"]
    place.records[f"TXT _atproto.{handle}"] = ["did=did:plc:somebodyelse", f"did={account['did']}"]
    pending = HandleProvider().create(place.handle(account)).outs or {}
    assert pending["state"].startswith("pending"), "two DIDs make a handle invalid"
    assert handle_of(place, account["did"]) == account["temporary"]


def test_record_that_the_pds_does_not_see_is_pending_with_its_error(place: HostConnection) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = made(place, handle)
    with fake_dns.serve({f"TXT _atproto.{handle}": [f"did={account['did']}"]}) as hidden:
        pending = HandleProvider().create(place.handle(account, nameservers=[hidden])).outs or {}
    assert "the PDS does not see the record" in pending["state"]


# Existing accounts.


def test_lost_state_finds_the_same_accounts_with_working_passwords(place: HostConnection) -> None:
    name = place.new_name()
    handles = [f"{name}.noted.at", f"{name}.her-domain.test"]
    for handle in handles:
        first = made(place, handle)
        again = made(place, handle)
        assert again["did"] == first["did"], "no second account"
        assert again["initial_password"] == PASSWORD, "the generated password is known to work"
        other = made(place, handle, password="another" * 4)
        assert other["did"] == first["did"]
        assert other["initial_password"] == "", "a password that does not work must not be reported"
        assert log_in(place, first["did"], PASSWORD) == first["did"], "no password was set"


def test_half_created_account_is_completed(place: HostConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program dies after each step in turn; the next run completes the same account."""
    handle = f"{place.new_name()}.her-domain.test"
    provider, inputs = AccountProvider(), place.account(handle)
    real = pds_admin.Server._request

    def dies_after(prefix: str) -> Callable[..., Any]:
        def request(self: pds_admin.Server, method: str, call: str, *rest: Any) -> Any:
            answer = real(self, method, call, *rest)
            if call.startswith(prefix):
                raise KeyboardInterrupt
            return answer

        return request

    for method in ("com.atproto.sync.listRepos", "com.atproto.server.createInviteCode", "com.atproto.server.createAcc"):
        with monkeypatch.context() as patch:
            patch.setattr(pds_admin.Server, "_request", dies_after(method))
            with pytest.raises(KeyboardInterrupt):
                provider.create(inputs)
    account = provider.create(inputs).outs or {}
    mine = [one for one in pds_admin.hosted(place.server) if one.email == inputs["email"]]
    assert [one.did for one in mine] == [account["did"]]
    assert account["initial_password"] == PASSWORD
    place.records[f"TXT _atproto.{handle}"] = [f"did={account['did']}"]
    with monkeypatch.context() as patch:
        patch.setattr(pds_admin.Server, "_request", dies_after("com.atproto.admin.updateAccountHandle"))
        with pytest.raises(KeyboardInterrupt):
            HandleProvider().create(place.handle(account))
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], handle_of(place, account["did"])) == ("set", handle)


def test_lost_response_is_pending_and_creates_no_second_account(
    place: HostConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = f"{place.new_name()}.noted.at"
    provider, inputs = AccountProvider(), place.account(handle)
    real = pds_admin.Server.sign_up

    def lost(self: pds_admin.Server, body: Any) -> Any:
        real(self, body)
        raise PendingError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(pds_admin.Server, "sign_up", lost)
        pending = provider.create(inputs).outs or {}
    assert (pending["did"], pending["state"]) == ("", "pending: the connection was lost")
    assert provider.diff("id", pending, inputs).changes
    done = provider.update("id", pending, inputs).outs or {}
    assert (done["state"], done["initial_password"]) == ("active", PASSWORD)
    assert len([one for one in pds_admin.hosted(place.server) if one.handle == handle]) == 1


def test_temporary_handle_of_another_account_is_not_taken_over(place: HostConnection) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    made(place, handle)
    with pytest.raises(ServiceError, match=r"is the account did:plc:.* with another e-mail address"):
        made(place, handle, email="other@noted.at")


# Changes.


def test_handle_is_changed_with_the_stack_file_and_never_reverted(place: HostConnection) -> None:
    name = place.new_name()
    account = made(place, f"{name}.noted.at")
    provider = HandleProvider()
    first = provider.create(place.handle(account)).outs or {}
    pds_admin.rename(place.server, account["did"], f"{name}-own.noted.at")
    touched = place.handle(account, wait=1)
    seen = provider.update("id", first, touched).outs or {}
    assert handle_of(place, account["did"]) == f"{name}-own.noted.at", "the member changed it"
    assert f"write 'was: {name}-own.noted.at'" in seen["state"]
    assert not provider.diff("id", seen, touched).changes, "it is reported, and is not a change"
    renamed = {**touched, "handle": f"{name}-new.noted.at", "was": [f"{name}.noted.at"]}
    done = provider.update("id", seen, renamed).outs or {}
    assert (done["state"], handle_of(place, account["did"])) == ("set", f"{name}-new.noted.at")


def test_lost_state_keeps_a_handle_that_the_member_changed_until_it_is_listed(place: HostConnection) -> None:
    name = place.new_name()
    account = made(place, f"{name}.noted.at")
    pds_admin.rename(place.server, account["did"], f"{name}-own.noted.at")
    error = rf"is that of the account {name}-own\.noted\.at \({account['did']}\).*'was: {name}-own\.noted\.at'"
    with pytest.raises(ServiceError, match=error):
        made(place, f"{name}.noted.at")
    assert handle_of(place, account["did"]) == f"{name}-own.noted.at"
    again = made(place, f"{name}.noted.at", was=[f"{name}-own.noted.at"])
    assert again["did"] == account["did"]
    done = HandleProvider().create(place.handle(again)).outs or {}
    assert (done["state"], handle_of(place, account["did"])) == ("set", f"{name}.noted.at")


def test_refuses_the_handle_of_another_account_and_names_the_next_step(place: HostConnection) -> None:
    one, two = (made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    first = HandleProvider().create(place.handle(one)).outs or {}
    with pytest.raises(ServiceError, match=r"cannot become .*already taken.*Write another handle"):
        HandleProvider().update("id", first, place.handle(one, handle=two["handle"]))


def test_address_is_changed_with_the_stack_file_and_never_reverted(place: HostConnection) -> None:
    provider = AccountProvider()
    account = made(place, f"{place.new_name()}.noted.at")
    pds_admin.change_email(place.server, account["did"], "her-own@noted.at")
    inputs = place.account(account["handle"])
    seen = provider.update("id", account, {**inputs, "recovery_key": "x"}).outs or {}
    assert (seen["live_email"], seen["state"]) == (
        "her-own@noted.at",
        "active; its e-mail address is not the stack file's",
    )
    done = provider.update("id", seen, {**inputs, "email": "New@noted.at"}).outs or {}
    assert (done["live_email"], done["initial_password"]) == ("New@noted.at", PASSWORD)
    found = pds_admin.account(place.server, account["did"])
    assert found is not None
    assert found.email == "new@noted.at", "the server keeps addresses in lower case"
    refreshed = provider.read("id", done).outs or {}
    assert refreshed["state"] == "active"
    other = made(place, f"{place.new_name()}.noted.at")
    with pytest.raises(ServiceError, match="cannot have an e-mail address that another"):
        provider.update("id", done, {**inputs, "email": other["email"]})


def test_deleting_the_resource_does_not_change_the_account(place: HostConnection) -> None:
    account = made(place, f"{place.new_name()}.noted.at")
    for provider in (AccountProvider(), HandleProvider(), AccountRemovalsProvider(), InvitesProvider()):
        provider.delete("id", account)
    assert log_in(place, account["did"], PASSWORD) == account["did"]


def test_deleted_account_is_not_created_again(place: HostConnection) -> None:
    provider = AccountProvider()
    account = made(place, f"{place.new_name()}.noted.at")
    pds_admin.delete(place.server, account["did"])
    gone = provider.update("id", account, place.account(account["handle"], recovery_key="x")).outs or {}
    assert gone["state"].startswith(f"gone: {account['did']} was deleted or has moved away")
    assert account["handle"] not in {one.handle for one in pds_admin.hosted(place.server)}


# Errors.


def test_wrong_admin_password_is_a_one_line_error(place: HostConnection) -> None:
    for provider in (AccountProvider(), AccountRemovalsProvider()):
        inputs = place.account("wrong.noted.at", admin_password="wrong", takedown=["a"], delete={})
        with pytest.raises(ServiceError, match=r"refuses this stack's admin password.*'secrets.admin_password'"):
            provider.create(inputs)


def test_unreachable_pds_is_pending_and_keeps_the_known_outputs(place: HostConnection) -> None:
    provider = AccountProvider()
    account = made(place, f"{place.new_name()}.noted.at")
    away = place.account(account["handle"], url="http://noted.at:1", email="later@noted.at")
    pending = provider.update("id", account, away).outs or {}
    assert pending["state"].startswith("pending: http://noted.at:1 does not answer at 127.0.0.1")
    assert (pending["did"], pending["initial_password"]) == (account["did"], PASSWORD)
    back = provider.update("id", pending, {**away, "url": place.server.url}).outs or {}
    assert back["live_email"] == "later@noted.at", "the changed address must still be applied"


def test_used_invite_and_taken_address_are_errors_with_a_remedy(
    place: HostConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    existing = made(place, f"{place.new_name()}.noted.at")
    handle = f"{place.new_name()}.noted.at"
    mine = {"handle": handle, "password": PASSWORD, "recovery_key": ""}
    with pytest.raises(ServiceError, match=r"Email already taken.*that no other account here has"):
        pds_admin.create(place.server, email=existing["email"], **mine)
    real = pds_admin.Server.sign_up
    monkeypatch.setattr(
        pds_admin.Server, "sign_up", lambda self, body: real(self, {**body, "inviteCode": "noted-at-x"})
    )
    with pytest.raises(ServiceError, match=r"Another account used the invite.*Run `pulumi up` again"):
        pds_admin.create(place.server, email="new-one@noted.at", **mine)
    with pytest.raises(ServiceError, match="refuses the e-mail address"):
        pds_admin.create(place.server, email="x@mailinator.com", **mine)
