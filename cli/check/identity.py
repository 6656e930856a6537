"""Checks of the accounts: do handles resolve, do documents name this server?"""

import contextlib
import secrets
from collections.abc import Iterator
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


@dataclass(frozen=True)
class ActiveAccount:
    """An active account of the server."""

    did: str
    handle: str


def active_accounts(subject: Subject) -> Iterator[ActiveAccount]:
    """Return the active accounts, from the server's public list. Raises httpx.HTTPError."""
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
        page = subject.site.request("GET", "/xrpc/com.atproto.sync.listRepos", params=params).raise_for_status().json()
        for repo in page["repos"]:
            if repo.get("active", True):
                response = subject.site.request(
                    "GET", "/xrpc/com.atproto.repo.describeRepo", params={"repo": repo["did"]}
                ).raise_for_status()
                yield ActiveAccount(repo["did"], response.json()["handle"])
        cursor = page.get("cursor")
        if not cursor:
            return


def handles(subject: Subject) -> CheckVerdict:
    """Check that an existing handle resolves, and an unknown one does not."""
    unknown = f"unknown-{secrets.token_hex(4)}{subject.handle_domains[0]}"
    answer = _by_https(subject, unknown) or _by_dns(subject, unknown) or _by_server(subject, unknown)
    if answer:
        return failed(
            f"{unknown}, which does not exist, resolves to {answer[:80]!r}: something answers for every name."
        )
    account = next(active_accounts(subject), None)
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
    without_recovery: dict[str, list[str]] = field(default_factory=dict)
    """The recovery keys that each handle's document lacks."""

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
            names = [f"{handle} ({', '.join(keys)})" for handle, keys in self.without_recovery.items()]
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            texts.append(
                f"the recovery key of the stack file is missing for {', '.join(names[:_NAMED])}{more}: its holder "
                "cannot recover them. The member adds it with `goat account plc add-rotation-key --first KEY`; the "
                f"token is shown by `./pds email-token {stack} HANDLE`."
            )
        return " ".join(texts)


def documents(subject: Subject) -> CheckVerdict:
    """Check that the directory names this server for each account with the key that signs here, and our key and the
    recovery keys among those that may change it."""
    directory, found = subject.environment["PDS_DID_PLC_URL"], _Documents()
    for account in active_accounts(subject):
        if not account.did.startswith("did:plc:"):
            continue
        found.checked += 1
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
        if missing := missing_keys(data, _recovery_keys(subject, account.handle)):
            found.without_recovery[account.handle] = missing
    if remark := found.remark(subject.stack):
        return failed(remark)
    if not found.checked:
        return skipped("there is no account yet")
    return passed(f"{found.checked} name this server, our rotation key and the key that signs here")


def _identity_fault(subject: Subject, account: ActiveAccount, data: dict[str, Any]) -> str | None:
    key = subject.environment[_ROTATION_KEY]
    fault = wrong_in(data, handle=account.handle, hostname=subject.hostname, rotation_key_hex=key)
    if fault:
        return fault
    for _ in range(_TRIES - 1):
        with contextlib.suppress(httpx.HTTPError, LookupError, TypeError, ValueError):
            return _signature_fault(subject, account.did, data)  # a write meanwhile may have removed the blocks
    return _signature_fault(subject, account.did, data)


def _signature_fault(subject: Subject, did: str, data: dict[str, Any]) -> str | None:
    # The proof of a record, also of one that does not exist, begins with the newest commit.
    car = _sync(subject, "getRecord", {"did": did, "collection": "app.bsky.actor.profile", "rkey": "self"}).content
    return signature_fault(data, did, car, _sync(subject, "getLatestCommit", {"did": did}).json()["rev"])


def _sync(subject: Subject, method: str, params: dict[str, str]) -> httpx.Response:
    answer = subject.site.request("GET", f"/xrpc/com.atproto.sync.{method}", params=params)
    return answer.raise_for_status()


def _recovery_keys(subject: Subject, handle: str) -> tuple[str | None, ...]:
    """Return the keys of the stack file that may recover this account."""
    settings = subject.settings
    if settings is None:
        return ()
    own = [member.recovery_key for member in settings.members if handle in (member.handle, member.was)]
    return (*own, settings.pds.recovery_did_key)
