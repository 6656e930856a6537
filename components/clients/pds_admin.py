"""Accounts of the PDS over its HTTP interface (XRPC): an admin's queries and changes, as plain functions.

The standard library only and no Pulumi, because the dynamic providers load it. Every request has a
deadline. An error that the operator can fix is a ServiceError with the next step. A server that does not answer now is
a PendingError, which the providers report as pending. The callers decide when an account changes. Endpoints are those
of `api/com/atproto` in @atproto/pds, the same in both version lines.
"""

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from components.clients.errors import PendingError, ServiceError
from components.clients.https import connection_to

Json = Any

_TIMEOUT = 30  # seconds; creating an account includes a call to the PLC directory
_PAGE = 100


class RefusedError(ServiceError):
    """The server refused; `error` is the protocol's name for it, `message` the server's text."""

    def __init__(self, method: str, status: int, error: str, message: str) -> None:
        self.status, self.error, self.message = status, error, message
        super().__init__(f"The PDS refuses {method}: {message or error or status}.")


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account of this PDS."""

    did: str
    handle: str
    email: str
    confirmed: bool = False
    """Whether its e-mail address counts as confirmed."""
    revision: str = ""
    """Revision of its repository, if `hosted` found it: a TID, later ones sort behind earlier ones."""


@dataclass(frozen=True)
class Server:
    """A PDS: its public URL, its address, which is queried whatever the name resolves to, and its admin password."""

    url: str
    address: str
    admin_password: str
    timeout: float = _TIMEOUT
    """Seconds for one request."""

    def query(self, method: str, **params: Json) -> Json:
        """GET as the admin. Raises RefusedError, PendingError."""
        return self._request("GET", f"{method}?{urlencode(params, doseq=True)}", None, self._admin)

    def procedure(self, method: str, **body: Json) -> Json:
        """POST as the admin. Raises RefusedError, PendingError."""
        return self._request("POST", method, body, self._admin)

    def sign_up(self, body: Mapping[str, str]) -> Json:
        """createAccount, with an invite code and no other rights. Raises as above."""
        return self._request("POST", "com.atproto.server.createAccount", body, None)

    def accepts_password(self, did: str, password: str) -> bool:
        """Whether a member could log in with `password`. Ends the session at once."""
        try:
            body = {"identifier": did, "password": password}
            session = self._request("POST", "com.atproto.server.createSession", body, None)
            self._request("POST", "com.atproto.server.deleteSession", None, f"Bearer {session['refreshJwt']}")
        except RefusedError:
            return False
        return True

    @property
    def _admin(self) -> str:
        return "Basic " + base64.b64encode(f"admin:{self.admin_password}".encode()).decode()

    def _request(self, verb: str, call: str, body: Json, authorization: str | None) -> Json:
        connection = connection_to(self.url, self.address, self.timeout)
        headers = {"Authorization": authorization} if authorization else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body)
        try:
            connection.request(verb, f"/xrpc/{call}", data, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise PendingError(f"{self.url} does not answer at {self.address} ({reason})") from error
        finally:
            connection.close()
        return self._result(call.partition("?")[0], answer.status, text, authorization == self._admin)

    def _result(self, method: str, status: int, text: str, as_admin: bool) -> Json:
        try:
            body = json.loads(text) if text else None
        except ValueError:
            body = None
        if status == http.HTTPStatus.OK and (body is not None or not text):
            return body
        fields = body if isinstance(body, dict) else {}
        error, message = str(fields.get("error", "")), str(fields.get("message", ""))
        if status == http.HTTPStatus.UNAUTHORIZED and as_admin:
            raise ServiceError(
                f"{self.url} refuses this stack's admin password. Is another PDS behind that name? If its password was "
                "set elsewhere, write it into 'secrets.admin_password'."
            )
        if status >= 500 or status == http.HTTPStatus.TOO_MANY_REQUESTS or not error:
            # An answer without the protocol's fields is from the ingress or from a page in front of the PDS.
            raise PendingError(f"{self.url} answers {status} to {method} ({message or text[:80].strip()})")
        raise RefusedError(method, status, error, message)


def server_of(props: Mapping[str, Json]) -> Server:
    """The server in a dynamic resource's inputs. Raises ServiceError for a URL without a host."""
    if not urlsplit(props["url"]).hostname:
        raise ServiceError(f"{props['url']} is not the URL of a server.")
    return Server(props["url"], props["ip"], props["admin_password"])


def hosted(server: Server) -> list[Account]:
    """Every account on this PDS, including deactivated and taken down ones, which `resolveHandle` hides."""
    accounts: list[Account] = []
    cursor: dict[str, str] = {}
    while True:
        page = server.query("com.atproto.sync.listRepos", limit=_PAGE, **cursor)
        revisions = {repo["did"]: repo["rev"] for repo in page["repos"]}
        if revisions:
            infos = server.query("com.atproto.admin.getAccountInfos", dids=list(revisions))["infos"]
            accounts += [_account(info, revisions[info["did"]]) for info in infos]
        if not page.get("cursor") or not revisions:
            return accounts
        cursor = {"cursor": page["cursor"]}


def account(server: Server, did: str) -> Account | None:
    """The account `did`, or None if this PDS has none."""
    try:
        return _account(server.query("com.atproto.admin.getAccountInfo", did=did))
    except RefusedError as refusal:
        if refusal.error == "NotFound":
            return None
        raise


def create(server: Server, *, handle: str, email: str, password: str, recovery_key: str | None) -> Account:
    """Creates an account with an invite made only for it. Raises ServiceError with the next step."""
    code = server.procedure("com.atproto.server.createInviteCode", useCount=1)["code"]
    body = {"handle": handle, "email": email, "password": password, "inviteCode": code}
    try:
        created = server.sign_up(body | ({"recoveryKey": recovery_key} if recovery_key else {}))
    except RefusedError as refusal:
        # Leave no unused invite code.
        server.procedure("com.atproto.admin.disableInviteCodes", codes=[code], accounts=[])
        raise ServiceError(_why_not_created(handle, refusal)) from refusal
    return Account(did=created["did"], handle=created["handle"], email=email)


def _why_not_created(handle: str, refusal: RefusedError) -> str:
    match refusal.error, refusal.message:
        case "InvalidInviteCode", _:
            return f"Another account used the invite for {handle}. Run `pulumi up` again, which creates another one."
        case _, message if "already taken" in message:
            return f"{message}. Write a handle and an e-mail address that no other account here has."
        case _, message if "email address" in message:
            return f"The PDS refuses the e-mail address of {handle}. Write another one."
        case _:
            return f"The PDS refuses the account {handle}: {refusal.message or refusal.error}. Write another handle."


def rename(server: Server, did: str, handle: str) -> None:
    """Change a handle as the admin. Raises PendingError if the server cannot resolve it yet, ServiceError if another
    account has it."""
    try:
        server.procedure("com.atproto.admin.updateAccountHandle", did=did, handle=handle)
    except RefusedError as refusal:
        if "did not resolve" in refusal.message:
            raise PendingError(
                f"the PDS does not see the record of {handle} yet; its resolver may cache a negative answer"
            ) from refusal
        raise ServiceError(f"{did} cannot become {handle}: {refusal.message}. Write another handle.") from refusal


def change_email(server: Server, did: str, email: str) -> None:
    """Change an address as the admin, which also removes its confirmation. Raises ServiceError if another account has
    it: the server would answer 500."""
    if any(other.email.lower() == email.lower() and other.did != did for other in hosted(server)):
        raise ServiceError(f"{did} cannot have an e-mail address that another account here has. Write another one.")
    server.procedure("com.atproto.admin.updateAccountEmail", account=did, email=email)


def set_password(server: Server, did: str, password: str) -> None:
    """Set another password as the admin. Ends every session of the account."""
    server.procedure("com.atproto.admin.updateAccountPassword", did=did, password=password)


def take_down(server: Server, did: str, applied: bool) -> None:
    """Hide an account from the public, or show it again."""
    subject = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
    takedown = {"applied": applied, **({"ref": "stack file"} if applied else {})}
    server.procedure("com.atproto.admin.updateSubjectStatus", subject=subject, takedown=takedown)


def delete(server: Server, did: str) -> None:
    """Delete an account and all of its data permanently."""
    server.procedure("com.atproto.admin.deleteAccount", did=did)


def invite_codes(server: Server, count: int, uses: int) -> list[str]:
    """`count` new codes, each valid for `uses` accounts."""
    created = server.procedure("com.atproto.server.createInviteCodes", codeCount=count, useCount=uses)
    return [code for batch in created["codes"] for code in batch["codes"]]


def _account(info: Json, revision: str = "") -> Account:
    confirmed = bool(info.get("emailConfirmedAt"))
    email = info.get("email", "")
    return Account(did=info["did"], handle=info["handle"], email=email, confirmed=confirmed, revision=revision)
