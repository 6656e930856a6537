"""Package versions from the name of a server image and from the server's health report."""

import re

IMAGE = r"^[a-z0-9./:_-]+(:[A-Za-z0-9._-]{1,128}|(:[A-Za-z0-9._-]{1,128})?@sha256:[0-9a-f]{64})$"
"""Name of an image with one tag, a digest, or both."""


def tag_of(image: str) -> str:
    """The tag in the name of an image, without its digest."""
    return image.partition("@")[0].rpartition(":")[2]


def package_of_tag(tag: str) -> str | None:
    """The @atproto/pds version in an image tag: 0.4.219 is itself, 0.4.5009 is 0.5.9 (`ver` in upstream's index.ts)."""
    found = re.fullmatch(r"0\.4\.([0-9]{1,6})", tag)
    if not found:
        return None
    patch = int(found[1])
    return tag if patch < 5000 else f"0.5.{patch - 5000}"


def package_of_health(version: str) -> str:
    """The @atproto/pds version behind `/xrpc/_health`. Upstream's images 0.4.50xx report their tag (`getEnv` there),
    all other images the package."""
    return package_of_tag(version) or version
