"""Every DNS record of a PDS, as data: those of the hostname, of each member's handle, and of the sender's domain.

`edge/dns.py` and `people/members.py` create them, or list them for manual creation. `./pds orphans` and `./pds check`
read the same records. A new record is one line here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from components.settings.checks.handles import service_domain, wildcards
from components.settings.fields import spf
from components.settings.fields.types import is_at_or_below
from components.settings.sections import MemberOptions
from components.settings.sections.mail import MailOptions, ReturnPathOptions, is_dkim_key
from components.settings.sections.settings import Settings

T = TypeVar("T")
Row = Mapping[str, str]
"""A record among the stack's outputs: zone, name, type, value, ttl (seconds)."""

_NO_ACCOUNT = "no account yet"
"""Value of a record whose account is pending. Resolvers do not accept it as a DID."""


class Value(Enum):
    """A record's value that is known only after other resources exist."""

    ADDRESS = "the host's IPv4 address"
    DID = "the DID of the member's account"


@dataclass(frozen=True)
class DnsRecord:
    """One record."""

    role: str
    """The end of its resource's name."""
    type: str
    name: str
    """Relative to the stack's zone, '@' for the zone itself. The whole name if the record is in another zone."""
    value: str | Value
    other_zone: str | None = None
    """The zone, in parentheses, if it is not the stack's. Then only its owner can create the record."""
    priority: int | None = None
    """Of an MX record."""
    sole: str | None = None
    """Beginning of the texts of which receivers accept only one at this name; None if there may be several records."""

    def value_from(self, known: Mapping[Value, T]) -> T | str:
        """The value, with those of other resources from `known`."""
        return known[self.value] if isinstance(self.value, Value) else self.value

    def row(self, settings: Settings, value: str) -> dict[str, str]:
        """The record among the stack's outputs, in the notation of zone files."""
        written = f'0 issue "{value.removesuffix(".")}"' if self.type == "CAA" else value
        written = written if self.priority is None else f"{self.priority} {written}"
        zone, ttl = self.other_zone or settings.zone, str(settings.dns.ttl)
        return {"zone": zone, "name": self.name, "type": self.type, "value": written, "ttl": ttl}

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Whether a record of DigitalOcean's API is this one, whatever the value that is known only later."""
        same_name = not self.other_zone and (item["type"], item["name"]) == (self.type, self.name)
        return same_name and (isinstance(self.value, Value) or item["data"].rstrip(".") == self.value.rstrip("."))


def hostname_records(settings: Settings) -> list[DnsRecord]:
    """The records of the hostname and of its handle domains."""
    host = settings.record_name
    return [
        DnsRecord("a", "A", host, Value.ADDRESS),
        *(_wildcard(settings, domain, name) for domain, name in wildcards(settings).items()),
        # The API returns a CAA value with a trailing dot; without it every preview would show a change.
        *(DnsRecord(f"caa-{issuer}", "CAA", host, f"{issuer}.") for issuer in settings.dns.caa),
    ]


def member_records(settings: Settings, member: MemberOptions) -> list[DnsRecord]:
    """The records of a member's handle."""
    handle, domains = member.handle, settings.handle_domains
    records = [_in_zone(settings, "proof", "TXT", f"_atproto.{handle}", Value.DID)]
    if settings.dns.wildcard and service_domain(handle, domains):
        # The record above makes the name exist, so that the wildcard no longer covers it (RFC 4592).
        records.append(_in_zone(settings, "address", "A", handle, Value.ADDRESS))
    return records


def mail_records(settings: Settings) -> list[DnsRecord]:
    """The records of the sender's domain, as far as the stack file asks for them."""
    mail = settings.mail
    if mail is None or mail.dns is None:
        return []
    domain, wanted = mail.verified_domain, mail.dns
    texts = [
        *((f"mail-verification-{number}", domain, text, None) for number, text in enumerate(wanted.verification)),
        *([("mail-spf", domain, spf.merged(wanted.spf_existing, wanted.spf), spf.VERSION)] if wanted.spf else []),
        *([("mail-dmarc", f"_dmarc.{mail.sender_domain}", wanted.dmarc.text, "v=DMARC1")] if wanted.dmarc else []),
    ]
    records = [_of_sender(settings, role, "TXT", name, text, sole=sole) for role, name, text, sole in texts]
    for selector, value in wanted.dkim.items():
        role, name = f"mail-dkim-{selector}", f"{selector}._domainkey.{domain}"
        if is_dkim_key(value):
            records.append(_of_sender(settings, role, "TXT", name, value, sole=""))
        else:
            records.append(_of_sender(settings, role, "CNAME", name, f"{value}.", sole=""))
    return records + (_return_path(settings, mail, wanted.return_path) if wanted.return_path else [])


def _return_path(settings: Settings, mail: MailOptions, path: ReturnPathOptions) -> list[DnsRecord]:
    role, name = "mail-return-path", f"{path.name}.{mail.verified_domain}"
    if path.cname:
        return [_of_sender(settings, role, "CNAME", name, f"{path.cname}.")]
    return [
        _of_sender(settings, role, "MX", name, f"{path.mx}.", priority=path.mx_priority),
        _of_sender(settings, f"{role}-spf", "TXT", name, spf.merged(None, path.spf), sole=spf.VERSION),
    ]


def _of_sender(
    settings: Settings,
    role: str,
    kind: str,
    whole_name: str,
    value: str,
    priority: int | None = None,
    sole: str | None = None,
) -> DnsRecord:
    record = _in_zone(settings, role, kind, whole_name, value, "(the sender's own)")
    return replace(record, priority=priority, sole=sole)


def _wildcard(settings: Settings, domain: str, name: str | None) -> DnsRecord:
    is_hostname = domain == f".{settings.hostname}"
    role = "wildcard" if is_hostname else f"wildcard{domain.replace('.', '-')}"
    if name is None:
        return DnsRecord(role, "A", f"*{domain}", Value.ADDRESS, other_zone=f"({domain.removeprefix('.')})")
    return DnsRecord(role, "A", name, Value.ADDRESS)


def _in_zone(
    settings: Settings, role: str, kind: str, whole_name: str, value: str | Value, other: str = "(the member's own)"
) -> DnsRecord:
    """A record under its name relative to the stack's zone, or under its whole name in the zone `other`."""
    if not is_at_or_below(whole_name, settings.zone):
        return DnsRecord(role, kind, whole_name, value, other_zone=other)
    name = "@" if whole_name == settings.zone else whole_name.removesuffix(f".{settings.zone}")
    return DnsRecord(role, kind, name, value)


def did_value(did: str) -> str:
    """The value of the TXT record that proves a handle; `did` is empty while the account is pending."""
    return f"did={did}" if did else _NO_ACCOUNT


def is_pending(row: Row) -> bool:
    """Whether the record's account does not exist yet."""
    return row["value"] == _NO_ACCOUNT


def whole_name(row: Row) -> str:
    """The record's name with its zone."""
    if row["zone"].startswith("("):
        return row["name"]
    return row["zone"] if row["name"] == "@" else f"{row['name']}.{row['zone']}"
