"""Checks of the accounts: do handles resolve, do documents name this server?"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.resolver
import httpx

from cli.check.plc_documents import directory_data, wrong_in
from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from components.clients import dns as resolving

_ROTATION_KEY = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
_SHOWN = 3
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


def documents(subject: Subject) -> CheckVerdict:
    """Check that the directory names this server for each account, and our key among those that may change it."""
    environment = subject.environment
    checked, wrong = 0, []
    for account in active_accounts(subject):
        if not account.did.startswith("did:plc:"):
            continue
        checked += 1
        directory = environment["PDS_DID_PLC_URL"]
        try:
            data = directory_data(directory, account.did)
        except httpx.TransportError as error:
            return failed(
                f"the directory {directory} does not answer ({str(error) or type(error).__name__}). It is a "
                "third-party service that the server also needs. Try again later."
            )
        except httpx.HTTPStatusError as error:
            wrong.append(f"{account.did}: {directory} answers {error.response.status_code}")
            continue
        fault = wrong_in(
            data,
            handle=account.handle,
            hostname=subject.hostname,
            rotation_key_hex=environment[_ROTATION_KEY],
        )
        if fault:
            wrong.append(f"{account.did}: {fault}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        return failed(
            f"{len(wrong)} of {checked} are wrong: {'; '.join(wrong[:_SHOWN])}{more}. Moved away, or another key? See "
            "docs/guide/admins.md#secrets."
        )
    return passed(f"{checked} name this server and our rotation key") if checked else skipped("there is no account yet")
