"""For any stack file the result is settings or clear faults; never another exception, and never a printed secret."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st

from components.settings.checks.pds_env import configured_secrets, plain_environment
from components.settings.checks.warnings import warnings
from components.settings.fields.errors import SettingsError
from components.settings.fields.option import Section, holds_secret, options, section_of
from components.settings.parse import read
from components.settings.sections.settings import Settings
from tests.support.programs import BACKUP, BLOBS
from tests.unit.components.settings.test_settings import DOCUMENT, MAIL, S3, TEXT_KEY, document

FUZZ = fuzzing(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
CANARY = "canary-value-"

NEAR_VALID = st.sampled_from(
    [
        *(
            "noted.at",
            "pds.noted.at",
            "Noted.at",
            "noted.at.",
            "https://noted.at",
            ".noted.at",
            ".a.noted.at",
            "a.local",
        ),
        *("192.0.2.1", "::1", "203.0.113.7/32", "203.0.113.7/31", "0.0.0.0/0", "::/0", "10.0.0.0/16", "[::1]:53"),
        *("PDT", "UTC", "Europe/Berlin", "europe/berlin", "fra1", "s-1vcpu-2gb", "s-1vcpu-1gb", "-2gb", "io", "none"),
        *(
            "0.4.219",
            "0.4.5037",
            "0.4.5009",
            "ghcr.io/bluesky-social/pds:0.4",
            "x:latest",
            "x@sha256:" + "a" * 64,
            "2.0.4",
            "9.9.9",
        ),
        *("did:web:a.b", "did:key:z", "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme", "did:plc:x"),
        *(
            "f" * 64,
            "0" * 64,
            "1" * 64,
            "true",
            "false",
            "null",
            "~",
            "",
            " ",
            "\n",
            "\x00",
            "\x1b[2J",
            "\u202e",
            "\ud800",
        ),
        *(
            "a" * 64 + ".at",
            "a." * 200,
            TEXT_KEY,
            "ssh-rsa",
            "my-laptop",
            "starttls",
            "implicit",
            "manual",
            "${x}",
            "%{x}",
        ),
        *("a@b.c", "a@b", "xn--mnchen-3ya.de", "münchen.de", "1" * 5000, "\u0661\u0662", "{}", "[]", "secure", "٣.٤"),
    ]
)
NUMBERS = st.one_of(st.integers(-10, 70_000), st.sampled_from([10**30, -(10**400), 2**53, 2**64]), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), NEAR_VALID, st.characters())
KEYS: list[str] = sorted({part for key, _ in options(Settings) for part in key.split(".")})
SECTIONS: dict[str, type[Section]] = {
    key: section for key, field in options(Settings) if (section := section_of(field)) is not None
}
NAMES = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(
        ["PDS_HOSTNAME", "PDS_SERVICE_NAME", "PDS_DEV_MODE", "PDS_PORTT", "a.b", "[key]", "", "_", "sender"]
    ),
    st.text(max_size=8),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def _likely(key: str) -> st.SearchStrategy[Any]:
    """Values for one option: mostly a section with some of its own keys, sometimes any value."""
    section = SECTIONS.get(key)
    if section is None:
        return SCALARS | st.lists(SCALARS, max_size=3)
    inner = [name for name, _ in options(section) if "." not in name]
    maps = st.dictionaries(NAMES, SCALARS, max_size=3)
    values = SCALARS | st.lists(SCALARS, max_size=3) | maps
    return st.dictionaries(st.sampled_from(inner), values, max_size=6) | ANYTHING


TOP = [key for key, _ in options(Settings) if "." not in key]
DOCUMENTS = st.builds(
    lambda base, known, unknown: {
        **base,
        **unknown,
        **{key: value for key, value in known.items() if value is not ...},
    },
    st.sampled_from([{}, DOCUMENT, document(mail=MAIL), document(s3=S3), document(backup=BACKUP)]),
    st.fixed_dictionaries({}, optional={key: _likely(key) for key in TOP}),
    st.dictionaries(NAMES, ANYTHING, max_size=2),
)
STACKS = st.sampled_from(["dev", "dev", "dev", "club-2", "Dev", ""]) | st.text(max_size=10)


def answer(given: Any, stack: str = "dev") -> str:
    """The text that the operator sees. A SettingsError must be complete; any other exception fails the test."""
    try:
        found = read(given, "Pulumi.dev.yaml", stack)
    except SettingsError as error:
        return _whole(error)
    plain = plain_environment(found)
    secret = configured_secrets(found)
    assert all(isinstance(value, str) for value in (*plain.values(), *secret.values()))
    assert not [value for value in plain.values() if "${" in value or "%{" in value]
    return f"{found!r}{found}{plain}{list(warnings(found))}"


def _whole(refusal: SettingsError) -> str:
    assert refusal.faults
    for fault in refusal.faults:
        assert fault.key.strip()
        assert fault.problem.strip()
        assert fault.remedy.strip()
    text = str(refusal)
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    text.encode()
    assert refusal.__cause__ is None
    assert refusal.__context__ is None
    return text


@FUZZ
@given(given=DOCUMENTS, stack=STACKS)
def test_any_values_give_settings_or_faults(given: Any, stack: str) -> None:
    answer(given, stack)


@FUZZ
@given(given=ANYTHING)
def test_any_document_gives_settings_or_faults(given: Any) -> None:
    answer(given)


@FUZZ
@given(key=st.sampled_from([key for key, _ in options(Settings)]), value=ANYTHING)
def test_any_value_of_each_option_gives_settings_or_faults(key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    base = {"mail": MAIL, "s3": S3, "backup": BACKUP, "blobs": BLOBS}.get(section, {})
    answer(document(**{section: {**base, name: value} if name else value}))


def _secret_keys() -> Iterator[str]:
    for key, field in options(Settings):
        if holds_secret(field) and section_of(field) is None:
            yield key


WRAPPERS: list[Any] = [
    lambda secret: secret,
    lambda secret: [secret],
    lambda secret: {"PDS_RATE_LIMIT_BYPASS_KEY": secret},
    lambda secret: {"PDS_RATE_LIMIT_BYPASS_KEY": [secret]},
    lambda secret: {"secure": secret},
]


@FUZZ
@given(
    key=st.sampled_from(sorted(_secret_keys())),
    wrap=st.sampled_from(WRAPPERS),
    tail=st.text(alphabet="abcdef0123456789@:/%\n", max_size=80),
    rest=st.fixed_dictionaries(
        {}, optional={top: _likely(top) for top in ("host", "dns", "nomad", "volume", "hostname")}
    ),
)
def test_never_prints_a_secret(key: str, wrap: Any, tail: str, rest: dict[str, Any]) -> None:
    secret = CANARY + tail
    section, _, name = key.partition(".")
    base = {"mail": MAIL, "s3": S3, "backup": BACKUP, "blobs": BLOBS}.get(section, {})
    assert CANARY not in answer(document(**{**rest, section: {**base, name: wrap(secret)}}))
    assert CANARY not in answer(document(**{**rest, section: wrap(secret)}))
    assert CANARY not in answer(document(**{**rest, section: {name: wrap(secret), "quux": wrap(secret)}}))


@pytest.mark.parametrize("depth", [5, 500, 100_000])
def test_refuses_unlimited_nesting(depth: int) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = {"a": nested}
    assert "quux" in answer(document(quux=nested))
    assert "pds:host" in answer(document(host=nested))
    assert "pds:pds.extra_env" in answer(document(pds={"extra_env": nested}))
