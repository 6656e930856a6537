"""Every DNS record of a PDS, as data: those of the hostname, and those of each member's handle.

`edge/dns.py` and `people/members.py` create them, or list them for manual creation. `./pds orphans` and `./pds check`
read the same records. A new record is one line here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from components.settings.handles import service_domain, wildcards
from components.settings.sections import MemberOptions
from components.settings.settings import Settings

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

    def value_from(self, known: Mapping[Value, T]) -> T | str:
        """The value, with those of other resources from `known`."""
        return known[self.value] if isinstance(self.value, Value) else self.value

    def row(self, settings: Settings, value: str) -> dict[str, str]:
        """The record among the stack's outputs, in the notation of zone files."""
        written = f'0 issue "{value.removesuffix(".")}"' if self.type == "CAA" else value
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


def _wildcard(settings: Settings, domain: str, name: str | None) -> DnsRecord:
    is_hostname = domain == f".{settings.hostname}"
    role = "wildcard" if is_hostname else f"wildcard{domain.replace('.', '-')}"
    if name is None:
        return DnsRecord(role, "A", f"*{domain}", Value.ADDRESS, other_zone=f"({domain.removeprefix('.')})")
    return DnsRecord(role, "A", name, Value.ADDRESS)


def _in_zone(settings: Settings, role: str, kind: str, whole_name: str, value: Value) -> DnsRecord:
    """A record under its name relative to the stack's zone, or under its whole name in the member's own zone."""
    if whole_name != settings.zone and not whole_name.endswith(f".{settings.zone}"):
        return DnsRecord(role, kind, whole_name, value, other_zone="(the member's own)")
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
