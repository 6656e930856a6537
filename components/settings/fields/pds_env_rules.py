"""The server's rules for names without an option, as data: the form of a value, and names that belong together.

Each fact comes from the `@atproto` packages of both version lines, in the file named beside it. `tests/contract`
verifies it against the real servers. An option's type checks the option's value; `pds_env.json` lists the existing
names. A wrong value ends the server at its start, or is silently misread.
"""

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from components.settings.fields.errors import Fault, dotted, shown
from components.settings.fields.types import Did, DidKey, Email, is_domain


@dataclass(frozen=True)
class Rule:
    """The required form of a value. `names` is a pattern; `problem` formats `{value}`, which is hidden if secret."""

    names: str
    fits: Callable[[str], bool]
    problem: str
    remedy: str


def _like(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


def _typed(kind: Any) -> Callable[[str], bool]:
    adapter = TypeAdapter[Any](kind)

    def fits(text: str) -> bool:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return False
        return True

    return fits


def _is_url(*schemes: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        if not re.fullmatch(r"[!-~]+", text):  # `urlsplit` would drop line ends
            return False
        try:
            parts = urlsplit(text)
            return parts.scheme in schemes and is_domain(parts.hostname or "") and parts.port != 0
        except ValueError:
            return False

    return fits


_BYTE = r"\s*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\s*"
_web, _email = _is_url("http", "https"), _typed(Email)

RULES = (
    # pino/lib/levels.js; 'pds.log_enabled' sets its `silent`.
    Rule(
        "LOG_LEVEL",
        _like("trace|debug|info|warn|error|fatal"),
        "{value} is not a log level.",
        "Write trace, debug, info, warn, error or fatal.",
    ),
    # syntax/dist/did.js. The older line does not check the service's DID, and makes tokens for it.
    Rule(r"PDS_\w+_DID", _typed(Did), "{value} is not a DID.", "Write for example 'did:web:mod.my-club.org'."),
    # oauth-provider/dist/dpop/dpop-nonce.js
    Rule(
        "PDS_DPOP_SECRET",
        _like("[0-9A-Fa-f]{64}"),
        "{value} is not 32 bytes in hex.",
        "Write 64 hex digits: `openssl rand -hex 32` makes them.",
    ),
    # oauth-provider/dist/types/rgb-color.js and color-hue.js; transparency is refused.
    Rule(
        r"PDS_\w+_COLOR(_CONTRAST)?",
        _like(rf"#([0-9A-Fa-f]{{3}}|[0-9A-Fa-f]{{6}})|rgb\({_BYTE},{_BYTE},{_BYTE}\)"),
        "{value} is not a colour.",
        "Write '#' and six hex digits, in quotes: \"#1185fe\".",
    ),
    Rule(
        r"PDS_\w+_COLOR_HUE",
        _like("360|3[0-5][0-9]|[12]?[0-9]?[0-9]"),
        "{value} is not an angle on the colour circle.",
        'Write a whole number from 0 to 360, in quotes: "210".',
    ),
    # oauth-provider/dist/customization/links.js, branding.js and image-url.js
    Rule(
        "PDS_(HOME|SUPPORT)_URL",
        lambda text: _web(text) or (text.startswith("mailto:") and _email(text.removeprefix("mailto:"))),
        "{value} is not a link.",
        "Write the whole URL: 'https://my-club.org/help'.",
    ),
    Rule(
        r"PDS_(LOGO|BACKGROUND_\w+)_URL",
        lambda text: _web(text) or _like("data:image/[!-~]+")(text),
        "{value} is not the URL of an image.",
        "Write the whole URL: 'https://my-club.org/logo.png'.",
    ),
    Rule(
        "PDS_(MOD_SERVICE|ENTRYWAY)_URL",
        _web,
        "{value} is not the URL of a service.",
        "Write the whole URL: 'https://mod.my-club.org'.",
    ),
    # pds/dist/context.js compares client IDs, which are URLs, with the items verbatim.
    Rule(
        "PDS_OAUTH_TRUSTED_CLIENTS",
        lambda text: all(_web(item) for item in text.split(",")),
        "{value} is not a list of client ids, so it matches no client.",
        "Write their URLs with commas and no spaces: 'https://app.my-club.org/client.json'.",
    ),
    # nodemailer/lib/nodemailer.js does not treat text without a scheme as a URL.
    Rule(
        "PDS_MODERATION_EMAIL_SMTP_URL",
        _is_url("smtp", "smtps"),
        "{value} is not the URL of a mail server.",
        "Write 'smtps://USER:PASSWORD@HOST:2465/', with '%40' for '@' in the user name and the password.",
    ),
    Rule(
        "PDS_MODERATION_EMAIL_ADDRESS",
        _email,
        "{value} is not an e-mail address.",
        "Write for example 'moderation@my-club.org'.",
    ),
    # pds/dist/auth-verifier.js, createPublicKeyObject; pds/dist/api/com/atproto/server/createAccount.js
    Rule(
        "PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX",
        _like("0[23][0-9a-f]{64}|04[0-9a-f]{128}"),
        "{value} is not a secp256k1 public key.",
        "Write its 66 or 130 hex digits, beginning with 02, 03 or 04.",
    ),
    Rule(
        "PDS_ENTRYWAY_PLC_ROTATION_KEY",
        _typed(DidKey),
        "{value} is not the did:key of a public key.",
        "Write the whole key, beginning with 'did:key:zQ3s' or 'did:key:zDn'.",
    ),
    # pds/dist/redis.js
    Rule(
        "PDS_REDIS_SCRATCH_ADDRESS",
        _like("[A-Za-z0-9._-]+(:[0-9]{1,5})?"),
        "{value} is not a host and a port.",
        "Write 'HOST:6379', without 'redis://'.",
    ),
    # pds/dist/config/config.js: only PDS_DATA_DIRECTORY is on the volume; these options would leave it.
    Rule(
        "PDS_(ACCOUNT|SEQUENCER)_DB_LOCATION|PDS_ACTOR_STORE_DIRECTORY",
        lambda text: text.startswith("/pds/") and ".." not in text.split("/"),
        "{value} is not on the volume; what is there is lost with the container.",
        "Write a path below '/pds/', or remove it.",
    ),
)
"""By name; the first match applies."""

# common/dist/env.js: envBool, envInt (which reads leading digits only), envStr and envList
KIND_RULES = (
    Rule("bool", _like("true|1|false|0"), "the server treats {value} as unset.", 'Write "true" or "false", in quotes.'),
    Rule("int", _like("-?[0-9]+"), "{value} is not a number.", 'Write digits, in quotes: "123".'),
)
"""For every other name, by the kind that the server reads it as."""

EXCLUDED = {
    # pds/dist/config/secrets.js
    "PDS_PLC_ROTATION_KEY_KMS_KEY_ID": (
        "this PDS has its rotation key here, and the server accepts no second one from a key service.",
        "Remove it; a key of your own goes into 'secrets.plc_rotation_key'.",
    ),
}
"""Names that conflict with variables that the program always sets: problem and remedy."""

GROUPS = (
    # pds/dist/config/config.js
    (("PDS_MODERATION_EMAIL_ADDRESS", "PDS_MODERATION_EMAIL_SMTP_URL"), "the server does not start"),
    (("PDS_MOD_SERVICE_URL", "PDS_MOD_SERVICE_DID"), "the server does not start"),
    (
        (
            "PDS_ENTRYWAY_URL",
            "PDS_ENTRYWAY_DID",
            "PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX",
            "PDS_ENTRYWAY_PLC_ROTATION_KEY",
        ),
        "the server does not start",
    ),
    (("PDS_HCAPTCHA_SITE_KEY", "PDS_HCAPTCHA_SECRET_KEY", "PDS_HCAPTCHA_TOKEN_SALT"), "there is no captcha"),
)
"""Names that must be set together, and the consequence of setting only some."""


def value_fault(key: str, name: str, value: str, *, kind: str, secret: bool) -> Fault | None:
    """The fault of the value of `name`, or None. A `secret` value is not shown."""
    if not value:
        return Fault(key, "the server treats an empty value as unset.", "Write a value, or remove it.")
    if "\0" in value:
        return Fault(key, "no environment variable can hold a NUL character.", "Remove it.")
    by_name = (rule for rule in RULES if re.fullmatch(rule.names, name))
    rule = next(by_name, None) or next((rule for rule in KIND_RULES if rule.names == kind), None)
    if rule is None or rule.fits(value):
        return None
    return Fault(key, rule.problem.format(value="the value" if secret else shown(value)), rule.remedy)


def group_faults(plain: Container[str], secret: Container[str], is_secret: Callable[[str], bool]) -> Iterator[Fault]:
    """Groups of which only some names are given. The fault is reported at the first given name."""
    for names, outcome in GROUPS:
        given = [name for name in names if name in plain or name in secret]
        missing = [name for name in names if name not in given]
        if given and missing:
            where = "extra_env" if given[0] in plain else "extra_secret_env"
            homes = [f"'pds.{'extra_secret_env' if is_secret(name) else 'extra_env'}.{name}'" for name in missing]
            yield Fault(
                dotted(["pds", where, given[0]]),
                f"without {' and '.join(missing)} {outcome}.",
                f"Add {' and '.join(homes)}, or remove it.",
            )
