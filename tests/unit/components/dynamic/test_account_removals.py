"""When an entry of `delete` deletes an account, and when it must not. `test_account_administration.py` in the contract
tests runs the same provider against a real PDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.clients import pds_admin
from components.clients.errors import PendingError, ServiceError
from components.dynamic.accounts import AccountRemovalsProvider

Props = dict[str, Any]
ANN, BOB, EVE = (f"did:plc:{name * 8}" for name in ("ann", "bob", "eve"))


@dataclass
class Server:
    """A PDS that answers the provider's queries as the real one, and refuses any other."""

    accounts: dict[str, str]
    """DID to handle."""
    deleted: list[str] = field(default_factory=list)
    hidden: list[tuple[str, bool]] = field(default_factory=list)
    half_deleted: set[str] = field(default_factory=set)
    """Not listed any more; the server repeats the deletion."""
    fault: Callable[[str], None] = lambda _did: None
    """Called before each change."""
    queries: int = 0

    def query(self, method: str, **params: Any) -> Any:
        self.queries += 1
        listed = [did for did in self.accounts if did not in self.half_deleted]
        match method:
            case "com.atproto.sync.listRepos":
                return {"repos": [{"did": did, "rev": "3k"} for did in listed]}
            case "com.atproto.admin.getAccountInfos":
                return {"infos": [self._info(did) for did in params["dids"]]}
            case "com.atproto.admin.getAccountInfo" if params["did"] in self.accounts:
                return self._info(params["did"])
            case "com.atproto.admin.getAccountInfo":
                raise pds_admin.RefusedError(method, 400, "NotFound", "Account not found")
        raise AssertionError(method)

    def _info(self, did: str) -> Props:
        return {"did": did, "handle": self.accounts[did], "email": f"{self.accounts[did]}@example.org"}

    def procedure(self, method: str, **body: Any) -> Any:
        match method:
            case "com.atproto.admin.deleteAccount":
                self.fault(body["did"])
                self.deleted.append(body["did"])
                self.accounts.pop(body["did"], None)
            case "com.atproto.admin.updateSubjectStatus":
                self.fault(body["subject"]["did"])
                self.hidden.append((body["subject"]["did"], body["takedown"]["applied"]))
            case _:
                raise AssertionError(method)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server({ANN: "ann.noted.at", BOB: "bob.noted.at", EVE: "eve.noted.at"})
    monkeypatch.setattr(pds_admin, "server_of", lambda _props: found)
    return found


def _inputs(delete: dict[str, str] | None = None, takedown: tuple[str, ...] = (), state: str = "open") -> Props:
    place = {"url": "https://noted.at", "ip": "192.0.2.1", "admin_password": "x", "ingress_state": state}
    return {**place, "takedown": list(takedown), "delete": delete or {}}


def _made(**inputs: Any) -> Props:
    return AccountRemovalsProvider().create(_inputs(**inputs)).outs or {}


def _up(before: Props, **inputs: Any) -> Props:
    return AccountRemovalsProvider().update("id", before, _inputs(**inputs)).outs or {}


def _changes(before: Props, **inputs: Any) -> bool:
    return bool(AccountRemovalsProvider().diff("id", before, _inputs(**inputs)).changes)


DELETE_ANN = {"ann.noted.at": ANN}


@pytest.fixture
def deleted(server: Server) -> Props:
    """The outputs after the entry of Ann was added and applied."""
    state = _up(_made(), delete=DELETE_ANN)
    assert (server.deleted, state["deleted"], state["state"]) == ([ANN], DELETE_ANN, "done")
    return state


@pytest.mark.parametrize("handle", ["ann.noted.at", "ann.her-domain.org"])
def test_member_who_comes_back_is_kept_and_reported_whatever_changes(
    server: Server, deleted: Props, handle: str
) -> None:
    server.accounts[ANN] = handle
    paused = _up(deleted, delete=DELETE_ANN, state="paused")
    opened = _up(paused, delete=DELETE_ANN)
    assert server.deleted == [ANN], "a pause, as of every restore, must not delete her again"
    assert opened["returned"] == DELETE_ANN
    assert opened["state"].startswith(f"'delete' still lists {handle} ({ANN})")
    assert not _changes(opened, delete=DELETE_ANN), "the state is reported at every preview, and changes nothing"
    assert _up(opened, delete={})["state"] == "done"


def test_entry_that_is_removed_and_added_again_deletes_again(server: Server, deleted: Props) -> None:
    server.accounts[ANN] = "ann.noted.at"
    without = _up(_up(deleted, delete=DELETE_ANN), delete={}, state="paused")
    assert _up(without, delete=DELETE_ANN)["deleted"] == DELETE_ANN
    assert server.deleted == [ANN, ANN], "the operator asked for it twice"


def test_other_member_with_the_handle_of_a_deleted_one_is_kept(server: Server, deleted: Props) -> None:
    other = "did:plc:other"
    server.accounts[other] = "ann.noted.at"
    state = _up(deleted, delete=DELETE_ANN, state="closed")
    assert _up(state, delete=DELETE_ANN)["state"] == "done"
    with pytest.raises(ServiceError, match=r"here it is another account\. Nothing was deleted"):
        _up(_made(), delete=DELETE_ANN)
    assert other in server.accounts


@pytest.mark.parametrize("first", ["open", "paused", "closed"])
def test_new_or_replaced_resource_deletes_no_account(server: Server, first: str) -> None:
    """A lost state may have deleted Ann before she came back."""
    state = _made(delete=DELETE_ANN, state=first)
    state = _up(state, delete=DELETE_ANN)
    assert server.deleted == []
    assert state["returned"] == DELETE_ANN
    assert "Remove the entry" in state["state"]


def test_failed_deletion_is_repeated_and_the_others_are_not(server: Server) -> None:
    def hangs(did: str) -> None:
        if did == BOB:
            raise PendingError("https://noted.at does not answer at 192.0.2.1 (timed out)")

    both = {**DELETE_ANN, "bob.noted.at": BOB}
    server.fault = hangs
    state = _up(_made(), delete=both)
    assert state["state"].startswith("pending: https://noted.at does not answer")
    assert (state["deleted"], state["unfinished"]) == (DELETE_ANN, {"bob.noted.at": BOB})
    server.accounts[ANN] = "ann.noted.at"
    server.fault = lambda _did: None
    state = _up(state, delete=both)
    assert server.deleted == [ANN, BOB], "Ann is back before Bob was deleted"
    assert (state["unfinished"], state["returned"]) == ({}, DELETE_ANN)


def test_account_that_the_server_lists_no_more_is_deleted_to_the_end(server: Server) -> None:
    """The server removes the row that lists the account first, and its files later."""

    def dies(did: str) -> None:
        server.half_deleted.add(did)
        raise PendingError("https://noted.at does not answer at 192.0.2.1 (reset)")

    server.fault = dies
    state = _up(_made(), delete=DELETE_ANN)
    server.accounts[EVE] = "ann.noted.at"  # the handle is free again
    server.fault = lambda _did: None
    assert _up(state, delete=DELETE_ANN)["unfinished"] == {}
    assert server.deleted == [ANN]


def test_repeated_deletion_ends_if_nothing_is_left_to_delete(server: Server) -> None:
    """With blobs in a bucket the server needs the repository, which lists them."""

    def gone(did: str) -> None:
        del server.accounts[did]
        raise PendingError("https://noted.at does not answer at 192.0.2.1 (timed out)")

    def nothing(_did: str) -> None:
        raise pds_admin.RefusedError("com.atproto.admin.deleteAccount", 400, "NotFound", "Repo not found")

    server.fault = gone
    state = _up(_made(), delete=DELETE_ANN)
    server.fault = nothing
    assert _up(state, delete=DELETE_ANN)["deleted"] == DELETE_ANN
    state = _up(_made(), delete={"bob.noted.at": BOB})
    assert "Repo not found" in state["state"], "Bob is still an account"


def test_takedown_that_failed_half_way_is_lifted_later(server: Server) -> None:
    def refuses(did: str) -> None:
        if did == BOB:
            raise PendingError("https://noted.at answers 503")

    server.fault = refuses
    state = _up(_made(), takedown=("ann.noted.at", "bob.noted.at"))
    assert state["taken_down"] == {"ann.noted.at": ANN}
    assert _up(state)["taken_down"] == {}
    assert server.hidden == [(ANN, True), (ANN, False)], "otherwise Ann would be hidden for ever"


def test_preview_names_each_account_that_will_be_deleted(
    server: Server, deleted: Props, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _changes(deleted, delete={**DELETE_ANN, "bob.noted.at": BOB})
    told = capsys.readouterr().err
    assert f"bob.noted.at ({BOB}): `pulumi up` deletes this account permanently" in told
    assert ANN not in told


def test_refresh_reports_a_member_who_is_back_and_forgets_no_deletion(server: Server, deleted: Props) -> None:
    provider = AccountRemovalsProvider()
    assert (provider.read("id", deleted).outs or {}) == deleted
    server.accounts[ANN] = "ann.noted.at"
    seen = provider.read("id", deleted).outs or {}
    assert (seen["returned"], seen["deleted"]) == (DELETE_ANN, DELETE_ANN)
    paused = {**deleted, "ingress_state": "paused"}
    assert provider.read("id", paused).outs == paused


def test_stack_without_entries_is_not_queried(server: Server) -> None:
    assert _made(state="closed")["state"] == "done", "there is nothing to be pending"
    assert server.queries == 0
