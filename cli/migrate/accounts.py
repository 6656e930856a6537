"""Logs in at the old server, and creates or opens the account at the new one.

An account with an existing identity is created deactivated, with a proof from the old server
(`server/createAccount.js`). There is never a second one: a server has one account for a DID.
"""

import http
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from cli.migrate.directory import Identity
from cli.migrate.servers import NewServer, OldServer
from cli.migrate.state import MigrationError, ProgressFile
from cli.migrate.target import MigrationRequest, Questions, Target, choose_handle
from cli.migrate.xrpc import LOOPBACK, AccountClient, CallRefusedError, Clock, NoAnswerError, token_claims
from components.clients import pds_admin

Say = Callable[[str], None]
Connect = Callable[[str], AccountClient]
"""Returns a client of the server at a URL."""

_TRIES = 3
_APP_PASSWORD = "com.atproto.appPass"  # noqa: S105 (a scope; auth-scope.js)


class LoginRefusedError(MigrationError):
    """The server refuses the password, or the account."""


def source_url(text: str, target: Target) -> str:
    """Return the old server's URL. Raises MigrationError if it is none, or the stack's own PDS."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if not parts.hostname or parts.path.strip("/") or parts.query:
        raise MigrationError(f"--from {text} is not the URL of a server. Write for example https://bsky.social.")
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise MigrationError(f"--from {text} would send the password unencrypted. Write an https URL.")
    if parts.hostname == target.settings.hostname:
        raise MigrationError(
            f"--from {text} is the PDS of stack {target.stack} itself. Write the URL of the old server."
        )
    return f"{parts.scheme}://{parts.netloc}"


def refuse_other_methods(did: str) -> None:
    """Raise MigrationError for an identity that no server can change."""
    if did and not did.startswith("did:plc:"):
        raise MigrationError(
            f"{did} is not in the PLC directory. For did:web the member edits https://DOMAIN/.well-known/did.json, and "
            "no server can sign that change. This command moves did:plc accounts only. Move a did:web account with "
            "`goat` (atproto.com/guides/account-migration). Nothing was changed."
        )


def log_in(client: AccountClient, identifier: str, ask: Questions, hint: str = "") -> dict[str, Any]:
    """Create a session with the password, and the code of a mail if the server wants one. Raises ServiceError."""
    password, factor = ask.secret(f"Password of {identifier} at {client.host}"), ""
    for attempt in range(_TRIES + 1):
        try:
            session: dict[str, Any] = client.log_in(identifier, password, factor)
            break
        except CallRefusedError as refusal:
            if refusal.error == "AuthFactorTokenRequired" and attempt < _TRIES:
                factor = ask.secret(f"Sign-in code from the mail that {client.host} sent")
            elif refusal.status == http.HTTPStatus.UNAUTHORIZED and refusal.error != "AccountTakedown" and attempt < 2:
                password, factor = ask.secret(f"{refusal.message}. Password of {identifier} at {client.host}"), ""
            else:
                text = f"{client.host} refuses the login: {refusal.message}.{hint}"
                raise LoginRefusedError(text) from refusal
    assert client.session
    if _APP_PASSWORD in str(token_claims(client.session.access).get("scope", "")):
        raise MigrationError("This is an app password, which cannot move an account. Use the account's own password.")
    return session


def old_server(
    client: AccountClient, session: dict[str, Any], identity: Identity, target: Target, known: str, connect: Connect
) -> OldServer:
    """Return the server with the account's old data. A large service has one server for logins and many for data; the
    identity names the latter. `known` is its URL if the identity has moved already. Raises ServiceError."""
    did = str(session["did"])
    moved = identity.server == target.public_url
    data = known if moved else identity.server
    if not data or data == client.url:
        return OldServer(client=client, did=did, session=session)
    if _is_for(client, data):
        other = connect(data)
        other.borrow(client)
        try:
            same = other.query("com.atproto.server.getSession")["did"] == did
        except CallRefusedError:
            same = False
        if same:
            return OldServer(client=other, did=did, session=session)
    if moved:  # the account lives on the server of the login
        return OldServer(client=client, did=did, session=session)
    raise MigrationError(
        f"The account's server is {data}, which does not belong to {client.host}. Write --from {data}."
    )


def _is_for(client: AccountClient, url: str) -> bool:
    """Whether the session was issued for the server at `url`, which may have it. A service with one server for logins
    names the data server in its tokens (`auth-verifier.js`). Any other server could use the session."""
    assert client.session
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or parts.hostname in LOOPBACK
    return is_safe and token_claims(client.session.access).get("aud") == f"did:web:{parts.hostname}"


def refuse_without_key(identity: Identity, old: OldServer) -> None:
    """Raise MigrationError if the old server cannot sign a change of the identity."""
    if not set(old.credentials()["rotationKeys"]) & set(identity.rotation_keys):
        raise MigrationError(
            f"{old.host} has none of the identity's rotation keys, so it cannot sign the change. The holder of one of "
            f"{', '.join(identity.rotation_keys)} can, with `goat plc`. Nothing was changed."
        )


def handle_domains(*clients: AccountClient) -> tuple[str, ...]:
    """Return the domains under which the servers issue handles, each with its leading dot. Raises ServiceError."""
    found: dict[str, None] = {}
    for client in clients:
        for domain in client.query("com.atproto.server.describeServer").get("availableUserDomains", []):
            found[f".{str(domain).lstrip('.')}"] = None
    return tuple(found)


def new_client(target: Target, clock: Clock, say: Say) -> AccountClient:
    """Return a client of the stack's PDS, by its address, without a session."""
    headers = {"x-ratelimit-bypass": target.bypass} if target.bypass else {}
    return AccountClient(target.admin.url, address=target.admin.address, headers=headers, clock=clock, say=say)


def plan_account(
    request: MigrationRequest, target: Target, old: OldServer, file: ProgressFile, domains: tuple[str, ...]
) -> None:
    """Choose handle and e-mail address of the new account, and check that the stack file can have them. Raises
    MigrationError, StackFileError."""
    existing = pds_admin.account(target.admin, old.did)
    if existing:
        if request.new_handle not in ("", existing.handle) or request.email not in ("", existing.email):
            raise MigrationError(
                f"The account is on {target.settings.hostname} already, as {existing.handle}, {existing.email}. Leave "
                "--new-handle and --email out, and change them after the move."
            )
        handle, email = existing.handle, existing.email
    else:
        handle = choose_handle(request, str(old.session["handle"]), domains, target.settings)
        email = request.email or str(old.session.get("email") or "")
        if not email:
            raise MigrationError(f"{old.host} does not name the account's e-mail address. Write it with --email.")
    target.member_edit(handle, email)
    file.update(handle=handle, email=email, server=old.client.url, old_handle=str(old.session["handle"]))


def new_server(
    target: Target, old: OldServer | None, file: ProgressFile, ask: Questions, clock: Clock, say: Say
) -> NewServer:
    """Log in at the account here, or create it, deactivated. Raises ServiceError."""
    did, client = file.progress.did, new_client(target, clock, say)
    server = NewServer(client=client, did=did, admin=target.admin)
    existing = pds_admin.account(target.admin, did)
    if existing is None:
        if old is None:
            raise MigrationError(
                f"The directory names {target.public_url} for {did}, and there is no such account. If the PDS was "
                "restored from an older backup, restore the newest one."
            )
        _create(server, old, file, ask, say)
        return server
    hint = f" `./pds password {target.stack} {existing.handle}` sets another password."
    session = log_in(client, existing.handle, ask, hint)
    if session["did"] != did:
        raise MigrationError(f"{existing.handle} is {session['did']} on {client.host}, not {did}.")
    return server


def _create(server: NewServer, old: OldServer, file: ProgressFile, ask: Questions, say: Say) -> None:
    client, handle, did = server.client, file.progress.handle, server.did
    password = ask.new_secret(f"New password of {handle} on {client.host}")
    audience = str(client.query("com.atproto.server.describeServer")["did"])
    code = str(server.admin.procedure("com.atproto.server.createInviteCode", useCount=1)["code"])
    body = {"did": did, "handle": handle, "email": file.progress.email, "password": password, "inviteCode": code}
    try:
        token = old.service_token(audience)
        created = client.procedure("com.atproto.server.createAccount", body, attempts=1, token=token)
    except CallRefusedError as refusal:
        server.admin.procedure("com.atproto.admin.disableInviteCodes", codes=[code], accounts=[])
        about = any(word in refusal.message.lower() for word in ("handle", "email", "domain"))
        remedy = "Choose another one with --new-handle or --email." if about else ""
        raise MigrationError(f"{refusal} Nothing was changed. {remedy}".strip()) from refusal
    except NoAnswerError:
        if pds_admin.account(server.admin, did) is None:
            raise
        client.log_in(did, password)
    else:
        client.use(created)
    say(f"Account: {handle} is created on {client.host}, deactivated.")
