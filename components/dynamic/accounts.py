"""Providers that work on the PDS over HTTPS: accounts, handles, removals, invite codes, unlisted accounts."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from pulumi.dynamic import CreateResult, DiffResult, ReadResult

from components.clients import dns, pds_admin
from components.clients.console import show
from components.clients.errors import PendingError, ServiceError
from components.clients.wait import until
from components.dynamic.base import PollingProvider, Props, hide_traceback
from components.settings.ingress_state import IngressState

_PREVIEW_TIMEOUT = 5  # seconds: a preview does not wait for a host that hangs


NOT_QUERIED = {
    IngressState.CLOSED: "the hostname does not resolve yet",
    IngressState.PAUSED: "the PDS is paused",
}
"""Values of the input `ingress_state` with which the PDS is not queried, and the reason."""


class PdsProvider(PollingProvider):
    """A provider that works on the PDS over HTTPS, from the inputs `url`, `ip`, `admin_password` and
    `ingress_state`.

    Work that is not possible yet is not a failure: output `state` begins with 'pending', the outputs in `FOUND` stay
    unchanged, and the next `up` continues. Members own their accounts, so this provider undoes none of their changes.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {}
    """Outputs beside `state`, and their values before the first run."""

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        """The changed outputs, including `state`."""
        raise NotImplementedError

    def _run(self, news: Props, olds: Props) -> Props:
        before = {key: olds.get(key) or empty for key, empty in self.FOUND.items()}
        if news["ingress_state"] == IngressState.PAUSED and olds and self._is_done(olds):
            return {**news, **before, "state": olds["state"]}
        if news["ingress_state"] in NOT_QUERIED:
            return {**news, **before, "state": f"pending: {NOT_QUERIED[news['ingress_state']]}"}
        try:
            return {**news, **before, **self._apply(pds_admin.server_of(news), news, before)}
        except PendingError as error:
            return {**news, **before, "state": f"pending: {error}"}

    def _is_done(self, olds: Props) -> bool:
        return not str(olds.get("state", "pending")).startswith("pending")


class AccountProvider(PdsProvider, pickled_as="AccountProvider"):
    """One member's account: created once, or found. A changed e-mail address of the stack file is written to it.

    An account is found by its handle, a previous handle of the member (`was`), or the temporary one. An account with
    the member's e-mail address and another handle is an error with a remedy: adopting it would lose the records of its
    handle. Output `initial_password` is empty if it is not known to be the account's.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {
        "did": "",
        "live_handle": "",
        "live_email": "",
        "applied_email": "",
        "initial_password": "",
    }

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        if not olds["did"]:
            account = self._find(pds_admin.hosted(server), news)
            password = news["password"]
            if account is None:
                account = pds_admin.create(
                    server,
                    handle=news["temporary"] or news["handle"],
                    email=news["email"],
                    password=password,
                    recovery_key=news["recovery_key"],
                )
            elif not server.accepts_password(account.did, password):
                password = ""
            return {**_outputs(account, news), "applied_email": news["email"], "initial_password": password}
        account = pds_admin.account(server, olds["did"])
        if account is None:
            return {"state": f"gone: {olds['did']} was deleted or has moved away. No other account is created"}
        if olds["applied_email"] != news["email"] and account.email.lower() != news["email"].lower():
            pds_admin.change_email(server, account.did, news["email"])
            account = replace(account, email=news["email"], confirmed=False)
        return {**_outputs(account, news), "applied_email": news["email"]}

    @staticmethod
    def _find(accounts: Sequence[pds_admin.Account], news: Props) -> pds_admin.Account | None:
        by_handle = {account.handle: account for account in accounts}
        by_email = {account.email.lower(): account for account in accounts}
        unfinished = by_handle.get(news["temporary"])
        if unfinished and unfinished.email.lower() != news["email"].lower():
            raise ServiceError(
                f"{news['temporary']}, the temporary handle for {news['handle']}, is the account {unfinished.did} "
                "with another e-mail address. Ask the member for another handle."
            )
        known_handles = [handle for handle in (news["handle"], *news["was"]) if handle in by_handle]
        member = by_handle[known_handles[0]] if known_handles else unfinished
        other = by_email.get(news["email"].lower())
        if member is None and other:
            raise ServiceError(
                f"The e-mail address of {news['handle']} is that of the account {other.handle} ({other.did}). If it is "
                f"this member's, write 'was: {other.handle}' in its entry to change it, or "
                f"'handle: {other.handle}' to keep it. If not, write another address."
            )
        return member

    @hide_traceback
    def read(self, id_: str, props: Props) -> ReadResult:
        """The account's current state. If the PDS does not answer, a refresh of everything else is not affected."""
        if props.get("did") and props["ingress_state"] not in NOT_QUERIED:
            with suppress(PendingError):
                account = pds_admin.account(pds_admin.server_of(props), props["did"])
                outputs = _outputs(account, props) if account else {"live_handle": ""}
                return ReadResult(id_, {**props, **outputs})
        return ReadResult(id_, props)


def _outputs(account: pds_admin.Account, news: Props) -> Props:
    other = "" if account.email.lower() == news["email"].lower() else "; its e-mail address is not the stack file's"
    live = {"did": account.did, "live_handle": account.handle, "live_email": account.email}
    return {**live, "state": f"active{other}"}


class HandleProvider(PdsProvider, pickled_as="HandleProvider"):
    """One account's handle: changed if the stack file's handle changes, or if the account still has the temporary one.

    A member's own domain becomes the handle once all of its own name servers name the DID, for at most `wait` seconds.
    A handle that the member changed is reported and kept.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"live_handle": "", "applied_handle": "", "applied_was": []}

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        did, handle = news["did"], news["handle"]
        account = pds_admin.account(server, did) if did else None
        if account is None:
            return {"state": "pending: there is no account yet"} if not did else {"state": f"gone: {did}"}
        done = {"live_handle": handle, "applied_handle": handle, "applied_was": news["was"]}
        if account.handle == handle:
            return {**done, "state": "set"}
        option_changed = olds["applied_handle"] not in ("", handle)
        is_temporary = account.handle == news["temporary"]
        was_added = account.handle in news["was"] and olds["applied_was"] != news["was"]
        if not (option_changed or is_temporary or was_added):
            live = account.handle
            advice = f"write 'was: {live}' in its entry to change it, or this handle to keep it"
            return {**done, "live_handle": live, "state": f"the account's handle is {live}: {advice}"}
        if news["external"]:
            try:
                until(lambda: dns.names_did(handle, did, list(news["nameservers"])), float(news["wait"]), "DNS", 5)
            except ServiceError as error:
                raise PendingError(str(error)) from error
        pds_admin.rename(server, did, handle)
        return {**done, "state": "set"}


class AccountRemovalsProvider(PdsProvider, pickled_as="AccountRemovalsProvider"):
    """Accounts to take down and to delete, as the stack file lists them. Removal from the first list restores the
    account.

    Everything is looked up before anything is done. An entry of `delete` is applied once: a member who comes back later
    is kept and reported. Entries with which the resource is created count as applied, because a lost or replaced
    state cannot tell them from new ones. Output `taken_down` keeps each entry's DID, `deleted` the applied entries,
    `unfinished` those whose deletion did not succeed yet, and `returned` the applied ones whose account is on the PDS.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"taken_down": {}, "deleted": {}, "unfinished": {}, "returned": {}}

    @hide_traceback
    def create(self, props: Props) -> CreateResult:
        return CreateResult(id_=type(self).__name__, outs=self._run(props, {"deleted": dict(props["delete"])}))

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        for handle, did in _news["delete"].items() - (_olds.get("deleted") or {}).items():
            show(f"{handle} ({did}): `pulumi up` deletes this account permanently, if it is on the PDS")
        return super().diff(_id, _olds, _news)

    @hide_traceback
    def read(self, id_: str, props: Props) -> ReadResult:
        """Which deleted accounts are on the PDS again."""
        deleted = props.get("deleted")
        if deleted and self._is_done(props) and props["ingress_state"] not in NOT_QUERIED:
            with suppress(PendingError):
                accounts = pds_admin.hosted(pds_admin.server_of(props))
                return ReadResult(id_, {**props, **_returned(accounts, deleted)})
        return ReadResult(id_, props)

    def _run(self, news: Props, olds: Props) -> Props:
        listed = news["delete"].items()
        of_lines = {key: dict((olds.get(key) or {}).items() & listed) for key in ("deleted", "unfinished", "returned")}
        if not news["takedown"] and not news["delete"] and not olds.get("taken_down"):
            return {**news, **self.FOUND, "state": "done"}
        return super()._run(news, {**olds, **of_lines} if olds else olds)

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        accounts = pds_admin.hosted(server)
        taken_down = {
            entry: olds["taken_down"].get(entry) or _hosted_did(accounts, entry) for entry in news["takedown"]
        }
        added = {handle: did for handle, did in news["delete"].items() if olds["deleted"].get(handle) != did}
        handles = {account.did: account.handle for account in accounts}
        _refuse_other_accounts(added, handles, olds["unfinished"])
        returned = _returned(accounts, olds["deleted"])
        done: Props = {key: dict(olds[key]) for key in self.FOUND} | returned
        try:
            for entry, did in taken_down.items():
                if did not in olds["taken_down"].values():
                    pds_admin.take_down(server, did, applied=True)
                done["taken_down"][entry] = did
            for entry, did in olds["taken_down"].items():
                if did not in taken_down.values() and did in handles:
                    pds_admin.take_down(server, did, applied=False)
                if entry not in taken_down:
                    del done["taken_down"][entry]
            for handle, did in added.items():
                if did in handles or handle in done["unfinished"]:
                    done["unfinished"][handle] = did
                    _delete(server, did)
                done["unfinished"].pop(handle, None)
                done["deleted"][handle] = did
        except ServiceError as error:
            # The outputs keep what succeeded. Otherwise the next run would delete a member who is back by then.
            return {**done, "state": f"pending: {error}"}
        return done


def _refuse_other_accounts(added: Mapping[str, str], handles: Mapping[str, str], unfinished: Mapping[str, str]) -> None:
    """Raise ServiceError if an entry's handle and DID are not one account. `handles` maps each hosted DID to its
    handle. An unfinished deletion may have freed the handle."""
    for handle, did in added.items():
        if did in handles and handles[did] != handle:
            raise ServiceError(
                f"'delete' lists {handle} as {did}, but this DID is {handles[did]} here. Nothing was deleted. "
                "Write the current handle and DID."
            )
        if did not in handles and handle in handles.values() and unfinished.get(handle) != did:
            raise ServiceError(
                f"'delete' lists {handle} as {did}, but here it is another account. Nothing was deleted. Remove it "
                "from 'delete', or write the DID that `pulumi stack output members` shows."
            )


def _delete(server: pds_admin.Server, did: str) -> None:
    """Delete an account, or what a failed deletion left of it. The server can repeat a deletion; it reports NotFound
    if blobs are in a bucket and the repository, which lists them, is gone."""
    try:
        pds_admin.delete(server, did)
    except pds_admin.RefusedError as refusal:
        if refusal.error != "NotFound" or pds_admin.account(server, did):
            raise


def _returned(accounts: Sequence[pds_admin.Account], deleted: Mapping[str, str]) -> Props:
    """The outputs `returned` and `state`, by the entries of `delete` that were applied before."""
    handles = {account.did: account.handle for account in accounts}
    returned = {handle: did for handle, did in deleted.items() if did in handles}
    if not returned:
        return {"returned": {}, "state": "done"}
    names = ", ".join(f"{handles[did]} ({did})" for did in returned.values())
    return {
        "returned": returned,
        "state": f"'delete' still lists {names}, but an entry is applied only once. The account is on the PDS and is "
        "kept. Remove the entry. To delete the account, run `pulumi up` without the entry, then add the entry again",
    }


def _hosted_did(accounts: Sequence[pds_admin.Account], entry: str) -> str:
    dids = [account.did for account in accounts if entry in (account.did, account.handle)]
    if not dids:
        raise ServiceError(
            f"'takedown' lists {entry}, which is not an account of this PDS. Write the current handle or DID."
        )
    return dids[0]


class InvitesProvider(PdsProvider, pickled_as="InvitesProvider"):
    """Invite codes, created once. A larger `count` creates additional ones. No code is ever revoked."""

    FOUND: ClassVar[Mapping[str, Any]] = {"codes": []}

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        codes = list(olds["codes"])
        missing = int(news["count"]) - len(codes)
        if missing > 0:
            codes += pds_admin.invite_codes(server, missing, int(news["uses"]))
        return {"codes": codes, "state": "created"}


class UnlistedAccountsProvider(PdsProvider, pickled_as="UnlistedAccountsProvider"):
    """Handles of accounts on this PDS that the stack file does not list, as output `unlisted`.

    Its diff queries the server, because the stack file does not change at a sign-up. It only reads, and an unreachable
    server is not a change. A preview is therefore empty until an account appears or disappears.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"unlisted": []}

    def _apply(self, server: pds_admin.Server, news: Props, olds: Props) -> Props:
        return {"unlisted": self._unlisted(server, news["dids"], news["known"]), "state": "done"}

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        result = super().diff(_id, _olds, _news)
        if not result.changes and _olds["ingress_state"] not in NOT_QUERIED:
            # Resources with pending changes report an unreachable server.
            with suppress(ServiceError):
                server = replace(pds_admin.server_of(_olds), timeout=_PREVIEW_TIMEOUT)
                now = self._unlisted(server, _olds["dids"], _olds["known"])
                if now != _olds["unlisted"]:
                    show(f"{', '.join(now) or 'no account'}: on the PDS, and not in the stack file")
                    return DiffResult(changes=True, replaces=[])
        return result

    @staticmethod
    def _unlisted(server: pds_admin.Server, dids: Sequence[str], known: Sequence[str]) -> list[str]:
        accounts = pds_admin.hosted(server)
        return sorted(
            account.handle
            for account in accounts
            if account.did not in dids and not {account.did, account.handle} & set(known)
        )
