"""The text of an SPF record (RFC 7208): its terms, its faults, and how terms are merged into an existing record."""

import difflib
import ipaddress
import re
from collections.abc import Sequence

VERSION = "v=spf1"
MOST_LOOKUPS = 10
"""Terms that need a DNS query, with those of included records. One more makes the record invalid (section 4.6.4)."""

_DOMAIN_SPEC = r"[A-Za-z0-9_%{}.\-/+,=]*[A-Za-z0-9_}-]\.?"
_CIDR = r"(?:/[0-9]{1,2})?(?://[0-9]{1,3})?"
_MECHANISM = re.compile(
    rf"[+?~-]?(?:(?P<all>all)|(?:include|exists):{_DOMAIN_SPEC}|(?:a|mx)(?::[A-Za-z0-9_%{{}}.-]+)?{_CIDR}"
    rf"|ptr(?::{_DOMAIN_SPEC})?|ip4:(?P<ip4>[0-9./]+)|ip6:(?P<ip6>[0-9A-Fa-f:./]+))",
    re.IGNORECASE,
)
_MODIFIER = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_.-]*)=\S*")
_WITH_VALUE = ("include", "exists", "ip4", "ip6")
"""Mechanisms that take a value after a colon."""

_QUERYING = re.compile(r"(?:[+?~-]?(?:include:|exists:|a(?:$|[:/])|mx(?:$|[:/])|ptr(?:$|:))|redirect=)", re.IGNORECASE)


def is_spf(text: str) -> bool:
    """Whether a TXT record is an SPF record (section 4.5)."""
    return text.lower() == VERSION or text.lower().startswith(f"{VERSION} ")


def terms(text: str) -> list[str]:
    """The terms of a record, without its version."""
    return text.split()[1:]


def term_fault(term: str) -> str | None:
    """What is wrong with a term; None if nothing is."""
    found = _MECHANISM.fullmatch(term)
    if not found:
        modifier = _MODIFIER.fullmatch(term)
        # Receivers ignore unknown modifiers (section 6), so a mechanism with '=' instead of ':' authorizes nothing.
        meant = difflib.get_close_matches(modifier["name"].lower(), _WITH_VALUE, 1, 0.8) if modifier else []
        if meant:
            return f"is not a term of an SPF record: write '{meant[0]}:'"
        return None if modifier else "is not a term of an SPF record"
    for kind, parse in (("ip4", ipaddress.IPv4Network), ("ip6", ipaddress.IPv6Network)):
        try:
            if found[kind]:
                parse(found[kind], strict=False)
        except ValueError:
            return f"has no address that {kind} accepts"
    return None


def record_fault(text: str) -> str | None:
    """What is wrong with a whole record; None if nothing is."""
    if not is_spf(text):
        return f"it does not begin with '{VERSION} '"
    for term in terms(text):
        if fault := term_fault(term):
            return f"'{term}' {fault}"
    if permissive := [term for term in terms(text) if term.lower() in ("all", "+all")]:
        return f"'{permissive[0]}' lets every server send in the domain's name (write '~all' or '-all')"
    if any(_is_all(term) for term in terms(text)[:-1] if not _MODIFIER.fullmatch(term)):
        after = terms(text)[[_is_all(term) for term in terms(text)].index(True) + 1 :]
        if ignored := [term for term in after if not _MODIFIER.fullmatch(term)]:
            return f"receivers ignore '{ignored[0]}', because it is after 'all'"
    if sum(term.lower().startswith("redirect=") for term in terms(text)) > 1:
        return "it has two 'redirect=' modifiers"
    return None


def _is_all(term: str) -> bool:
    return term.lower().lstrip("+?~-") == "all"


def is_end(term: str) -> bool:
    """Whether a term ends the evaluation: `all` or `redirect=`."""
    return _is_all(term) or term.lower().startswith("redirect=")


def same(one: str, other: str) -> bool:
    """Whether two records differ in spaces and capitals only."""
    return one.lower().split() == other.lower().split()


def merged(existing: str | None, added: Sequence[str]) -> str:
    """The one record with the terms of `existing` and those of `added` that it lacks.

    The new terms come before `all` or `redirect=`, which end the evaluation. A new record ends with `~all`: receivers
    mark other senders as suspicious and do not refuse them.
    """
    old = terms(existing) if existing else ["~all"]
    new = [term for term in dict.fromkeys(added) if term.lower() not in {known.lower() for known in old}]
    end = next((number for number, term in enumerate(old) if is_end(term)), len(old))
    return " ".join([VERSION, *old[:end], *new, *old[end:]])


def lookups(text: str) -> int:
    """The number of a record's own terms that need a DNS query. Included records count in addition."""
    return sum(bool(_QUERYING.match(term)) for term in terms(text))


def targets(text: str) -> list[str]:
    """The domains whose records this one includes or redirects to, without those with macros."""
    found = [re.fullmatch(r"[+?~-]?(?:include:|redirect=)([^%\s]+)", term, re.IGNORECASE) for term in terms(text)]
    return [match[1].rstrip(".").lower() for match in found if match]
