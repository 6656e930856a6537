"""Members in the stack file: values that the server would refuse are refused with their key and a valid example."""

from typing import Any

import pytest

from components.settings.checks.handles import LONGEST, MOST_MEMBERS, SHORTEST, reserved_words
from tests.unit.components.settings.test_settings import fault, faults, settings

DID = "did:plc:qo2urk437ss36eyefp5jgoyw"
KEY = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"


def _member(handle: str, **more: Any) -> dict[str, Any]:
    return {"handle": handle, "email": f"{handle.partition('.')[0]}@club.org", **more}


def test_member_is_a_handle_and_an_email_address() -> None:
    (member,) = settings(members=[_member("kexpfan.noted.at")]).members
    assert (member.handle, member.email) == ("kexpfan.noted.at", "kexpfan@club.org")
    assert (member.email_verified, member.reserved, member.recovery_key) == (False, False, None)


def test_accepts_a_domain_of_the_member_in_any_form() -> None:
    for handle in ("ann.her-domain.org", "a.b.c.org", "info.org", f"{'a' * 40}.org", "noted.at"):
        assert settings(members=[_member(handle, recovery_key=KEY)]).members[0].handle == handle


@pytest.mark.parametrize(
    ("handle", "problem", "remedy"),
    [
        ("an.noted.at", f"2 characters. The server accepts {SHORTEST} to {LONGEST}", "a longer name"),
        (f"{'a' * 19}.noted.at", "has 19 characters", "a shorter name"),
        ("ann.b.noted.at", "has a dot", "'ann-b.noted.at'"),
        ("info.noted.at", "reserves 'info'", "'reserved: true'"),
        ("Ann.noted.at", "not a handle", "'ann.noted.at'"),
        ("@ann.noted.at", "not a handle", "'ann.noted.at'"),
        ("ann", "not a handle", "'ann.my-club.org'"),
        ("ann.noted.local", "no handle can exist under '.local'", "'.test'"),
    ],
)
def test_refuses_a_handle_that_the_server_refuses(handle: str, problem: str, remedy: str) -> None:
    found = fault("members[0].handle", members=[_member(handle, email="a@club.org")])
    assert problem in found.problem
    assert remedy in found.remedy


def test_accepts_handles_of_the_shortest_and_the_longest_length() -> None:
    handles = ["a" * SHORTEST, "a" * LONGEST]
    assert len(settings(members=[_member(f"{front}.noted.at") for front in handles]).members) == 2


def test_handle_rules_apply_to_the_configured_handle_domains() -> None:
    found = fault("members[0].handle", service_handle_domains=[".club.org"], members=[_member("info.club.org")])
    assert "reserves" in found.problem
    assert settings(service_handle_domains=[".club.org"], members=[_member("info.noted.at")]), (
        "under another handle domain it is the member's own domain"
    )


def test_accepts_a_reserved_word_if_it_is_requested() -> None:
    assert {"info", "support", "admin", "bsky"} <= reserved_words()
    assert settings(members=[_member("info.noted.at", reserved=True)]).members[0].reserved


def test_refuses_a_handle_or_address_of_two_members() -> None:
    twice = faults(members=[_member("ann.noted.at"), _member("ann.noted.at")])
    assert [found.key for found in twice] == ["members[1].email", "members[1].handle"]
    assert "members[0]" in twice[0].problem
    other = _member("bob.noted.at", email="Ann@club.org")
    assert fault("members[1].email", members=[_member("ann.noted.at", email="ann@club.org"), other])


def test_refuses_a_previous_handle_that_another_member_has() -> None:
    members = [_member("ann.noted.at"), _member("bob.noted.at", was="ann.noted.at")]
    assert "is the handle of a member" in fault("members[1].was", members=members).problem


def test_requires_a_raised_relay_limit_for_many_members() -> None:
    members = [_member(f"m{number:03}.noted.at") for number in range(MOST_MEMBERS + 1)]
    assert "'relay_raised: true'" in fault("members", members=members).remedy
    assert settings(members=members, relay_raised=True)
    assert settings(members=members[:-1])


def test_faults_of_a_member_are_named_with_their_position() -> None:
    key = faults(members=[_member("ann.noted.at"), {"handle": "bob.noted.at", "e-mail": "b@club.org"}])
    assert [found.key for found in key] == ["members[1].e-mail", "members[1].email"]
    assert "'email'" in key[0].remedy
    assert (
        "'did:key:zQ3s'" in fault("members[0].recovery_key", members=[_member("ann.noted.at", recovery_key="x")]).remedy
    )
    assert fault("members[0]", members=["ann.noted.at"]).remedy == "Write a map of 'name: value' lines."


def test_refuses_an_account_that_is_listed_and_deleted_or_taken_down_and_deleted() -> None:
    found = fault('delete["ann.noted.at"]', members=[_member("ann.noted.at")], delete={"ann.noted.at": DID})
    assert "create the account again" in found.problem
    assert fault('delete["ann.noted.at"]', takedown=[DID], delete={"ann.noted.at": DID})
    parsed = settings(takedown=["bob.noted.at", DID], delete={"eve.noted.at": "did:plc:x"})
    assert parsed.takedown == ("bob.noted.at", DID)
    assert dict(parsed.delete) == {"eve.noted.at": "did:plc:x"}


def test_invites_are_a_count_and_uses_or_none() -> None:
    assert settings().invites is None
    parsed = settings(invites={"count": 3}).invites
    assert parsed
    assert (parsed.count, parsed.uses) == (3, 1)
    assert fault("invites.count", invites={"count": 0})


def test_memory_of_the_confirming_job_counts_for_the_host_size() -> None:
    tight: dict[str, Any] = {"pds": {"memory_mib": 1156}, "ingress": {"memory_mib": 256}}
    assert settings(members=[_member("ann.noted.at")], **tight)
    found = fault("host.size", members=[_member("ann.noted.at", email_verified=True)], **tight)
    assert "members 128" in found.problem
