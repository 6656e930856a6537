"""The settings refuse what the real server refuses at its start, or misinterprets.

`tests/contract` verifies the environments with the real servers. Each is tried in every way in which a stack file could
set it: the option that owns the name, `extra_env` and `extra_secret_env`.
"""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from components.settings import sections
from components.settings.checks.pds_env import (
    GENERATED_SECRETS,
    configured_secrets,
    owned_names,
    plain_environment,
    readable_names,
)
from components.settings.fields.errors import SECRET_NAME, Fault
from components.settings.fields.pds_env_rules import EXCLUDED, GROUPS, RULES
from tests.contract.refused import ACCEPTED_BUT_WRONG, BAD_ENVIRONMENTS, BOTH, Refusal
from tests.unit.components.settings.test_settings import MAIL, S3, faults, settings

ENTRIES = {entry.name: entry for entry in BAD_ENVIRONMENTS + ACCEPTED_BUT_WRONG}
IMAGES = {
    "0.4": {"image": "ghcr.io/bluesky-social/pds:0.4.219"},
    "0.5": {},
}
ROTATION_KEY = ("secrets.plc_rotation_key", "[1, n-1] as 64 lower-case hex digits", "omit it")

Attempt = tuple[Mapping[str, Any], str, str, str]
"""Options in a stack file; key, problem (a part) and remedy (a part) of the required fault."""


def _without(whole: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if key not in keys}


def _key(value: str) -> Attempt:
    return ({"secrets": {"plc_rotation_key": value}}, *ROTATION_KEY)


BY_OPTION: dict[str, list[Attempt]] = {
    "disk and S3": [
        (
            {"s3": S3, "pds": {"extra_env": {"PDS_BLOBSTORE_DISK_LOCATION": "/pds/blocks"}}},
            *("s3", "accepts one of the two", "Remove 's3'"),
        )
    ],
    "half of the S3 credentials": [
        ({"s3": _without(S3, "secret_access_key")}, "s3.secret_access_key", "is required", "config set --secret"),
        ({"s3": _without(S3, "access_key_id")}, "s3.access_key_id", "is required", "config set --secret"),
        ({"s3": S3 | {"secret_access_key": ""}}, "s3.secret_access_key", "too short", "one character or more"),
    ],
    "mail server without sender": [
        ({"mail": _without(MAIL, "from")}, "mail.from", "is required", "Write 'from: "),
        ({"mail": MAIL | {"from": ""}}, "mail.from", "not an e-mail address", "admin@my-club.org"),
    ],
    "mail sender without server": [
        ({"mail": {"from": "admin@noted.at"}}, "mail.host", "is required", "Write 'host: smtp.my-relay.org'"),
        ({"mail": {"from": "admin@noted.at"}}, "mail.password", "is required", "config set --secret"),
    ],
    "mail server that is not a URL": [
        ({"mail": "mail.noted.at"}, "mail", "has the wrong type", "a map of"),
        ({"mail": MAIL | {"host": "smtp://mail.noted.at"}}, "mail.host", "not a domain name", "'mail.noted.at'"),
    ],
    "rotation key zero": [_key("0" * 64)],
    "rotation key n": [_key("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")],
    "rotation key too short": [_key("3174f736")],
    "rotation key not hex": [_key("zz" + "1" * 62)],
    "rotation key in capitals": [_key("AB" * 32)],
    "no rotation key": [_key("")],
    "no JWT secret": [({"secrets": {"jwt_secret": ""}}, "secrets.jwt_secret", "too short", "one character or more")],
    "no admin password": [
        ({"secrets": {"admin_password": ""}}, "secrets.admin_password", "too short", "one character or more")
    ],
    "handle domain without its dot": [
        (
            {"service_handle_domains": ["noted.at"]},
            *("service_handle_domains[0]", "does not start with a dot", "'.noted.at'"),
        )
    ],
    "nested handle domains": [
        (
            {"service_handle_domains": [".noted.at", ".club.noted.at"]},
            *("service_handle_domains", ".club.noted.at is inside .noted.at", "Keep one of the two"),
        )
    ],
    "hostname with a scheme": [({"hostname": "https://noted.at"}, "hostname", "is a URL", "Write 'noted.at'")],
    "hostname with a scheme, older server": [
        ({"hostname": "https://noted.at"}, "hostname", "is a URL", "Write 'noted.at'")
    ],
    "no hostname": [
        ({"hostname": ...}, "hostname", "is required", "Write 'hostname: noted.at'"),
        ({"hostname": ""}, "hostname", "has only one label", "pds.my-club.org"),
        ({"hostname": "localhost"}, "hostname", "has only one label", "pds.my-club.org"),
    ],
    "port out of range": [({"pds": {"port": 99999}}, "pds.port", "99999 is too large", "at most 65535")],
    "app view without its DID": [
        ({"pds": {"app_view_did": ""}}, "pds.app_view_did", "not a DID", "did:web:api.bsky.app"),
        ({"pds": {"app_view_did": None}}, "pds.app_view_did", "no value", "remove the key"),
    ],
    "report service without its DID": [
        ({"pds": {"report_service_did": ""}}, "pds.report_service_did", "not a DID", "did:web:"),
        ({"pds": {"report_service_did": None}}, "pds.report_service_did", "no value", "remove the key"),
    ],
    "limit with a unit": [
        ({"pds": {"blob_upload_limit": "50MB"}}, "pds.blob_upload_limit", "wrong type", "a whole number"),
    ],
    "boolean in other words": [({"pds": {"rate_limits": "on"}}, "pds.rate_limits", "wrong type", "true or false")],
    "invalid recovery key": [
        (
            {"pds": {"recovery_did_key": "nonsense"}},
            *("pds.recovery_did_key", "report it only at the first account", "'did:key:zQ3s'"),
        )
    ],
    "S3 without region or credentials": [
        ({"s3": {"bucket": "club-blobs"}}, f"s3.{key}", "is required", "")
        for key in ("region", "access_key_id", "secret_access_key")
    ],
    "invalid time zone": [
        ({"time_zone": "PDT"}, "time_zone", "not a time zone name that follows summer time", "'America/Los_Angeles'")
    ],
}
"""The form of an entry in the options that own its names."""

BY_HAND: dict[str, dict[str, tuple[str, str]]] = {
    "moderation mail sender without server": {
        "PDS_MODERATION_EMAIL_ADDRESS": (
            "without PDS_MODERATION_EMAIL_SMTP_URL the server does not start",
            "Add 'pds.extra_secret_env.PDS_MODERATION_EMAIL_SMTP_URL', or remove it",
        )
    },
    "moderation mail server that is not a URL": {
        "PDS_MODERATION_EMAIL_SMTP_URL": ("not the URL of a mail server", "'smtps://USER:PASSWORD@HOST:2465/'")
    },
    "two rotation keys": {
        "PDS_PLC_ROTATION_KEY_KMS_KEY_ID": ("has its rotation key here", "'secrets.plc_rotation_key'")
    },
    "DPoP secret too short": {"PDS_DPOP_SECRET": ("not 32 bytes in hex", "openssl rand -hex 32")},
    "invalid service DID": {"PDS_SERVICE_DID": ("is not a DID", "'did:web:")},
    "invalid service DID, older server": {"PDS_SERVICE_DID": ("is not a DID", "'did:web:")},
    "moderation service without its DID": {
        "PDS_MOD_SERVICE_URL": ("without PDS_MOD_SERVICE_DID", "Add 'pds.extra_env.PDS_MOD_SERVICE_DID'")
    },
    "entryway without the rest": {
        "PDS_ENTRYWAY_URL": (
            "without PDS_ENTRYWAY_DID and PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX and "
            "PDS_ENTRYWAY_PLC_ROTATION_KEY the server does not start",
            "Add 'pds.extra_env.PDS_ENTRYWAY_DID'",
        )
    },
    "invalid entryway key": {
        "PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX": ("not a secp256k1 public key", "66 or 130 hex digits")
    },
    "lexicon authority that is not a DID": {"PDS_LEXICON_AUTHORITY_DID": ("is not a DID", "'did:web:")},
    "invalid colour": {"PDS_PRIMARY_COLOR": ("is not a colour", "'#' and six hex digits")},
    "transparent colour": {"PDS_PRIMARY_COLOR": ("is not a colour", "'#' and six hex digits")},
    "hue above 360 degrees": {"PDS_PRIMARY_COLOR_HUE": ("is not an angle", "from 0 to 360")},
    "link that is not a URL": {"PDS_HOME_URL": ("is not a link", "Write the whole URL: 'https://")},
    "logo that is not a URL": {"PDS_LOGO_URL": ("is not the URL of an image", "Write the whole URL: 'https://")},
    "Redis address that is a URL": {"PDS_REDIS_SCRATCH_ADDRESS": ("is not a host and a port", "without 'redis://'")},
    "unknown log level": {"LOG_LEVEL": ("is not a log level", "trace, debug, info, warn, error or fatal")},
    "trusted client that is not a URL": {
        "PDS_OAUTH_TRUSTED_CLIENTS": ("matches no client", "'https://app.my-club.org/client.json'")
    },
    "half of the captcha": {
        "PDS_HCAPTCHA_SITE_KEY": (
            "without PDS_HCAPTCHA_SECRET_KEY and PDS_HCAPTCHA_TOKEN_SALT there is no captcha",
            "Add 'pds.extra_secret_env.PDS_HCAPTCHA_SECRET_KEY'",
        )
    },
    "repositories outside of the volume": {
        "PDS_ACTOR_STORE_DIRECTORY": ("is not on the volume", "Write a path below '/pds/'")
    },
}
"""The fault (parts of problem and remedy) at the names without an option, given in the one map or the other."""

ALWAYS_SET = {name for name in plain_environment(settings()) if "_DISK_" not in name} | set(GENERATED_SECRETS.values())
DOCUMENTS: tuple[dict[str, Any], ...] = ({}, {"mail": MAIL}, {"s3": S3}, {"pds": IMAGES["0.4"]})


def _met(found: tuple[Fault, ...], key: str, problem: str, remedy: str) -> bool:
    return any(one.key == key and problem in one.problem and remedy in one.remedy for one in found)


def _cases() -> list[Any]:
    return [pytest.param(entry, line, id=f"{entry.name}, {line}") for entry in ENTRIES.values() for line in entry.lines]


@pytest.mark.parametrize(("entry", "line"), _cases())
def test_no_option_gives_an_environment_that_the_server_refuses(entry: Refusal, line: str) -> None:
    for changes, key, problem, remedy in BY_OPTION.get(entry.name, []):
        found = faults(**{**changes, "pds": {**IMAGES[line], **changes.get("pds", {})}})
        assert _met(found, key, problem, remedy), f"{entry.meaning}\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("where", ["extra_env", "extra_secret_env"])
@pytest.mark.parametrize(("entry", "line"), _cases())
def test_no_added_name_gives_an_environment_that_the_server_refuses(entry: Refusal, line: str, where: str) -> None:
    given = {name: value for name, value in entry.change.items() if value is not None}
    if not given:
        return
    found = faults(pds={**IMAGES[line], where: given})
    owned = owned_names(settings())
    for name in given:
        if name in owned:
            assert _met(found, f"pds.{where}.{name}", "the program sets this name itself", f"'{owned[name]}'")
    for name, (problem, remedy) in BY_HAND.get(entry.name, {}).items():
        secret_in_the_open = SECRET_NAME.search(name) and where == "extra_env"
        expected = ("holds a secret", "'extra_secret_env'") if secret_in_the_open else (problem, remedy)
        assert _met(found, f"pds.{where}.{name}", *expected), f"{entry.meaning}\n" + "\n".join(map(str, found))
    if where == "extra_secret_env":
        shown_secrets = [value for value in given.values() if repr(value) in "\n".join(one.problem for one in found)]
        assert shown_secrets == [], "an error shows a secret value"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_variable_that_the_server_requires_is_always_set(entry: Refusal) -> None:
    for name in (name for name, value in entry.change.items() if value is None):
        for changes in DOCUMENTS:
            parsed = settings(**changes)
            plain = plain_environment(parsed)
            if name == "PDS_BLOBSTORE_DISK_LOCATION":
                assert (name in plain) != ("PDS_BLOBSTORE_S3_BUCKET" in plain)
            else:
                assert plain.get(name) or name in GENERATED_SECRETS.values(), changes
        for where in ("extra_env", "extra_secret_env"):
            emptied = faults(pds={where: {name: ""}})
            assert _met(emptied, f"pds.{where}.{name}", "the program sets this name itself", "Use the option")


def test_every_refused_environment_is_tried_with_each_of_its_names() -> None:
    owned = owned_names(settings())
    assert set(BY_OPTION) | set(BY_HAND) <= set(ENTRIES)
    for entry in ENTRIES.values():
        given = {name for name, value in entry.change.items() if value is not None}
        lacking = set(entry.change) - given
        assert bool(given & owned.keys() or lacking - {"PDS_BLOBSTORE_DISK_LOCATION"}) <= (entry.name in BY_OPTION)
        # Of names that belong together, one has the fault.
        assert bool(given - owned.keys()) == (entry.name in BY_HAND), entry.name
        assert set(BY_HAND.get(entry.name, {})) <= given, entry.name


def test_no_option_can_remove_a_variable_that_is_always_set() -> None:
    for name, option in owned_names(settings()).items():
        section, _, key = option.partition(".")
        if name in ALWAYS_SET and key and section == "pds":
            assert sections.PdsOptions.model_fields[key].default not in (None, ""), option
            assert _met(faults(pds={key: None}), option, "no value", "remove the key")


GOOD: dict[str, str] = {
    "LOG_LEVEL": "debug",
    "PDS_SERVICE_DID": "did:web:noted.at",
    "PDS_LEXICON_AUTHORITY_DID": "did:plc:ar7c4by46qjdydhdevvrndac",
    "PDS_DPOP_SECRET": "aB" * 32,
    "PDS_PRIMARY_COLOR": "#0AF",
    "PDS_ERROR_COLOR": "rgb(255, 0,17)",
    "PDS_WARNING_COLOR": "#1185fe",
    "PDS_PRIMARY_COLOR_CONTRAST": "#ffffff",
    "PDS_PRIMARY_COLOR_HUE": "360",
    "PDS_HOME_URL": "https://noted.at:8443/welcome?to=all",
    "PDS_SUPPORT_URL": "mailto:help@noted.at",
    "PDS_LOGO_URL": "data:image/png;base64,iVBORw0KGgo=",
    "PDS_MOD_SERVICE_URL": "https://mod.noted.at",
    "PDS_MOD_SERVICE_DID": "did:web:mod.noted.at",
    "PDS_OAUTH_TRUSTED_CLIENTS": "https://app.noted.at/client.json,https://b.test/c.json",
    "PDS_MODERATION_EMAIL_ADDRESS": "moderation@noted.at",
    "PDS_MODERATION_EMAIL_SMTP_URL": "smtps://me%40club:word@smtp.noted.at:2465/?pool=true",
    "PDS_ENTRYWAY_URL": "https://entryway.noted.at",
    "PDS_ENTRYWAY_DID": "did:web:entryway.noted.at",
    "PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX": "02" + "79be667e" * 8,
    "PDS_ENTRYWAY_PLC_ROTATION_KEY": "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
    "PDS_REDIS_SCRATCH_ADDRESS": "redis.noted.at:6379",
    "PDS_ACCOUNT_DB_LOCATION": "/pds/db/account.sqlite",
    "PDS_HCAPTCHA_SITE_KEY": "site",
    "PDS_HCAPTCHA_SECRET_KEY": "secret",
    "PDS_HCAPTCHA_TOKEN_SALT": "salt",
    "PDS_DEV_MODE": "0",
    "PDS_INVITE_EPOCH": "-1",
}


@pytest.mark.parametrize("line", BOTH)
def test_good_values_reach_the_server_unchanged(line: str) -> None:
    good = {name: value for name, value in GOOD.items() if line in readable_names()[name]["lines"]}
    extra: dict[str, dict[str, str]] = {"extra_env": {}, "extra_secret_env": {}}
    for name, value in good.items():
        extra["extra_secret_env" if SECRET_NAME.search(name) else "extra_env"][name] = value
    parsed = settings(pds={**IMAGES[line], **extra})
    assert (plain_environment(parsed) | configured_secrets(parsed)).items() >= good.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "INFO"),
        ("LOG_LEVEL", "info "),
        ("PDS_SERVICE_NAME", ""),
        ("PDS_DEV_MODE", ""),
        ("PDS_SERVICE_DID", "did:web:"),
        ("PDS_SERVICE_DID", "did:web:noted.at:"),
        ("PDS_PRIMARY_COLOR", "rgb(256,0,0)"),
        ("PDS_PRIMARY_COLOR", "#12345"),
        ("PDS_PRIMARY_COLOR_HUE", "361"),
        ("PDS_PRIMARY_COLOR_HUE", "-1"),
        ("PDS_HOME_URL", "https://noted.at:99999/"),
        ("PDS_HOME_URL", "https://noted.at/\n"),
        ("PDS_HOME_URL", "https://[::1/"),
        ("PDS_HOME_URL", "https:noted.at"),
        ("PDS_HOME_URL", "mailto:help"),
        ("PDS_LOGO_URL", "ftp://noted.at/logo.png"),
        ("PDS_OAUTH_TRUSTED_CLIENTS", "https://a.test/c.json, https://b.test/c.json"),
        ("PDS_ACTOR_STORE_DIRECTORY", "/pds/../actors"),
        ("PDS_SEQUENCER_DB_LOCATION", "sequencer.sqlite"),
        ("PDS_REDIS_SCRATCH_ADDRESS", "redis.noted.at:port"),
    ],
)
@pytest.mark.parametrize("where", ["extra_env", "extra_secret_env"])
def test_refuses_a_value_close_to_a_good_one_in_both_maps(name: str, value: str, where: str) -> None:
    image = IMAGES[readable_names()[name]["lines"][-1]]
    assert [one.key for one in faults(pds={**image, where: {name: value}})] == [f"pds.{where}.{name}"]


@pytest.mark.parametrize("names", [names for names, _ in GROUPS], ids=lambda names: names[0])
def test_refuses_an_incomplete_group_of_names(names: tuple[str, ...]) -> None:
    for left_out in names:
        extra: dict[str, dict[str, str]] = {"extra_env": {}, "extra_secret_env": {}}
        for name in set(names) - {left_out}:
            extra["extra_secret_env" if SECRET_NAME.search(name) else "extra_env"][name] = GOOD[name]
        [found] = faults(pds=extra)
        option = "extra_secret_env" if SECRET_NAME.search(left_out) else "extra_env"
        assert f"without {left_out}" in found.problem
        assert f"'pds.{option}.{left_out}'" in found.remedy


def test_every_rule_is_about_readable_names_without_an_option() -> None:
    free = readable_names().keys() - owned_names(settings()).keys()
    for rule in RULES:
        assert [name for name in free if re.fullmatch(rule.names, name)], rule.names
    assert EXCLUDED.keys() <= free
    for names, _ in GROUPS:
        for name in names:
            assert name in free
            assert readable_names()[name]["lines"] == list(BOTH)
