"""Refusals, option by option: the key, the reason, and what to write instead."""

from typing import Any

import pytest

from components.settings.fields.errors import SettingsError
from components.settings.parse import read
from tests.support.programs import BACKUP
from tests.unit.components.settings.test_settings import DOCUMENT, MAIL, S3, TEXT_KEY, fault, faults, settings

CADDY = {"kind": "caddy"}
ZEROSSL = CADDY | {"acme_ca": "https://acme.zerossl.com/v2/DV90"}
DIGEST = f"ghcr.io/bluesky-social/pds@sha256:{'a' * 64}"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize(
    ("hostname", "problem", "remedy"),
    [
        ("192.0.2.1", "an address", "a domain name that you own"),
        ("2001:db8::1", "an address", "a domain name that you own"),
        ("[2001:db8::1]", "an address", "a domain name that you own"),
        ("https://noted.at", "a URL", "'noted.at'"),
        ("https://Noted.at/xrpc", "a URL", "'noted.at'"),
        ("noted.at/pds", "a URL", "'noted.at'"),
        ("noted.at:3000", "a port", "'noted.at'"),
        ("[2001:db8::1]:443", "a port", "a domain name"),
        ("Noted.At", "upper-case", "'noted.at'"),
        ("localhost", "one label", "'pds.my-club.org'"),
        ("noted", "one label", "'pds.my-club.org'"),
        ("at.", "one label", "'pds.my-club.org'"),
        ("noted.at.", "not a domain name", "'noted.at'"),
        ("my_pds.noted.at", "not a domain name", "'my-pds.noted.at'"),
        ("münchen.de", "not a domain name", "'xn--mnchen-3ya.de'"),
        (" noted.at", "not a domain name", "'noted.at'"),
        ("noted.at\n", "not a domain name", "'noted.at'"),
        ("noted..at", "not a domain name", "labels of a-z"),
        ("-noted.at", "not a domain name", "labels of a-z"),
        (f"{'a' * 64}.at", "not a domain name", "63 characters"),
        (f"{'a.' * 126}at", "not a domain name", "253"),
        ("noted.123", "not a domain name", "labels of a-z"),
        ("", "one label", "'pds.my-club.org'"),
    ],
)
def test_refuses_an_invalid_hostname(hostname: str, problem: str, remedy: str) -> None:
    found = fault("hostname", hostname=hostname)
    assert problem in found.problem
    assert remedy in found.remedy


@pytest.mark.parametrize("tld", ["alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"])
def test_refuses_a_domain_in_which_no_handle_can_exist(tld: str) -> None:
    found = fault("hostname", hostname=f"pds.{tld}")
    assert f"no handle can exist under '.{tld}'" in found.problem
    assert "'.test'" in found.remedy
    assert fault("service_handle_domains[0]", service_handle_domains=[f".club.{tld}"]).problem == found.problem


def test_remedy_is_never_refused_itself() -> None:
    assert "pds.example" not in fault("hostname", hostname="PDS.example").remedy


@pytest.mark.parametrize(
    ("domain", "remedy"), [("noted.at", "'.noted.at'"), (".Noted.at", "'.noted.at'"), (".at", "'.my-club.org'")]
)
def test_handle_domain_is_a_dot_and_a_domain(domain: str, remedy: str) -> None:
    assert remedy in fault("service_handle_domains[0]", service_handle_domains=[domain]).remedy


def test_refuses_nested_handle_domains() -> None:
    found = fault("service_handle_domains", service_handle_domains=[".noted.at", ".club.noted.at"])
    assert ".club.noted.at is inside .noted.at" in found.problem
    assert "'.noted.at'" in found.remedy


def test_refuses_a_hostname_outside_its_zone() -> None:
    found = fault("dns.zone", hostname="pds.noted.at", dns={"zone": "knotted.at"})
    assert "not in the zone 'knotted.at'" in found.problem
    assert "'zone: noted.at'" in found.remedy
    assert fault("dns.zone", hostname="knoted.at", dns={"zone": "noted.at"})


def test_requires_a_zone_that_cannot_be_derived() -> None:
    found = fault("dns.zone", hostname="noted.co.uk")
    assert "'zone: co.uk' or 'zone: noted.co.uk'" in found.remedy


@pytest.mark.parametrize("cidrs", [["0.0.0.0/0"], ["::/0", "192.0.2.1/32"], ["0.0.0.0/1", "128.0.0.0/1"]])
def test_refuses_operators_everywhere_even_with_nomad_anywhere(cidrs: list[str]) -> None:
    for anywhere in (False, True):
        found = fault("operators.cidrs", operators={"cidrs": cidrs, "nomad_anywhere": anywhere})
        assert "open SSH" in found.problem
        assert "'/32'" in found.remedy
        assert "'nomad_anywhere: true'" in found.remedy


@pytest.mark.parametrize(
    ("cidr", "remedy"),
    [("203.0.113.7/24", "'203.0.113.0/24'"), ("home", "'203.0.113.7/32'"), ("203.0.113.7/33", "'203.0.113.7/32'")],
)
def test_refuses_an_invalid_address_range(cidr: str, remedy: str) -> None:
    assert remedy in fault("operators.cidrs[0]", operators={"cidrs": [cidr]}).remedy


def test_requires_an_ssh_key_of_the_account_beside_keys_as_text() -> None:
    found = fault("operators.ssh_keys", operators={"ssh_keys": [TEXT_KEY]})
    assert "mails a root password" in found.problem
    assert "doctl compute ssh-key list" in found.remedy


@pytest.mark.parametrize("key", ["ssh-ed25519 AAAA…", "ssh-rsa", f"{TEXT_KEY}\nssh-rsa AAAA", "", " ", "a\nb"])
def test_refuses_a_damaged_ssh_key(key: str) -> None:
    assert fault("operators.ssh_keys[1]", operators={"ssh_keys": ["my-laptop", key]})


def test_refuses_a_private_ssh_key_without_repeating_it() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----"
    found = fault("operators.ssh_keys[1]", operators={"ssh_keys": ["my-laptop", key]})
    assert "'.pub' file" in found.remedy
    assert "b3BlbnNz" not in str(found)


@pytest.mark.parametrize("missing", sorted(MAIL))
def test_refuses_incomplete_mail_options(missing: str) -> None:
    found = fault(f"mail.{missing}", mail={key: value for key, value in MAIL.items() if key != missing})
    assert "required" in found.problem
    assert f"'{missing}: " in found.remedy or f"--secret --path 'mail.{missing}'" in found.remedy
    assert "remove 'mail'" in found.remedy


@pytest.mark.parametrize("missing", sorted(S3))
def test_refuses_incomplete_s3_options(missing: str) -> None:
    found = fault(f"s3.{missing}", s3={key: value for key, value in S3.items() if key != missing})
    assert "required" in found.problem
    assert f"'{missing}: " in found.remedy or f"--secret --path 's3.{missing}'" in found.remedy


def test_refuses_disk_and_s3_together() -> None:
    found = {one.key: one for one in faults(s3=S3, pds={"extra_env": {"PDS_BLOBSTORE_DISK_LOCATION": "/pds/blocks"}})}
    assert "on disk" in found["s3"].problem
    assert "Remove 's3'" in found["s3"].remedy


@pytest.mark.parametrize("key", ["0" * 64, f"{ORDER:064x}", "f" * 64, "1" * 63, "1" * 65, "G" * 64, ""])
def test_refuses_a_rotation_key_outside_the_curve_without_repeating_it(key: str) -> None:
    found = fault("secrets.plc_rotation_key", secrets={"plc_rotation_key": key})
    assert "[1, n-1]" in found.problem
    assert "omit it" in found.remedy
    assert not key or key not in str(found)


@pytest.mark.parametrize(
    "key",
    [
        "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBm",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",  # Ed25519
        "did:key:z0OIl",
        "did:plc:ar7c4by46qjdydhdevvrndac",
        "did:key:z" + "1" * 100_000,
    ],
)
def test_refuses_a_malformed_recovery_key(key: str) -> None:
    found = fault("pds.recovery_did_key", pds={"recovery_did_key": key})
    assert "first account" in found.problem
    assert "did:key:zQ3s" in found.remedy


@pytest.mark.parametrize("stack", ["Dev", "prod_1", "1st", "a" * 41, "dev-", "", "dev.eu"])
def test_refuses_a_stack_name_that_digitalocean_refuses(stack: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(DOCUMENT, f"Pulumi.{stack}.yaml", stack)
    [found] = caught.value.faults
    assert found.key == "(stack name)"
    assert "pulumi stack rename" in found.remedy


@pytest.mark.parametrize(
    ("key", "changes", "remedy"),
    [
        ("host.tags[0]", {"host": {"tags": ["no spaces"]}}, "'club'"),
        ("host.tags[1]", {"host": {"tags": ["Club", "club"]}}, "Keep 'Club'"),
        ("host.tags[2]", {"host": {"tags": ["a", "club", "club"]}}, "Keep 'club'"),
        ("host.region", {"host": {"region": "Frankfurt"}}, "'fra1'"),
        ("host.size", {"host": {"size": "large"}}, "'s-1vcpu-2gb'"),
        ("host.size", {"host": {"size": "s-1vcpu-\uff12gb"}}, "'s-1vcpu-2gb'"),
        ("host.project", {"host": {"project": ""}}, "one character or more"),
        ("host.project", {"host": {"project": "x" * 176}}, "at most 175 characters"),
        ("host.reserved_ip_adopt", {"host": {"reserved_ip_adopt": "999.1.1.1"}}, "'203.0.113.7'"),
        ("host.vpc_ip_range", {"host": {"vpc_ip_range": "10.0.0.0/8"}}, "/16 to /28"),
        ("host.vpc_ip_range", {"host": {"vpc_ip_range": "203.0.113.0/24"}}, "'10.77.0.0/24'"),
        ("host.vpc_ip_range", {"host": {"vpc_ip_range": "fd00::/64"}}, "'10.77.0.0/24'"),
        ("volume.adopt", {"volume": {"adopt": "my-volume"}}, "506f78a4-"),
        ("volume.size_gib", {"volume": {"size_gib": 0}}, "from 1 up"),
        ("dns.ttl", {"dns": {"ttl": 29}}, "from 30 up"),
        ("dns.zone", {"dns": {"zone": "Noted.at"}}, "'noted.at'"),
        ("dns.create_zone", {"dns": {"provider": "manual", "create_zone": True}}, "'provider: manual'"),
        ("dns.provider", {"dns": {"provider": "route53"}}, "'digitalocean' or 'manual'"),
        ("dns.nameservers[0]", {"dns": {"nameservers": ["ns1.noted.at"]}}, "'192.0.2.53'"),
        ("dns.nameservers[0]", {"dns": {"nameservers": ["192.0.2.53:0"]}}, "'192.0.2.53:53'"),
        ("mail.from", {"mail": MAIL | {"from": "pds"}}, "'admin@my-club.org'"),
        ("mail.host", {"mail": MAIL | {"host": "relay"}}, "'my-club.org'"),
        ("mail.port", {"mail": MAIL | {"port": 65536}}, "at most 65535"),
        ("mail.tls", {"mail": MAIL | {"tls": "ssl"}}, "'implicit' or 'starttls'"),
        ("nomad.version", {"nomad": {"version": "2.0.3"}}, "2.0.4"),
        ("nomad.version", {"nomad": {"version": "1" * 5000 + ".0.0"}}, "'2.0.6'"),
        ("nomad.sha256", {"nomad": {"version": "2.1.0"}}, "nomad_2.1.0_SHA256SUMS"),
        ("nomad.sha256", {"nomad": {"sha256": "abc"}}, "SHA256SUMS"),
        ("pds.image", {"pds": {"image": "ghcr.io/bluesky-social/pds"}}, "pds:0.4.5037"),
        ("pds.image", {"pds": {"image": "ghcr.io/bluesky-social/pds:latest"}}, "':0.4.5037'"),
        ("pds.image", {"pds": {"image": "ghcr.io/bluesky-social/pds:0.4"}}, "':0.4.5037'"),
        (
            "pds.package_version",
            {"pds": {"image": "x/pds:0.4.5009", "package_version": "0.5.8"}},
            "'package_version: 0.5.9'",
        ),
        ("pds.package_version", {"pds": {"image": DIGEST}}, "'package_version: 0.5.37'"),
        ("pds.package_version", {"pds": {"image": "registry.test:5000/pds:our-build-7"}}, "'package_version: 0.5.37'"),
        ("pds.plc_url", {"pds": {"plc_url": "plc.directory"}}, "'https://'"),
        ("pds.plc_url", {"pds": {"plc_url": "https://plc.directory/${attr.unique}"}}, "'https://'"),
        ("pds.app_view_did", {"pds": {"app_view_did": "api.bsky.app"}}, "'did:web:api.bsky.app'"),
        ("pds.crawlers[1]", {"pds": {"crawlers": ["https://bsky.network", "https://a.at,b.at"]}}, "'https://'"),
        ("pds.blob_upload_limit", {"pds": {"blob_upload_limit": 10**5000}}, "at most"),
        ("pds.port", {"pds": {"port": 4646}}, "3000"),
        ("ingress.ssh_port", {"ingress": {"ssh_port": 3000}}, "2200"),
        ("ingress.dialect", {"ingress": CADDY | {"dialect": "host"}}, "'kind: io'"),
        ("ingress.license_hcl", {"ingress": CADDY | {"license_hcl": "x"}}, "'kind: io'"),
        ("ingress.ssh_port", {"ingress": CADDY | {"ssh_port": 2200}}, "'kind: io'"),
        ("ingress.extra_hcl", {"ingress": {"kind": "none", "extra_hcl": ""}}, "'kind: io'"),
        ("ingress.backend", {"ingress": CADDY | {"backend": "nomad"}}, "Remove it"),
        ("ingress.acme_ca", {"ingress": {"acme_ca": "https://ca.test/dir"}}, "'kind: caddy'"),
        ("ingress.acme_email", {"ingress": {"acme_email": "a@b.org"}}, "'kind: caddy'"),
        ("ingress.extra_caddyfile", {"ingress": {"extra_caddyfile": "x"}}, "'kind: caddy'"),
        ("ingress.image", {"ingress": CADDY | {"image": "caddy:2"}}, "'caddy:2.11.4'"),
        ("ingress.image", {"ingress": CADDY | {"image": "registry.test:5000/caddy"}}, "'caddy:2.11.4'"),
        ("dns.caa", {"ingress": CADDY, "dns": {"caa": ["sectigo.com"]}}, "'letsencrypt.org'"),
        ("dns.caa", {"dns": {"caa": ["sectigo.com"]}}, "'letsencrypt.org'"),
        ("dns.caa", {"ingress": ZEROSSL, "dns": {"caa": ["letsencrypt.org"]}}, "'sectigo.com'"),
        ("backup.image", {"backup": BACKUP | {"image": "restic/restic:latest"}}, "exact tag"),
        ("pds.port", {"ingress": CADDY, "pds": {"port": 2020}}, "3000"),
        ("s3.bucket", {"s3": S3 | {"bucket": "Blobs"}}, "'my-club-blobs'"),
        ("secrets.jwt_secret", {"secrets": {"jwt_secret": ""}}, "one character"),
    ],
)
def test_refuses_an_invalid_value_and_suggests_a_valid_one(key: str, changes: dict[str, Any], remedy: str) -> None:
    assert remedy in fault(key, **changes).remedy


def test_options_that_caddy_lacks_restrict_nothing() -> None:
    assert settings(ingress=CADDY, pds={"port": 2200}).pds.port == 2200, "Caddy has no console port"
    assert settings(ingress={"kind": "none", "backend": "static"}).ingress.fixed_port, (
        "for an ingress that the operator runs"
    )
    caa = {"ingress": CADDY | {"acme_ca": "https://ca.test/dir"}, "dns": {"caa": ["ca.test"]}}
    assert settings(**caa).dns.caa == ("ca.test",), "the domain of another authority is not known"
    assert settings(ingress=CADDY | {"image": "caddy@sha256:" + "a" * 64}).ingress.container_image.startswith("caddy@")


def test_refuses_a_url_with_a_password_without_repeating_it() -> None:
    found = fault("s3.endpoint", s3=S3 | {"endpoint": "https://key:hunter2@spaces.test"})
    assert "password" in found.problem
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(("memory", "named"), [(1500, "'s-2vcpu-4gb'"), (6000, "'s-4vcpu-8gb'"), (200_000, "Lower")])
def test_refuses_jobs_that_do_not_fit_the_droplet_and_names_a_size_that_fits(memory: int, named: str) -> None:
    host = {"size": "s-1vcpu-1gb"}
    found = fault("host.size", host=host, pds={"memory_mib": memory})
    assert f"{memory + 256} MiB (pds {memory}, ingress 256)" in found.problem
    assert named in found.remedy


def test_invites_are_off_only_if_open_registration_is_set_too() -> None:
    found = fault("pds.invite_required", pds={"invite_required": False})
    assert "captcha" in found.problem
    assert "100 accounts" in found.problem
    assert "'open_registration: true'" in found.remedy
    assert settings(pds={"invite_required": False, "open_registration": True})


@pytest.mark.parametrize(
    ("zone", "place"),
    [
        ("PDT", "America/Los_Angeles"),
        ("pst", "America/Los_Angeles"),
        ("CEST", "Europe/Berlin"),
        ("BST", "Europe/London"),
        ("Europe/Berln", "Europe/Berlin"),
        ("PST8PDT", "UTC"),
        ("", "UTC"),
    ],
)
def test_refuses_an_abbreviation_as_a_time_zone(zone: str, place: str) -> None:
    assert f"'{place}'" in fault("time_zone", time_zone=zone).remedy
