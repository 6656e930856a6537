"""The providers of our dynamic resources, for tasks that no provider supports; they run where `pulumi` runs.

FROZEN: live stacks hold these providers pickled by module path and class name. Renaming this module or a provider class
breaks every one of them; a test pins both. A change of behaviour raises the provider's VERSION instead, which is an
input. Only the standard library and Pulumi are imported at the top, because every operation loads this module.

Each provider defines diff, read, update and delete, and returns every output from create and update alike: the engine
replaces all outputs by the result of update. Providers never delete anything, except ClubRoom, which renames the club's
data directory. One `delete` only refuses. `facts.py` has the resources of these providers.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult

from components import accounts, identity, loaded, needs, probes, resolving, rooms

Props = dict[str, Any]
T = TypeVar("T")

_THE_SDKS_HOST = "pulumi.dynamic.__main__"

_HOST_DEADLINE = 900  # seconds: a droplet's first boot installs Docker and fetches Nomad
_SETTLE_DEADLINE = 900  # seconds: an image pull on a first start, a stop of at most 60, a start and a check
_STOP_DEADLINE = 150  # seconds: a server has 60 to stop, after two without new requests
_NOTICE_DEADLINE = 30  # seconds: Nomad's template notices a written variable within some
_RUN_DEADLINE = 300  # seconds: a placement, a container of a present image, one transaction
_PREVIEW_TIMEOUT = 5  # seconds: a preview does not wait for a host that hangs
_HTTPS_DEADLINE = 180  # seconds: one certificate order
_RELOAD_DEADLINE = 150  # seconds: the change script of Caddy's job has 120


def _in_words(operation: Callable[..., T]) -> Callable[..., T]:
    """Wraps `operation` so that the engine gets only the message of a ProbeError.

    The SDK's host of dynamic providers sends a formatted traceback (pulumi/dynamic/__main__.py), whose length is
    Python's `tracebacklimit`. That setting is process-wide, so it is not changed in any other process.
    """

    @functools.wraps(operation)
    def told(*arguments: Any) -> T:
        sys.__dict__.pop("tracebacklimit", None)
        try:
            return operation(*arguments)
        except probes.ProbeError:
            if getattr(sys.modules["__main__"].__spec__, "name", "") == _THE_SDKS_HOST:
                sys.tracebacklimit = 0
            raise

    return told


class Wait(ResourceProvider):
    """A provider whose create and update are the same wait. Outputs are the inputs and the results."""

    VERSION = "1"
    serialize_as_secret_always = False

    def _run(self, news: Props, olds: Props) -> Props:
        raise NotImplementedError

    def _settled(self, olds: Props) -> bool:
        """Whether the last run succeeded; if not, the next `up` continues."""
        return True

    @_in_words
    def create(self, props: Props) -> CreateResult:
        return CreateResult(id_=type(self).__name__.strip("_"), outs=self._run(props, {}))

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        # Outputs are among the inputs as None, which declares them; they are not requested values.
        wishes = {key: value for key, value in _news.items() if key != "__provider" and value is not None}
        changed = any(_olds.get(key) != value for key, value in wishes.items())
        settled = self._settled(_olds)
        if not settled and _olds.get("state"):
            # Explains why the preview of an unchanged stack is not empty.
            probes.say(f"{_news.get('handle') or type(self).__name__.removesuffix('Provider')}: {_olds['state']}")
        return DiffResult(changes=changed or not settled, replaces=[])

    def read(self, id_: str, props: Props) -> ReadResult:
        return ReadResult(id_, props)

    @_in_words
    def update(self, _id: str, _olds: Props, _news: Props) -> UpdateResult:
        return UpdateResult(outs=self._run(_news, _olds))

    def delete(self, _id: str, _props: Props) -> None:
        return None


def _api(props: Props) -> probes.NomadApi:
    return probes.NomadApi(
        props["address"],
        props["ca_pem"],
        props["cert_pem"],
        props["key_pem"],
        props.get("token"),
        props.get("namespace") or "default",
    )


class StackIdentityProvider(Wait):
    """Stores what must not change, and refuses another hostname, region or volume already at the preview."""

    def _run(self, news: Props, olds: Props) -> Props:
        self._refuse(olds, news)
        return dict(news)

    @_in_words
    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        self._refuse(_olds, _news)
        return super().diff(_id, _olds, _news)

    @staticmethod
    def _refuse(olds: Props, news: Props) -> None:
        if not olds:
            return
        forgotten = {"hostname": news["hostname"]} if probes.said(identity.FORGET) == olds["hostname"] else {}
        if fault := identity.fault({**olds, **forgotten}, news):
            raise probes.ProbeError(fault)


class BootstrapProvider(Wait):
    """Waits for Nomad and bootstraps its ACLs with a predefined token.

    Output `cluster_id` is the token's accessor ID, which Nomad generates at each bootstrap: an emptied Nomad shows as a
    changed `cluster_id`. 'Already done', with our token known, is the normal case after a rebuild.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = _api(news)
        api.wait_for_leader(_HOST_DEADLINE)
        return {**news, "cluster_id": api.bootstrap(news["token"])}

    def _settled(self, olds: Props) -> bool:
        return bool(olds.get("cluster_id"))

    @_in_words
    def read(self, id_: str, props: Props) -> ReadResult:
        """A Nomad that answers and does not know the token was emptied: the next `up` bootstraps and refills it."""
        return ReadResult(id_, {**props, "cluster_id": _api(props).accessor(props["token"]) or ""})


class OffersProvider(Wait):
    """Checks an existing Nomad for everything that the PDS needs, before anything is put into it."""

    def _run(self, news: Props, olds: Props) -> Props:
        needs.require(_api(news), news["wants"])
        return dict(news)


class ClubRoomProvider(Wait):
    """A club's namespace and volume on this host. Only this provider's `delete` removes something; the data are
    renamed, never deleted.

    Output `volume_id` is empty if a refresh found none: the next `up` creates it again, on the same directory.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        made = rooms.make(_api(news), news["club"], news["volume"], int(news["disk_gib"]))
        return {**news, "volume_id": made}

    def _settled(self, olds: Props) -> bool:
        return bool(olds.get("volume_id"))

    @_in_words
    def read(self, id_: str, props: Props) -> ReadResult:
        return ReadResult(id_, {**props, "volume_id": rooms.there(_api(props), props["club"], props["volume"])})

    @_in_words
    def delete(self, _id: str, _props: Props) -> None:
        rooms.give_up(_api(_props), _props["club"], _props["volume"])


class HostInUseProvider(Wait):
    """Refuses its deletion while the PDS of a club is on the host: destroying the host would stop that PDS, and its own
    stack could not be destroyed any more. A resource that depends on all others of a stack is deleted before them."""

    def _run(self, news: Props, olds: Props) -> Props:
        return dict(news)

    @_in_words
    def delete(self, _id: str, _props: Props) -> None:
        rooms.refuse_in_use(_api(_props), _props["clubs"], _props["stack"], _props["urn"])


class ResolvesProvider(Wait):
    """Queries the zone's own name servers for the hostname, for at most `wait` seconds.

    Output `open` is "1" once they all answer with the reserved IP, and stays so; "0" is pending, and `state` says why.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        def answer() -> str | None:
            return resolving.resolves(
                news["hostname"], news["ip"], news["zone"], list(news["nameservers"]), news["issuer"]
            )

        try:
            probes.until(answer, float(news["wait"]), "DNS", pause=5)
        except probes.ProbeError as error:
            return {**news, "open": "0", "state": f"pending: {error}"}
        return {**news, "open": "1", "state": f"{news['hostname']} resolves to {news['ip']}"}

    def _settled(self, olds: Props) -> bool:
        return olds.get("open") == "1"


class ReadyProvider(Wait):
    """Waits until the PDS answers again after any change: on the host by Nomad's check, then over HTTPS.

    Input `open` is "1" or "0", or "none" if the ingress is not ours. Output `state` reports the progress. Missing HTTPS
    is a state, not a failure, and the next `up` checks again. A text that the ingress refused is a failure: input
    `ingress_sha256` is that of this stack's, empty if the ingress does not report what it serves. Output
    `host_configuration` is the hash of the cloud-init that built the host.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        api = _api(news)
        if news["management_token"]:
            # A rebuilt host's Nomad may have kept the tokens that the state replaced.
            admin = _api({**news, "token": news["management_token"]})
            for name, accessor in news["tokens"].items():
                admin.forget_tokens(name, but=accessor)
        state = self._paused(api, news) if news["paused"] else self._serving(api, news, olds)
        # Afterwards: on a slow host the node joins some time after Nomad has a leader.
        born = self._born(api) if news["configuration"] else ""
        return {**news, "state": state, "host_configuration": born}

    @staticmethod
    def _paused(api: probes.NomadApi, news: Props) -> str:
        # The operator usually pauses to work on the data next, which allow one writer.
        probes.until(lambda: probes.stopping(api, news["job"]), _STOP_DEADLINE, "The PDS")
        return "paused"

    @staticmethod
    def _born(api: probes.NomadApi) -> str:
        nodes = api.get("/v1/nodes?resources=false")
        return api.get(f"/v1/node/{nodes[0]['ID']}")["Meta"].get("pds_configuration", "") if nodes else ""

    def _serving(self, api: probes.NomadApi, news: Props, olds: Props) -> str:
        self._wait_for_health(api, news, olds)
        if news["open"] == "none":
            return "serving"
        if news["open"] != "1":
            return "serving on the host; not open to the Internet yet"
        fault = probes.https_health(news["hostname"], news["ip"], _HTTPS_DEADLINE)
        if not fault and news["ingress_sha256"]:
            loaded.require(news["hostname"], news["ip"], news["ingress_sha256"], _RELOAD_DEADLINE)
        return f"serving on the host; HTTPS pending: {fault}" if fault else "serving"

    def _wait_for_health(self, api: probes.NomadApi, news: Props, olds: Props) -> None:
        """A changed secret restarts the task some moments after the variable was written. Writing the same secrets
        again restarts nothing, so there is nothing to wait for."""
        written = api.get(f"/v1/var/{news['secrets_path']}")["ModifyTime"]
        if not olds:
            # An adopted Nomad may run the job already with the previous secrets; it gets time to notice.
            with suppress(probes.LateError):
                probes.until(probes.JobRunning(api, news["job"], written), _NOTICE_DEADLINE, "The PDS")
                return
        changed = olds and olds.get("secrets_digest") != news["secrets_digest"]
        probes.until(probes.JobRunning(api, news["job"], written if changed else 0), _SETTLE_DEADLINE, "The PDS")

    def _settled(self, olds: Props) -> bool:
        return olds.get("state") in ("serving", "paused")


class DispatchedProvider(Wait):
    """Runs a parameterized Nomad job to its end whenever an input changes. Does nothing while `list` is empty, or the
    PDS is `paused`: its data may not exist yet."""

    def _run(self, news: Props, olds: Props) -> Props:
        if news["paused"]:
            return {**news, "state": olds.get("state") or f"pending: {_SHUT['paused']}"}
        if not news["list"]:
            return {**news, "state": "done"}
        probes.run_dispatched(_api(news), news["job"], _RUN_DEADLINE)
        return {**news, "state": "done"}

    def _settled(self, olds: Props) -> bool:
        return not str(olds.get("state")).startswith("pending")


_SHUT = {"0": "its name does not resolve yet", "paused": "the PDS is paused"}
"""Values of the input `open` with which the PDS is not queried, and why."""


class _OnThePds(Wait):
    """A provider that works on the PDS over HTTPS, from the inputs `url`, `ip`, `admin_password` and `open`.

    What cannot be done yet is no failure: output `state` begins with 'pending', the outputs in `FOUND` stay unchanged,
    and the next `up` continues. Members own their accounts: this provider undoes none of their changes.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {}
    """Outputs beside `state`, and their values before the first run."""

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        """The changed outputs, including `state`."""
        raise NotImplementedError

    def _run(self, news: Props, olds: Props) -> Props:
        before = {key: olds.get(key) or empty for key, empty in self.FOUND.items()}
        if news["open"] == "paused" and olds and self._settled(olds):
            return {**news, **before, "state": olds["state"]}
        if news["open"] in _SHUT:
            return {**news, **before, "state": f"pending: {_SHUT[news['open']]}"}
        try:
            return {**news, **before, **self._do(accounts.server_of(news), news, before)}
        except probes.NotYetError as error:
            return {**news, **before, "state": f"pending: {error}"}

    def _settled(self, olds: Props) -> bool:
        return not str(olds.get("state", "pending")).startswith("pending")


class AccountProvider(_OnThePds):
    """One member's account: created once, or found. Its e-mail address is written if the stack file's changes.

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

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        if not olds["did"]:
            found = self._look(accounts.hosted(server), news)
            password = news["password"]
            if found is None:
                found = accounts.create(
                    server,
                    handle=news["temporary"] or news["handle"],
                    email=news["email"],
                    password=password,
                    recovery_key=news["recovery_key"],
                )
            elif not server.accepts_password(found.did, password):
                password = ""
            return {**_seen(found, news), "applied_email": news["email"], "initial_password": password}
        mine = accounts.account(server, olds["did"])
        if mine is None:
            return {"state": f"gone: {olds['did']} was deleted or has moved away; no other account is made"}
        if olds["applied_email"] != news["email"] and mine.email.lower() != news["email"].lower():
            accounts.change_email(server, mine.did, news["email"])
            mine = accounts.Account(did=mine.did, handle=mine.handle, email=news["email"])
        return {**_seen(mine, news), "applied_email": news["email"]}

    @staticmethod
    def _look(there: Sequence[accounts.Account], news: Props) -> accounts.Account | None:
        by_handle = {account.handle: account for account in there}
        by_email = {account.email.lower(): account for account in there}
        half_made = by_handle.get(news["temporary"])
        if half_made and half_made.email.lower() != news["email"].lower():
            raise probes.ProbeError(
                f"{news['temporary']}, the temporary handle for {news['handle']}, is the account {half_made.did} "
                "with another e-mail address. Ask the member for another handle."
            )
        named = [by_handle[handle] for handle in (news["handle"], *news["was"]) if handle in by_handle]
        found = named[0] if named else half_made
        other = by_email.get(news["email"].lower())
        if found is None and other:
            raise probes.ProbeError(
                f"The e-mail address of {news['handle']} is that of the account {other.handle} ({other.did}). If it is "
                f"this member's, write 'was: {other.handle}' beside the handle to change it, or "
                f"'handle: {other.handle}' to keep it; if not, write another address."
            )
        return found

    @_in_words
    def read(self, id_: str, props: Props) -> ReadResult:
        """The account's current state. If the PDS does not answer, a refresh of everything else is not affected."""
        if props.get("did") and props["open"] not in _SHUT:
            with suppress(probes.NotYetError):
                mine = accounts.account(accounts.server_of(props), props["did"])
                return ReadResult(id_, {**props, **(_seen(mine, props) if mine else {"live_handle": ""})})
        return ReadResult(id_, props)


def _seen(account: accounts.Account, news: Props) -> Props:
    other = "" if account.email.lower() == news["email"].lower() else "; its e-mail address is not the stack file's"
    live = {"did": account.did, "live_handle": account.handle, "live_email": account.email}
    return {**live, "state": f"there{other}"}


class HandleProvider(_OnThePds):
    """One account's handle: changed if the stack file's changes, or if the account still has the temporary one.

    A member's own domain becomes the handle once all of its own name servers name the DID, for at most `wait` seconds.
    A handle that the member changed is shown and kept.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"live_handle": "", "applied_handle": "", "applied_was": []}

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        did, wanted = news["did"], news["handle"]
        mine = accounts.account(server, did) if did else None
        if mine is None:
            return {"state": "pending: there is no account yet"} if not did else {"state": f"gone: {did}"}
        done = {"live_handle": wanted, "applied_handle": wanted, "applied_was": news["was"]}
        if mine.handle == wanted:
            return {**done, "state": "hers"}
        moved = olds["applied_handle"] not in ("", wanted)
        unfinished = mine.handle == news["temporary"]
        asked = mine.handle in news["was"] and olds["applied_was"] != news["was"]
        if not (moved or unfinished or asked):
            advice = f"write 'was: {mine.handle}' beside it to change it, or this handle to keep it"
            return {**done, "live_handle": mine.handle, "state": f"the account's handle is {mine.handle}: {advice}"}
        if news["external"]:
            try:
                probes.until(
                    lambda: resolving.names_did(wanted, did, list(news["nameservers"])), float(news["wait"]), "DNS", 5
                )
            except probes.ProbeError as error:
                raise probes.NotYetError(str(error)) from error
        accounts.rename(server, did, wanted)
        return {**done, "state": "hers"}


class RemovalsProvider(_OnThePds):
    """Accounts to take down and to delete, as the stack file lists them. Removal from the first list restores the
    account.

    Everything is looked up before anything is done. Output `taken_down` keeps each entry's DID, `deleted` what is gone.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"taken_down": {}, "deleted": {}}

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        there = accounts.hosted(server)
        taken = {entry: olds["taken_down"].get(entry) or _hosted_did(there, entry) for entry in news["takedown"]}
        hers = {account.did: account.handle for account in there}
        for handle, did in news["delete"].items():
            if did in hers and hers[did] != handle:
                raise probes.ProbeError(
                    f"'delete' wants {handle} to be {did}, which is {hers[did]} here. Nothing was deleted. Write both "
                    "as they are."
                )
            if did not in hers and handle in hers.values() and olds["deleted"].get(handle) != did:
                raise probes.ProbeError(
                    f"'delete' wants {handle} to be {did}; here it is another account. Nothing was deleted. Remove it "
                    "from 'delete', or write the DID that `pulumi stack output members` shows."
                )
        for did in set(taken.values()) - set(olds["taken_down"].values()):
            accounts.take_down(server, did, applied=True)
        for did in set(olds["taken_down"].values()) - set(taken.values()):
            if did in hers:
                accounts.take_down(server, did, applied=False)
        for did in set(news["delete"].values()) & hers.keys():
            accounts.delete(server, did)
        return {"taken_down": taken, "deleted": dict(news["delete"]), "state": "done"}


def _hosted_did(there: Sequence[accounts.Account], entry: str) -> str:
    found = [account.did for account in there if entry in (account.did, account.handle)]
    if not found:
        raise probes.ProbeError(
            f"'takedown' names {entry}, which is no account of this PDS. Write a handle or DID as it is now."
        )
    return found[0]


class InvitesProvider(_OnThePds):
    """Invite codes, created once. A larger `count` creates additional ones. No code is ever revoked."""

    FOUND: ClassVar[Mapping[str, Any]] = {"codes": []}

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        codes = list(olds["codes"])
        missing = int(news["count"]) - len(codes)
        if missing > 0:
            codes += accounts.invite_codes(server, missing, int(news["uses"]))
        return {"codes": codes, "state": "made"}


class UnlistedProvider(_OnThePds):
    """Accounts on this PDS that are no member of the stack file: output `unlisted`, handles.

    Its diff queries the server, because the stack file does not change at a sign-up. It only reads, and an unreachable
    server is no change. So a preview is empty until an account appears or disappears.
    """

    FOUND: ClassVar[Mapping[str, Any]] = {"unlisted": []}

    def _do(self, server: accounts.Server, news: Props, olds: Props) -> Props:
        return {"unlisted": self._unlisted(server, news["dids"], news["known"]), "state": "done"}

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        found = super().diff(_id, _olds, _news)
        if not found.changes and _olds["open"] not in _SHUT:
            # Resources with pending changes report an unreachable server.
            with suppress(probes.ProbeError):
                server = replace(accounts.server_of(_olds), timeout=_PREVIEW_TIMEOUT)
                now = self._unlisted(server, _olds["dids"], _olds["known"])
                if now != _olds["unlisted"]:
                    probes.say(f"{', '.join(now) or 'no account'}: on the PDS, and not in the stack file")
                    return DiffResult(changes=True, replaces=[])
        return found

    @staticmethod
    def _unlisted(server: accounts.Server, dids: Sequence[str], known: Sequence[str]) -> list[str]:
        there = accounts.hosted(server)
        return sorted(one.handle for one in there if one.did not in dids and not {one.did, one.handle} & set(known))
