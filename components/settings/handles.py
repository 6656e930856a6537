"""What the server demands of its members' handles, and what two members of one stack file may not share.

The rules for handles under a service domain are those of `handle/index.js` in @atproto/pds, the same in both version
lines; the words that it reserves are in `reserved_handles.json`, taken from its `handle/reserved.js` by
`python -m tools.live.reserved_table`.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from components.settings.faults import Fault, dotted, shown
from components.settings.sections import Member
from components.settings.settings import Settings

SHORTEST, LONGEST = 3, 18
"""Characters before a service domain."""

MOST_MEMBERS = 90
"""The relay takes 100 accounts of a new host and throttles the others in silence (bsky-docs, rate-limits.md); ten of
them are left for people who come with an invite."""


@cache
def reserved_words() -> frozenset[str]:
    """What may not stand before a service domain unless an admin wants it so."""
    table = json.loads(Path(__file__).with_name("reserved_handles.json").read_text())
    return frozenset(table["words"])


def service_domain(handle: str, domains: tuple[str, ...]) -> str | None:
    """The service domain that `handle` is under: the first that fits, as in the server; None for a domain of one's
    own."""
    return next((domain for domain in domains if handle.endswith(domain)), None)


def wildcards(settings: Settings) -> dict[str, str | None]:
    """Each domain of handles, and the name in the stack's zone of the record that gives its handles an address, or None
    for a domain outside that zone. Empty where no such records are wanted."""
    if not settings.dns.wildcard:
        return {}
    zone = f".{settings.zone}"
    return {
        domain: f"*{domain}".removesuffix(zone) if domain.endswith(zone) else None for domain in settings.handle_domains
    }


def is_reserved(handle: str, domains: tuple[str, ...]) -> bool:
    """Whether only an admin's rename gives this handle."""
    domain = service_domain(handle, domains)
    return domain is not None and handle.removesuffix(domain) in reserved_words()


def member_faults(settings: Settings) -> Iterator[Fault]:
    """Handles that the server would refuse, and members who share what must be one's own."""
    for index, member in enumerate(settings.members):
        yield from _handle_faults(index, member, settings.handle_domains)
    yield from _shared("handle", [member.handle for member in settings.members])
    yield from _shared("email", [member.email.lower() for member in settings.members])
    handles = {member.handle for member in settings.members}
    for index, member in enumerate(settings.members):
        if member.was in handles:
            yield Fault(
                dotted(["members", index, "was"]),
                f"{member.was} is a member's handle in this file.",
                "Write the handle that she has until now, or remove it.",
            )
    if len(settings.members) > MOST_MEMBERS and not settings.relay_raised:
        yield Fault(
            "members",
            f"{len(settings.members)} members are more than {MOST_MEMBERS}; the relay stops at 100 accounts.",
            "Ask for a higher limit in github.com/bluesky-social/pds, then write 'relay_raised: true'.",
        )


def removal_faults(settings: Settings) -> Iterator[Fault]:
    """Accounts that are to be there and to be deleted."""
    handles = {member.handle for member in settings.members}
    for handle, did in settings.delete.items():
        if handle in handles:
            yield Fault(
                dotted(["delete", handle]),
                "this is a member too; `up` would make the account again.",
                "Remove it here, or from 'members'.",
            )
        if handle in settings.takedown or did in settings.takedown:
            yield Fault(
                dotted(["delete", handle]), "this account is to be taken down, too.", "Remove it from 'takedown'."
            )


def _handle_faults(index: int, member: Member, domains: tuple[str, ...]) -> Iterator[Fault]:
    key = dotted(["members", index, "handle"])
    domain = service_domain(member.handle, domains)
    if domain is None:
        return
    front = member.handle.removesuffix(domain)
    if "." in front:
        yield Fault(
            key,
            f"{shown(front)} before {domain} has a dot; the server takes none.",
            f"Write '{front.replace('.', '-')}{domain}'.",
        )
    elif not SHORTEST <= len(front) <= LONGEST:
        yield Fault(
            key,
            f"{shown(front)} has {len(front)} characters; the server takes {SHORTEST} to {LONGEST} before {domain}.",
            f"Write {'a longer' if len(front) < SHORTEST else 'a shorter'} name, or a handle of her own domain.",
        )
    elif is_reserved(member.handle, domains) and not member.reserved:
        yield Fault(key, f"the server reserves {shown(front)}.", "Write another name, or 'reserved: true' beside it.")


def _shared(option: str, values: list[str]) -> Iterator[Fault]:
    for index, value in enumerate(values):
        if (first := values.index(value)) < index:
            yield Fault(
                dotted(["members", index, option]),
                f"{shown(value)} is that of {dotted(['members', first])}, too.",
                "Write one of her own, or remove one of the two.",
            )
