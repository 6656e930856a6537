"""Checks of the accounts: do handles resolve, do documents name this server?"""

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.resolver
import httpx

from cli.check.plc_documents import directory_data, missing_keys, signature_fault, wrong_in
from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from components.clients import dns as resolving

_ROTATION_KEY = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
_SHOWN = 3
_NAMED = 5  # accounts without a recovery key
_TRIES = 3
_PAGE = 500
_REFUSED, _TOO_MANY = 400, 429
_LIMITED = 3
"""Requests until the server's limit counts as an answer."""
_WINDOW = 301
"""Seconds; the server's limit is of 5 minutes (rate-limits.js in @atproto/pds), and others may use it up again."""
_LEFT = ("RepoDeactivated", "RepoNotFound", "RepoSuspended", "RepoTakendown")
_ADD_KEY = "The member adds it with `goat account plc add-rotation-key --first KEY`"


@dataclass(frozen=True)
class ActiveAccount:
    """An active account of the server. The handle is unknown if the server does not describe the account."""

    did: str
    handle: str
    fault: str = ""


def active_accounts(subject: Subject) -> Iterator[ActiveAccount]:
    """Return the active accounts, from the server's public list. Raises httpx.HTTPError."""
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
        page = _query(subject, "sync.listRepos", params).raise_for_status().json()
        for repo in page["repos"]:
            if repo.get("active", True) and (account := _described(subject, repo["did"])):
                yield account
        cursor = page.get("cursor")
        if not cursor:
            return


def _described(subject: Subject, did: str) -> ActiveAccount | None:
    """Return the account; None if it left since the list was made."""
    answer = _query(subject, "repo.describeRepo", {"repo": did})
    if _has_left(answer):
        return None
    try:
        return ActiveAccount(did, answer.raise_for_status().json()["handle"])
    except (httpx.HTTPStatusError, LookupError, TypeError, ValueError) as error:
        return ActiveAccount(did, "", f"the server does not describe it ({_why(error)}). Look at its log")


def _query(subject: Subject, method: str, params: Mapping[str, Any]) -> httpx.Response:
    """Return the server's answer, whatever its status. Waits while the server limits requests."""
    for _ in range(_LIMITED):
        answer = subject.site.request("GET", f"/xrpc/com.atproto.{method}", params=params)
        reset = answer.headers.get("RateLimit-Reset", "")
        if answer.status_code != _TOO_MANY or not reset.isdigit():
            return answer
        time.sleep(min(max(int(reset) - time.time(), 0) + 1, _WINDOW))
    return answer


def _has_left(answer: httpx.Response) -> bool:
    """Whether the account was deleted, deactivated or taken down."""
    if answer.status_code != _REFUSED:
        return False
    try:
        return answer.json()["error"] in _LEFT
    except (LookupError, TypeError, ValueError):
        return False


def _why(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.request.url.path} answers {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


def handles(subject: Subject) -> CheckVerdict:
    """Check that an existing handle resolves, and an unknown one does not."""
    unknown = f"unknown-{secrets.token_hex(4)}{subject.handle_domains[0]}"
    answer = _by_https(subject, unknown) or _by_dns(subject, unknown) or _by_server(subject, unknown)
    if answer:
        return failed(
            f"{unknown}, which does not exist, resolves to {answer[:80]!r}: something answers for every name."
        )
    account = next((account for account in active_accounts(subject) if not account.fault), None)
    if account is None:
        return skipped("there is no account yet; an unknown handle does not resolve, as it should")
    if _by_server(subject, account.handle) != account.did:
        return failed(f"the server does not know its own {account.handle}. Look at its log.")
    ways = {"DNS": _by_dns(subject, account.handle)}
    leads = resolving.leads_to(account.handle, str(subject.outputs.get("ipv4")), subject.nameservers)
    if ways["DNS"] is None and (leads or "ipv4" not in subject.outputs):
        # Only then: the ingress would order a certificate that no authority issues.
        ways["HTTPS"] = _by_https(subject, account.handle)
    wrong = {way: did for way, did in ways.items() if did not in (None, account.did)}
    if wrong:
        return failed(f"by {' and '.join(wrong)} {account.handle} is {next(iter(wrong.values()))}, not {account.did}.")
    if not any(ways.values()):
        return failed(
            f"{account.handle} resolves neither by DNS nor by HTTPS: apps show 'invalid handle'. Create the TXT "
            f"record _atproto.{account.handle} with the text did={account.did}, or point the name to this host and let "
            "the ingress serve it."
        )
    ways_that_resolve = " and ".join(way for way, did in ways.items() if did)
    return passed(f"{account.handle} resolves by {ways_that_resolve}; an unknown one does not")


def _by_server(subject: Subject, handle: str) -> str | None:
    answer = subject.site.request("GET", "/xrpc/com.atproto.identity.resolveHandle", params={"handle": handle})
    return str(answer.json()["did"]) if answer.status_code == 200 else None


def _by_https(subject: Subject, handle: str) -> str | None:
    """Return this server's answer at the handle's well-known address; None for a refusal or a name it can't prove."""
    try:
        answer = subject.site.request("GET", "/.well-known/atproto-did", host=handle)
    except httpx.HTTPError:
        return None
    return answer.text.strip() if answer.status_code == 200 else None


def _by_dns(subject: Subject, handle: str) -> str | None:
    """Return the DID in the handle's TXT record (atproto.com/specs/handle)."""
    resolver = dns.resolver.Resolver(configure=not subject.nameservers)
    resolver.lifetime = 5.0
    if subject.nameservers:
        host, resolver.port = resolving.endpoint(subject.nameservers[0])
        resolver.nameservers = [host]
    try:
        records = resolver.resolve(f"_atproto.{handle}", "TXT")
    except dns.exception.DNSException:
        return None
    texts = [b"".join(record.strings).decode(errors="replace") for record in records]
    return next((text.removeprefix("did=") for text in texts if text.startswith("did=")), None)


@dataclass
class _Documents:
    """What is wrong with the identities."""

    checked: int = 0
    wrong: list[str] = field(default_factory=list)
    without_recovery: dict[str, str] = field(default_factory=dict)
    """The member's own recovery key that each handle's document lacks."""
    older: list[str] = field(default_factory=list)
    """The handles whose documents lack `pds.recovery_did_key`, which the server gives to new accounts only."""

    def note(self) -> str:
        """Return what only a member can change, and what is no fault of the stack."""
        if not self.older:
            return ""
        more = f" and {len(self.older) - _NAMED} more" if len(self.older) > _NAMED else ""
        return (
            f". {len(self.older)} are older than 'pds.recovery_did_key' or came from another server, and lack it: "
            f"{', '.join(self.older[:_NAMED])}{more}. {_ADD_KEY}"
        )

    def remark(self, stack: str) -> str:
        """Return the faults, with what to do about them."""
        texts = []
        if self.wrong:
            more = f"; and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
            texts.append(
                f"{len(self.wrong)} of {self.checked} are wrong: {'; '.join(self.wrong[:_SHOWN])}{more}. Moved away, "
                "or another key? See docs/guide/admins.md#secrets."
            )
        if self.without_recovery:
            names = [f"{handle} ({key})" for handle, key in self.without_recovery.items()]
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            texts.append(
                f"the recovery key of the stack file is missing for {', '.join(names[:_NAMED])}{more}: its holder "
                f"cannot recover them. {_ADD_KEY}; the token is shown by `./pds email-token {stack} HANDLE`."
            )
        return " ".join(texts)


def documents(subject: Subject) -> CheckVerdict:
    """Check that the directory names this server for each account with the key that signs here, and our key and the
    member's own recovery key among those that may change it."""
    directory, found = subject.environment["PDS_DID_PLC_URL"], _Documents()
    for account in active_accounts(subject):
        if not account.did.startswith("did:plc:"):
            continue
        found.checked += 1
        if account.fault:
            found.wrong.append(f"{account.did}: {account.fault}")
            continue
        try:
            data = directory_data(directory, account.did)
        except httpx.TransportError as error:
            return failed(
                f"the directory {directory} does not answer ({str(error) or type(error).__name__}). It is a "
                "third-party service that the server also needs. Try again later."
            )
        except httpx.HTTPStatusError as error:
            found.wrong.append(f"{account.did}: {directory} answers {error.response.status_code}")
            continue
        if fault := _identity_fault(subject, account, data):
            found.wrong.append(f"{account.did}: {fault}")
        own, everyone = _recovery_keys(subject, account.handle)
        if missing_keys(data, [own]):
            found.without_recovery[account.handle] = str(own)
        if missing_keys(data, [everyone]):
            found.older.append(account.handle)
    if remark := found.remark(subject.stack):
        return failed(remark)
    if not found.checked:
        return skipped("there is no account yet")
    return passed(f"{found.checked} name this server, our rotation key and the key that signs here{found.note()}")


def _identity_fault(subject: Subject, account: ActiveAccount, data: dict[str, Any]) -> str | None:
    key = subject.environment[_ROTATION_KEY]
    fault = wrong_in(data, handle=account.handle, hostname=subject.hostname, rotation_key_hex=key)
    if fault:
        return fault
    why = ""
    for _ in range(_TRIES):
        try:
            return _signature_fault(subject, account.did, data)
        except (httpx.HTTPStatusError, LookupError, TypeError, ValueError) as error:
            why = _why(error)  # a write meanwhile may have removed the blocks
    if _described(subject, account.did) is None:
        return None  # it left meanwhile; a damaged repository is also "not found"
    return f"its newest commit cannot be read ({why}). Look at the server's log"


def _signature_fault(subject: Subject, did: str, data: dict[str, Any]) -> str | None:
    # The proof of a record, also of one that does not exist, begins with the newest commit.
    proof = {"did": did, "collection": "app.bsky.actor.profile", "rkey": "self"}
    car = _query(subject, "sync.getRecord", proof).raise_for_status().content

    def revision() -> str:
        return str(_query(subject, "sync.getLatestCommit", {"did": did}).raise_for_status().json()["rev"])

    return signature_fault(data, did, car, revision)


def _recovery_keys(subject: Subject, handle: str) -> tuple[str | None, str | None]:
    """Return the keys of the stack file that may recover this account: its member's own, and that of all accounts."""
    settings = subject.settings
    if settings is None:
        return None, None
    own = [member.recovery_key for member in settings.members if handle in (member.handle, member.was)]
    return next(filter(None, own), None), settings.pds.recovery_did_key
