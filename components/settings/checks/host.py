"""Faults in options of the droplet and of the server's image that their patterns cannot express."""

from collections.abc import Iterator

from components.settings.checks.ingress import MOVING_TAG
from components.settings.fields.errors import Fault, shown
from components.settings.fields.images import package_of_tag, tag_of
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
    """An image whose content can change under the same name."""
    name, at, _ = settings.pds.image.partition("@")
    if not at and MOVING_TAG.fullmatch(name.rpartition(":")[2]):
        yield Fault("pds.image", "its tag moves.", "Write an exact tag, for example ':0.4.5037', or a digest.")


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
            f"the name {shown(pds.image)} does not say which version of @atproto/pds the image holds, and it decides "
            "which options exist.",
            "Write it, for example 'package_version: 0.5.37' (the image has it in "
            "/app/node_modules/@atproto/pds/package.json), or upstream's tag before the digest: "
            "'pds:0.4.5037@sha256:…'.",
        )
