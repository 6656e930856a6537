"""The text of SPF records: terms, faults, merging, lookups (RFC 7208)."""

import pytest

from components.settings.fields import spf

MANY = " ".join(f"include:{number}.my-mail.org" for number in range(11))


@pytest.mark.parametrize(
    "term",
    [
        *("include:amazonses.com", "include:_spf.google.com", "?include:a.b", "a", "mx", "a:mail.noted.at", "a/24"),
        *("mx:noted.at/24//64", "ip4:192.0.2.0/24", "ip6:2001:db8::/32", "exists:%{i}.spf.noted.at", "ptr", "-all"),
        *("redirect=_spf.noted.at", "exp=why.noted.at", "unknown=x"),
    ],
)
def test_a_term_of_the_standard_is_accepted(term: str) -> None:
    assert spf.term_fault(term) is None


@pytest.mark.parametrize(
    "term", ["include", "include:", "includes:a.b", "ip4:192.0.2.300", "ip6:192.0.2.1", "all:x", ""]
)
def test_a_misspelled_term_is_refused(term: str) -> None:
    assert spf.term_fault(term)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("v=spf1 include:a.b ~all", None),
        ("V=SPF1 mx -all exp=x.y", None),
        ("v=spf1", None),
        ("v=spf10 ~all", "does not begin"),
        ("spf1 ~all", "does not begin"),
        ("v=spf1 include: ~all", "'include:' is not a term"),
        ("v=spf1 inlcude=a.b ~all", "'inlcude=a.b' is not a term of an SPF record: write 'include:'"),
        ("v=spf1 -all include:a.b", "ignore 'include:a.b'"),
        ("v=spf1 redirect=a.b redirect=c.d", "two 'redirect='"),
    ],
)
def test_a_record_is_valid_or_its_fault_is_named(text: str, fault: str | None) -> None:
    found = spf.record_fault(text)
    assert found is None if fault is None else fault in str(found)


@pytest.mark.parametrize(
    ("existing", "added", "merged"),
    [
        (None, ["include:a.b"], "v=spf1 include:a.b ~all"),
        (None, [], "v=spf1 ~all"),
        ("v=spf1 mx -all", ["include:a.b"], "v=spf1 mx include:a.b -all"),
        ("v=spf1 include:A.b ?all", ["include:a.b", "include:c.d"], "v=spf1 include:A.b include:c.d ?all"),
        ("v=spf1 redirect=x.y", ["include:a.b"], "v=spf1 include:a.b redirect=x.y"),
        ("v=spf1 mx", ["include:a.b", "include:a.b"], "v=spf1 mx include:a.b"),
    ],
)
def test_new_terms_come_before_the_end_and_only_once(existing: str | None, added: list[str], merged: str) -> None:
    assert spf.merged(existing, added) == merged


def test_terms_that_need_a_query_are_counted() -> None:
    assert spf.lookups("v=spf1 a mx:b.c include:d.e exists:f.g ptr redirect=h.i ip4:192.0.2.1 ~all exp=j.k all") == 6
    assert spf.lookups(f"v=spf1 {MANY} ~all") == 11
    assert spf.targets("v=spf1 +include:D.e. redirect=h.i include:%{d}.x a:no.one") == ["d.e", "h.i"]
