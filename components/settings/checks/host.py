"""Faults in options of the droplet and of the server's image that their patterns cannot express."""

from collections.abc import Iterator

from components.settings.checks.ingress import MOVING_TAG
from components.settings.checks.pds_env import TELEMETRY_SINCE, has_telemetry
from components.settings.fields.errors import Fault, shown
from components.settings.fields.images import package_of_tag, tag_of
from components.settings.sections import STORE_GIB, MetricsOptions
from components.settings.sections.settings import Settings


def tag_faults(settings: Settings) -> Iterator[Fault]:
    """Tags that DigitalOcean keeps as one: capitals do not distinguish them (digitalocean/openapi, tags.yml)."""
    tags = settings.host.tags
    for index, tag in enumerate(tags):
        same = next((other for other in tags[:index] if other.casefold() == tag.casefold()), None)
        if same is not None:
            yield Fault(
                f"host.tags[{index}]",
                f"{shown(tag)} and {shown(same)} are one tag: DigitalOcean ignores capitals.",
                f"Keep {shown(same)}.",
            )


def image_faults(settings: Settings) -> Iterator[Fault]:
    """Images whose content can change under the same name."""
    images = {"pds.image": (settings.pds.image, "0.4.5037")}
    if settings.backup:
        images["backup.image"] = settings.backup.image, "0.19.1"
    for key, (image, example) in images.items():
        name, at, _ = image.partition("@")
        if not at and MOVING_TAG.fullmatch(name.rpartition(":")[2]):
            yield Fault(key, "its tag moves.", f"Write an exact tag, for example ':{example}', or a digest.")


def package_faults(settings: Settings) -> Iterator[Fault]:
    """A package version that is not the image's, or that is missing for an image whose name does not have it."""
    pds = settings.pds
    tag = tag_of(pds.image)
    expected = package_of_tag(tag)
    if expected and expected != pds.package_version:
        yield Fault(
            "pds.package_version",
            f"{pds.package_version} is not what image tag {tag} holds.",
            f"Write 'package_version: {expected}'.",
        )
    elif not expected and not MOVING_TAG.fullmatch(tag) and "package_version" not in pds.model_fields_set:
        yield Fault(
            "pds.package_version",
            f"the name {shown(pds.image)} does not name the image's version of @atproto/pds, which decides "
            "which options exist.",
            "Write it, for example 'package_version: 0.5.37' (the image has it in "
            "/app/node_modules/@atproto/pds/package.json), or upstream's tag before the digest: "
            "'pds:0.4.5037@sha256:…'.",
        )


_OF_THE_STORE = ("retention_days", "memory_mib", "image")
"""Options of `metrics` that mean nothing without a store."""


def metrics_faults(settings: Settings) -> Iterator[Fault]:
    """A store on a host that is not this stack's or too small for it, and an endpoint that nothing can be sent to."""
    metrics = settings.metrics
    if metrics is None:
        return
    if metrics.otlp:
        yield from _otlp_faults(settings, metrics.otlp.endpoint)
    if not metrics.store:
        yield from _without_a_store(metrics)
    elif settings.on:
        where = f"Write it in Pulumi.{settings.on.stack}.yaml" if settings.on.stack else "Use that host's own metrics"
        yield Fault(
            "metrics.store",
            "a store belongs to a host, and this stack has none of its own.",
            f"{where}, and remove it here. 'otlp' sends this server's metrics to another service.",
        )
    else:
        yield from _store_faults(settings, metrics)


def _without_a_store(metrics: MetricsOptions) -> Iterator[Fault]:
    if metrics.otlp is None:
        yield Fault(
            "metrics", "it has no store and no receiver.", "Write 'store: true' or 'otlp', or remove 'metrics'."
        )
    for name in _OF_THE_STORE:
        if name in metrics.model_fields_set:
            yield Fault(f"metrics.{name}", "it is an option of the store.", "Write 'store: true' too, or remove it.")


def _otlp_faults(settings: Settings, endpoint: str) -> Iterator[Fault]:
    if not endpoint.startswith("https://"):
        yield Fault(
            "metrics.otlp.endpoint",
            "without TLS the headers can be read on the way.",
            f"Write '{endpoint.replace('http://', 'https://', 1)}'.",
        )
    if settings.metrics and not settings.metrics.server:
        yield Fault("metrics.server", "without the server's metrics there is nothing to send.", "Remove it, or 'otlp'.")
    if not has_telemetry(settings):
        first = ".".join(map(str, TELEMETRY_SINCE))
        yield Fault(
            "metrics.otlp",
            f"package {settings.pds.package_version} has no metrics to send.",
            f"Upgrade the server to {first} or newer (`./pds upgrade`), or remove it.",
        )


def _store_faults(settings: Settings, metrics: MetricsOptions) -> Iterator[Fault]:
    tag = tag_of(metrics.image)
    if "@" not in metrics.image and MOVING_TAG.fullmatch(tag):
        yield Fault("metrics.image", "its tag moves.", "Write an exact tag, for example ':v1.150.0', or a digest.")
    granted = sum(club.disk_gib for club in settings.clubs.values())
    left = settings.volume.size_gib - granted
    if left < SMALLEST_SHARE * STORE_GIB:
        clubs = f" in addition to the {granted} GiB of 'clubs'" if granted else ""
        yield Fault(
            "metrics.store",
            f"it takes up to {STORE_GIB} GiB, and the volume has only {left} GiB{clubs}.",
            f"Write 'size_gib: {granted + SMALLEST_SHARE * STORE_GIB}' or more into 'pds:volume', or remove 'store'.",
        )
    days = longest_retention(settings)
    if metrics.retention_days > days:
        yield Fault(
            "metrics.retention_days",
            f"{metrics.retention_days} days do not fit into the {STORE_GIB} GiB of the store, which would then take "
            "no new metrics.",
            f"Write {days} or fewer.",
        )


SMALLEST_SHARE = 5
"""Times its quota that the volume has beside the clubs' quotas, so that the store fills at most a fifth of it."""

DAILY_MIB, DAILY_MIB_OF_A_CLUB = 2.0, 0.5
"""What a day of metrics takes on disk: of the host with its own PDS, and of each club. Several times the measured 0.3
and 0.05 (docs/figures.md), for more jobs and methods than measured."""


def longest_retention(settings: Settings) -> int:
    """The days of metrics that fit into half of the store's quota. Merging takes the other half for a while."""
    return int(STORE_GIB * 1024 / 2 / (DAILY_MIB + DAILY_MIB_OF_A_CLUB * len(settings.clubs)))
