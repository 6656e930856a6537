"""The providers of accounts against a real PDS, a real PLC directory and a name server of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from components import accounts
from components.dynamic import AccountProvider, HandleProvider, InvitesProvider, RemovalsProvider, UnlistedProvider
from components.members import temporary_handle
from components.probes import NotYetError, ProbeError
from tests import fake_dns
from tools import people
from tools.adopt import adopt
from tools.live.directory import PlcDirectory
from tools.live.keys import did_key
from tools.live.xrpc import Client, RefusedError
from tools.stackfile import read_settings

from .conftest import StartPds

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("clock")]

PRELOAD = Path(__file__).with_name("own_name_server.cjs")
DOMAINS = (".noted.at",)
PASSWORD = "5f" * 16
Props = dict[str, Any]


@dataclass
class Place:
    """A running PDS, its directory, and the world's only name server."""

    client: Client
    directory: PlcDirectory
    server: accounts.Server
    nameserver: str
    records: dict[str, list[str]]
    asked: list[str] = field(default_factory=list)
    made: int = 0

    def common(self) -> Props:
        return {
            "url": self.server.url,
            "ip": self.server.address,
            "open": "1",
            "admin_password": self.server.admin_password,
            "version": "1",
        }

    def account(self, handle: str, **more: Any) -> Props:
        """The inputs of an account."""
        temporary = temporary_handle(handle, DOMAINS) or ""
        email = f"{handle.replace('.', '-')}@noted.at"
        asked = {"handle": handle, "temporary": temporary, "email": email, "password": PASSWORD, "was": []}
        return {**self.common(), **asked, "recovery_key": "", "did": None, **more}

    def handle(self, account: Props, **more: Any) -> Props:
        """The inputs of the handle of an account as it was returned."""
        same = {key: account[key] for key in ("handle", "temporary", "was", "did")}
        external = not account["handle"].endswith(DOMAINS)
        place = {"nameservers": [self.nameserver], "wait": 0, "external": external}
        return {**self.common(), **same, **place, **more}

    def new_name(self) -> str:
        """A name without an account."""
        self.made += 1
        return f"member{self.made}"

    def document(self, did: str) -> Any:
        return httpx.get(f"{self.directory.url}/{did}/data", timeout=10, trust_env=False).json()


@pytest.fixture(scope="module")
def place(start_pds: StartPds, directory: PlcDirectory, program_env: dict[str, str]) -> Iterator[Place]:
    records: dict[str, list[str]] = {}
    asked: list[str] = []
    with fake_dns.serve(records, asked) as nameserver:
        change = {"NODE_OPTIONS": f"--require={PRELOAD}", "TESTS_NAME_SERVER": nameserver}
        with start_pds(program_env, change) as pds:
            port = urlsplit(pds.url).port
            server = accounts.Server(f"http://noted.at:{port}", "127.0.0.1", program_env["PDS_ADMIN_PASSWORD"])
            client = Client(pds.url, "noted.at")
            with client.http:
                yield Place(client, directory, server, nameserver, records, asked)


def _made(place: Place, handle: str, **more: Any) -> Props:
    outs = AccountProvider().create(place.account(handle, **more)).outs
    assert outs is not None
    return outs


def _handle_of(place: Place, did: str) -> str:
    found = accounts.account(place.server, did)
    assert found is not None
    return found.handle


def _log_in(place: Place, did: str, password: str) -> str:
    body = {"identifier": did, "password": password}
    return str(place.client.procedure("com.atproto.server.createSession", body)["did"])


# Made.


def test_a_member_under_the_hostname_is_made_with_her_handle_and_can_log_in(place: Place) -> None:
    handle = f"{place.new_name()}.noted.at"
    account = _made(place, handle)
    assert account["state"] == "there"
    assert place.document(account["did"])["alsoKnownAs"] == [f"at://{handle}"]
    assert _log_in(place, account["did"], account["initial_password"]) == account["did"]
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], done["live_handle"]) == ("hers", handle)


def test_her_recovery_key_is_first_among_the_rotation_keys(place: Place, program_env: dict[str, str]) -> None:
    hers = did_key("3ee68ca0" * 8)
    account = _made(place, f"{place.new_name()}.noted.at", recovery_key=hers)
    ours = did_key(program_env["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"])
    assert place.document(account["did"])["rotationKeys"] == [hers, ours]


def test_a_reserved_handle_is_reached_by_a_temporary_one(place: Place) -> None:
    account = _made(place, "support.noted.at")
    assert account["live_handle"] == temporary_handle("support.noted.at", DOMAINS)
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert _handle_of(place, account["did"]) == "support.noted.at" == done["live_handle"]


def test_the_server_s_own_handle_rules_are_those_of_the_settings(place: Place) -> None:
    for front in ("ab", "a" * 19, "a.b", "info", "10downingstreet"):
        with pytest.raises(ProbeError, match="makes no account"):
            accounts.create(
                place.server, handle=f"{front}.noted.at", email="rules@noted.at", password=PASSWORD, recovery_key=""
            )
    with pytest.raises(ProbeError, match="Not a supported handle domain"):
        _made(place, "ann.her-domain.test", temporary="")


# A domain of the member's own.


def test_a_domain_of_her_own_is_pending_until_its_name_servers_say_so_and_the_pds_is_not_asked_before(
    place: Place,
) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = _made(place, handle)
    provider, asked = HandleProvider(), place.handle(account)
    pending = provider.create(asked).outs or {}
    assert pending["state"].startswith("pending: DNS: name server "), pending["state"]
    assert f"says nothing for _atproto.{handle}, not did={account['did']}" in pending["state"]
    assert provider.diff("id", pending, asked).changes, "the next `up` goes on"
    assert place.asked.count(f"TXT _atproto.{handle}") == 1, "we asked; the PDS did not, and remembers no 'no'"
    place.records[f"TXT _atproto.{handle}"] = [f"did={account['did']}", "something else"]
    done = provider.update("id", pending, asked).outs or {}
    assert (done["state"], _handle_of(place, account["did"])) == ("hers", handle)
    assert place.asked.count(f"TXT _atproto.{handle}") >= 3, "we asked, then the PDS"
    assert place.document(account["did"])["alsoKnownAs"] == [f"at://{handle}"]
    assert not provider.diff("id", done, asked).changes
    again = _made(place, f"{place.new_name()}.her-domain.test")
    assert again["did"] != account["did"], "the temporary handle of one is not that of another"


def test_a_record_that_names_another_did_is_told_and_nothing_is_changed(place: Place) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = _made(place, handle)
    place.records[f"TXT _atproto.{handle}"] = ["did=did:plc:somebodyelse"]
    pending = HandleProvider().create(place.handle(account)).outs or {}
    assert f"says did=did:plc:somebodyelse for _atproto.{handle}, not did={account['did']}" in pending["state"]
    place.records[f"TXT _atproto.{handle}"] = ["did=did:plc:somebodyelse", f"did={account['did']}"]
    pending = HandleProvider().create(place.handle(account)).outs or {}
    assert pending["state"].startswith("pending"), "two DIDs make a handle invalid"
    assert _handle_of(place, account["did"]) == account["temporary"]


def test_a_name_server_that_only_we_see_leaves_it_pending_in_the_server_s_words(place: Place) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    account = _made(place, handle)
    with fake_dns.serve({f"TXT _atproto.{handle}": [f"did={account['did']}"]}) as hidden:
        pending = HandleProvider().create(place.handle(account, nameservers=[hidden])).outs or {}
    assert "the PDS does not see the record" in pending["state"]


# Found.


def test_with_the_state_lost_the_same_accounts_are_found_and_their_passwords_work(place: Place) -> None:
    name = place.new_name()
    handles = [f"{name}.noted.at", f"{name}.her-domain.test"]
    for handle in handles:
        first = _made(place, handle)
        again = _made(place, handle)
        assert again["did"] == first["did"], "no second account"
        assert again["initial_password"] == PASSWORD, "the generated password is known to be hers"
        other = _made(place, handle, password="another" * 4)
        assert other["did"] == first["did"]
        assert other["initial_password"] == "", "no password is claimed that does not work"
        assert _log_in(place, first["did"], PASSWORD) == first["did"], "and none was set"


def test_a_half_made_account_is_taken_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program dies at each step in turn; each next run ends with the one account."""
    handle = f"{place.new_name()}.her-domain.test"
    provider, asked = AccountProvider(), place.account(handle)
    real = accounts.Server._ask

    def dies_after(method: str) -> Callable[..., Any]:
        def ask(self: accounts.Server, verb: str, call: str, *rest: Any) -> Any:
            answer = real(self, verb, call, *rest)
            if call.startswith(method):
                raise KeyboardInterrupt
            return answer

        return ask

    for method in ("com.atproto.sync.listRepos", "com.atproto.server.createInviteCode", "com.atproto.server.createAcc"):
        with monkeypatch.context() as patch:
            patch.setattr(accounts.Server, "_ask", dies_after(method))
            with pytest.raises(KeyboardInterrupt):
                provider.create(asked)
    account = provider.create(asked).outs or {}
    mine = [one for one in accounts.hosted(place.server) if one.email == asked["email"]]
    assert [one.did for one in mine] == [account["did"]]
    assert account["initial_password"] == PASSWORD
    place.records[f"TXT _atproto.{handle}"] = [f"did={account['did']}"]
    with monkeypatch.context() as patch:
        patch.setattr(accounts.Server, "_ask", dies_after("com.atproto.admin.updateAccountHandle"))
        with pytest.raises(KeyboardInterrupt):
            HandleProvider().create(place.handle(account))
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], _handle_of(place, account["did"])) == ("hers", handle)


def test_an_answer_that_is_lost_is_pending_and_makes_no_second_account(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = f"{place.new_name()}.noted.at"
    provider, asked = AccountProvider(), place.account(handle)
    real = accounts.Server.sign_up

    def lost(self: accounts.Server, body: Any) -> Any:
        real(self, body)
        raise NotYetError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(accounts.Server, "sign_up", lost)
        pending = provider.create(asked).outs or {}
    assert (pending["did"], pending["state"]) == ("", "pending: the connection was lost")
    assert provider.diff("id", pending, asked).changes
    done = provider.update("id", pending, asked).outs or {}
    assert (done["state"], done["initial_password"]) == ("there", PASSWORD)
    assert len([one for one in accounts.hosted(place.server) if one.handle == handle]) == 1


def test_the_temporary_handle_of_somebody_else_is_not_taken(place: Place) -> None:
    handle = f"{place.new_name()}.her-domain.test"
    _made(place, handle)
    with pytest.raises(ProbeError, match=r"is the account did:plc:.* with another e-mail address"):
        _made(place, handle, email="other@noted.at")


# Changed, and left alone.


def test_a_handle_is_written_when_the_stack_file_s_changes_and_never_reverted(place: Place) -> None:
    name = place.new_name()
    account = _made(place, f"{name}.noted.at")
    provider = HandleProvider()
    first = provider.create(place.handle(account)).outs or {}
    accounts.rename(place.server, account["did"], f"{name}-own.noted.at")
    touched = place.handle(account, wait=1)
    seen = provider.update("id", first, touched).outs or {}
    assert _handle_of(place, account["did"]) == f"{name}-own.noted.at", "she changed it herself"
    assert f"write 'was: {name}-own.noted.at'" in seen["state"]
    assert not provider.diff("id", seen, touched).changes, "shown, and not asked about again"
    wished = {**touched, "handle": f"{name}-new.noted.at", "was": [f"{name}.noted.at"]}
    done = provider.update("id", seen, wished).outs or {}
    assert (done["state"], _handle_of(place, account["did"])) == ("hers", f"{name}-new.noted.at")


def test_with_the_state_lost_a_handle_that_she_changed_is_left_until_it_is_asked_for(place: Place) -> None:
    name = place.new_name()
    account = _made(place, f"{name}.noted.at")
    accounts.rename(place.server, account["did"], f"{name}-own.noted.at")
    said = rf"is that of the account {name}-own\.noted\.at \({account['did']}\).*'was: {name}-own\.noted\.at'"
    with pytest.raises(ProbeError, match=said):
        _made(place, f"{name}.noted.at")
    assert _handle_of(place, account["did"]) == f"{name}-own.noted.at"
    again = _made(place, f"{name}.noted.at", was=[f"{name}-own.noted.at"])
    assert again["did"] == account["did"]
    done = HandleProvider().create(place.handle(again)).outs or {}
    assert (done["state"], _handle_of(place, account["did"])) == ("hers", f"{name}.noted.at")


def test_a_handle_of_somebody_else_is_refused_with_the_next_step(place: Place) -> None:
    one, two = (_made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    first = HandleProvider().create(place.handle(one)).outs or {}
    with pytest.raises(ProbeError, match=r"cannot become .*already taken.*Write another handle"):
        HandleProvider().update("id", first, place.handle(one, handle=two["handle"]))


def test_an_address_is_written_when_the_stack_file_s_changes_and_never_reverted(place: Place) -> None:
    provider = AccountProvider()
    account = _made(place, f"{place.new_name()}.noted.at")
    accounts.change_email(place.server, account["did"], "her-own@noted.at")
    asked = place.account(account["handle"])
    seen = provider.update("id", account, {**asked, "recovery_key": "x"}).outs or {}
    assert (seen["live_email"], seen["state"]) == (
        "her-own@noted.at",
        "there; its e-mail address is not the stack file's",
    )
    done = provider.update("id", seen, {**asked, "email": "New@noted.at"}).outs or {}
    assert (done["live_email"], done["initial_password"]) == ("New@noted.at", PASSWORD)
    found = accounts.account(place.server, account["did"])
    assert found is not None
    assert found.email == "new@noted.at", "the server keeps addresses in lower case"
    refreshed = provider.read("id", done).outs or {}
    assert refreshed["state"] == "there"
    other = _made(place, f"{place.new_name()}.noted.at")
    with pytest.raises(ProbeError, match="cannot have an e-mail address that another"):
        provider.update("id", done, {**asked, "email": other["email"]})


def test_deleting_an_account_s_resource_does_nothing_to_the_account(place: Place) -> None:
    account = _made(place, f"{place.new_name()}.noted.at")
    for provider in (AccountProvider(), HandleProvider(), RemovalsProvider(), InvitesProvider()):
        provider.delete("id", account)
    assert _log_in(place, account["did"], PASSWORD) == account["did"]


def test_an_account_that_is_gone_is_not_made_again(place: Place) -> None:
    provider = AccountProvider()
    account = _made(place, f"{place.new_name()}.noted.at")
    accounts.delete(place.server, account["did"])
    gone = provider.update("id", account, place.account(account["handle"], recovery_key="x")).outs or {}
    assert gone["state"].startswith(f"gone: {account['did']} was deleted or has moved away")
    assert account["handle"] not in {one.handle for one in accounts.hosted(place.server)}


# Taken down, deleted, invited.


def test_an_account_is_taken_down_and_shown_again_as_the_list_says(place: Place) -> None:
    account = _made(place, f"{place.new_name()}.noted.at")
    provider = RemovalsProvider()
    listed = {**place.common(), "takedown": [account["handle"]], "delete": {}}
    done = provider.create(listed).outs or {}
    assert done["taken_down"] == {account["handle"]: account["did"]}
    with pytest.raises(RefusedError, match="taken down"):
        _log_in(place, account["did"], PASSWORD)
    assert _made(place, account["handle"])["did"] == account["did"], "hidden, and still found: no second account"
    assert not provider.diff("id", done, listed).changes
    lifted = provider.update("id", done, {**listed, "takedown": []}).outs or {}
    assert lifted["taken_down"] == {}
    assert _log_in(place, account["did"], PASSWORD) == account["did"]
    with pytest.raises(ProbeError, match=r"names nobody.noted.at, which is no account"):
        provider.create({**listed, "takedown": ["nobody.noted.at"]})


def test_an_account_is_deleted_only_where_handle_and_did_are_one(place: Place) -> None:
    one, two = (_made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    provider = RemovalsProvider()
    for handle, did in ((one["handle"], two["did"]), (one["handle"], "did:plc:unknown")):
        with pytest.raises(ProbeError, match=f"'delete' wants {one['handle']} to be {did}.*Nothing was deleted"):
            provider.create({**place.common(), "takedown": [], "delete": {handle: did}})
    asked = {**place.common(), "takedown": [], "delete": {one["handle"]: one["did"]}}
    done = provider.create(asked).outs or {}
    assert done["deleted"] == {one["handle"]: one["did"]}
    dids = {account.did for account in accounts.hosted(place.server)}
    assert (one["did"] in dids, two["did"] in dids) == (False, True)
    assert provider.update("id", done, asked).outs == done, "once more is nothing"


def test_invite_codes_are_made_once_and_further_ones_when_more_are_asked_for(place: Place) -> None:
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


def test_a_relay_is_asked_in_the_words_that_a_real_server_answers_to(place: Place) -> None:
    """The server itself answers this question of the protocol as a relay does."""
    did = _made(place, f"{place.new_name()}.noted.at")["did"]
    relay = str(place.client.http.base_url).rstrip("/")
    (account,) = [one for one in accounts.hosted(place.server) if one.did == did]
    assert people.seen_by(relay, account) == "yes"
    assert people.seen_by(relay, replace(account, revision="z" * 13)) == "behind"
    assert people.seen_by(relay, replace(account, did="did:plc:" + "a" * 24)) == "no"
    accounts.take_down(place.server, did, applied=True)
    assert people.seen_by(relay, account) == "takendown"


# People who sign up.


def _sign_up(place: Place) -> Props:
    """A person with a code, whom no stack file names."""
    (code,) = accounts.invite_codes(place.server, 1, 1)
    handle = f"{place.new_name()}.noted.at"
    body = {"handle": handle, "email": f"{handle.replace('.', '-')}@noted.at", "password": PASSWORD, "inviteCode": code}
    return {**body, "did": str(place.client.procedure("com.atproto.server.createAccount", body)["did"])}


def test_who_signs_up_is_told_of_from_the_next_preview_on_until_she_is_a_member(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [one.did for one in accounts.hosted(place.server)]
    provider, asked = UnlistedProvider(), {**place.common(), "dids": there, "known": [], "unlisted": None}
    quiet = provider.create(asked).outs or {}
    assert (quiet["unlisted"], quiet["state"]) == ([], "done")
    assert not provider.diff("id", quiet, asked).changes, "an empty preview stays empty"
    stranger = _sign_up(place)
    assert provider.diff("id", quiet, asked).changes, "nobody told the stack file; the server did"
    assert f"{stranger['handle']}: on the PDS, and not in the stack file" in capsys.readouterr().err
    told = provider.update("id", quiet, asked).outs or {}
    assert told["unlisted"] == [stranger["handle"]]
    assert not provider.diff("id", told, asked).changes, "told once is known; the warning comes from the output"
    for change in ({"known": [stranger["handle"]]}, {"known": [stranger["did"]]}, {"dids": [*there, stranger["did"]]}):
        assert provider.diff("id", told, {**asked, **change}).changes
        assert (provider.update("id", told, {**asked, **change}).outs or {})["unlisted"] == []


def test_a_server_that_cannot_be_asked_changes_no_preview(place: Place) -> None:
    provider, asked = UnlistedProvider(), {**place.common(), "dids": [], "known": [], "unlisted": None}
    told = provider.create(asked).outs or {}
    for change in ({"url": "http://noted.at:1"}, {"admin_password": "wrong"}, {"open": "paused"}):
        assert not provider.diff("id", {**told, **change}, {**asked, **change}).changes
    pending = provider.update("id", told, {**asked, "url": "http://noted.at:1"}).outs or {}
    assert (pending["state"][:8], pending["unlisted"]) == ("pending:", told["unlisted"])


def test_who_signed_up_is_written_into_the_stack_file_and_found_as_its_member(place: Place, tmp_path: Path) -> None:
    stranger = _sign_up(place)
    file = tmp_path / "Pulumi.club.yaml"
    file.write_text("config:\n  pds:hostname: noted.at\n  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [x]}\n")
    rest = {one.handle: {"did": one.did} for one in accounts.hosted(place.server) if one.did != stranger["did"]}
    adopt("club", accounts.hosted(place.server), rest, tmp_path).write()
    member = read_settings("club", tmp_path).members[0]
    assert (member.handle, member.email) == (stranger["handle"], stranger["email"])
    account = _made(place, member.handle, email=member.email, password="e1" * 16)
    assert (account["did"], account["initial_password"]) == (stranger["did"], ""), "found, not made"
    done = HandleProvider().create(place.handle(account)).outs or {}
    assert (done["state"], _handle_of(place, stranger["did"])) == ("hers", stranger["handle"])
    assert _log_in(place, stranger["did"], PASSWORD) == stranger["did"], "and nothing of hers was changed"


# What goes wrong.


def test_a_wrong_admin_password_is_a_sentence(place: Place) -> None:
    for provider in (AccountProvider(), RemovalsProvider()):
        inputs = place.account("wrong.noted.at", admin_password="wrong", takedown=[], delete={})
        with pytest.raises(ProbeError, match=r"refuses this stack's admin password.*'secrets.admin_password'"):
            provider.create(inputs)


def test_an_unreachable_pds_is_pending_and_leaves_what_was_known(place: Place) -> None:
    provider = AccountProvider()
    account = _made(place, f"{place.new_name()}.noted.at")
    away = place.account(account["handle"], url="http://noted.at:1", email="later@noted.at")
    pending = provider.update("id", account, away).outs or {}
    assert pending["state"].startswith("pending: http://noted.at:1 does not answer at 127.0.0.1")
    assert (pending["did"], pending["initial_password"]) == (account["did"], PASSWORD)
    back = provider.update("id", pending, {**away, "url": place.server.url}).outs or {}
    assert back["live_email"] == "later@noted.at", "the change of address was not forgotten"


def test_a_used_up_invite_and_a_taken_address_say_what_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    there = _made(place, f"{place.new_name()}.noted.at")
    handle = f"{place.new_name()}.noted.at"
    mine = {"handle": handle, "password": PASSWORD, "recovery_key": ""}
    with pytest.raises(ProbeError, match=r"Email already taken.*that no other account here has"):
        accounts.create(place.server, email=there["email"], **mine)
    real = accounts.Server.sign_up
    monkeypatch.setattr(accounts.Server, "sign_up", lambda self, body: real(self, {**body, "inviteCode": "noted-at-x"}))
    with pytest.raises(ProbeError, match=r"used by another account.*Run `pulumi up` again"):
        accounts.create(place.server, email="new-one@noted.at", **mine)
    with pytest.raises(ProbeError, match="no such e-mail address"):
        accounts.create(place.server, email="x@mailinator.com", **mine)


# What an owner does beside `pulumi`.


def test_a_new_password_is_set_and_printed_and_an_unknown_handle_named(place: Place) -> None:
    account = _made(place, f"{place.new_name()}.noted.at")
    password = people.new_password(place.server, account["handle"])
    assert _log_in(place, account["did"], password) == account["did"]
    with pytest.raises(RefusedError, match="Invalid identifier or password"):
        _log_in(place, account["did"], PASSWORD)
    with pytest.raises(people.UnknownMemberError, match=rf"nobody\.noted\.at\. There are: .*{account['handle']}"):
        people.new_password(place.server, "nobody.noted.at")


def test_the_table_of_members_shows_what_each_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (_made(place, f"{place.new_name()}.noted.at") for _ in range(2))
    seen = {one["handle"]: "DNS", two["handle"]: "neither"}
    monkeypatch.setattr(people, "resolves_by", lambda _server, handle, _did, _nameservers: seen.get(handle, "HTTPS"))
    found = people.rows(place.server, {one["handle"]: {"did": one["did"]}})
    rows = [line.split() for line in people.table(found).splitlines()]
    newest = {
        did: place.client.query("com.atproto.sync.getLatestCommit", {"did": did})["rev"]
        for did in (one["did"], two["did"])
    }
    assert [one["handle"], one["did"], "DNS", "no", newest[one["did"]], "yes"] in rows
    assert [two["handle"], two["did"], "neither", "no", newest[two["did"]], "no"] in rows
    assert len(rows) == len(accounts.hosted(place.server)) + 1
