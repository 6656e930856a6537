"""Options that conflict with the kind of ingress."""

import re
from collections.abc import Iterator

from components.settings.fields.errors import Fault
from components.settings.sections import INGRESS_IMAGES
from components.settings.sections.settings import Settings

MOVING_TAG = re.compile(r"latest|main|master|edge|stable|nightly|[0-9]+(\.[0-9]+)?")
"""Image tags that later refer to another image."""

_OF_KIND = {
    "dialect": ("io",),
    "license_hcl": ("io",),
    "ssh_port": ("io",),
    "extra_hcl": ("io",),
    "backend": ("io", "none"),
    "acme_ca": ("caddy",),
    "acme_email": ("caddy",),
    "access_log": ("caddy",),
    "extra_caddyfile": ("caddy",),
    "site_caddyfile": ("caddy",),
}
"""Options that only some kinds of ingress have."""


def ingress_kind_faults(settings: Settings) -> Iterator[Fault]:
    """Options that the configured kind of ingress does not have."""
    kind = settings.ingress.kind
    for name, kinds in _OF_KIND.items():
        if name in settings.ingress.model_fields_set and kind not in kinds:
            by_port = name == "backend" and kind == "caddy"
            problem = "Caddy always reaches the PDS on a fixed port." if by_port else f"'{kind}' has no such option."
            yield Fault(f"ingress.{name}", problem, f"Remove it, or write 'kind: {kinds[0]}'.")


def caddy_image_faults(settings: Settings) -> Iterator[Fault]:
    """A Caddy image tag that could change at a restart."""
    name, at, _ = (settings.ingress.image or INGRESS_IMAGES["caddy"]).partition("@")
    tag = name.rpartition("/")[2].partition(":")[2] or "latest"
    if settings.ingress.kind == "caddy" and not at and MOVING_TAG.fullmatch(tag):
        yield Fault(
            "ingress.image",
            f"its tag, {tag}, moves.",
            f"Write an exact tag, for example '{INGRESS_IMAGES['caddy']}', or a digest.",
        )


def caa_faults(settings: Settings) -> Iterator[Fault]:
    """A CAA record that forbids the certificates which the ingress orders."""
    caa, issuer = settings.dns.caa, settings.ingress.issuer
    if caa and issuer and issuer not in caa:
        other = ", or write the other authority's directory into 'ingress.acme_ca'" * (settings.ingress.kind == "caddy")
        yield Fault(
            "dns.caa",
            f"it allows only {', '.join(caa)}, and the ingress orders its certificates from {issuer}.",
            f"Add '{issuer}'{other}.",
        )
