"""DNS records as data: what the program creates, lists for manual creation, and finds again."""

from typing import Any

from components.render.records import (
    DnsRecord,
    Value,
    did_value,
    hostname_records,
    is_pending,
    member_records,
    whole_name,
)
from offline.mock_engine import Evaluation
from tests.support.invariants import kind
from tests.support.programs import CLUB, run, settings_of

OPTIONS: dict[str, Any] = {
    **CLUB,
    "dns": {"caa": ["letsencrypt.org"]},
    "service_handle_domains": [".noted.at", ".club.org"],
}


def _created(evaluation: Evaluation) -> set[tuple[str, str]]:
    return {(str(item.inputs["type"]), str(item.inputs["name"])) for item in evaluation.resources if _is_record(item)}


def _is_record(item: Any) -> bool:
    return kind(item) == "DnsRecord"


def _all_records() -> list[DnsRecord]:
    settings = settings_of(**OPTIONS)
    return hostname_records(settings) + [one for member in settings.members for one in member_records(settings, member)]


def test_program_creates_exactly_the_records_of_its_zone() -> None:
    records = _all_records()
    assert _created(run(**OPTIONS)) == {(record.type, record.name) for record in records if not record.other_zone}
    assert {record.role for record in records if record.other_zone} == {"wildcard-club-org", "proof"}


def test_records_output_includes_records_of_other_zones() -> None:
    rows = run(**OPTIONS).outputs["records"]
    assert sorted((row["type"], row["name"]) for row in rows) == sorted((one.type, one.name) for one in _all_records())
    assert {row["value"] for row in rows if row["type"] == "CAA"} == {'0 issue "letsencrypt.org"'}
    assert "*.club.org" in {whole_name(row) for row in rows}


def test_record_matches_by_type_name_and_known_value() -> None:
    address = DnsRecord("a", "A", "@", Value.ADDRESS)
    authority = DnsRecord("caa-letsencrypt.org", "CAA", "@", "letsencrypt.org.")
    assert address.matches({"type": "A", "name": "@", "data": "203.0.113.1"})
    assert not address.matches({"type": "AAAA", "name": "@", "data": "203.0.113.1"})
    assert authority.matches({"type": "CAA", "name": "@", "data": "letsencrypt.org"})
    assert not authority.matches({"type": "CAA", "name": "@", "data": "sectigo.com"})
    other_zone_record = DnsRecord("proof", "TXT", "_atproto.ann.org", Value.DID, other_zone="(the member's own)")
    assert not other_zone_record.matches({"type": "TXT", "name": "_atproto.ann.org", "data": "did=did:plc:a"})


def test_record_without_its_account_is_pending() -> None:
    settings = settings_of(**OPTIONS)
    proof = member_records(settings, settings.members[0])[0]
    assert is_pending(proof.row(settings, did_value("")))
    assert not is_pending(proof.row(settings, did_value("did:plc:a")))
