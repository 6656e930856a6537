"""Members in the graph: the resources of a member, their order, names, records and outputs."""

import re
from typing import Any

import pytest

from components.people.members import temporary_handle
from components.settings.checks.handles import LONGEST, SHORTEST, reserved_words
from offline.hcl_reader import job_of, task_of
from offline.mock_engine import COMPUTED, RESERVED_IP, Evaluation
from policy.secrets import is_secret
from tests.support.invariants import waits_for
from tests.support.programs import CLUB, run

ACCOUNT = "pulumi-python:dynamic/pds:Account"
HANDLE = "pulumi-python:dynamic/pds:Handle"


def _one(**member: Any) -> Evaluation:
    return run(members=[{"email": "ann@club.org", **member}])


def _records(evaluation: Evaluation, name: str) -> dict[tuple[str, str], str]:
    return {(row["type"], row["name"]): row["value"] for row in evaluation.outputs["records"] if name in row["name"]}


def _warnings(evaluation: Evaluation) -> list[str]:
    return [text for severity, text in evaluation.messages if severity == "warning"]


# The temporary handle.


@pytest.mark.parametrize("handle", ["ann.her-domain.org", "info.noted.at", "noted.at", "a.b.c.d.e.f.org"])
def test_handle_that_needs_a_record_first_has_a_valid_temporary_handle(handle: str) -> None:
    temporary = temporary_handle(handle, (".noted.at", ".club.org"))
    assert temporary == temporary_handle(handle, (".noted.at", ".club.org")), (
        "an interrupted `up` must derive the same one"
    )
    assert temporary is not None
    front = temporary.removesuffix(".noted.at")
    assert re.fullmatch(r"m-[0-9a-f]{12}", front)
    assert SHORTEST <= len(front) <= LONGEST
    assert front not in reserved_words()


def test_handle_under_a_handle_domain_has_no_temporary_handle() -> None:
    assert temporary_handle("ann.noted.at", (".noted.at",)) is None
    assert temporary_handle("ann.club.org", (".noted.at", ".club.org")) is None
    assert temporary_handle("a.org", (".noted.at",)) != temporary_handle("b.org", (".noted.at",))


# The graph.


def test_accounts_are_created_after_the_server_is_ready(club: Evaluation) -> None:
    for item in club.of(ACCOUNT):
        depends_on = waits_for(club, item)
        assert {"pds-server-ready", "pds-people-removals", item.name.replace("-account", "-password")} <= depends_on
    assert not {item.name for item in club.of(ACCOUNT)} & waits_for(club, club.one("pds-server-ready")), (
        "a pending member must not prevent the PDS from being ready"
    )


def test_handle_is_changed_after_its_record_is_created(club: Evaluation) -> None:
    handle = club.one("pds-people-member-info.noted.at-handle")
    assert "pds-people-member-info.noted.at-proof" in waits_for(club, handle)
    assert handle.inputs["wait"] == 120, "the program waits for its own record"
    assert club.one("pds-people-member-ann.her-domain.org-handle").inputs["wait"] == 0, (
        "a record created by hand is checked once"
    )


def test_without_members_no_resource_or_output_of_members_exists(dev: Evaluation) -> None:
    assert not [item.name for item in dev.resources if re.search("member|invites|unlisted|confirm", item.name)]
    assert not dev.outputs.keys() & {"members", "member_passwords", "invite_codes", "confirm_job"}


def test_personal_values_of_a_member_are_secret(club: Evaluation) -> None:
    for item in club.of(ACCOUNT):
        for key in ("email", "password", "admin_password"):
            assert is_secret(item.raw[key]), f"{item.name}.{key} is in plain text in state and diffs"
    assert {"member_passwords", "invite_codes"} <= club.secret_outputs
    first = club.one("pds-people-member-kexpfan.noted.at-password").outputs["result"]["value"]
    assert club.outputs["member_passwords"]["kexpfan.noted.at"] == first
    addresses = [member["email"] for member in CLUB["members"]]
    for job in club.of("job:Job"):
        assert not [address for address in addresses if address in str(job.inputs)], (
            "Nomad keeps jobs, and any client can read them"
        )


def test_changed_handle_keeps_the_member() -> None:
    evaluation = _one(handle="annie.noted.at", was="ann.noted.at")
    member = evaluation.one("pds-people-member-annie.noted.at")
    assert [alias["spec"]["name"] for alias in member.options["aliases"]] == ["pds-people-member-ann.noted.at"]
    assert evaluation.one("pds-people-member-annie.noted.at-handle").inputs["was"] == ["ann.noted.at"]
    pending = _one(handle="annie.her.org", was="ann.her.org").one("pds-people-member-annie.her.org-account").inputs
    assert pending["was"] == ["ann.her.org", temporary_handle("ann.her.org", (".noted.at",))]


# Accounts that the stack file does not name.


def test_unlisted_accounts_are_searched_if_a_new_handle_needs_a_record() -> None:
    for searched, options in (
        (True, {"invites": {"count": 1}}),
        (True, {"pds": {"invite_required": False, "open_registration": True}}),
        (False, {"invites": {"count": 1}, "ingress": {"kind": "caddy"}}),
        (False, {"members": CLUB["members"]}),
    ):
        evaluation = run(**options)
        found = [item.name for item in evaluation.resources if item.name == "pds-people-unlisted-accounts"]
        assert found == ["pds-people-unlisted-accounts"] * searched, options


def test_members_and_removed_accounts_are_not_unlisted(club: Evaluation) -> None:
    unlisted = club.one("pds-people-unlisted-accounts").inputs
    assert set(unlisted["dids"]) == {member["did"] for member in club.outputs["members"].values()}
    handles = {member["handle"] for member in CLUB["members"]}
    assert set(unlisted["known"]) == handles | {"mallory.noted.at", "eve.noted.at"}
    assert not [text for text in _warnings(club) if "--adopt" in text]


def test_warns_about_unlisted_accounts_with_the_command_that_adopts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"unlisted": ["bob.noted.at", "eva.noted.at"], "state": "done"}
    monkeypatch.setitem(COMPUTED, "pulumi-python:dynamic/pds:UnlistedAccounts", lambda name, inputs: found)
    (warning,) = [text for text in _warnings(run(invites={"count": 1})) if "--adopt" in text]
    assert warning.startswith("bob.noted.at, eva.noted.at: on the PDS, but not in Pulumi.dev.yaml")
    assert "`./pds members dev --adopt`" in warning


# Records.


def test_records_of_a_member_are_created_in_the_zone_of_the_stack(club: Evaluation) -> None:
    did = club.outputs["members"]["kexpfan.noted.at"]["did"]
    proof = club.one("pds-people-member-kexpfan.noted.at-proof").inputs
    expected = {"type": "TXT", "name": "_atproto.kexpfan", "value": f"did={did}", "domain": "noted.at"}
    assert expected.items() <= proof.items()
    address = club.one("pds-people-member-kexpfan.noted.at-address").inputs
    assert (address["name"], address["value"]) == ("kexpfan", RESERVED_IP), (
        "the wildcard no longer covers a name with records"
    )


def test_record_in_the_own_zone_of_a_member_is_listed_for_manual_creation(club: Evaluation) -> None:
    did = club.outputs["members"]["ann.her-domain.org"]["did"]
    assert _records(club, "her-domain") == {("TXT", "_atproto.ann.her-domain.org"): f"did={did}"}
    assert not [
        item.name for item in club.resources if item.name.startswith("pds-people-member-ann.her-domain.org-proof")
    ]


def test_with_manual_dns_every_member_record_is_listed(dev: Evaluation) -> None:
    evaluation = run(dns={"provider": "manual"}, **CLUB)
    assert not [item.name for item in evaluation.resources if item.type.endswith("DnsRecord")]
    assert ("TXT", "_atproto.kexpfan") in _records(evaluation, "kexpfan")
    assert len(evaluation.outputs["records"]) == len(dev.outputs["records"]) + 5


def test_record_of_a_member_domain_in_the_zone_of_the_stack_is_created() -> None:
    evaluation = run(
        hostname="pds.club.org", dns={"zone": "club.org"}, members=[{"handle": "ann.club.org", "email": "ann@x.org"}]
    )
    assert evaluation.one("pds-people-member-ann.club.org-proof").inputs["name"] == "_atproto.ann"
    handle = evaluation.one("pds-people-member-ann.club.org-handle").inputs
    assert (handle["external"], handle["wait"]) == (True, 120)
    assert not [item.name for item in evaluation.resources if item.name.endswith("ann.club.org-address")]


# What is pending.


def test_pending_member_has_no_false_record_and_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = {"did": "", "live_handle": "", "initial_password": "", "state": "pending: its name does not resolve yet"}
    monkeypatch.setitem(COMPUTED, ACCOUNT, lambda name, inputs: pending)
    monkeypatch.setitem(COMPUTED, HANDLE, lambda name, inputs: {"live_handle": "", "state": "pending: no account yet"})
    evaluation = _one(handle="ann.noted.at", email_verified=True)
    assert evaluation.one("pds-people-member-ann.noted.at-proof").inputs["value"] == "no account yet"
    assert evaluation.one("pds-people-email-confirmation-run").inputs["list"] == "", "no address to confirm"
    expected_warning = (
        "The account of ann.noted.at: pending: its name does not resolve yet. The next `pulumi up` continues."
    )
    assert expected_warning in _warnings(evaluation)


def test_warns_if_the_live_handle_differs_from_the_stack_file(monkeypatch: pytest.MonkeyPatch) -> None:
    state = "the account's handle is an.noted.at: write 'was: an.noted.at' in its entry"
    monkeypatch.setitem(COMPUTED, HANDLE, lambda name, inputs: {"live_handle": "an.noted.at", "state": state})
    assert f"The handle ann.noted.at: {state}." in _warnings(_one(handle="ann.noted.at"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({}, "open"), ({"ingress": {"kind": "none"}}, "none"), ({"pds": {"paused": True}}, "paused")],
)
def test_account_resource_gets_the_ingress_state(changes: dict[str, Any], word: str) -> None:
    evaluation = run(members=[{"handle": "ann.noted.at", "email": "ann@club.org"}], **changes)
    assert evaluation.one("pds-people-member-ann.noted.at-account").inputs["ingress_state"] == word


# Confirmed addresses.


def test_confirmed_accounts_are_in_a_variable_and_a_new_address_starts_a_run(
    club: Evaluation,
) -> None:
    did = club.outputs["members"]["kexpfan.noted.at"]["did"]
    assert club.one("pds-people-email-confirmation-variable").inputs["items"] == {"dids": did}, (
        "only the listed accounts"
    )
    ran = club.one("pds-people-email-confirmation-run")
    assert ran.inputs["list"] == did
    members = [{**CLUB["members"][0], "email": "another@club.org"}, *CLUB["members"][1:]]
    other = run(**{**CLUB, "members": members}).one("pds-people-email-confirmation-run")
    assert other.inputs["list"] == did
    assert other.inputs["addresses"] != ran.inputs["addresses"], "a new address is unconfirmed"


def test_confirming_job_runs_only_when_dispatched_and_with_the_server_s_image(club: Evaluation) -> None:
    job = job_of(club.one("pds-people-email-confirmation-job").inputs["jobspec"], "pds-confirm-email")
    assert (job["type"], "parameterized" in job) == ("batch", True)
    server = task_of(job_of(club.jobspec("pds"), "pds"), "pds")
    task = task_of(job, "confirm-email")
    same = ("image", "readonly_rootfs", "cap_drop", "security_opt")
    assert [task["config"][0][key] for key in same] == [server["config"][0][key] for key in same]
    assert task["user"] == server["user"] == "1000:1000", "that user owns the databases"
    assert task["config"][0]["args"] == ["/local/confirm_email.cjs"]


def test_confirming_job_uses_the_configured_account_database() -> None:
    database_path = "/pds/elsewhere.sqlite"
    evaluation = run(pds={"extra_env": {"PDS_ACCOUNT_DB_LOCATION": database_path}}, **CLUB)
    job = job_of(evaluation.one("pds-people-email-confirmation-job").inputs["jobspec"], "pds-confirm-email")
    assert task_of(job, "confirm-email")["env"][0]["PDS_ACCOUNT_DB_LOCATION"] == database_path
