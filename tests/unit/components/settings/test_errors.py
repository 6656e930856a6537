"""The form of faults: unknown keys, wrong types, all at once, short, and without possible secrets."""

from typing import Any

import pytest

from components.settings.fields.errors import SettingsError
from components.settings.parse import read
from tests.unit.components.settings.test_settings import MAIL, ROTATION_KEY, S3, document, fault, faults


@pytest.mark.parametrize(
    ("key", "changes", "remedy"),
    [
        ("hostnme", {"hostnme": "noted.at"}, "'hostname'"),
        ("time-zone", {"time-zone": "UTC"}, "'time_zone'"),
        ("host.sizes", {"host": {"sizes": 1}}, "'size'"),
        ("host.swap_gb", {"host": {"swap_gb": 1}}, "'swap_gib'"),
        ("mail.sender", {"mail": MAIL | {"sender": "pds@noted.at"}}, "from, host, password"),
        ("pds.rate_limit", {"pds": {"rate_limit": True}}, "'rate_limits'"),
        ("ttl", {"ttl": 300}, "'dns.ttl'"),
        ("pds.wildcard", {"pds": {"wildcard": True}}, "'dns.wildcard'"),
        ("quux", {"quux": 1}, "The keys here are: alerts, backup, blobs, clubs, cluster, delete, dns"),
        ('["a.b"]', {"a.b": 1}, "The keys here are"),
        ('["[key]"]', {"[key]": 1}, "The keys here are"),
        ('["\\ud800"]', {"\ud800": 1}, "a-z"),
        ('mail["\\u001b[31m"]', {"mail": MAIL | {"\x1b[31m": 1}}, "The keys here are"),
    ],
)
def test_refuses_an_unknown_key_and_suggests_the_intended_one(key: str, changes: dict[str, Any], remedy: str) -> None:
    found = fault(key, **changes)
    assert remedy in found.remedy
    assert "\x1b" not in str(found)


@pytest.mark.parametrize(
    ("key", "changes", "problem", "remedy"),
    [
        ("hostname", {"hostname": 7}, "7 has the wrong type", "text"),
        ("hostname", {"hostname": None}, "no value", "text"),
        ("host", {"host": None}, "no value", "a map"),
        ("host", {"host": ["a"]}, "a list has the wrong type", "a map"),
        ("dns", {"dns": None}, "no value", "or remove the key"),
        ("dns.ttl", {"dns": {"ttl": "300"}}, "'300' has the wrong type", "without quotes"),
        ("dns.ttl", {"dns": {"ttl": 300.5}}, "300.5 has the wrong type", "a whole number"),
        ("dns.ttl", {"dns": {"ttl": True}}, "true has the wrong type", "a whole number"),
        ("dns.wildcard", {"dns": {"wildcard": "yes"}}, "'yes' has the wrong type", "true or false"),
        ("host.image", {"host": {"image": None}}, "no value", "or remove the key"),
        ("host.tags", {"host": {"tags": "club"}}, "'club' has the wrong type", "a list"),
        ("operators.cidrs", {"operators": {"cidrs": []}}, "empty", "[203.0.113.7/32]"),
        ("pds.extra_env", {"pds": {"extra_env": ["A=b"]}}, "a list has the wrong type", "a map"),
        ("pds.extra_env.PDS_SERVICE_NAME", {"pds": {"extra_env": {"PDS_SERVICE_NAME": 7}}}, "7 has", "in quotes"),
        ("host.swap_gib", {"host": {"swap_gib": 10**6000}}, "more than 30 digits", "at most 16"),
    ],
)
def test_refuses_a_value_of_the_wrong_type(key: str, changes: dict[str, Any], problem: str, remedy: str) -> None:
    found = fault(key, **changes)
    assert problem in found.problem
    assert remedy in found.remedy


@pytest.mark.parametrize("whole", [None, [], ["hostname"], "hostname: noted.at", 7])
def test_refuses_a_stack_file_that_is_not_a_map(whole: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        read(whole, "Pulumi.dev.yaml", "dev")
    [found] = caught.value.faults
    assert found.key == "(the whole file)"
    assert found.remedy


def test_names_a_missing_option_with_an_example() -> None:
    found = {one.key: one.remedy for one in faults(hostname=..., operators=...)}
    assert "'hostname: noted.at'" in found["hostname"]
    assert "{cidrs: [203.0.113.7/32], ssh_keys: [my-laptop]}" in found["operators"]


def test_reports_all_faults_at_once() -> None:
    found = faults(
        hostname="Noted.at",
        time_zone="PDT",
        bogus=1,
        operators={"cidrs": ["0.0.0.0/0"], "ssh_keys": []},
        dns={"ttl": 5, "zone": "other.at"},
        host={"size": "s-1vcpu-1gb", "region": "moon"},
        mail={"host": "smtp.relay.test", "port": 0},
        nomad={"version": "1.9.0", "datacenter": "No Spaces"},
        pds={"image": "x/pds:0.4", "invite_required": False, "port": 4650, "log_enabled": "yes"},
        secrets={"plc_rotation_key": "0" * 64},
        service_handle_domains=[".noted.at", ".club.noted.at"],
        s3=S3 | {"bucket": "B"},
    )
    assert [one.key for one in found] == sorted(
        [
            *("bogus", "dns.ttl", "host.region", "host.size", "hostname", "nomad.datacenter", "nomad.version"),
            *("mail.from", "mail.password", "mail.port", "mail.user", "operators.cidrs", "operators.ssh_keys"),
            *("pds.image", "pds.invite_required", "pds.log_enabled", "pds.port", "s3.bucket"),
            *("secrets.plc_rotation_key", "service_handle_domains", "time_zone"),
        ]
    )


def test_text_names_file_key_problem_and_remedy() -> None:
    with pytest.raises(SettingsError) as caught:
        read(document(dns={"ttl": 5}, hostname="noted"), "Pulumi.club.yaml", "club")
    assert str(caught.value).splitlines()[:3] == [
        "Pulumi.club.yaml has 2 faults; nothing was touched.",
        "  pds:dns.ttl: 5 is too small.",
        "      Write a number from 30 up. Time to live of the records in seconds. DigitalOcean's minimum is 30.",
    ]


def test_shortens_a_huge_value() -> None:
    assert len(str(fault("hostname", hostname="x." * 500_000))) < 500
    assert len(str(fault("time_zone", time_zone="x" * 1_000_000))) < 500
    assert len(fault(f'["{"k" * 79}…"]'.replace("…", "\\u2026"), **{"k" * 100_000: 1}).key) < 100


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("mail", {"mail": "smtp://user:hunter2@relay.test"}),
        ("mail", {"mail": [{"password": "hunter2"}]}),
        ("mail.password", {"mail": MAIL | {"password": ["hunter2"]}}),
        ("s3", {"s3": "hunter2"}),
        ("s3.access_key_id", {"s3": S3 | {"access_key_id": 42424242}}),
        ("pds.extra_secret_env", {"pds": {"extra_secret_env": "hunter2"}}),
        ("pds.extra_secret_env.X", {"pds": {"extra_secret_env": {"X": ["hunter2"]}}}),
        ("pds.extra_env.PDS_ADMIN_PASSWORD", {"pds": {"extra_env": {"PDS_ADMIN_PASSWORD": 42424242}}}),
        ("ingress.license_hcl", {"ingress": {"license_hcl": 42424242}}),
        ("secrets.plc_rotation_kee", {"secrets": {"plc_rotation_kee": ROTATION_KEY}}),
    ],
)
def test_never_repeats_a_possible_secret(key: str, changes: dict[str, Any]) -> None:
    text = str(fault(key, **changes))
    for secret in ("hunter2", "42424242", ROTATION_KEY):
        assert secret not in text
