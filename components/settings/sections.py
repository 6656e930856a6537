"""The sections of a stack file, each option once: its name, type, bounds, default and documentation.

Here is what one option may be by itself; every check that compares two of them is in `checks.py`. Sections say what was
asked, not what is made of it.
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
"""Nomad's; it does not move with the default."""
_LARGEST = 2**53 - 1
"""The largest whole number that JavaScript, so the server, counts exactly."""


def _sealed(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


SEALED = (Field(strict=False, validate_default=True), AfterValidator(_sealed), PlainSerializer(dict))
"""A map that nobody can write to."""


class Host(Section):
    """The droplet. It is rebuilt when, and only when, `generation` is raised."""

    generation: int = option(1, ge=1, doc="Raise by one to rebuild the droplet from today's cloud-init.")
    region: str = option("fra1", pattern=r"^[a-z]{3}[0-9]$", doc="DigitalOcean region slug, three letters and a digit.")
    size: str = option(
        "s-1vcpu-2gb",
        pattern=r"^[a-z0-9._-]{1,40}-[0-9]{1,6}(gb|mb)(-[a-z0-9-]{1,40})?$",
        doc="Droplet size slug; it names the memory.",
    )
    image: str = option(
        "debian-13-x64", pattern=r"^debian-13-x64$", doc="Operating system; cloud-init is for Debian 13."
    )
    swap_gib: int = option(1, ge=0, le=16, doc="Swap file, in GiB; 0 for none.")
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,255}$")], ...], Field(strict=False)] = (
        option(
            (), doc="Further DigitalOcean tags for the droplet: letters, digits, ':', '_' and '-'.", example=["club"]
        )
    )
    reserved_ip_adopt: Address | None = option(
        None, doc="A reserved IP that you already have, to use instead of a new one."
    )
    vpc_ip_range: VpcRange | None = option(
        None, doc="Make a VPC of its own with this range; otherwise the region's default."
    )
    project: str | None = option(None, min_length=1, max_length=175, doc="Make a DigitalOcean project of this name.")

    @property
    def memory_mib(self) -> int:
        """Memory that the size slug names, in MiB (DigitalOcean's `gb` in a slug is GiB)."""
        found = re.search(r"-([0-9]+)(gb|mb)(-|$)", self.size)
        assert found, "the pattern of `size` demands it"
        return int(found[1]) * (1024 if found[2] == "gb" else 1)


class Volume(Section):
    """The block storage volume that holds everything worth keeping. It outlives the droplet and `pulumi destroy`."""

    size_gib: int = option(25, ge=1, le=16384, doc="Size in GiB. It can grow, never shrink; the file system follows.")
    name: str | None = option(
        None,
        pattern=r"^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$",
        doc="Name of the volume at DigitalOcean; `pds-STACK` where left out. An adopted volume keeps its own.",
    )
    adopt: str | None = option(
        None,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        doc="Id of a volume that already holds this PDS, to use instead of a new one.",
        example="506f78a4-e098-11e5-ad9f-000f53306ae1",
    )


class Dns(Section):
    """The records of the PDS's own name."""

    provider: Literal["digitalocean", "manual"] = option(
        "digitalocean", doc="Who has the zone: DigitalOcean, or 'manual' for a table of records to make by hand."
    )
    zone: Domain | None = option(None, doc="The zone the hostname is in; the hostname itself where it has two labels.")
    create_zone: bool = option(False, doc="Make the zone at DigitalOcean; false where it exists already.")
    ttl: int = option(300, ge=30, le=86400, doc="Time to live of the records, in seconds; DigitalOcean's least is 30.")
    wildcard: bool = option(True, doc="Also a wildcard for each domain of handles, such as `*.HOSTNAME`.")
    caa: Annotated[tuple[Domain, ...], Field(strict=False)] = option(
        (), doc="Certificate authorities allowed for the name, for example 'letsencrypt.org'; empty for no CAA record."
    )
    nameservers: Annotated[tuple[NameServer, ...], Field(strict=False)] = option(
        (), doc="Addresses (`IP` or `IP:PORT`) to ask whether the name resolves; empty for the zone's own name servers."
    )


class Operators(Section):
    """Who may reach the host's SSH, IO's console and the Nomad endpoint."""

    cidrs: Annotated[tuple[Cidr, ...], Field(strict=False, min_length=1)] = option(
        doc="Address ranges of the operators, for example 203.0.113.7/32.", example=["203.0.113.7/32"]
    )
    nomad_anywhere: bool = option(
        False, doc="Open the Nomad endpoint (client certificate and token demanded) to every address."
    )
    ssh_keys: Annotated[tuple[SshKey, ...], Field(strict=False, min_length=1)] = option(
        doc="SSH keys: the name or MD5 fingerprint of a key in the account (one at least), or a public key as text.",
        example=["my-laptop"],
    )

    @property
    def account_keys(self) -> tuple[str, ...]:
        """Keys referenced by name or fingerprint: an account has room for each public key once."""
        return tuple(key for key in self.ssh_keys if not is_public_key(key))

    @property
    def text_keys(self) -> tuple[str, ...]:
        """Keys given as text; they go into cloud-init and need no resource."""
        return tuple(key for key in self.ssh_keys if is_public_key(key))


class Nomad(Section):
    """The Nomad agent on the host."""

    version: str = option("2.0.6", pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){2}$", doc=f"Nomad release; {_LEAST} or newer.")
    # Source of the sum: hashicorp/homebrew-tap, Formula/nomad.rb, linux/amd64; renovate.json reads it.
    sha256: Sha256 = option(
        "c6da734081a41d51cadf15ec880d5eab0313093a29d2ee0984ca5ae1cdf867ec",
        doc="SHA-256 of the release's linux_amd64 zip; changes with `version`.",
    )
    mirror: HttpsUrl = option("https://releases.hashicorp.com/nomad", doc="Where `VERSION/nomad_VERSION_….zip` is.")
    datacenter: str = option("dc1", pattern=_NAME, doc="Nomad datacenter.")
    region: str = option("global", pattern=_NAME, doc="Nomad region.")


class Pds(Section):
    """The Personal Data Server: its image, its job, and the server options that change resources, secrets or safety.

    All other server options go by `extra_env` and `extra_secret_env`.
    """

    # Source of the tag: three public repositories pin it in October and November 2026, as the newest release or as the
    # one that their CI runs. `package_of_tag` says what it holds.
    image: str = option(
        "ghcr.io/bluesky-social/pds:0.4.5037",
        pattern=r"^[a-z0-9./:_-]+(:[A-Za-z0-9._-]{1,128}|(:[A-Za-z0-9._-]{1,128})?@sha256:[0-9a-f]{64})$",
        doc="Server image: one exact tag, or a digest.",
    )
    package_version: str = option(
        "0.5.37",
        pattern=r"^0\.[45]\.[0-9]{1,5}$",
        doc="Version of @atproto/pds in that image, which decides which options exist. If left out, upstream's tag "
        "says it: 0.4.5009 is package 0.5.9.",
    )
    memory_mib: int = option(512, ge=128, le=262144, doc="Memory limit of the server, in MiB.")
    port: int = option(
        3000,
        ge=1024,
        le=65535,
        doc="Port inside the container; on loopback too where the ingress needs it.",
        env="PDS_PORT",
    )
    durable_writes: bool = option(
        True,
        doc="Flush of posts, blobs and keys to the disk before the server acknowledges them. If false, a power cut "
        "loses the last seconds.",
    )
    new: bool = option(False, doc="Allow a start on an empty volume: true for the first `up`, then remove it.")
    paused: bool = option(False, doc="Stop the server and keep everything else.")
    escrow: Literal["pending", "made", "declined"] = option(
        "pending", doc="Whether `./pds escrow` was run and its file put away; 'declined' to live without one."
    )

    invite_required: bool = option(True, doc="Accounts need an invite code.", env="PDS_INVITE_REQUIRED")
    open_registration: bool = option(
        False, doc="Say it again where invites are off: sign-up has no captcha and the relay stops at 100 accounts."
    )
    blob_upload_limit: int = option(
        104_857_600, ge=1, le=_LARGEST, doc="Largest blob accepted, in bytes.", env="PDS_BLOB_UPLOAD_LIMIT"
    )
    rate_limits: bool = option(True, doc="Limit requests by client address.", env="PDS_RATE_LIMITS_ENABLED")
    log_enabled: bool = option(True, doc="Write the server's log.", env="LOG_ENABLED")
    plc_url: HttpsUrl = option("https://plc.directory", doc="Directory of did:plc identities.", env="PDS_DID_PLC_URL")
    app_view_url: HttpsUrl = option("https://api.bsky.app", doc="The app view.", env="PDS_BSKY_APP_VIEW_URL")
    app_view_did: Did = option("did:web:api.bsky.app", doc="The app view's DID.", env="PDS_BSKY_APP_VIEW_DID")
    report_service_url: HttpsUrl = option("https://mod.bsky.app", doc="Where reports go.", env="PDS_REPORT_SERVICE_URL")
    report_service_did: Did = option(
        "did:plc:ar7c4by46qjdydhdevvrndac", doc="DID of that service.", env="PDS_REPORT_SERVICE_DID"
    )
    crawlers: Annotated[tuple[HttpsUrl, ...], Field(strict=False)] = option(
        ("https://bsky.network",), doc="Relays to tell of new posts.", env="PDS_CRAWLERS"
    )
    recovery_did_key: DidKey | None = option(
        None,
        doc="Public key, kept offline, that can recover every account made from now on.",
        env="PDS_RECOVERY_DID_KEY",
    )
    max_import_size: int | None = option(
        None,
        ge=1,
        le=_LARGEST,
        doc="Largest repository accepted in a move, in bytes.",
        env="PDS_MAX_REPO_IMPORT_SIZE",
    )
    contact_email: Email | None = option(None, doc="Shown to members.", env="PDS_CONTACT_EMAIL_ADDRESS")
    privacy_policy_url: HttpsUrl | None = option(None, doc="Shown to members.", env="PDS_PRIVACY_POLICY_URL")
    terms_of_service_url: HttpsUrl | None = option(None, doc="Shown to members.", env="PDS_TERMS_OF_SERVICE_URL")

    extra_env: Annotated[Mapping[str, str], *SEALED] = option(
        default_factory=dict,
        doc="Further environment of the server, by its own names; checked against what it reads.",
    )
    extra_secret_env: Annotated[Mapping[str, SecretStr], *SEALED] = option(
        default_factory=dict, doc="The same for secrets: they go into the Nomad variable, never into the job."
    )

    @model_validator(mode="before")
    @classmethod
    def _package_of_image(cls, given: Any) -> Any:
        """So that a newer tag is one line of a stack file."""
        if isinstance(given, Mapping) and isinstance(given.get("image"), str) and "package_version" not in given:
            found = package_of_tag(tag_of(given["image"]))
            return {**given, "package_version": found} if found else given
        return given

    @property
    def line(self) -> Literal["0.4", "0.5"]:
        """The version line of the server package in the image."""
        return "0.4" if self.package_version.startswith("0.4.") else "0.5"


INGRESS_IMAGES = {
    # IO's registry shows no tag but `latest` that a source names; nobody outside can name a digest.
    "io": "agentio/io:latest",
    # Source of the tag: library/caddy in docker-library/official-images, of August 2026.
    "caddy": "caddy:2.11.4",
}
"""The image of each kind where none is asked for."""


_ISSUERS = {".letsencrypt.org": "letsencrypt.org", ".zerossl.com": "sectigo.com", ".pki.goog": "pki.goog"}
"""ACME directories' hosts by their end, and what their CA's documents say of CAA records."""


class Ingress(Section):
    """What answers on ports 80 and 443 in front of the PDS: Agent IO's ingress "IO", or Caddy."""

    kind: Literal["io", "caddy", "none"] = option(
        "io", doc="The ingress: 'io' or 'caddy'; 'none' where you bring your own."
    )
    image: str | None = option(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$",
        doc=f"The ingress's image; where left out, `{INGRESS_IMAGES['io']}` (pin it by digest once you have one) or "
        f"`{INGRESS_IMAGES['caddy']}`.",
        example=INGRESS_IMAGES["caddy"],
    )
    memory_mib: int = option(256, ge=64, le=262144, doc="Memory limit of the ingress, in MiB.")
    dialect: Literal["host", "ingress"] = option(
        "ingress", doc="IO's keyword for a public name: 'host' in images of 2025, 'ingress' in those of 2026."
    )
    license_hcl: SecretStr | None = option(None, doc="IO's licence block as raw HCL; kept in a file of its own.")
    ssh_port: int = option(2200, ge=1024, le=65535, doc="Port of IO's console over SSH, for operators only.")
    extra_hcl: str = option("", doc="Raw HCL added to this PDS's IO file.")
    backend: Literal["nomad", "static"] = option(
        "nomad", doc="How IO finds the PDS: 'nomad' by service name, 'static' by a fixed loopback port, as Caddy does."
    )
    acme_ca: HttpsUrl = option(
        "https://acme-v02.api.letsencrypt.org/directory", doc="Directory of the one CA that Caddy orders from."
    )
    acme_email: Email | None = option(None, doc="Address that Caddy gives to the CA.")
    extra_caddyfile: str = option("", doc="Further sites for Caddy, as raw text: whole blocks with their addresses.")
    site_caddyfile: str = option(
        "",
        doc="Directives for the PDS's own site, as raw text: a page at '/', 'robots.txt', a gatekeeper. Each that "
        "answers requests names its paths; all others go to the server.",
        example='respond /robots.txt "User-agent: *"',
    )

    @property
    def container_image(self) -> str:
        """The image that was asked for, or the one of the kind. Not for 'none', which runs nothing."""
        return self.image or INGRESS_IMAGES[self.kind]

    @property
    def fixed_port(self) -> bool:
        """Whether the PDS is found by a port that is always the same."""
        return self.kind == "caddy" or self.backend == "static"

    @property
    def issuer(self) -> str:
        """The domain by which a CAA record allows the CA that certificates are ordered from; empty if unknown."""
        if self.kind == "io":
            return "letsencrypt.org"
        ca = urlsplit(self.acme_ca).hostname or ""
        return next((name for end, name in _ISSUERS.items() if ca.endswith(end)), "") if self.kind == "caddy" else ""


class Mail(Section):
    """A mail relay. Without one nobody receives password resets or the token needed to move away."""

    host: Domain = option(doc="The relay's host name.", example="smtp.my-relay.org")
    port: int = option(2465, ge=1, le=65535, doc="The relay's port; DigitalOcean blocks 25, 465 and 587.")
    tls: Literal["implicit", "starttls"] = option(
        "implicit", doc="'implicit' for 465-like ports, 'starttls' for 587-like."
    )
    user: MailUser = option(
        min_length=1, doc="User name at the relay, as it is: it is percent-encoded for you.", example="postmaster"
    )
    password: SecretStr = option(
        min_length=1, doc="Password at the relay (`pulumi config set --secret --path mail.password`)."
    )
    sender: Email = option(
        alias="from", doc="Sender of the PDS's messages.", env="PDS_EMAIL_FROM_ADDRESS", example="pds@my-club.org"
    )


class S3(Section):
    """An S3 bucket for blobs, instead of the volume."""

    bucket: str = option(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        doc="Bucket: 3 to 63 of a-z, 0-9, '.' and '-'.",
        env="PDS_BLOBSTORE_S3_BUCKET",
        example="my-club-blobs",
    )
    region: str = option(pattern=r"^[a-z0-9-]+$", doc="Region.", env="PDS_BLOBSTORE_S3_REGION", example="fra1")
    endpoint: HttpsUrl = option(
        doc="Endpoint URL, for example of Spaces.",
        env="PDS_BLOBSTORE_S3_ENDPOINT",
        example="https://fra1.digitaloceanspaces.com",
    )
    force_path_style: bool = option(False, doc="Bucket in the path.", env="PDS_BLOBSTORE_S3_FORCE_PATH_STYLE")
    access_key_id: SecretStr = option(min_length=1, doc="Access key id.", env="PDS_BLOBSTORE_S3_ACCESS_KEY_ID")
    secret_access_key: SecretStr = option(min_length=1, doc="Secret key.", env="PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY")


class Slack(Section):
    """A channel of a Slack workspace."""

    channel: str = option(min_length=1, doc="Channel that alerts go to.", example="#alerts")
    url: SecretUrl = option(doc="Incoming webhook of that channel.", example="https://hooks.slack.com/services/…")


class Alerts(Section):
    """Who is told of trouble: DigitalOcean writes to `email` and `slack`, the host itself to `ping_url`."""

    email: Annotated[tuple[Email, ...], Field(strict=False)] = option(
        (),
        doc="Addresses to write to; DigitalOcean takes verified ones of the account's members only.",
        example=["admin@my-club.org"],
    )
    slack: Slack | None = option(None, doc="A Slack channel to write to.")
    ping_url: SecretUrl | None = option(
        None,
        doc="A dead man's switch, such as a check of healthchecks.io: the host pings it while volume and accounts are "
        "well, else its `/fail`.",
        example="https://hc-ping.com/…",
    )
    accounts: int = option(
        80, ge=1, doc="Accounts on the server from which on `/fail` is called; relays stop at 100 until they are asked."
    )


class Backup(Section):
    """Where copies of the PDS go, how often, and how long they are kept. Without this section there are none."""

    region: str | None = option(
        None,
        pattern=r"^[a-z0-9-]{1,64}$",
        doc="Region of the bucket. For Spaces `ams3` if left out; choose another one than the droplet's. With "
        "`endpoint` any region of that service; if left out, its client finds it.",
        example="ams3",
    )
    bucket: str | None = option(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
        doc="Name of the bucket; names are taken world-wide. `STACK-HOSTNAME-backup`, dots as '-', where left out.",
    )
    adopt: bool = option(False, doc="Use the bucket of that name that you already have, instead of a new one.")
    endpoint: HttpsUrl | None = option(
        None,
        doc="Address of another S3 service; its bucket must exist, and no Spaces bucket or key is made.",
        example="https://s3.eu-central-1.amazonaws.com",
    )
    volume: str | None = option(
        None,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]{0,127}$",
        doc="Another disk of the host's instead of a bucket: name of a Nomad host volume, which you register.",
    )
    access_key_id: SecretStr | None = option(
        None,
        min_length=1,
        doc="Access key that may make Spaces buckets; with `endpoint`, the one that backups use.",
    )
    secret_access_key: SecretStr | None = option(None, min_length=1, doc="Its secret key.")
    password: SecretStr | None = option(
        None,
        min_length=1,
        doc="Password of backups that exist, from the escrow file; generated where left out.",
    )
    interval_minutes: Literal[5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, 1440] = option(
        15, doc="Minutes from one backup to the next. One that lasts longer delays the next, it is not overtaken."
    )
    keep_days: int = option(
        30,
        ge=3,
        le=3650,
        doc="Days for which backups are kept; deleted accounts stay in them for so long, and 30 days more.",
    )
    memory_mib: int = option(
        256,
        ge=256,
        le=262144,
        doc="Memory limit of each task of backup, drill, restore and upgrade trial, in MiB.",
    )
    # Source of the tag: git tag v0.19.1 of restic/restic, whose docker/ folder is what Docker Hub's image is made of.
    image: str = option(
        "restic/restic:0.19.1",
        pattern=r"^[a-z0-9./:_-]+(:[A-Za-z0-9._-]{1,128}|(:[A-Za-z0-9._-]{1,128})?@sha256:[0-9a-f]{64})$",
        doc="Image of restic, which encrypts and sends; one exact tag, or a digest.",
    )


class Secrets(Section):
    """Secrets of a PDS that runs already, to adopt it. What is left out is generated."""

    plc_rotation_key: RotationKey | None = option(
        None, doc="PLC rotation key, 64 hex digits.", env="PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
    )
    jwt_secret: SecretStr | None = option(None, min_length=1, doc="Session key.", env="PDS_JWT_SECRET")
    nomad_management_token: ManagementToken | None = option(
        None, doc="Token of the Nomad on an adopted volume, from the escrow file."
    )
    admin_password: SecretStr | None = option(None, min_length=1, doc="Admin password.", env="PDS_ADMIN_PASSWORD")


class Member(Section):
    """One person's account. It is hers: the program makes it once, and writes handle or e-mail only when they change
    here."""

    handle: Handle = option(
        doc="Her handle: under a service handle domain, or a domain of her own.", example="ann.my-club.org"
    )
    email: Email = option(doc="Her e-mail address; two members cannot share one.", example="ann@my-club.org")
    was: Handle | None = option(
        None, doc="Her handle until now, to change it to `handle`; remove it after the `up`.", example="an.my-club.org"
    )
    recovery_key: DidKey | None = option(
        None, doc="Public key of hers, first among the rotation keys; counts only when the account is made."
    )
    email_verified: bool = option(False, doc="Count her e-mail as confirmed, where no mail can be sent to confirm it.")
    reserved: bool = option(False, doc="Allow a handle that the server keeps for itself, such as 'info'.")


class Invites(Section):
    """Invite codes for people whom the stack file does not name."""

    count: int = option(ge=1, le=100, example=5, doc="How many codes. More make further ones; fewer take none back.")
    uses: int = option(1, ge=1, le=100, doc="How many accounts each further code is good for.")
