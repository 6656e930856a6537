"""One member: the account, the DNS record that proves the handle, and the handle itself.

The account belongs to the member (docs/decisions/0010): it is created once, and destroying this stack does not change
it. `settings/checks/handles.py` checks which handles the server accepts; `clients/pds_admin.py` queries the PDS.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean

from components.dynamic.resources import Account, Handle
from components.render.records import Value, did_value, member_records
from components.secret_values import as_secret, random_hex
from components.settings.checks.handles import is_reserved, service_domain
from components.settings.sections import MemberOptions
from components.settings.sections.settings import Settings

_PASSWORD_DIGITS = 32


def temporary_handle(handle: str, domains: tuple[str, ...]) -> str | None:
    """The handle under which an account is created if the server then refuses `handle` itself; else None.

    The server refuses members' own domains, and reserved words. It is 'm-' and 12 hex digits of the handle's SHA-256
    under the first service domain: 14 characters, 3 to 18 are allowed. Two of a hundred members collide once in 10^10;
    then the second is refused, because the account's e-mail address must be the member's. The same handle gives the
    same one, so that an interrupted `up` finds the account again; after the rename it is free.
    """
    if service_domain(handle, domains) and not is_reserved(handle, domains):
        return None
    return f"m-{hashlib.sha256(handle.encode()).hexdigest()[:12]}{domains[0]}"


def is_temporary(live: str, handle: str) -> bool:
    """Whether `live` is the temporary handle of an account whose handle will be `handle`."""
    return live.startswith("m-") and live == temporary_handle(handle, (f".{live.partition('.')[2]}",))


@dataclass(frozen=True, kw_only=True)
class MemberArgs:
    """Arguments of `Member`. `server` are the inputs for queries to the PDS, `zone` our zone's name once it exists,
    `wait` the seconds to wait for a record of ours."""

    settings: Settings
    member: MemberOptions
    server: Mapping[str, pulumi.Input[str]]
    ipv4: pulumi.Output[str]
    zone: pulumi.Output[str]
    after: list[pulumi.Resource]
    wait: int


class Member(pulumi.ComponentResource):
    """An account with its handle and the handle's record."""

    did: pulumi.Output[str]
    """Empty while the account is pending."""
    account_state: pulumi.Output[str]
    handle_state: pulumi.Output[str]
    live_handle: pulumi.Output[str]
    initial_password: pulumi.Output[str]
    """Empty if the account existed before; secret."""
    records: pulumi.Output[list[dict[str, str]]]
    """Zone, name, type, value and ttl (seconds) of the member's records."""

    def __init__(self, name: str, args: MemberArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Member", name, None, opts)
        settings, member = args.settings, args.member
        child = pulumi.ResourceOptions(parent=self)
        temporary, *was = (
            temporary_handle(handle, settings.handle_domains) or "" for handle in (member.handle, member.was) if handle
        )
        common: dict[str, pulumi.Input[Any]] = {**args.server, "handle": member.handle, "temporary": temporary}
        # The account may still have the temporary handle that was made for a previous handle.
        common["was"] = [handle for handle in (member.was, *was) if handle]
        account = Account(
            f"{name}-account",
            {
                **common,
                "email": pulumi.Output.secret(member.email),
                # Not protected: members set their own, and an admin can set another.
                "password": random_hex(f"{name}-password", _PASSWORD_DIGITS, self, protect=False),
                "recovery_key": member.recovery_key or "",
            },
            pulumi.ResourceOptions(parent=self, depends_on=args.after),
        )
        records = member_records(settings, member)
        values = {Value.ADDRESS: args.ipv4, Value.DID: account.did.apply(did_value)}
        record_values = [record.value_from(values) for record in records]
        in_zone = not any(record.other_zone for record in records)
        created = [
            digitalocean.DnsRecord(
                f"{name}-{record.role}",
                domain=args.zone,
                type=record.type,
                name=record.name,
                value=value,
                ttl=settings.dns.ttl,
                opts=child,
            )
            for record, value in zip(records, record_values, strict=True)
            if in_zone and settings.dns.provider == "digitalocean"
        ]
        handle = Handle(
            f"{name}-handle",
            {
                **common,
                "did": account.did,
                "external": service_domain(member.handle, settings.handle_domains) is None,
                "nameservers": list(settings.dns.nameservers) if in_zone else [],
                "wait": args.wait if created else 0,
            },
            pulumi.ResourceOptions(parent=self, depends_on=created),
        )
        self.did, self.live_handle = account.did, handle.live_handle
        self.account_state, self.handle_state = account.state, handle.state
        self.initial_password = as_secret(account.initial_password)
        self.records = pulumi.Output.all(*record_values).apply(
            lambda known: [record.row(settings, value) for record, value in zip(records, known, strict=True)]
        )
        self.register_outputs({"did": self.did, "handle": self.live_handle})
