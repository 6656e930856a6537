"""Values of one service that must not be used for another: regions, endpoints, fingerprints, sizes."""

import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from components.render.jobs.restic import restic_environment
from components.settings.checks.capacity import allocatable_mib
from components.settings.checks.pds_env import plain_environment
from components.settings.checks.warnings import warnings
from offline.mock_engine import ROOT
from policy.changes import Change, between, find_lost_state
from tests.support.host_machine import tool
from tests.support.programs import BACKUP, run, settings_of
from tests.support.serving import served
from tests.unit.components.settings.test_settings import MAIL, S3, TEXT_KEY, fault, settings

FILES = ROOT / "components" / "render" / "scripts"
AMAZON = BACKUP | {"endpoint": "https://s3.eu-central-1.amazonaws.com", "bucket": "club-copies"}
MD5 = "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa"


# Regions and endpoints


def test_other_s3_service_gets_no_default_region() -> None:
    assert "AWS_DEFAULT_REGION" not in restic_environment(settings(backup=AMAZON), "dev"), "restic queries the service"
    assert restic_environment(settings(backup=BACKUP), "dev")["AWS_DEFAULT_REGION"] == "ams3"
    disk = settings_of(backup={"volume": "disk"})
    assert restic_environment(disk, "dev") == {"RESTIC_REPOSITORY": "/backups/noted.at"}


@pytest.mark.parametrize("region", ["eu-central-1", "auto", "us-east-005", "garage"])
def test_accepts_any_region_of_a_service_with_an_endpoint(region: str) -> None:
    theirs = AMAZON | {"endpoint": "https://s3.my-club.org", "region": region}
    assert restic_environment(settings(backup=theirs), "dev")["AWS_DEFAULT_REGION"] == region


def test_refuses_the_region_of_another_service_for_spaces() -> None:
    found = fault("backup.region", backup=BACKUP | {"region": "eu-central-1"})
    assert "'ams3'" in found.remedy
    assert "'endpoint'" in found.remedy
    assert "there is no bucket" in fault("backup.region", backup={"volume": "disk", "region": "ams3"}).problem


@pytest.mark.parametrize(("section", "given"), [("s3", S3), ("backup", AMAZON)])
@pytest.mark.parametrize(
    ("host", "wrong", "right"),
    [
        ("s3.eu-central-1.amazonaws.com", "us-east-1", ["eu-central-1"]),
        ("fra1.digitaloceanspaces.com", "ams3", ["fra1", "us-east-1"]),
    ],
)
def test_refuses_a_region_that_contradicts_the_endpoint(
    section: str, given: dict[str, Any], host: str, wrong: str, right: list[str]
) -> None:
    endpoint = given | {"endpoint": f"https://{host}"}
    found = fault(f"{section}.region", **{section: endpoint | {"region": wrong}})
    assert found.remedy == f"Write 'region: {right[0]}'."
    for region in right:
        assert settings(**{section: endpoint | {"region": region}})


@pytest.mark.parametrize("region", ["nyc1", "ams2"])
def test_refuses_a_region_without_spaces(region: str) -> None:
    assert f"no Spaces in {region}" in fault("backup.region", backup=BACKUP | {"region": region}).problem
    for endpoint in (f"https://{region}.digitaloceanspaces.com", "https://digitaloceanspaces.com"):
        assert "no Spaces at" in fault("s3.endpoint", s3=S3 | {"endpoint": endpoint}).problem


@pytest.mark.parametrize(
    "url", ["https://s3.my-club.org:99999", "https://s3.my-club.org:0", "https://[::1", "https://:443"]
)
def test_refuses_an_address_without_a_host_or_with_a_port_that_cannot_exist(url: str) -> None:
    assert "is not a URL" in fault("s3.endpoint", s3=S3 | {"endpoint": url}).problem
    assert "is not a URL" in fault("pds.crawlers[0]", pds={"crawlers": [url]}).problem
    assert "is not an https URL" in fault("alerts.ping_url", alerts={"ping_url": f"{url}/ping"}).problem
    nomad = {"nomad_address": url, "nomad_token": "0" * 36, "ipv4": "203.0.113.7"}
    assert "is not the address of a Nomad" in fault("on.nomad_address", on=nomad, operators=...).problem


@pytest.mark.parametrize(
    ("endpoint", "problem", "right"),
    [
        ("https://noted-blobs.fra1.digitaloceanspaces.com", "bucket's name", "https://fra1.digitaloceanspaces.com"),
        ("https://other.fra1.digitaloceanspaces.com", "bucket's name", "https://fra1.digitaloceanspaces.com"),
        ("https://noted-blobs.fra1.cdn.digitaloceanspaces.com", "CDN", "https://fra1.digitaloceanspaces.com"),
        ("https://fra1.cdn.digitaloceanspaces.com", "CDN", "https://fra1.digitaloceanspaces.com"),
        ("https://other.s3.eu-west-1.amazonaws.com", "bucket's name", "https://s3.eu-west-1.amazonaws.com"),
        ("https://noted-blobs.s3.my-club.org:9000", "bucket's name", "https://s3.my-club.org:9000"),
        ("https://fra1.digitaloceanspaces.com/noted-blobs", "the path", "https://fra1.digitaloceanspaces.com"),
        ("https://fra1.digitaloceanspaces.com.", "ends with a dot", "https://fra1.digitaloceanspaces.com"),
        ("http://fra1.digitaloceanspaces.com", "without TLS", "https://fra1.digitaloceanspaces.com"),
    ],
)
def test_refuses_an_endpoint_with_more_than_the_host_and_names_the_right_one(
    endpoint: str, problem: str, right: str
) -> None:
    for section, given in (("s3", S3), ("backup", AMAZON)):
        found = fault(f"{section}.endpoint", **{section: given | {"bucket": "noted-blobs", "endpoint": endpoint}})
        assert problem in found.problem
        assert found.remedy == f"Write '{right}'."


@pytest.mark.parametrize(
    "endpoint",
    ["https://fra1.digitaloceanspaces.com/", "http://127.0.0.1:9000", "http://10.0.0.7:9000", "https://s3.my-club.org"],
)
def test_accepts_an_endpoint_that_is_only_a_host(endpoint: str) -> None:
    assert settings(s3=S3 | {"endpoint": endpoint}, backup=AMAZON | {"endpoint": endpoint})


class _WrongRegion(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()


def _opened(folder: Path, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "NOMAD_ALLOC_DIR": str(folder), "HOME": str(folder), **env}
    script = f'. "{FILES / "restic_open.sh"}"; echo "$REPOSITORY"'
    return subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_refused_region_is_not_reported_as_an_empty_bucket(tmp_path: Path) -> None:
    restic = Path(tool("restic", "restic")).parent
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "RESTIC_PASSWORD": "c"}
    with served(_WrongRegion) as port:
        repository = f"s3:http://127.0.0.1:{port}/copies/noted.at"
        done = _opened(tmp_path, f"{restic}:/usr/bin:/bin", RESTIC_REPOSITORY=repository, **keys)
    assert done.returncode == 1
    assert "absent" not in done.stdout
    assert "cannot be read" in done.stderr
    assert "Nothing is known of what it holds" in done.stderr


@pytest.mark.parametrize(
    ("code", "message", "outcome"),
    [
        (10, "Fatal: repository does not exist: unable to open config file", "absent"),
        (1, "Fatal: unable to open config file: Stat: The specified key does not exist.", "absent"),
        (1, "Fatal: unable to open config file: stat /backups/config: no such file or directory", "absent"),
        (1, "Fatal: unable to open config file: Stat: 400 Bad Request", "FAILED"),
        (1, "Fatal: unable to open config file: dial tcp: lookup s3.test: no such host", "FAILED"),
        (1, "Fatal: unable to open config file: The specified bucket does not exist", "FAILED"),
        (0, "", "there"),
    ],
)
def test_reports_absent_backups_only_if_the_service_does(tmp_path: Path, code: int, message: str, outcome: str) -> None:
    text = f"{message}\\nIs there a repository at the following location?"
    (tmp_path / "restic").write_text(f'#!/bin/sh\nprintf "%b\\n" "{text}" >&2\nexit {code}\n')
    (tmp_path / "restic").chmod(0o755)
    done = _opened(tmp_path, f"{tmp_path}:/usr/bin:/bin", RESTIC_REPOSITORY="s3:https://s3.test/copies")
    assert outcome in (done.stdout if outcome != "FAILED" else done.stderr)
    assert (done.returncode == 0) == (outcome != "FAILED")


# The bucket of backups


def test_one_bucket_for_blobs_and_backups_is_refused_or_warned_about() -> None:
    fra1 = {"endpoint": "https://fra1.digitaloceanspaces.com"}
    blobs = {"bucket": "one", "region": "fra1", "access_key_id": "a", "secret_access_key": "b"}
    for backup in (BACKUP | {"bucket": "one"}, BACKUP | {"bucket": "one"} | fra1):
        assert "the bucket of 'backup'" in fault("blobs.bucket", blobs=blobs, backup=backup).problem
    assert settings(blobs=blobs, backup=AMAZON | {"bucket": "one"}), "a bucket of another service"
    for backup, warned in ((fra1, True), ({"region": "fra1"}, True), ({"region": "ams3"}, False)):
        given = settings(s3=S3 | {"bucket": "one"}, backup=BACKUP | {"bucket": "one"} | backup)
        assert any("one is the bucket of 's3', too" in line for line in warnings(given)) is warned


def test_another_backup_bucket_is_a_replacement_that_preflight_refuses() -> None:
    before, now = (run(backup=BACKUP | {"bucket": name}) for name in ("copies-one", "copies-two"))
    changes = between(before, now)
    (bucket,) = [change for change in changes if change.kind == "SpacesBucket"]
    assert (bucket.op, bucket.reasons) == ("replace", ("name",)), (
        "the provider would change nothing and report an update"
    )
    assert now.one("pds-backup-bucket").protected, "the engine refuses it, too"
    (found,) = find_lost_state(changes)
    assert "Put 'backup.bucket' back" in found
    (key,) = [change for change in changes if change.kind == "SpacesKey"]
    assert key.op == "replace", "the API can only change a key's name"


def test_preflight_refuses_a_bucket_in_another_region() -> None:
    moved = Change(
        type="digitalocean:index/spacesBucket:SpacesBucket", name="pds-backup-bucket", op="replace", reasons=("region",)
    )
    assert "Put 'backup.region' back" in find_lost_state([moved])[0]


def test_versions_left_by_restic_locks_expire() -> None:
    (rule,) = run(backup=BACKUP).one("pds-backup-bucket").inputs["lifecycleRules"]
    assert rule["expiration"] == {"expiredObjectDeleteMarker": True}
    assert rule["noncurrentVersionExpiration"] == {"days": 30}


# Operators


@pytest.mark.parametrize(
    "key", ["SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8", "256 SHA256:nThbg6kXUpJW alice@laptop (ED25519)"]
)
def test_refuses_a_fingerprint_of_another_form_and_names_the_command(key: str) -> None:
    found = fault("operators.ssh_keys[0]", operators={"ssh_keys": [key]})
    assert "MD5" in found.problem
    assert "ssh-keygen -E md5 -lf" in found.remedy


@pytest.mark.parametrize(
    "text", [MD5, f"MD5:{MD5}", MD5.upper(), f"256 MD5:{MD5} alice@laptop (ED25519)", f"2048 {MD5} alice (RSA)"]
)
def test_accepts_a_fingerprint_as_ssh_keygen_prints_it(text: str) -> None:
    operators = settings(operators={"ssh_keys": [text, TEXT_KEY]}).operators
    assert operators
    assert operators.account_keys == (MD5,)


@pytest.mark.parametrize("cidrs", [["2001:db8::/64"], ["2001:db8::1/128", "::ffff:203.0.113.7/128"]])
def test_refuses_operators_with_only_ipv6_addresses(cidrs: list[str]) -> None:
    for anywhere in (False, True):
        found = fault("operators.cidrs", operators={"cidrs": cidrs, "nomad_anywhere": anywhere})
        assert "only an IPv4 address" in found.problem
    assert settings(operators={"cidrs": [*cidrs, "203.0.113.7/32"]})


@pytest.mark.parametrize(
    "cidrs", [["192.168.1.5/32"], ["10.0.0.0/8", "2001:db8::/64"], ["100.64.0.9/32", "127.0.0.1/32"]]
)
def test_refuses_operators_with_only_private_addresses(cidrs: list[str]) -> None:
    assert "public address" in fault("operators.cidrs", operators={"cidrs": cidrs}).problem
    assert settings(operators={"cidrs": [*cidrs, "203.0.113.7/32"]}), "harmless beside a public one"


# The server's environment


def test_with_s3_the_server_sends_no_checksums_unless_configured() -> None:
    names = {"AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"}
    plain = plain_environment(settings(s3=S3))
    assert {plain[name] for name in names} == {"WHEN_REQUIRED"}
    assert not names & plain_environment(settings()).keys(), "without a bucket they are not needed"
    parsed = settings(s3=S3, pds={"extra_env": {"AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_SUPPORTED"}})
    assert plain_environment(parsed)["AWS_REQUEST_CHECKSUM_CALCULATION"] == "WHEN_SUPPORTED"


@pytest.mark.parametrize(
    "name", ["AWS_MAX_ATTEMPTS", "OTEL_SERVICE_NAME", "HTTPS_PROXY", "no_proxy", "NODE_EXTRA_CA_CERTS"]
)
def test_accepts_a_name_that_a_library_reads_and_warns_that_it_is_unchecked(name: str) -> None:
    given = settings(pds={"extra_env": {name: "5"}})
    assert plain_environment(given)[name] == "5"
    assert [line for line in warnings(given) if name in line and "checked" in line]


def test_refuses_the_secret_of_a_library_in_the_plain_environment() -> None:
    key = "pds.extra_env.AWS_SECRET_ACCESS_KEY"
    assert "secret" in fault(key, pds={"extra_env": {"AWS_SECRET_ACCESS_KEY": "x"}}).problem
    assert (
        "sets this name itself" in fault("pds.extra_env.NODE_OPTIONS", pds={"extra_env": {"NODE_OPTIONS": "x"}}).problem
    )


def test_refuses_a_mail_user_with_a_colon() -> None:
    found = fault("mail.user", mail=MAIL | {"user": "club:postmaster"})
    assert "colon" in found.problem


@pytest.mark.parametrize(
    ("section", "key"), [("secrets", "jwt_secret"), ("secrets", "admin_password"), ("backup", "password")]
)
def test_accepts_a_short_adopted_secret_with_a_warning(section: str, key: str) -> None:
    given = BACKUP if section == "backup" else {}
    short = list(warnings(settings(**{section: given | {key: "thirteen-char"}})))
    assert [line for line in short if line.startswith(f"pds:{section}.{key}: it is shorter than 16")]
    assert "thirteen-char" not in "".join(short)
    long = list(warnings(settings(**{section: given | {key: "sixteen-character"}})))
    assert not [line for line in long if f"{section}.{key}" in line]


# What a droplet has


def test_less_memory_is_allocatable_than_the_droplet_size_names() -> None:
    assert allocatable_mib(2048) == 1413
    assert fault("host.size", pds={"memory_mib": 1280})
    assert fault("host.size", pds={"memory_mib": 1280}, ingress={"memory_mib": 64}, backup=BACKUP)
    assert fault("host.size", host={"size": "s-1vcpu-1gb"}, pds={"memory_mib": 512}, ingress={"kind": "none"})
    assert settings(pds={"memory_mib": 1413 - 256})


def test_refuses_clubs_that_need_more_than_the_processors() -> None:
    clubs = {f"club-{port}": {"port": port, "memory_mib": 256} for port in range(3101, 3104)}
    found = fault("host.size", host={"size": "s-1vcpu-8gb"}, clubs=clubs)
    assert "2000 MHz" in found.problem
    assert "clubs 1500" in found.problem
    assert "2 processors" in found.remedy
    assert settings(host={"size": "s-2vcpu-8gb"}, clubs=clubs)


@pytest.mark.parametrize(("gib", "warned"), [(25, False), (26, True)])
def test_warns_about_clubs_whose_quotas_exceed_the_volume(gib: int, warned: bool) -> None:
    given = settings(host={"size": "s-2vcpu-4gb"}, clubs={"chess": {"port": 3101, "disk_gib": gib}})
    assert any(f"are {gib} GiB together, and the volume has 25" in line for line in warnings(given)) is warned


# Other services of the server


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"app_view_url": "https://api.other.test"}, "app_view_did"),
        ({"app_view_did": "did:web:api.other.test"}, "app_view_url"),
        ({"report_service_url": "https://mod.other.test"}, "report_service_did"),
    ],
)
def test_warns_about_half_of_another_service(given: dict[str, str], left: str) -> None:
    assert [line for line in warnings(settings(pds=given)) if line.startswith(f"pds:pds.{left}: it is still")]
    both = {"app_view_url": "https://api.other.test", "app_view_did": "did:web:api.other.test"}
    assert not [line for line in warnings(settings(pds=both)) if "it is still" in line]


@pytest.mark.parametrize(("image", "warned"), [("0.4.219", True), ("0.4.5037", False)])
def test_warns_about_s3_with_a_server_of_the_older_version_line(image: str, warned: bool) -> None:
    given = settings(s3=S3, pds={"image": f"ghcr.io/bluesky-social/pds:{image}"})
    assert any("pds:s3: servers of packages 0.4" in line for line in warnings(given)) is warned
