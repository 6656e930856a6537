"""DNS records of the sender's domain: created in the stack's zone, or listed for manual creation."""

from typing import Any

import pytest

from components.render.records import DnsRecord, mail_records, whole_name
from offline.mock_engine import Evaluation
from tests.support.invariants import kind
from tests.support.mail import ALL_PARTS, KEY, RESEND, SPF
from tests.support.programs import run, settings_of

EXPECTED = {
    ("TXT", "noted.at"): "v=spf1 include:spf.my-mail.org ~all",
    ("TXT", "_dmarc.noted.at"): "v=DMARC1; p=quarantine; sp=none; rua=mailto:a@noted.at,mailto:b%21c@noted.at",
    ("TXT", "resend._domainkey.noted.at"): KEY,
    ("CNAME", "tok.en-1._domainkey.noted.at"): "tok.dkim.amazonses.com.",
    ("MX", "send.noted.at"): "10 feedback-smtp.eu-west-1.amazonses.com.",
    ("TXT", "send.noted.at"): f"v=spf1 {SPF} ~all",
}
"""Type and whole name to the value in a zone file, without the verification text."""


@pytest.fixture(scope="module")
def created() -> Evaluation:
    return run(mail={**RESEND, "dns": ALL_PARTS})


def _rows(evaluation: Evaluation) -> dict[tuple[str, str], str]:
    rows = [row for row in evaluation.outputs["records"] if row["type"] != "A" and row["value"] != "brevo-code:123"]
    return {(row["type"], whole_name(row)): row["value"] for row in rows}


def test_each_part_has_its_records_in_the_output(created: Evaluation) -> None:
    assert _rows(created) == EXPECTED
    assert [whole_name(row) for row in created.outputs["records"] if row["value"] == "brevo-code:123"] == ["noted.at"]


def test_each_record_is_created_after_the_check_for_others(created: Evaluation) -> None:
    made = [item for item in created.resources if item.name.startswith("pds-dns-mail-")]
    assert len(made) == len(EXPECTED) + 1
    for item in made:
        assert kind(item) == "DnsRecord"
        assert any("pds-dns-sole-records" in urn for urn in item.options["dependencies"])
        assert item.inputs["type"] not in ("CNAME", "MX") or item.inputs["value"].endswith("."), "the API requires it"
        assert (item.inputs.get("priority") == 10) == (item.inputs["type"] == "MX")
    [check] = [item for item in created.resources if kind(item) == "SoleRecords"]
    names = {record["name"] for record in check.inputs["records"]}
    assert names == {name for kind_, name in EXPECTED if kind_ != "MX"}, "each name that can have one record only"


def test_without_dns_options_nothing_is_created() -> None:
    evaluation = run(mail=RESEND)
    assert [item.name for item in evaluation.resources if "mail" in item.name or kind(item) == "SoleRecords"] == []
    assert mail_records(settings_of()) == []


def test_manual_records_are_only_listed_also_those_of_another_zone() -> None:
    mail = {**RESEND, "from": "pds@my-club.org", "dns": ALL_PARTS}
    evaluation = run(mail=mail, dns={"provider": "manual"})
    assert _rows(evaluation) == {
        (kind_, name.replace("noted.at", "my-club.org")): value for (kind_, name), value in EXPECTED.items()
    } | {("TXT", "_dmarc.my-club.org"): EXPECTED["TXT", "_dmarc.noted.at"]}
    assert {row["zone"] for row in evaluation.outputs["records"]} == {"noted.at", "(the sender's own)"}
    assert [item for item in evaluation.resources if kind(item) in ("DnsRecord", "SoleRecords")] == []


def test_an_existing_spf_record_is_merged_and_a_verified_subdomain_holds_the_records() -> None:
    dns: dict[str, Any] = {"domain": "mg.noted.at", "spf": ["include:mailgun.org"], "dmarc": {"policy": "none"}}
    settings = settings_of(mail={**RESEND, "dns": {**dns, "spf_existing": "v=spf1 mx -all"}})
    found = {(record.type, record.name): record.value for record in mail_records(settings)}
    assert found == {("TXT", "mg"): "v=spf1 mx include:mailgun.org -all", ("TXT", "_dmarc"): "v=DMARC1; p=none"}


def test_a_left_over_record_is_recognized_by_its_text() -> None:
    records = {record.role: record for record in mail_records(settings_of(mail={**RESEND, "dns": ALL_PARTS}))}
    assert _matches(records["mail-spf"], "TXT", "@", "v=spf1 include:spf.my-mail.org ~all")
    assert not _matches(records["mail-spf"], "TXT", "@", "v=spf1 -all"), "it may belong to another service"
    assert _matches(records["mail-return-path"], "MX", "send", "feedback-smtp.eu-west-1.amazonses.com")


def _matches(record: DnsRecord, type_: str, name: str, data: str) -> bool:
    return record.matches({"type": type_, "name": name, "data": data})
