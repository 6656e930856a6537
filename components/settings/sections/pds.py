"""Options of the server: the PDS itself, its bucket for blobs, and its existing secrets."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from components.settings.fields.images import IMAGE, package_of_tag, tag_of
from components.settings.fields.job_demand import PDS_MHZ, SMALL_MHZ, JobDemand
from components.settings.fields.option import READ_ONLY_MAP, Section, option
from components.settings.fields.types import Did, DidKey, Email, HttpsUrl, ManagementToken, RotationKey

_LARGEST = 2**53 - 1
"""The largest integer that JavaScript, and so the server, represents exactly."""

UNREFERENCED_BLOBS_MIB = 128
"""Memory limit of the job that removes unreferenced blobs, in MiB. It briefly runs beside the server."""


class PdsOptions(Section):
    """The Personal Data Server: its image, its job, and the server options that change resources, secrets or safety.

    `extra_env` and `extra_secret_env` set all other server options.
    """

    # Source of the tag: three public repositories pin it in October and November 2026, as the newest release or as the
    # version that their CI runs. `package_of_tag` derives the package version.
    image: str = option(
        "ghcr.io/bluesky-social/pds:0.4.5037",
        pattern=IMAGE,
        doc="Server image: one exact tag, or a digest.",
    )
    package_version: str = option(
        "0.5.37",
        pattern=r"^0\.[45]\.[0-9]{1,5}$",
        doc="Version of @atproto/pds in that image. It decides which options exist. Default: derived from upstream's "
        "tag; 0.4.5009 is package 0.5.9. Required for an image without such a tag.",
    )
    # The bound: package 0.5 took up to 155 MiB to start, and was killed with 160 (docs/figures.md).
    memory_mib: int = option(512, ge=256, le=262144, doc="Memory limit of the server, in MiB.")
    port: int = option(
        3000,
        ge=1024,
        le=65535,
        doc="Port inside the container, also on loopback if the ingress needs it.",
        env="PDS_PORT",
    )
    durable_writes: bool = option(
        True,
        doc="Flush of posts, blobs and keys to the disk before the server acknowledges them. If false, a power cut "
        "loses the last seconds.",
    )
    new: bool = option(False, doc="Allow a start on an empty volume. Set it for the first `up`, then remove it.")
    paused: bool = option(False, doc="Stop the server and keep everything else.")
    escrow: Literal["pending", "made", "declined"] = option(
        "pending",
        doc="State of the escrow file: 'pending', 'made' once it is stored safely, 'declined' to run without one.",
    )

    invite_required: bool = option(True, doc="Require an invite code for new accounts.", env="PDS_INVITE_REQUIRED")
    open_registration: bool = option(
        False,
        doc="Confirms that `invite_required: false` is intended. Sign-up has no captcha, and the relay stops at 100 "
        "accounts.",
    )
    blob_upload_limit: int = option(
        104_857_600, ge=1, le=_LARGEST, doc="Largest accepted blob in bytes.", env="PDS_BLOB_UPLOAD_LIMIT"
    )
    unreferenced_blob_days: int | None = option(
        None,
        ge=7,
        le=3650,
        doc="Days after which a weekly job removes uploads that no record names. Without it, none is removed. Those in "
        "the bucket of 's3' are never removed.",
        example=30,
    )
    rate_limits: bool = option(True, doc="Limit requests by client address.", env="PDS_RATE_LIMITS_ENABLED")
    log_enabled: bool = option(True, doc="Write the server's log.", env="LOG_ENABLED")
    plc_url: HttpsUrl = option("https://plc.directory", doc="Directory of did:plc identities.", env="PDS_DID_PLC_URL")
    app_view_url: HttpsUrl = option("https://api.bsky.app", doc="URL of the app view.", env="PDS_BSKY_APP_VIEW_URL")
    app_view_did: Did = option("did:web:api.bsky.app", doc="DID of the app view.", env="PDS_BSKY_APP_VIEW_DID")
    report_service_url: HttpsUrl = option(
        "https://mod.bsky.app", doc="URL of the report service.", env="PDS_REPORT_SERVICE_URL"
    )
    report_service_did: Did = option(
        "did:plc:ar7c4by46qjdydhdevvrndac", doc="DID of the report service.", env="PDS_REPORT_SERVICE_DID"
    )
    crawlers: Annotated[tuple[HttpsUrl, ...], Field(strict=False)] = option(
        ("https://bsky.network",), doc="Relays to notify of new posts.", env="PDS_CRAWLERS"
    )
    recovery_did_key: DidKey | None = option(
        None,
        doc="Public key, kept offline, that can recover every account created from now on.",
        env="PDS_RECOVERY_DID_KEY",
    )
    max_import_size: int | None = option(
        None,
        ge=1,
        le=_LARGEST,
        doc="Largest accepted repository of a migrating account, in bytes.",
        env="PDS_MAX_REPO_IMPORT_SIZE",
    )
    contact_email: Email | None = option(None, doc="Contact address for members.", env="PDS_CONTACT_EMAIL_ADDRESS")
    privacy_policy_url: HttpsUrl | None = option(None, doc="URL of the privacy policy.", env="PDS_PRIVACY_POLICY_URL")
    terms_of_service_url: HttpsUrl | None = option(
        None, doc="URL of the terms of service.", env="PDS_TERMS_OF_SERVICE_URL"
    )

    extra_env: Annotated[Mapping[str, str], *READ_ONLY_MAP] = option(
        default_factory=dict,
        doc="Additional environment variables of the server. Names and values are checked against what it reads.",
    )
    extra_secret_env: Annotated[Mapping[str, SecretStr], *READ_ONLY_MAP] = option(
        default_factory=dict, doc="Secret environment variables, stored in the Nomad variable, never in the job."
    )

    @model_validator(mode="before")
    @classmethod
    def _package_of_image(cls, given: Any) -> Any:
        """Derive the package version from the image's tag, so that a newer tag is one line of a stack file."""
        if isinstance(given, Mapping) and isinstance(given.get("image"), str) and "package_version" not in given:
            found = package_of_tag(tag_of(given["image"]))
            return {**given, "package_version": found} if found else given
        return given

    @property
    def job_demand(self) -> JobDemand:
        server = JobDemand(memory_mib=self.memory_mib, mhz=PDS_MHZ)
        removes = self.unreferenced_blob_days is not None
        return server + JobDemand(memory_mib=UNREFERENCED_BLOBS_MIB, mhz=SMALL_MHZ) if removes else server

    @property
    def line(self) -> Literal["0.4", "0.5"]:
        """The version line of the server package in the image."""
        return "0.4" if self.package_version.startswith("0.4.") else "0.5"


class S3Options(Section):
    """An S3 bucket that stores blobs instead of the volume."""

    bucket: str = option(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        doc="Name of the bucket: 3 to 63 of a-z, 0-9, '.' and '-'.",
        env="PDS_BLOBSTORE_S3_BUCKET",
        example="my-club-blobs",
    )
    region: str = option(
        pattern=r"^[a-z0-9-]+$", doc="Region of the bucket.", env="PDS_BLOBSTORE_S3_REGION", example="fra1"
    )
    endpoint: HttpsUrl = option(
        doc="Endpoint URL, for example of Spaces.",
        env="PDS_BLOBSTORE_S3_ENDPOINT",
        example="https://fra1.digitaloceanspaces.com",
    )
    force_path_style: bool = option(False, doc="Use path-style URLs.", env="PDS_BLOBSTORE_S3_FORCE_PATH_STYLE")
    access_key_id: SecretStr = option(min_length=1, doc="Access key ID.", env="PDS_BLOBSTORE_S3_ACCESS_KEY_ID")
    secret_access_key: SecretStr = option(min_length=1, doc="Secret key.", env="PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY")


class SecretsOptions(Section):
    """Secrets of an existing PDS, to adopt it. Omitted secrets are generated."""

    plc_rotation_key: RotationKey | None = option(
        None, doc="PLC rotation key, 64 hex digits.", env="PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
    )
    jwt_secret: SecretStr | None = option(None, min_length=1, doc="Session key.", env="PDS_JWT_SECRET")
    nomad_management_token: ManagementToken | None = option(
        None, doc="Management token of the Nomad on an adopted volume, from the escrow file."
    )
    admin_password: SecretStr | None = option(None, min_length=1, doc="Admin password.", env="PDS_ADMIN_PASSWORD")
