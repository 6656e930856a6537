"""The addresses of S3 services: the owner of each, and its faults.

A bucket, a region and an endpoint belong to one service. They are checked against each other, for 's3', 'blobs' and
'backup', so that no value of one service reaches another.
"""

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import SecretStr

from components.settings.fields.errors import Fault, shown
from components.settings.sections import BackupOptions, SnapshotsOptions
from components.settings.sections.settings import Settings

SPACES = "digitaloceanspaces.com"
SPACES_REGION = "ams3"
"""Region of a new Spaces bucket for backups; differs from the default of 'host.region'."""

_SPACES_REGION = re.compile(r"[a-z]{3}[0-9]")
_WITHOUT_SPACES = frozenset({"ams2", "nyc1", "nyc2", "sfo1"})
"""Regions of droplets without Spaces (docs.digitalocean.com/platform/regional-availability)."""
_NEAREST = "Write the nearest region that has it, for example 'nyc3', 'sfo3' or 'ams3'."

_AMAZON = re.compile(
    r"(?:.+\.)?(?P<service>s3(?:[.-]dualstack)?[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9])\.amazonaws\.com(?:\.cn)?)"
)
"""docs.aws.amazon.com/general/latest/gr/s3.html"""


def spaces_endpoint(region: str) -> str:
    """The S3 endpoint of a Spaces region."""
    return f"https://{region}.{SPACES}"


def s3_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of the bucket for blobs."""
    if settings.s3:
        yield from _endpoint_faults("s3", settings.s3.endpoint, settings.s3.bucket, settings.s3.region)


def blob_region(settings: Settings) -> str:
    """The region of the bucket that `blobs` makes."""
    assert settings.blobs
    return settings.blobs.region or settings.host.region


def same_bucket(settings: Settings) -> str | None:
    """The bucket that both 's3' and 'backup' name, if it is one bucket."""
    s3, backup = settings.s3, settings.backup
    if s3 is None or backup is None or s3.bucket != backup.bucket:
        return None
    backup_host = _backup_host(settings) or _host(spaces_endpoint(backup.region or SPACES_REGION))
    return s3.bucket if _host(s3.endpoint) == backup_host else None


def _backup_host(settings: Settings) -> str | None:
    """The host that backups are sent to; None for a bucket in Spaces that the program makes."""
    backup = settings.backup
    return _host(backup.endpoint) if backup and backup.endpoint else None


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or ""


def _blobs_endpoint(settings: Settings) -> str:
    return spaces_endpoint(blob_region(settings))


def spaces_keys(settings: Settings) -> tuple[SecretStr, SecretStr] | None:
    """The owner's key that may create the bucket of `blobs`: its own, or that of backups in Spaces."""
    blobs, backup = settings.blobs, settings.backup
    if blobs and blobs.access_key_id and blobs.secret_access_key:
        return blobs.access_key_id, blobs.secret_access_key
    if backup is None or backup.endpoint or backup.volume or not (backup.access_key_id and backup.secret_access_key):
        return None
    return backup.access_key_id, backup.secret_access_key


def blobs_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of the bucket that `blobs` makes: its keys, its region, and other sections that it conflicts with."""
    blobs, backup = settings.blobs, settings.backup
    if blobs is None:
        return
    if settings.s3:
        yield Fault(
            "blobs",
            "'s3' also names a bucket for blobs. The server uses one of the two.",
            "Remove 's3' for a bucket that the program makes, or 'blobs' for your own.",
        )
    lone = {name: getattr(blobs, name) for name in ("access_key_id", "secret_access_key")}
    missing = [name for name, value in lone.items() if value is None]
    if len(missing) == 1 or (missing and spaces_keys(settings) is None):
        yield Fault(
            f"blobs.{missing[0]}",
            "is required: it creates the bucket.",
            "Create a key at DigitalOcean → API → Spaces Keys: full access. Without both, the keys of a 'backup' to "
            "Spaces are used.",
        )
    yield from _blob_region_faults(settings)
    if backup and backup.bucket == blobs.bucket and _backup_host(settings) in (None, _host(_blobs_endpoint(settings))):
        yield Fault(
            "blobs.bucket",
            f"{shown(blobs.bucket)} is the bucket of 'backup'. The key of one could delete the other.",
            "Write another name.",
        )


def _blob_region_faults(settings: Settings) -> Iterator[Fault]:
    assert settings.blobs
    if settings.on and settings.blobs.region is None:
        yield Fault(
            "blobs.region",
            "with 'on' the droplet's region is not known here.",
            "Write the Spaces region nearest to the host, for example 'fra1'.",
        )
    elif blob_region(settings) in _WITHOUT_SPACES:
        yield Fault("blobs.region", f"there is no Spaces in {blob_region(settings)}.", _NEAREST)


def backup_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of the address of the bucket for backups."""
    if settings.backup:
        yield from _bucket_faults("backup", settings.backup)


def snapshot_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of the bucket for snapshots of a cluster's Nomad."""
    snapshots = settings.cluster.snapshots if settings.cluster else None
    if snapshots is None:
        return
    section = "cluster.snapshots"
    for name in ("access_key_id", "secret_access_key"):
        if getattr(snapshots, name) is None:
            yield Fault(
                f"{section}.{name}", "is required.", "Create a key at DigitalOcean → API → Spaces Keys: full access."
            )
    if snapshots.endpoint and not snapshots.bucket:
        yield Fault(f"{section}.bucket", "with 'endpoint' no bucket is created.", "Write the name of your bucket.")
    if snapshots.endpoint and snapshots.adopt:
        yield Fault(f"{section}.adopt", "with 'endpoint' the bucket always exists already.", "Remove it.")
    if snapshots.adopt and not snapshots.bucket:
        yield Fault(f"{section}.adopt", "the bucket's name is missing.", "Write it as 'bucket'.")
    yield from _bucket_faults(section, snapshots)


def _bucket_faults(section: str, options: BackupOptions | SnapshotsOptions) -> Iterator[Fault]:
    if options.endpoint:
        yield from _endpoint_faults(section, options.endpoint, options.bucket, options.region)
    elif options.region and not _SPACES_REGION.fullmatch(options.region):
        yield Fault(
            f"{section}.region",
            f"'{options.region}' is not a Spaces region.",
            f"Write three letters and a digit, for example '{SPACES_REGION}', or the 'endpoint' of the other service.",
        )
    elif options.region in _WITHOUT_SPACES:
        yield Fault(f"{section}.region", f"there is no Spaces in {options.region}.", _NEAREST)


def _endpoint_faults(section: str, endpoint: str, bucket: str | None, region: str | None) -> Iterator[Fault]:
    """At most one fault of the endpoint itself, then faults of the region."""
    key = f"{section}.endpoint"
    url = urlsplit(endpoint)
    host = (url.hostname or "").rstrip(".")
    port = f":{url.port}" if url.port else ""
    right = f"{url.scheme}://{_service(host, bucket)}{port}"
    if _service(host, bucket) != host:
        named = "the bucket's name" if ".cdn." not in f".{host}" else "an address of the CDN"
        yield Fault(key, f"it has {named} in it; clients put the bucket before it themselves.", f"Write '{right}'.")
    elif url.path:
        yield Fault(key, f"it has the path '{url.path}'; an endpoint is a host alone.", f"Write '{right}'.")
    elif (url.hostname or "") != host:
        yield Fault(key, "it ends with a dot, which no certificate has.", f"Write '{right}'.")
    elif url.scheme == "http" and not _private(host):
        yield Fault(key, "without TLS the data can be read and changed on the way.", f"Write 'https://{host}{port}'.")
    elif host == SPACES or host.removesuffix(f".{SPACES}") in _WITHOUT_SPACES:
        yield Fault(
            key, f"there is no Spaces at {host}.", f"Write 'https://{SPACES_REGION}.{SPACES}', or another region."
        )
    elif region and region not in (regions := _regions(host) or (region,)):
        yield Fault(
            f"{section}.region",
            f"'{region}' is not the region of {host}, and the service refuses requests that are signed for another.",
            f"Write 'region: {regions[0]}'.",
        )


def _regions(host: str) -> tuple[str, ...]:
    """The regions that a service accepts in signatures, its own first; empty if the host does not show it."""
    if found := _AMAZON.fullmatch(host):
        return (found["region"],)
    # Spaces also accepts us-east-1 (docs.digitalocean.com/products/spaces/how-to/use-aws-sdks).
    return (host.removesuffix(f".{SPACES}"), "us-east-1") if host.endswith(f".{SPACES}") else ()


def _service(host: str, bucket: str | None) -> str:
    """The host of the service alone: without the bucket, and with the origin in place of its CDN."""
    if found := _AMAZON.fullmatch(host):
        return found["service"]
    if host.endswith(f".{SPACES}"):
        labels = [label for label in host.removesuffix(f".{SPACES}").split(".") if label != "cdn"]
        return f"{labels[-1]}.{SPACES}" if labels else host
    return host.removeprefix(f"{bucket}.") if bucket else host


def _private(host: str) -> bool:
    """Whether the host is on a private network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"
