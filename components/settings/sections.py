"""The sections of a stack file. Each option is declared once: name, type, bounds, default and documentation.

A section checks each option on its own; `checks.py` compares options with each other. Sections hold what the stack
file requests, not what is derived from it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, SecretStr, model_validator

from components.settings.images import package_of_tag, tag_of
from components.settings.model import Section, option
from components.settings.names import (
    Address,
    Cidr,
    Did,
    DidKey,
    Domain,
    Email,
    Handle,
    HttpsUrl,
    MailUser,
    ManagementToken,
    NameServer,
    RotationKey,
    SecretUrl,
    Sha256,
    SshKey,
    VpcRange,
    is_public_key,
)

_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_LEAST = "2.0.4"
"""Oldest supported Nomad. It does not change with the default version."""
_LARGEST = 2**53 - 1
"""The largest integer that JavaScript, and so the server, represents exactly."""


def _sealed(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


SEALED = (Field(strict=False, validate_default=True), AfterValidator(_sealed), PlainSerializer(dict))
"""A read-only map."""


class Host(Section):
    """The droplet. Raising `generation` rebuilds it; no other option does."""

    generation: int = option(1, ge=1, doc="Generation of the droplet. Raise by one to rebuild from current cloud-init.")
    region: str = option("fra1", pattern=r"^[a-z]{3}[0-9]$", doc="DigitalOcean region slug, three letters and a digit.")
    size: str = option(
        "s-1vcpu-2gb",
        pattern=r"^[a-z0-9._-]{1,40}-[0-9]{1,6}(gb|mb)(-[a-z0-9-]{1,40})?$",
        doc="Droplet size slug, which contains the memory size.",
    )
    image: str = option(
        "debian-13-x64", pattern=r"^debian-13-x64$", doc="Operating system image. Cloud-init requires Debian 13."
    )
    swap_gib: int = option(1, ge=0, le=16, doc="Size of the swap file in GiB; 0 disables swap.")
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,255}$")], ...], Field(strict=False)] = (
        option(
            (),
            doc="Additional DigitalOcean tags of the droplet: letters, digits, ':', '_' and '-'. Capitals do not "
            "distinguish tags.",
            example=["club"],
        )
    )
    reserved_ip_adopt: Address | None = option(None, doc="Existing reserved IP to use instead of a new one.")
    vpc_ip_range: VpcRange | None = option(
        None, doc="Address range of a dedicated VPC. Without it, the region's default VPC is used."
    )
    project: str | None = option(None, min_length=1, max_length=175, doc="Name of a DigitalOcean project to create.")

    @property
    def memory_mib(self) -> int:
        """Memory that the size slug states, in MiB (DigitalOcean's `gb` in a slug is GiB)."""
        found = re.search(r"-([0-9]+)(gb|mb)(-|$)", self.size)
        assert found, "the pattern of `size` demands it"
        return int(found[1]) * (1024 if found[2] == "gb" else 1)


class Volume(Section):
    """The block storage volume with all persistent data. It survives the droplet and `pulumi destroy`."""

    size_gib: int = option(25, ge=1, le=16384, doc="Size in GiB. It can grow, never shrink. The file system grows too.")
    name: str | None = option(
        None,
        pattern=r"^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$",
        doc="Name of the volume at DigitalOcean. Default: `pds-STACK`. An adopted volume keeps its own.",
    )
    adopt: str | None = option(
        None,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        doc="ID of an existing volume that holds this PDS, to use instead of a new one.",
        example="506f78a4-e098-11e5-ad9f-000f53306ae1",
    )


class Dns(Section):
    """The DNS records of the PDS's hostname."""

    provider: Literal["digitalocean", "manual"] = option(
        "digitalocean", doc="DNS provider: 'digitalocean', or 'manual' for a table of records to create by hand."
    )
    zone: Domain | None = option(None, doc="DNS zone of the hostname. Default: the hostname, if it has two labels.")
    create_zone: bool = option(False, doc="Create the zone at DigitalOcean; false if it exists already.")
    ttl: int = option(300, ge=30, le=86400, doc="Time to live of the records in seconds. DigitalOcean's minimum is 30.")
    wildcard: bool = option(True, doc="Create a wildcard record for each handle domain, such as `*.HOSTNAME`.")
    caa: Annotated[tuple[Domain, ...], Field(strict=False)] = option(
        (), doc="Certificate authorities allowed for the hostname, for example 'letsencrypt.org'; empty: no CAA record."
    )
    nameservers: Annotated[tuple[NameServer, ...], Field(strict=False)] = option(
        (), doc="Name servers (`IP` or `IP:PORT`) to check the hostname with. Default: the zone's own name servers."
    )


class Operators(Section):
    """Access to the host's SSH, IO's console and the Nomad endpoint."""

    cidrs: Annotated[tuple[Cidr, ...], Field(strict=False, min_length=1)] = option(
        doc="Address ranges of the operators, for example 203.0.113.7/32.", example=["203.0.113.7/32"]
    )
    nomad_anywhere: bool = option(
        False, doc="Open the Nomad endpoint to every address. It requires a client certificate and a token."
    )
    ssh_keys: Annotated[tuple[SshKey, ...], Field(strict=False, min_length=1)] = option(
        doc="SSH keys: names or MD5 fingerprints of keys in the account (at least one), or public keys as text.",
        example=["my-laptop"],
    )

    @property
    def account_keys(self) -> tuple[str, ...]:
        """Keys given by name or fingerprint. An account accepts each public key once."""
        return tuple(key for key in self.ssh_keys if not is_public_key(key))

    @property
    def text_keys(self) -> tuple[str, ...]:
        """Keys given as text. Cloud-init installs them; they need no resource."""
        return tuple(key for key in self.ssh_keys if is_public_key(key))


class Nomad(Section):
    """The Nomad agent on the host."""

    version: str = option("2.0.6", pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){2}$", doc=f"Nomad release; {_LEAST} or newer.")
    # Source of the sum: hashicorp/homebrew-tap, Formula/nomad.rb, linux/amd64; renovate.json reads it.
    sha256: Sha256 = option(
        "c6da734081a41d51cadf15ec880d5eab0313093a29d2ee0984ca5ae1cdf867ec",
        doc="SHA-256 of the release's linux_amd64 zip. Change it together with `version`.",
    )
    mirror: HttpsUrl = option("https://releases.hashicorp.com/nomad", doc="Base URL of `VERSION/nomad_VERSION_….zip`.")
    datacenter: str = option("dc1", pattern=_NAME, doc="Nomad datacenter.")
    region: str = option("global", pattern=_NAME, doc="Nomad region.")


class Pds(Section):
    """The Personal Data Server: its image, its job, and the server options that change resources, secrets or safety.

    `extra_env` and `extra_secret_env` set all other server options.
    """

    # Source of the tag: three public repositories pin it in October and November 2026, as the newest release or as the
    # version that their CI runs. `package_of_tag` derives the package version.
    image: str = option(
        "ghcr.io/bluesky-social/pds:0.4.5037",
        pattern=r"^[a-z0-9./:_-]+(:[A-Za-z0-9._-]{1,128}|(:[A-Za-z0-9._-]{1,128})?@sha256:[0-9a-f]{64})$",
        doc="Server image: one exact tag, or a digest.",
    )
    package_version: str = option(
        "0.5.37",
        pattern=r"^0\.[45]\.[0-9]{1,5}$",
        doc="Version of @atproto/pds in that image. It decides which options exist. Default: derived from upstream's "
        "tag; 0.4.5009 is package 0.5.9. Required for an image without such a tag.",
    )
    memory_mib: int = option(512, ge=128, le=262144, doc="Memory limit of the server, in MiB.")
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
        "pending", doc="Whether the file of `./pds escrow` was stored safely; 'declined' to run without one."
    )

    invite_required: bool = option(True, doc="Require an invite code for new accounts.", env="PDS_INVITE_REQUIRED")
    open_registration: bool = option(
        False, doc="Confirm sign-up without invites. Sign-up has no captcha, and the relay stops at 100 accounts."
    )
    blob_upload_limit: int = option(
        104_857_600, ge=1, le=_LARGEST, doc="Largest accepted blob in bytes.", env="PDS_BLOB_UPLOAD_LIMIT"
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

    extra_env: Annotated[Mapping[str, str], *SEALED] = option(
        default_factory=dict,
        doc="Additional environment variables of the server. Names and values are checked against what it reads.",
    )
    extra_secret_env: Annotated[Mapping[str, SecretStr], *SEALED] = option(
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
    def line(self) -> Literal["0.4", "0.5"]:
        """The version line of the server package in the image."""
        return "0.4" if self.package_version.startswith("0.4.") else "0.5"


INGRESS_IMAGES = {
    # Sources name no tag of IO's registry except `latest`. Outsiders cannot look up a digest.
    "io": "agentio/io:latest",
    # Source of the tag: library/caddy in docker-library/official-images, of August 2026.
    "caddy": "caddy:2.11.4",
}
"""Default image of each kind of ingress."""


_ISSUERS = {".letsencrypt.org": "letsencrypt.org", ".zerossl.com": "sectigo.com", ".pki.goog": "pki.goog"}
"""Host suffix of an ACME directory, and the domain that its CA documents for CAA records."""


class Ingress(Section):
    """The ingress in front of the PDS on ports 80 and 443: Agent IO's ingress "IO", or Caddy."""

    kind: Literal["io", "caddy", "none"] = option(
        "io", doc="Kind of ingress: 'io' or 'caddy', or 'none' if you run your own."
    )
    image: str | None = option(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$",
        doc=f"Image of the ingress. Default: `{INGRESS_IMAGES['io']}` (pin it by digest once you have one) or "
        f"`{INGRESS_IMAGES['caddy']}`.",
        example=INGRESS_IMAGES["caddy"],
    )
    memory_mib: int = option(256, ge=64, le=262144, doc="Memory limit of the ingress, in MiB.")
    dialect: Literal["host", "ingress"] = option(
        "ingress", doc="IO's keyword for a public name: 'host' in images of 2025, 'ingress' in images of 2026."
    )
    license_hcl: SecretStr | None = option(None, doc="IO's licence block as raw HCL, stored in a separate file.")
    ssh_port: int = option(2200, ge=1024, le=65535, doc="SSH port of IO's console, open to operators only.")
    extra_hcl: str = option("", doc="Raw HCL added to this PDS's IO file.")
    backend: Literal["nomad", "static"] = option(
        "nomad", doc="How IO finds the PDS: 'nomad' by service name, 'static' by a fixed loopback port, as Caddy does."
    )
    acme_ca: HttpsUrl = option(
        "https://acme-v02.api.letsencrypt.org/directory", doc="ACME directory of the only CA that Caddy orders from."
    )
    acme_email: Email | None = option(None, doc="Contact address that Caddy sends to the CA.")
    extra_caddyfile: str = option("", doc="Additional Caddy sites as raw text: whole blocks with their addresses.")
    site_caddyfile: str = option(
        "",
        doc="Raw Caddy directives for the PDS's own site, such as a page at '/', 'robots.txt' or a gatekeeper. Each "
        "directive that answers requests names its paths; all other paths go to the server.",
        example='respond /robots.txt "User-agent: *"',
    )

    @property
    def container_image(self) -> str:
        """The configured image, or the default of the kind. Not for 'none', which runs no ingress."""
        return self.image or INGRESS_IMAGES[self.kind]

    @property
    def fixed_port(self) -> bool:
        """Whether the ingress reaches the PDS on a fixed port."""
        return self.kind == "caddy" or self.backend == "static"

    @property
    def issuer(self) -> str:
        """The CAA domain of the CA that issues the certificates; empty if unknown."""
        if self.kind == "io":
            return "letsencrypt.org"
        ca = urlsplit(self.acme_ca).hostname or ""
        return next((name for end, name in _ISSUERS.items() if ca.endswith(end)), "") if self.kind == "caddy" else ""


class Mail(Section):
    """A mail relay. Without one, members receive no password resets and no tokens for moving to another server."""

    host: Domain = option(doc="Host name of the relay.", example="smtp.my-relay.org")
    port: int = option(2465, ge=1, le=65535, doc="Port of the relay. DigitalOcean blocks 25, 465 and 587.")
    tls: Literal["implicit", "starttls"] = option(
        "implicit", doc="TLS mode: 'implicit' for ports like 465, 'starttls' for ports like 587."
    )
    user: MailUser = option(
        min_length=1, doc="User name at the relay, unencoded; the program percent-encodes it.", example="postmaster"
    )
    password: SecretStr = option(
        min_length=1, doc="Password at the relay (`pulumi config set --secret --path mail.password`)."
    )
    sender: Email = option(
        alias="from", doc="Sender of the PDS's messages.", env="PDS_EMAIL_FROM_ADDRESS", example="pds@my-club.org"
    )


class S3(Section):
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


class Slack(Section):
    """A channel of a Slack workspace."""

    channel: str = option(min_length=1, doc="Channel for alerts.", example="#alerts")
    url: SecretUrl = option(doc="Incoming webhook of the channel.", example="https://hooks.slack.com/services/…")


class Alerts(Section):
    """Recipients of alerts. DigitalOcean sends to `email` and `slack`; the host itself calls `ping_url`."""

    email: Annotated[tuple[Email, ...], Field(strict=False)] = option(
        (),
        doc="E-mail addresses for alerts. DigitalOcean accepts only verified addresses of the account's members.",
        example=["admin@my-club.org"],
    )
    slack: Slack | None = option(None, doc="Slack channel for alerts.")
    ping_url: SecretUrl | None = option(
        None,
        doc="URL of a dead man's switch, such as a check of healthchecks.io. The host pings it while volume and "
        "accounts are healthy, otherwise its `/fail`.",
        example="https://hc-ping.com/…",
    )
    accounts: int = option(
        80, ge=1, doc="Number of accounts that triggers `/fail`. Relays stop at 100 until they raise their limit."
    )


class Backup(Section):
    """Backup destination, interval and retention. Without this section, backups are off."""

    region: str | None = option(
        None,
        pattern=r"^[a-z0-9-]{1,64}$",
        doc="Region of the bucket. Default for Spaces: `ams3`; choose a region other than the droplet's. With "
        "`endpoint`, any region of that service; by default the client detects it.",
        example="ams3",
    )
    bucket: str | None = option(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
        doc="Name of the bucket, unique world-wide. Default: `STACK-HOSTNAME-backup`, with '-' for each dot.",
    )
    adopt: bool = option(False, doc="Use the existing bucket of that name instead of a new one.")
    endpoint: HttpsUrl | None = option(
        None,
        doc="Endpoint of another S3 service. Its bucket must exist; no Spaces bucket or key is created.",
        example="https://s3.eu-central-1.amazonaws.com",
    )
    volume: str | None = option(
        None,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]{0,127}$",
        doc="Name of a Nomad host volume on another disk of the host, used instead of a bucket. You register it.",
    )
    access_key_id: SecretStr | None = option(
        None,
        min_length=1,
        doc="Access key that may create Spaces buckets; with `endpoint`, the key that backups use.",
    )
    secret_access_key: SecretStr | None = option(None, min_length=1, doc="Secret key of that access key.")
    password: SecretStr | None = option(
        None,
        min_length=1,
        doc="Password of existing backups, from the escrow file. Generated by default.",
    )
    interval_minutes: Literal[5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1440] = option(
        15, doc="Minutes between the starts of two backups. A backup that takes longer delays the next one."
    )
    keep_days: int = option(
        30,
        ge=3,
        le=3650,
        doc="Days that backups are kept. Backups contain deleted accounts for these days and 30 more.",
    )
    memory_mib: int = option(
        256,
        ge=256,
        le=262144,
        doc="Memory limit of each task of backup, drill, restore and upgrade trial, in MiB.",
    )
    # Source of the tag: git tag v0.19.1 of restic/restic; Docker Hub's image is built from its docker/ folder.
    image: str = option(
        "restic/restic:0.19.1",
        pattern=r"^[a-z0-9./:_-]+(:[A-Za-z0-9._-]{1,128}|(:[A-Za-z0-9._-]{1,128})?@sha256:[0-9a-f]{64})$",
        doc="Image of restic, which encrypts and uploads backups: one exact tag, or a digest.",
    )


class Secrets(Section):
    """Secrets of an existing PDS, to adopt it. Omitted secrets are generated."""

    plc_rotation_key: RotationKey | None = option(
        None, doc="PLC rotation key, 64 hex digits.", env="PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
    )
    jwt_secret: SecretStr | None = option(None, min_length=1, doc="Session key.", env="PDS_JWT_SECRET")
    nomad_management_token: ManagementToken | None = option(
        None, doc="Management token of the Nomad on an adopted volume, from the escrow file."
    )
    admin_password: SecretStr | None = option(None, min_length=1, doc="Admin password.", env="PDS_ADMIN_PASSWORD")


class Member(Section):
    """The account of one member. It belongs to the member: the program creates it once, and writes handle or e-mail
    address only if they change here."""

    handle: Handle = option(
        doc="Handle: under a service handle domain, or a domain of the member's own.", example="ann.my-club.org"
    )
    email: Email = option(doc="E-mail address. Two members cannot share one.", example="ann@my-club.org")
    was: Handle | None = option(
        None, doc="Previous handle, to change it to `handle`. Remove it after the `up`.", example="an.my-club.org"
    )
    recovery_key: DidKey | None = option(
        None, doc="The member's public key, first among the rotation keys. Used only when the account is created."
    )
    email_verified: bool = option(False, doc="Treat the address as confirmed, if no mail can be sent to confirm it.")
    reserved: bool = option(False, doc="Allow a handle that the server reserves, such as 'info'.")


class Invites(Section):
    """Invite codes for people who are not in the stack file."""

    count: int = option(ge=1, le=100, example=5, doc="Number of codes. Raising it adds codes; lowering revokes none.")
    uses: int = option(1, ge=1, le=100, doc="Number of accounts that each additional code can create.")
