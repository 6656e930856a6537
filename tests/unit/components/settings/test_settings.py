"""Valid stack files, and the settings that they give."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from components.settings.checks.warnings import warnings
from components.settings.fields.errors import Fault, SettingsError
from components.settings.fields.images import package_of_health, package_of_tag, tag_of
from components.settings.parse import read
from components.settings.sections import PdsOptions
from components.settings.sections.settings import Settings
from tests.support.programs import ALERTS, BACKUP
from tools.trial.node import PDS_LINES

DOCUMENT: dict[str, Any] = {
    "hostname": "noted.at",
    "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["my-laptop"]},
}
"""The minimum of a stack file."""

MAIL = {"host": "smtp.relay.test", "user": "postmaster", "password": "correct-horse", "from": "pds@noted.at"}
S3 = {
    "bucket": "noted-blobs",
    "region": "fra1",
    "endpoint": "https://fra1.digitaloceanspaces.com",
    "access_key_id": "AKIA-of-noted",
    "secret_access_key": "battery-staple",
}
TEXT_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJtV6h1kFhVn0g3yYCGm0Vn9v1dTn4x2QkqKpC4b9w1x alice@laptop"
ROTATION_KEY = "3ee68ca0" * 8


def document(**changes: Any) -> dict[str, Any]:
    """The smallest document with `changes`; a map is merged, `...` removes a key."""
    result = copy.deepcopy(DOCUMENT)
    for key, value in changes.items():
        if value is ...:
            del result[key]
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] |= value
        else:
            result[key] = value
    return result


def settings(**changes: Any) -> Settings:
    return read(document(**changes), "Pulumi.dev.yaml", "dev")


def faults(**changes: Any) -> tuple[Fault, ...]:
    """All faults; each has its three parts."""
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    for fault in caught.value.faults:
        assert fault.key
        assert fault.problem
        assert fault.remedy
        assert str(fault) in str(caught.value)
    return caught.value.faults


def fault(key: str, **changes: Any) -> Fault:
    """The one fault, which is at `key`."""
    found = faults(**changes)
    assert [one.key for one in found] == [key], "\n".join(map(str, found))
    return found[0]


def test_minimal_stack_file_has_hostname_and_operators() -> None:
    read_settings = settings()
    assert read_settings.hostname == "noted.at"
    assert read_settings.zone == "noted.at"
    assert read_settings.record_name == "@"
    assert read_settings.host.memory_mib == 2048
    assert read_settings.pds.line == "0.5"
    assert read_settings.mail is None
    assert read_settings.s3 is None
    assert not read_settings.pds.new


def test_hostname_below_its_zone_has_a_record_name() -> None:
    below = settings(hostname="pds.club.noted.at", dns={"zone": "noted.at"})
    assert (below.zone, below.record_name) == ("noted.at", "pds.club")


@pytest.mark.parametrize(
    "hostname", ["xn--mnchen-3ya.de", "a-b.test", "1und1.org", f"{'a' * 63}.at", "x.co", ".".join(["ab"] * 84)]
)
def test_accepts_any_hostname_in_which_handles_can_exist(hostname: str) -> None:
    assert settings(hostname=hostname, dns={"zone": hostname}).hostname == hostname


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles", "America/Argentina/Buenos_Aires"])
def test_accepts_utc_and_place_names_as_time_zone(zone: str) -> None:
    assert settings(time_zone=zone).time_zone == zone


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("198.51.100.0/24", "198.51.100.0/24"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:DB8::7", "2001:db8::7/128"),
    ],
)
def test_accepts_operator_addresses_and_ranges_of_both_families(given: str, kept: str) -> None:
    operators = settings(operators={"cidrs": [given, "192.0.2.0/24"]}).operators
    assert operators
    assert operators.cidrs == (kept, "192.0.2.0/24")


def test_only_nomad_can_be_opened_to_all_addresses() -> None:
    operators = settings(operators={"nomad_anywhere": True}).operators
    assert operators
    assert operators.nomad_anywhere


def test_distinguishes_ssh_key_names_and_fingerprints_from_key_texts() -> None:
    fingerprint = "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa"
    operators = settings(operators={"ssh_keys": ["ssh-of-alice", fingerprint, TEXT_KEY]}).operators
    assert operators
    assert operators.account_keys == ("ssh-of-alice", fingerprint)
    assert operators.text_keys == (TEXT_KEY,)


def test_manual_dns_needs_no_zone() -> None:
    assert settings(hostname="pds.noted.at", dns={"provider": "manual"}).dns.provider == "manual"


def test_secrets_of_a_running_server_can_be_adopted() -> None:
    secrets = settings(
        secrets={"plc_rotation_key": ROTATION_KEY, "jwt_secret": "j" * 32, "admin_password": "p" * 32}
    ).secrets
    assert secrets.plc_rotation_key is not None
    assert secrets.plc_rotation_key.get_secret_value() == ROTATION_KEY


@pytest.mark.parametrize("number", [1, 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364140])
def test_accepts_the_smallest_and_the_largest_rotation_key(number: int) -> None:
    assert settings(secrets={"plc_rotation_key": f"{number:064x}"}).secrets.plc_rotation_key


@pytest.mark.parametrize(
    "key",
    [
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # secp256k1, from the method's test vectors
        "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169",  # P-256, likewise
    ],
)
def test_accepts_a_recovery_key_of_both_curves_of_plc(key: str) -> None:
    assert settings(pds={"recovery_did_key": key}).pds.recovery_did_key == key


@pytest.mark.parametrize("key", ["mail", "s3", "backup", "blobs"])
def test_optional_section_can_be_null(key: str) -> None:
    assert getattr(settings(**{key: None}), key) is None


@pytest.mark.parametrize(
    ("image", "version", "line"),
    [
        ("ghcr.io/bluesky-social/pds:0.4.219", "0.4.219", "0.4"),
        ("ghcr.io/bluesky-social/pds:0.4.5009", "0.5.9", "0.5"),
        (f"ghcr.io/bluesky-social/pds@sha256:{'a' * 64}", "0.5.9", "0.5"),
        (f"registry.test:5000/pds:0.4.219@sha256:{'a' * 64}", "0.4.219", "0.4"),
        ("registry.test/pds:our-build-7", "0.5.35", "0.5"),
    ],
)
def test_image_is_one_exact_tag_or_a_digest(image: str, version: str, line: str) -> None:
    assert settings(pds={"image": image, "package_version": version}).pds.line == line


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("ghcr.io/bluesky-social/pds:0.4.219", "0.4.219"),
        ("ghcr.io/bluesky-social/pds:0.4.5000", "0.5.0"),
        (f"registry.test:5000/pds:0.4.5012@sha256:{'a' * 64}", "0.5.12"),
    ],
)
def test_upstream_tag_determines_the_package_version(image: str, version: str) -> None:
    assert settings(pds={"image": image}).pds.package_version == version


def test_default_image_and_package_agree_and_are_of_the_current_line() -> None:
    defaults = PdsOptions()
    assert package_of_tag(tag_of(defaults.image)) == defaults.package_version
    assert defaults.line == PDS_LINES[-1]
    assert settings().pds.image == defaults.image, "the example must be the default"


@pytest.mark.parametrize(
    ("reported", "package"), [("0.4.5037", "0.5.37"), ("0.5.35", "0.5.35"), ("0.4.219", "0.4.219"), ("dev", "dev")]
)
def test_package_is_derived_from_the_version_that_health_reports(reported: str, package: str) -> None:
    assert package_of_health(reported) == package


@pytest.mark.parametrize(
    ("size", "memory"),
    [("s-2vcpu-4gb-amd", 4096), ("s-1vcpu-2gb", 2048), ("g-2vcpu-8gb", 8192), ("so1_5-2vcpu-16gb", 16384)],
)
def test_droplet_size_determines_the_memory(size: str, memory: int) -> None:
    assert settings(host={"size": size}).host.memory_mib == memory


def test_memory_of_an_absent_ingress_is_not_counted() -> None:
    small = {"host": {"size": "s-1vcpu-1gb"}, "pds": {"memory_mib": 448}}
    assert settings(**small, ingress={"kind": "none"}).host.memory_mib == 1024
    assert fault("host.size", **small)


def test_settings_are_immutable() -> None:
    fixed = settings(service_handle_domains=[".noted.at"], pds={"extra_env": {"PDS_SERVICE_NAME": "Noted"}})
    with pytest.raises(ValidationError):
        setattr(fixed, "hostname", "other.at")  # noqa: B010  # mypy refuses the plain form, as it should
    with pytest.raises(ValidationError):
        setattr(fixed.pds, "port", 1)  # noqa: B010
    with pytest.raises(TypeError):
        fixed.pds.extra_env["PDS_SERVICE_NAME"] = "Other"  # type: ignore[index]
    with pytest.raises(TypeError):
        fixed.pds.extra_secret_env["X"] = "y"  # type: ignore[index]
    assert isinstance(fixed.service_handle_domains, tuple)
    assert fixed.operators
    assert isinstance(fixed.operators.cidrs, tuple)


def test_settings_do_not_share_objects_with_the_document() -> None:
    given = document(pds={"extra_env": {"PDS_SERVICE_NAME": "Noted"}})
    fixed = read(given, "Pulumi.dev.yaml", "dev")
    given["pds"]["extra_env"]["PDS_SERVICE_NAME"] = "Other"
    given["operators"]["cidrs"].append("0.0.0.0/0")
    assert fixed.pds.extra_env["PDS_SERVICE_NAME"] == "Noted"
    assert fixed.operators
    assert fixed.operators.cidrs == ("203.0.113.7/32",)


def test_printed_settings_contain_no_secret() -> None:
    secrets = {"plc_rotation_key": ROTATION_KEY, "jwt_secret": "jwt-of-noted-at-all", "admin_password": "pass-of-noted"}
    full = settings(
        mail=MAIL,
        s3=S3,
        secrets=secrets,
        ingress={"license_hcl": 'key = "licence-of-noted"'},
        pds={"extra_secret_env": {"PDS_RATE_LIMIT_BYPASS_KEY": "captcha-of-noted"}},
    )
    text = f"{full!r}{full}{full.model_dump_json()}{full.pds!r}"
    hidden = [*secrets.values(), MAIL["password"], S3["access_key_id"], S3["secret_access_key"]]
    for secret in (*hidden, "licence-of-noted", "captcha-of-noted"):
        assert secret not in text


@pytest.mark.parametrize("port", [25, 465, 587])
def test_warns_about_a_blocked_mail_port_and_names_working_ones(port: int) -> None:
    tls = "implicit" if port == 465 else "starttls"
    [found] = [text for text in warnings(settings(mail=MAIL | {"port": port, "tls": tls})) if "pds:mail" in text]
    for part in (f"blocks {port}", "2465", "2525", "2587"):
        assert part in found


@pytest.mark.parametrize(("port", "tls", "usual"), [(2587, "implicit", "starttls"), (2465, "starttls", "implicit")])
def test_warns_about_a_mail_port_of_the_other_kind_of_tls(port: int, tls: str, usual: str) -> None:
    [found] = [text for text in warnings(settings(mail=MAIL | {"port": port, "tls": tls})) if "pds:mail" in text]
    assert f"'tls: {usual}'" in found


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, "pds:mail: without a mail relay"),
        ({}, "NO ESCROW YET"),
        ({"pds": {"new": True}}, "Remove it after the first"),
        ({}, "docker buildx imagetools inspect agentio/io:latest"),
    ],
)
def test_warns_about_risky_settings(changes: dict[str, Any], warning: str) -> None:
    assert [text for text in warnings(settings(**changes)) if warning in text]


def test_complete_stack_file_gives_no_warning() -> None:
    image = f"agentio/io@sha256:{'a' * 64}"
    closed = settings(mail=MAIL, backup=BACKUP, alerts=ALERTS, pds={"escrow": "made"}, ingress={"image": image})
    assert not list(warnings(closed))
