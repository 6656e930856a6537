"""The server's environment: the variables of each option, and the names that may be added by hand."""

from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from components.settings.checks import pds_env
from components.settings.checks.pds_env import (
    GENERATED_SECRETS,
    configured_secrets,
    owned_names,
    plain_environment,
    readable_names,
)
from components.settings.fields.option import options
from components.settings.sections.settings import Settings
from tests.unit.components.settings.test_settings import MAIL, ROTATION_KEY, S3, fault, faults, settings

BOTH = ["0.4", "0.5"]
NAMES: dict[str, dict[str, Any]] = {
    "PDS_SERVICE_NAME": {"kind": "str", "lines": BOTH},
    "PDS_DEV_MODE": {"kind": "bool", "lines": BOTH},
    "PDS_SQLITE_DISABLE_WAL_AUTO_CHECKPOINT": {"kind": "bool", "lines": BOTH},
    "PDS_MAX_SUBSCRIPTION_BUFFER": {"kind": "int", "lines": BOTH},
    "PDS_RATE_LIMIT_BYPASS_KEY": {"kind": "str", "lines": BOTH},
    "PDS_LIGHT_COLOR": {"kind": "str", "lines": ["0.4"]},
    "PDS_INFO_COLOR": {"kind": "str", "lines": ["0.5"]},
    "PDS_BLOBSTORE_DISK_LOCATION": {"kind": "str", "lines": BOTH},
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small table of readable names instead of the generated one."""
    monkeypatch.setattr(pds_env, "readable_names", lambda: NAMES)


def test_minimal_stack_has_the_environment_of_the_published_job() -> None:
    plain = plain_environment(settings())
    assert plain == plain | {
        "PDS_HOSTNAME": "noted.at",
        "PDS_DATA_DIRECTORY": "/pds",
        "PDS_BLOBSTORE_DISK_LOCATION": "/pds/blocks",
        "PDS_BLOBSTORE_DISK_TMP_LOCATION": "/pds/temp",
        "PDS_BLOB_UPLOAD_LIMIT": "104857600",
        "PDS_DID_PLC_URL": "https://plc.directory",
        "PDS_BSKY_APP_VIEW_URL": "https://api.bsky.app",
        "PDS_BSKY_APP_VIEW_DID": "did:web:api.bsky.app",
        "PDS_REPORT_SERVICE_URL": "https://mod.bsky.app",
        "PDS_REPORT_SERVICE_DID": "did:plc:ar7c4by46qjdydhdevvrndac",
        "PDS_CRAWLERS": "https://bsky.network",
    }


def test_logging_invites_and_rate_limits_are_on_by_default() -> None:
    plain = plain_environment(settings())
    on = ("LOG_ENABLED", "PDS_INVITE_REQUIRED", "PDS_RATE_LIMITS_ENABLED")
    assert {plain[name] for name in on} == {"true"}
    off = settings(
        pds={"log_enabled": False, "rate_limits": False, "invite_required": False, "open_registration": True}
    )
    assert {plain_environment(off)[name] for name in on} == {"false"}


def test_options_are_written_as_the_server_reads_them() -> None:
    plain = plain_environment(
        settings(
            time_zone="Europe/Berlin",
            service_handle_domains=[".noted.at", ".club.test"],
            pds={"port": 2583, "crawlers": ["https://a.test", "https://b.test/"], "max_import_size": 7},
        )
    )
    assert plain["TZ"] == "Europe/Berlin"
    assert plain["PDS_SERVICE_HANDLE_DOMAINS"] == ".noted.at,.club.test"
    assert plain["PDS_PORT"] == "2583"
    assert plain["PDS_CRAWLERS"] == "https://a.test,https://b.test"
    assert plain["PDS_MAX_REPO_IMPORT_SIZE"] == "7"


def test_option_without_a_value_sets_no_variable() -> None:
    plain = plain_environment(settings())
    for name in ("PDS_RECOVERY_DID_KEY", "PDS_CONTACT_EMAIL_ADDRESS", "PDS_SERVICE_HANDLE_DOMAINS"):
        assert name not in plain


def test_environment_does_not_depend_on_the_order_of_entries() -> None:
    extra = {"PDS_SERVICE_NAME": "Noted", "PDS_DEV_MODE": "false"}
    one = plain_environment(settings(pds={"extra_env": extra}))
    other = plain_environment(settings(pds={"extra_env": dict(reversed(extra.items()))}))
    assert list(one.items()) == list(other.items())


def test_with_s3_there_is_no_blob_directory_and_the_keys_are_secret() -> None:
    with_s3 = settings(s3=S3 | {"force_path_style": True})
    plain, secret = plain_environment(with_s3), configured_secrets(with_s3)
    assert not [name for name in plain if "_DISK_" in name]
    assert plain["PDS_BLOBSTORE_S3_BUCKET"] == S3["bucket"]
    assert plain["PDS_BLOBSTORE_S3_FORCE_PATH_STYLE"] == "true"
    assert secret == {
        "PDS_BLOBSTORE_S3_ACCESS_KEY_ID": S3["access_key_id"],
        "PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY": S3["secret_access_key"],
    }


@pytest.mark.parametrize(("tls", "scheme"), [("implicit", "smtps"), ("starttls", "smtp")])
@pytest.mark.parametrize("text", ["plain", "a@b/c", "100% #?&=+/", "ünïcödé \U0001f511", "${jndi}", "a b\tc"])
def test_mail_user_and_password_are_decoded_unchanged_from_the_url(tls: str, scheme: str, text: str) -> None:
    mailing = settings(mail=MAIL | {"port": 2587, "tls": tls, "user": text, "password": text[::-1]})
    url = urlsplit(configured_secrets(mailing)["PDS_EMAIL_SMTP_URL"])
    assert (url.scheme, url.hostname, url.port) == (scheme, MAIL["host"], 2587)
    assert unquote(url.username or "") == text
    assert unquote(url.password or "") == text[::-1]
    assert (url.query == "requireTLS=true") == (tls == "starttls")
    assert plain_environment(mailing)["PDS_EMAIL_FROM_ADDRESS"] == MAIL["from"]


def test_plain_environment_contains_no_secret(names: None) -> None:
    full = settings(
        mail=MAIL,
        s3=S3,
        secrets={"plc_rotation_key": ROTATION_KEY, "jwt_secret": "j" * 32, "admin_password": "p" * 32},
        pds={"extra_secret_env": {"PDS_RATE_LIMIT_BYPASS_KEY": "bypass-of-noted"}},
    )
    plain, secret = plain_environment(full), configured_secrets(full)
    assert not plain.keys() & secret.keys()
    for value in (*secret.values(), MAIL["password"], ROTATION_KEY, "j" * 32, "p" * 32):
        assert value not in plain.values()
    assert secret["PDS_RATE_LIMIT_BYPASS_KEY"] == "bypass-of-noted"


def test_secrets_that_are_adopted_or_generated_are_not_configured_secrets() -> None:
    adopted = settings(secrets={"plc_rotation_key": ROTATION_KEY})
    assert not configured_secrets(adopted)


def test_an_option_owns_each_name_that_the_program_sets() -> None:
    for full in (settings(mail=MAIL), settings(s3=S3, service_handle_domains=[".noted.at"])):
        owned = owned_names(full)
        for name in (*plain_environment(full), *configured_secrets(full), *GENERATED_SECRETS.values()):
            assert name in owned or name in pds_env._S3_CHECKSUMS, "an unowned name may be set by hand"
    keys = {key for key, _ in options(Settings)}
    assert set(owned_names(settings()).values()) <= keys


def test_generated_secrets_are_options_of_the_same_names() -> None:
    owned = owned_names(settings())
    assert {owned[name] for name in GENERATED_SECRETS.values()} == {f"secrets.{key}" for key in GENERATED_SECRETS}


@pytest.mark.parametrize("option", ["extra_env", "extra_secret_env"])
@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("PDS_HOSTNAME", "sets this name itself", "'hostname'"),
        ("PDS_ADMIN_PASSWORD", "sets this name itself", "'secrets.admin_password'"),
        ("PDS_EMAIL_SMTP_URL", "sets this name itself", "'mail'"),
        ("PDS_EMAIL_FROM_ADDRESS", "sets this name itself", "'mail.from'"),
        ("PDS_BLOBSTORE_S3_BUCKET", "sets this name itself", "'s3.bucket'"),
        ("TZ", "sets this name itself", "'time_zone'"),
        ("PDS_SERVICE_NAM", "does not read this name", "'PDS_SERVICE_NAME'"),
        ("pds_service_name", "does not read this name", "'PDS_SERVICE_NAME'"),
        ("QUUX", "does not read this name", "pds_env.json"),
        ("PDS_LIGHT_COLOR", "0.5.37 does not read it; 0.4 does", "Remove it"),
    ],
)
def test_refuses_an_added_name_that_the_server_does_not_read_or_an_option_owns(
    names: None, option: str, name: str, problem: str, remedy: str
) -> None:
    found = {one.problem: one for one in faults(pds={option: {name: "x"}}) if one.key == f"pds.{option}.{name}"}
    [match] = [text for text in found if problem in text]
    assert remedy in found[match].remedy


@pytest.mark.parametrize(
    ("name", "value", "problem", "remedy"),
    [
        ("PDS_DEV_MODE", "yes", "'yes' as unset", '"true" or "false"'),
        ("PDS_DEV_MODE", "True", "'True' as unset", '"true" or "false"'),
        ("PDS_MAX_SUBSCRIPTION_BUFFER", "many", "'many' is not a number", "digits"),
        ("PDS_MAX_SUBSCRIPTION_BUFFER", "\u0661", "is not a number", "digits"),
        ("PDS_SERVICE_NAME", "${NOMAD_JOB_NAME}", "interpolate", "'extra_secret_env'"),
        ("PDS_SERVICE_NAME", "%{ if true }", "interpolate", "'extra_secret_env'"),
        ("PDS_RATE_LIMIT_BYPASS_KEY", "hunter2", "holds a secret", "'extra_secret_env'"),
        ("PDS_SERVICE_NAME", "My\0Club", "NUL character", "Remove"),
    ],
)
def test_refuses_an_added_value_that_the_server_would_refuse(
    names: None, name: str, value: str, problem: str, remedy: str
) -> None:
    found = fault(f"pds.extra_env.{name}", pds={"extra_env": {name: value}})
    assert problem in found.problem
    assert remedy in found.remedy
    assert "hunter2" not in str(found)


def test_refuses_a_name_that_is_added_twice(names: None) -> None:
    both = {"PDS_SERVICE_NAME": "Noted"}
    assert (
        "as well"
        in fault("pds.extra_secret_env.PDS_SERVICE_NAME", pds={"extra_env": both, "extra_secret_env": both}).problem
    )


@pytest.mark.parametrize("value", ["true", "1", "false", "0"])
def test_added_variables_reach_the_server(names: None, value: str) -> None:
    extra = {"PDS_DEV_MODE": value, "PDS_SERVICE_NAME": "Noted", "PDS_MAX_SUBSCRIPTION_BUFFER": "-1"}
    plain = plain_environment(settings(pds={"extra_env": extra}))
    assert plain == plain | extra


def test_one_faulty_entry_does_not_hide_the_next(names: None) -> None:
    found = faults(pds={"extra_env": {"PDS_SERVICE_NAME": 7, "QUUX": "x", "PDS_DEV_MODE": "on"}})
    assert [one.key.rpartition(".")[2] for one in found] == ["PDS_DEV_MODE", "PDS_SERVICE_NAME", "QUUX"]


def test_other_version_line_reads_other_names(names: None) -> None:
    older = {"image": "ghcr.io/bluesky-social/pds:0.4.219"}
    assert settings(pds={**older, "extra_env": {"PDS_LIGHT_COLOR": "#010203"}})
    assert (
        "0.5 does" in fault("pds.extra_env.PDS_INFO_COLOR", pds={**older, "extra_env": {"PDS_INFO_COLOR": "1"}}).problem
    )


def test_both_version_lines_read_every_name_of_an_option() -> None:
    """The generated table against the options: an option that the server does not read would silently do nothing."""
    table = readable_names()
    for name, option in owned_names(settings()).items():
        if name != "TZ":  # read by the C library, not by the server
            assert table[name]["lines"] == BOTH, f"{option} is {name}"


def test_generated_table_has_kind_and_version_lines_of_each_name() -> None:
    table = readable_names()
    assert len(table) > 100
    for name, entry in table.items():
        assert entry["kind"] in ("str", "int", "bool", "list"), name
        assert entry["lines"], name
        assert set(entry["lines"]) <= set(BOTH), name
