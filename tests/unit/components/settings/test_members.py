"""Members in the stack file: values that the server would refuse are refused here, at their keys, with a valid one."""

from typing import Any

import pytest

from components.settings.handles import LONGEST, MOST_MEMBERS, SHORTEST, reserved_words
from tests.unit.components.settings.test_settings import fault, faults, settings

DID = "did:plc:qo2urk437ss36eyefp5jgoyw"
KEY = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"


def _member(handle: str, **more: Any) -> dict[str, Any]:
    return {"handle": handle, "email": f"{handle.partition('.')[0]}@club.org", **more}


def test_a_member_is_a_handle_and_an_address() -> None:
    (member,) = settings(members=[_member("kexpfan.noted.at")]).members
    assert (member.handle, member.email) == ("kexpfan.noted.at", "kexpfan@club.org")
    assert (member.email_verified, member.reserved, member.recovery_key) == (False, False, None)


def test_a_domain_of_her_own_may_be_of_any_form() -> None:
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
def test_a_handle_that_the_server_refuses_is_refused_here(handle: str, problem: str, remedy: str) -> None:
    found = fault("members[0].handle", members=[_member(handle, email="a@club.org")])
    assert problem in found.problem
    assert remedy in found.remedy


def test_the_limits_themselves_are_taken() -> None:
    handles = ["a" * SHORTEST, "a" * LONGEST]
    assert len(settings(members=[_member(f"{front}.noted.at") for front in handles]).members) == 2


def test_the_rules_are_those_of_the_service_domains_that_the_server_has() -> None:
    found = fault("members[0].handle", service_handle_domains=[".club.org"], members=[_member("info.club.org")])
    assert "reserves" in found.problem
    assert settings(service_handle_domains=[".club.org"], members=[_member("info.noted.at")]), "now a domain of her own"


def test_a_reserved_word_may_be_asked_for() -> None:
    assert {"info", "support", "admin", "bsky"} <= reserved_words()
    assert settings(members=[_member("info.noted.at", reserved=True)]).members[0].reserved


def test_members_share_neither_handle_nor_address() -> None:
    twice = faults(members=[_member("ann.noted.at"), _member("ann.noted.at")])
    assert [found.key for found in twice] == ["members[1].email", "members[1].handle"]
    assert "members[0]" in twice[0].problem
    other = _member("bob.noted.at", email="Ann@club.org")
    assert fault("members[1].email", members=[_member("ann.noted.at", email="ann@club.org"), other])


def test_a_handle_that_is_given_up_is_free() -> None:
    members = [_member("ann.noted.at"), _member("bob.noted.at", was="ann.noted.at")]
    assert "is the handle of a member" in fault("members[1].was", members=members).problem


def test_many_members_need_a_relay_that_takes_them() -> None:
    members = [_member(f"m{number:03}.noted.at") for number in range(MOST_MEMBERS + 1)]
    assert "'relay_raised: true'" in fault("members", members=members).remedy
    assert settings(members=members, relay_raised=True)
    assert settings(members=members[:-1])


def test_faults_inside_a_member_are_named_with_their_place() -> None:
    key = faults(members=[_member("ann.noted.at"), {"handle": "bob.noted.at", "e-mail": "b@club.org"}])
    assert [found.key for found in key] == ["members[1].e-mail", "members[1].email"]
    assert "'email'" in key[0].remedy
    assert (
        "'did:key:zQ3s'" in fault("members[0].recovery_key", members=[_member("ann.noted.at", recovery_key="x")]).remedy
    )
    assert fault("members[0]", members=["ann.noted.at"]).remedy == "Write a map of 'name: value' lines."


def test_an_account_is_not_wanted_and_deleted_at_once() -> None:
    found = fault('delete["ann.noted.at"]', members=[_member("ann.noted.at")], delete={"ann.noted.at": DID})
    assert "create the account again" in found.problem
    assert fault('delete["ann.noted.at"]', takedown=[DID], delete={"ann.noted.at": DID})
    asked = settings(takedown=["bob.noted.at", DID], delete={"eve.noted.at": "did:plc:x"})
    assert asked.takedown == ("bob.noted.at", DID)
    assert dict(asked.delete) == {"eve.noted.at": "did:plc:x"}


def test_invites_are_a_count_and_uses_or_none() -> None:
    assert settings().invites is None
    asked = settings(invites={"count": 3}).invites
    assert asked
    assert (asked.count, asked.uses) == (3, 1)
    assert fault("invites.count", invites={"count": 0})


def test_the_job_that_confirms_addresses_has_to_have_room() -> None:
    tight: dict[str, Any] = {"pds": {"memory_mib": 1156}, "ingress": {"memory_mib": 256}}
    assert settings(members=[_member("ann.noted.at")], **tight)
    found = fault("host.size", members=[_member("ann.noted.at", email_verified=True)], **tight)
    assert "members 128" in found.problem
