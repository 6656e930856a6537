"""The server's rules for members' handles, and the values that must be unique among the members of a stack file.

The rules for handles under a service domain are those of `handle/index.js` in @atproto/pds, the same in both version
lines. `python -m tools.generate.reserved_handles` generates the reserved words in `reserved_handles.json` from its
`handle/reserved.js`.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from components.settings.fields.errors import Fault, dotted, shown
from components.settings.sections import MemberOptions
from components.settings.sections.settings import Settings

SHORTEST, LONGEST = 3, 18
"""Characters before a service domain."""

MOST_MEMBERS = 90
"""The relay accepts 100 accounts of a new host and silently throttles the others (bsky-docs, rate-limits.md). Ten of
them are left for people with an invite."""


@cache
def reserved_words() -> frozenset[str]:
    """Names that only an admin may assign before a service domain."""
    table = json.loads(Path(__file__).with_name("reserved_handles.json").read_text())
    return frozenset(table["words"])


def service_domain(handle: str, domains: tuple[str, ...]) -> str | None:
    """The first service domain that `handle` is under, as in the server. None for a member's own domain."""
    return next((domain for domain in domains if handle.endswith(domain)), None)


def wildcards(settings: Settings) -> dict[str, str | None]:
    """Each handle domain, and the name in the stack's zone of the record that gives its handles an address. None for a
    domain outside that zone. Empty if such records are off."""
    if not settings.dns.wildcard:
        return {}
    zone = f".{settings.zone}"
    return {
        domain: f"*{domain}".removesuffix(zone) if domain.endswith(zone) else None for domain in settings.handle_domains
    }


def is_reserved(handle: str, domains: tuple[str, ...]) -> bool:
    """Whether only an admin's rename can assign this handle."""
    domain = service_domain(handle, domains)
    return domain is not None and handle.removesuffix(domain) in reserved_words()


def member_faults(settings: Settings) -> Iterator[Fault]:
    """Handles that the server would refuse, and values that two members share but must not."""
    for index, member in enumerate(settings.members):
        yield from _handle_faults(index, member, settings.handle_domains)
    yield from _shared("handle", [member.handle for member in settings.members])
    yield from _shared("email", [member.email.lower() for member in settings.members])
    handles = {member.handle for member in settings.members}
    for index, member in enumerate(settings.members):
        if member.was in handles:
            yield Fault(
                dotted(["members", index, "was"]),
                f"{member.was} is the handle of a member in this file.",
                "Write the member's current handle, or remove it.",
            )
    if len(settings.members) > MOST_MEMBERS and not settings.relay_raised:
        yield Fault(
            "members",
            f"{len(settings.members)} members are more than {MOST_MEMBERS}. The relay stops at 100 accounts.",
            "Ask for a higher limit in github.com/bluesky-social/pds, then write 'relay_raised: true'.",
        )


def removal_faults(settings: Settings) -> Iterator[Fault]:
    """Accounts that are listed both as present and for deletion."""
    handles = {member.handle for member in settings.members}
    for handle, did in settings.delete.items():
        if handle in handles:
            yield Fault(
                dotted(["delete", handle]),
                "this is a member too, and `up` would create the account again.",
                "Remove it here, or from 'members'.",
            )
        if handle in settings.takedown or did in settings.takedown:
            yield Fault(dotted(["delete", handle]), "'takedown' lists this account, too.", "Remove it from 'takedown'.")


def _handle_faults(index: int, member: MemberOptions, domains: tuple[str, ...]) -> Iterator[Fault]:
    key = dotted(["members", index, "handle"])
    domain = service_domain(member.handle, domains)
    if domain is None:
        return
    front = member.handle.removesuffix(domain)
    if "." in front:
        yield Fault(
            key,
            f"{shown(front)} before {domain} has a dot, which the server refuses.",
            f"Write '{front.replace('.', '-')}{domain}'.",
        )
    elif not SHORTEST <= len(front) <= LONGEST:
        yield Fault(
            key,
            f"{shown(front)} has {len(front)} characters. The server accepts {SHORTEST} to {LONGEST} before {domain}.",
            f"Write {'a longer' if len(front) < SHORTEST else 'a shorter'} name, or a handle of another domain.",
        )
    elif is_reserved(member.handle, domains) and not member.reserved:
        yield Fault(
            key, f"the server reserves {shown(front)}.", "Write another name, or 'reserved: true' in its entry."
        )


def _shared(option: str, values: list[str]) -> Iterator[Fault]:
    for index, value in enumerate(values):
        if (first := values.index(value)) < index:
            yield Fault(
                dotted(["members", index, option]),
                f"{dotted(['members', first])} has {shown(value)}, too.",
                "Write another one, or remove one of the two members.",
            )
