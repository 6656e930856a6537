"""Environments that the real PDS refuses at start, and some that it should refuse but accepts, as data.

Owns: the two lists, each entry a change to a good environment. The contract tests verify them with the pinned
servers; the tests of the settings verify that the settings refuse them first, with an error for the operator. Imports
nothing that starts a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BOTH = ("0.4", "0.5")

N_HEX = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
"""The order n of secp256k1 (SEC 2, section 2.4.1): private keys are 1 to n - 1."""

_KEY = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A change that makes a good environment bad; a value of `None` unsets the name.

    `message` is a part of the server's error; it is empty if the server starts nevertheless.
    """

    name: str
    change: Mapping[str, str | None]
    meaning: str
    message: str = ""
    lines: tuple[str, ...] = field(default=BOTH)

    def apply(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with the change applied."""
        changed = {**env, **self.change}
        return {name: value for name, value in changed.items() if value is not None}


BAD_ENVIRONMENTS = (
    Refusal(
        name="disk and S3",
        change={"PDS_BLOBSTORE_S3_BUCKET": "club-blobs"},
        message="Cannot set both S3 and disk blobstore env vars",
        meaning="Blobs live on the disk or in a bucket, never in both.",
    ),
    Refusal(
        name="neither disk nor S3",
        change={"PDS_BLOBSTORE_DISK_LOCATION": None},
        message="Must configure either S3 or disk blobstore",
        meaning="The server must be told where blobs live.",
    ),
    Refusal(
        name="half of the S3 credentials",
        change={
            "PDS_BLOBSTORE_DISK_LOCATION": None,
            "PDS_BLOBSTORE_S3_BUCKET": "club-blobs",
            "PDS_BLOBSTORE_S3_REGION": "ams3",
            "PDS_BLOBSTORE_S3_ACCESS_KEY_ID": "key",
        },
        message="Must specify both S3 access key id and secret access key",
        meaning="An access key id is useless without its secret key.",
    ),
    Refusal(
        name="mail server without sender",
        change={"PDS_EMAIL_SMTP_URL": "smtp://user:word@localhost:2525"},
        message="Partial email config",
        meaning="Mail needs both a server and a sender's address.",
    ),
    Refusal(
        name="mail sender without server",
        change={"PDS_EMAIL_FROM_ADDRESS": "admin@noted.at"},
        message="Partial email config",
        meaning="Mail needs both a server and a sender's address.",
    ),
    Refusal(
        name="mail server that is not a URL",
        change={"PDS_EMAIL_SMTP_URL": "mail.noted.at", "PDS_EMAIL_FROM_ADDRESS": "admin@noted.at"},
        message="Cannot create property 'mailer' on string",
        meaning="The mail server is a URL: smtp:// or smtps://, not a bare name.",
    ),
    Refusal(
        name="moderation mail sender without server",
        change={"PDS_MODERATION_EMAIL_ADDRESS": "admin@noted.at"},
        message="Partial moderation email config",
        meaning="Moderation mail needs both a server and a sender's address.",
    ),
    Refusal(
        name="moderation mail server that is not a URL",
        change={
            "PDS_MODERATION_EMAIL_SMTP_URL": "mail.noted.at",
            "PDS_MODERATION_EMAIL_ADDRESS": "admin@noted.at",
        },
        message="Cannot create property 'mailer' on string",
        meaning="The mail server is a URL: smtp:// or smtps://, not a bare name.",
    ),
    Refusal(
        name="no rotation key",
        change={_KEY: None},
        message="Must configure plc rotation key",
        meaning="Without the rotation key no identity can be created or changed.",
    ),
    Refusal(
        name="two rotation keys",
        change={"PDS_PLC_ROTATION_KEY_KMS_KEY_ID": "alias/club"},
        message="Cannot set both kms & memory keys",
        meaning="The rotation key is here or in a key service, never in both.",
    ),
    Refusal(
        name="rotation key zero",
        change={_KEY: "0" * 64},
        message="invalid private key: out of range",
        meaning="Zero is not a private key.",
    ),
    Refusal(
        name="rotation key n",
        change={_KEY: N_HEX},
        message="invalid private key: out of range",
        meaning="A private key is below the order of the curve.",
    ),
    Refusal(
        name="rotation key too short",
        change={_KEY: "3174f736"},
        message="invalid private key: expected ui8a of size 32",
        meaning="A private key has 64 hex digits.",
    ),
    Refusal(
        name="rotation key not hex",
        change={_KEY: "zz" + "1" * 62},
        message="Non-base16 character",
        meaning="A private key is written in hex digits.",
    ),
    Refusal(
        name="rotation key in capitals",
        change={_KEY: "AB" * 32},
        message="Non-base16 character",
        meaning="The hex digits of a private key are lower-case.",
    ),
    Refusal(
        name="no JWT secret",
        change={"PDS_JWT_SECRET": None},
        message="Must provide a JWT secret",
        meaning="Without it the server can log no member in.",
    ),
    Refusal(
        name="no admin password",
        change={"PDS_ADMIN_PASSWORD": None},
        message="Must provide an admin password",
        meaning="Without it no invite can be created.",
    ),
    Refusal(
        name="DPoP secret too short",
        change={"PDS_DPOP_SECRET": "ab"},
        message="ZodError",
        meaning="The DPoP secret is 32 bytes in hex.",
    ),
    Refusal(
        name="handle domain without its dot",
        change={"PDS_SERVICE_HANDLE_DOMAINS": "noted.at"},
        message="Invalid handle domain: noted.at",
        meaning="A domain for handles is written with its leading dot.",
    ),
    Refusal(
        name="hostname with a scheme",
        change={"PDS_HOSTNAME": "https://noted.at"},
        message="Invalid service DID: did:web:https://noted.at",
        meaning="The hostname is a name only, without https://.",
        lines=("0.5",),
    ),
    Refusal(
        name="hostname with a scheme, older server",
        change={"PDS_HOSTNAME": "https://noted.at"},
        message="ZodError",
        meaning="The hostname is a name only, without https://.",
        lines=("0.4",),
    ),
    Refusal(
        name="no hostname",
        change={"PDS_HOSTNAME": None},
        message="Resource URL must use the https scheme",
        meaning="In production the server needs its public name.",
    ),
    Refusal(
        name="invalid service DID",
        change={"PDS_SERVICE_DID": "noted.at"},
        message="Invalid service DID: noted.at",
        meaning="The service's DID is did:web: and its hostname.",
        lines=("0.5",),
    ),
    Refusal(
        name="port out of range",
        change={"PDS_PORT": "99999"},
        message="ERR_SOCKET_BAD_PORT",
        meaning="A TCP port is below 65536.",
    ),
    Refusal(
        name="app view without its DID",
        change={"PDS_BSKY_APP_VIEW_DID": None},
        message="if bsky appview service url is configured, must configure its did as well",
        meaning="Calls to a service are signed for its DID.",
    ),
    Refusal(
        name="report service without its DID",
        change={"PDS_REPORT_SERVICE_DID": None},
        message="if report service url is configured, must configure its did as well",
        meaning="Calls to a service are signed for its DID.",
    ),
    Refusal(
        name="moderation service without its DID",
        change={"PDS_MOD_SERVICE_URL": "https://mod.noted.at"},
        message="if mod service url is configured, must configure its did as well",
        meaning="Calls to a service are signed for its DID.",
    ),
    Refusal(
        name="entryway without the rest",
        change={"PDS_ENTRYWAY_URL": "https://entryway.noted.at"},
        message="if entryway url is configured, must include all required entryway configuration",
        meaning="An entryway needs its DID, its key and its rotation key beside its address.",
    ),
    Refusal(
        name="invalid entryway key",
        change={
            "PDS_ENTRYWAY_URL": "https://entryway.noted.at",
            "PDS_ENTRYWAY_DID": "did:web:entryway.noted.at",
            "PDS_ENTRYWAY_JWT_VERIFY_KEY_K256_PUBLIC_KEY_HEX": "nonsense",
            "PDS_ENTRYWAY_PLC_ROTATION_KEY": "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
        },
        message="createPublicKeyObject",
        meaning="An entryway's tokens are checked by its secp256k1 public key.",
    ),
    Refusal(
        name="lexicon authority that is not a DID",
        change={"PDS_LEXICON_AUTHORITY_DID": "noted.at"},
        message='DID requires "did:" prefix',
        meaning="The lexicon authority is a DID.",
    ),
    Refusal(
        name="invalid colour",
        change={"PDS_PRIMARY_COLOR": "bluish"},
        message="ZodError",
        meaning="A colour is written #rrggbb.",
    ),
    Refusal(
        name="transparent colour",
        change={"PDS_PRIMARY_COLOR": "#1185fe80"},
        message="Alpha values are not supported",
        meaning="A colour has no transparency: #rrggbb, not #rrggbbaa.",
    ),
    Refusal(
        name="hue above 360 degrees",
        change={"PDS_PRIMARY_COLOR_HUE": "400"},
        message="ZodError",
        meaning="A hue is an angle of 0 to 360 degrees; the newer server has none.",
        lines=("0.4",),
    ),
    Refusal(
        name="link that is not a URL",
        change={"PDS_HOME_URL": "noted.at"},
        message="ZodError",
        meaning="A link is a whole URL, with https://.",
    ),
    Refusal(
        name="logo that is not a URL",
        change={"PDS_LOGO_URL": "logo.png"},
        message='"logo"',
        meaning="A logo is a whole URL, with https://.",
    ),
    Refusal(
        name="Redis address that is a URL",
        change={"PDS_REDIS_SCRATCH_ADDRESS": "redis://localhost:6379"},
        message="invalid address: redis://localhost:6379",
        meaning="Redis is given as a host and a port, without redis://.",
    ),
    Refusal(
        name="unknown log level",
        change={"LOG_LEVEL": "loud"},
        message="default level:loud must be included in custom levels",
        meaning="Log levels are trace, debug, info, warn, error, fatal.",
    ),
)
"""Environments with which the server does not start."""

ACCEPTED_BUT_WRONG = (
    Refusal(
        name="limit with a unit",
        change={"PDS_BLOB_UPLOAD_LIMIT": "50MB"},
        meaning="Read as 50 bytes: a number is read as far as its digits go.",
    ),
    Refusal(
        name="boolean in other words",
        change={"PDS_RATE_LIMITS_ENABLED": "on"},
        meaning="Read as unset, so there are no rate limits: only true, 1, false and 0 are known.",
    ),
    Refusal(
        name="nested handle domains",
        change={"PDS_SERVICE_HANDLE_DOMAINS": ".noted.at,.club.noted.at"},
        meaning="The first domain that fits wins, so no account can have a handle under the longer one.",
    ),
    Refusal(
        name="invalid recovery key",
        change={"PDS_RECOVERY_DID_KEY": "nonsense"},
        meaning="First noticed when an account is made, which then fails.",
    ),
    Refusal(
        name="trusted client that is not a URL",
        change={"PDS_OAUTH_TRUSTED_CLIENTS": "nonsense"},
        meaning="Never matches a client, and is not reported.",
    ),
    Refusal(
        name="S3 without region or credentials",
        change={"PDS_BLOBSTORE_DISK_LOCATION": None, "PDS_BLOBSTORE_S3_BUCKET": "club-blobs"},
        meaning="The first upload fails.",
    ),
    Refusal(
        name="half of the captcha",
        change={"PDS_HCAPTCHA_SITE_KEY": "key"},
        meaning="There is no captcha, and the server does not report it.",
    ),
    Refusal(
        name="invalid service DID, older server",
        change={"PDS_SERVICE_DID": "noted.at"},
        meaning="Tokens are created for an audience that is not a DID.",
        lines=("0.4",),
    ),
    Refusal(
        name="invalid time zone",
        change={"TZ": "PDT"},
        meaning="Read as UTC: a time zone is a name such as America/Los_Angeles.",
    ),
    Refusal(
        name="repositories outside of the volume",
        change={"PDS_ACTOR_STORE_DIRECTORY": "actors"},
        meaning="They are in the container and are lost with it.",
    ),
)
"""Wrong environments with which the server starts."""
