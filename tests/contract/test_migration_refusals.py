"""What `./pds migrate-account` refuses between two real servers: nothing final is done, and the reason is told."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from cli.check.plc_documents import directory_data
from cli.migrate import copying, run
from cli.migrate.state import MigrationError
from components.clients import pds_admin
from components.clients.errors import ServiceError
from tests.contract.migration import (
    MEMBER_KEY,
    NEW_KEY,
    OTHER_KEY,
    Answers,
    Mover,
    data_of,
    mailed_token,
    member,
    nothing_final,
    one_direction,
)
from tests.contract.migration import here as here
from tests.contract.migration import proxy as proxy
from tests.contract.two_servers import NEW, OLD, PASSWORD
from tests.support.flawed_proxy import Answer, FlawedProxy, Request, refused

pytestmark = pytest.mark.contract


def _answer(body: object) -> Answer:
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


@one_direction
def test_refuses_before_anything_is_changed(here: Mover, proxy: FlawedProxy) -> None:
    old = here.world.old
    did = member(old, "tom")
    app = old.client.procedure("com.atproto.server.createAppPassword", {"name": "app"})["password"]
    for answers, handle, message, request in (
        (here.answers(did, old_password=app), f"tom.{OLD}", "This is an app password", {}),
        (here.answers(did, old_password="wrong"), f"tom.{OLD}", "refuses the login: Invalid identifier", {}),
        (here.answers(did), "did:web:her-domain.org", r"\.well-known/did\.json", {}),
        (here.answers(did), f"tom.{OLD}", "reserves admin", {"new_handle": f"admin.{NEW}"}),
        (here.answers(did), f"tom.{OLD}", "would stay with the old server", {"new_handle": f"other.{OLD}"}),
        (here.answers(did), f"tom.{OLD}", r"members\[0\].handle", {"new_handle": f"a.{NEW}"}),
        (here.answers(did), f"tom.{OLD}", "External handle did not resolve", {"new_handle": "tom.her-domain.test"}),
    ):
        with pytest.raises((MigrationError, ServiceError, Exception), match=message):
            here.run(handle, answers, **request)
        assert pds_admin.account(here.target.admin, did) is None, message
    nothing_final(here, did)
    proxy.rule = lambda request: refused(400, "InvalidRequest", "no") if request.method == "getSession" else None
    with pytest.raises(MigrationError, match=f"Write --from https://{OLD}"):
        here.run(f"tom.{OLD}", here.answers(did))


@one_direction
def test_refuses_what_the_guide_lists_and_nothing_is_final(here: Mover, proxy: FlawedProxy) -> None:
    """The rows of docs/guide/migrate.md, "What it refuses", that need the servers; the others are above."""
    old, new = here.world.old, here.world.new
    did, taken = member(old, "tia", blobs=0), f"tia@{NEW}"
    new.client.log_in("")
    body = {"handle": f"tia.{NEW}", "email": taken, "password": PASSWORD, "inviteCode": new.invite()}
    new.client.procedure("com.atproto.server.createAccount", body)

    other_keys = {"rotationKeys": [OTHER_KEY]}
    proxy.rule = lambda request: (
        _answer(request.real().json() | other_keys) if request.method == "getRecommendedDidCredentials" else None
    )
    with pytest.raises(MigrationError, match=f"{OLD} has none of the identity's rotation keys"):
        here.run(f"tia.{OLD}", here.answers(did))
    proxy.rule = None
    for request, message in (
        ({}, r"Handle already taken.*Choose another one with --new-handle or --email"),
        ({"new_handle": f"tina.{NEW}", "email": taken}, r"Email already taken.*--new-handle or --email"),
    ):
        with pytest.raises(MigrationError, match=message):
            here.run(f"tia.{OLD}", here.answers(did), **request)
        assert pds_admin.account(here.target.admin, did) is None
    with pytest.raises(MigrationError, match=f"{OLD} accepted no token. Nothing final was done"):
        here.run(f"tia.{OLD}", Answers(lambda: "WRONG-TOKEN"), new_handle=f"tina.{NEW}")
    with pytest.raises(MigrationError, match=f"The account is on {NEW} already, as tina.{NEW}"):
        here.run(f"tia.{OLD}", here.answers(did), new_handle=f"third.{NEW}")
    with closing(sqlite3.connect(data_of(new) / "account.sqlite")) as db:
        db.execute("update actor set deactivatedAt = null where did = ?", (did,))
        db.commit()
    with pytest.raises(MigrationError, match=f"The account is active on {NEW}, and the directory names https://{OLD}"):
        here.run(f"tia.{OLD}", here.answers(did))
    nothing_final(here, did)


@one_direction
def test_lists_what_differs_and_never_submits_another_operation_than_the_requested_one(
    here: Mover, proxy: FlawedProxy
) -> None:
    did = member(here.world.old, "uma", recoveryKey=MEMBER_KEY)

    def rule(request: Request) -> Answer | None:
        if request.method == "getPreferences":
            return refused(400, "InvalidRequest", "not for you")
        if request.method not in ("signPlcOperation", "checkAccountStatus"):
            return None
        real = request.real().json()
        if request.method == "checkAccountStatus":
            real["indexedRecords"] += 1
        else:
            real["operation"]["rotationKeys"] = [OTHER_KEY, NEW_KEY]
        return _answer(real)

    proxy.rule = rule
    with pytest.raises(MigrationError, match="signed another operation than was requested"):
        here.run(f"uma.{OLD}", here.answers(did))
    assert f"preferences: {OLD} refuses app.bsky.actor.getPreferences: not for you" in here.output
    assert f"records: {OLD} counts 6, {NEW} 5" in here.output
    nothing_final(here, did)


def _add_key(here: Mover, did: str) -> bool:
    """Add the member's key once, as `goat account plc add-rotation-key --first` does; return whether it was added."""
    if len(here.log(did)) > 1:
        return False
    old = here.world.old
    token = old.log_in(did)
    old.send(token, "com.atproto.identity.requestPlcOperationSignature")
    keys = directory_data(here.world.directory.url, did)["rotationKeys"]
    body = {"rotationKeys": [MEMBER_KEY, *keys], "token": mailed_token(old, did)}
    signed = old.client.procedure("com.atproto.identity.signPlcOperation", body)
    old.client.procedure("com.atproto.identity.submitPlcOperation", {"operation": signed["operation"]})
    old.send(token, "com.atproto.identity.requestPlcOperationSignature")
    return True


@one_direction
@pytest.mark.parametrize("moment", ["agree", "token", "late-writes"])
def test_a_rotation_key_that_is_added_after_the_list_is_never_dropped(
    here: Mover, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    old, name = here.world.old, f"eve-{moment}"
    did = member(old, name, blobs=0)

    def at(present: str) -> bool:
        return present == moment and _add_key(here, did)

    class Member(Answers):
        def agree(self, text: str) -> bool:
            at("agree")
            return super().agree(text)

    copied = run._copy_late_writes
    monkeypatch.setattr(run, "_copy_late_writes", lambda *arguments: (at("late-writes"), copied(*arguments)))
    with pytest.raises(MigrationError, match=r"was changed since the list above was made\. Nothing final was done"):
        here.run(f"{name}.{OLD}", Member(lambda: (at("token"), mailed_token(old, did))[1]))
    assert directory_data(here.world.directory.url, did)["services"]["atproto_pds"]["endpoint"] == f"https://{OLD}"
    here.said.clear()
    assert here.run(f"{name}.{OLD}", here.answers(did)) == 0
    assert directory_data(here.world.directory.url, did)["rotationKeys"] == [MEMBER_KEY, NEW_KEY]
    assert f"rotation key {MEMBER_KEY}: not of these two servers; stays first" in here.output


@one_direction
def test_a_rotation_key_that_is_added_while_it_copies_is_on_the_list(
    here: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    did = member(here.world.old, "fay", blobs=0)
    copied = copying.copy_preferences
    monkeypatch.setattr(run, "copy_preferences", lambda *arguments: (_add_key(here, did), copied(*arguments))[1])
    assert here.run(f"fay.{OLD}", here.answers(did)) == 0
    assert f"rotation key {MEMBER_KEY}: not of these two servers; stays first" in here.output
    assert directory_data(here.world.directory.url, did)["rotationKeys"] == [MEMBER_KEY, NEW_KEY]
