"""Options of the ingress in front of the PDS."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from components.settings.fields.job_demand import INGRESS_MHZ, JobDemand
from components.settings.fields.option import Section, option
from components.settings.fields.types import Email, HttpsUrl

CADDY_ASK_PORT = 2020
"""Loopback port on which Caddy queries itself whether a name may have a certificate."""

INGRESS_IMAGES = {
    # Sources name no tag of IO's registry except `latest`. Outsiders cannot look up a digest.
    "io": "agentio/io:latest",
    # Source of the tag: library/caddy in docker-library/official-images, of August 2026.
    "caddy": "caddy:2.11.4",
}
"""Default image of each kind of ingress."""


_ISSUERS = {".letsencrypt.org": "letsencrypt.org", ".zerossl.com": "sectigo.com", ".pki.goog": "pki.goog"}
"""Host suffix of an ACME directory, and the domain that its CA documents for CAA records."""


class IngressOptions(Section):
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
    access_log: Literal["masked", "full", "off"] = option(
        "masked",
        doc="What Caddy logs of each request: 'masked' shortens the client's address to its network (/24, /48), 'full' "
        "keeps it, 'off' logs no request. Headers, bodies and query strings are never logged.",
    )
    extra_caddyfile: str = option("", doc="Additional Caddy sites as raw text: whole blocks with their addresses.")
    site_caddyfile: str = option(
        "",
        doc="Raw Caddy directives for the PDS's own site, such as a page at '/', 'robots.txt' or a gatekeeper. Each "
        "directive that answers requests names its paths; all other paths go to the server.",
        example='respond /robots.txt "User-agent: *"',
    )

    @property
    def job_demand(self) -> JobDemand:
        if self.kind == "none":
            return JobDemand()
        return JobDemand(memory_mib=self.memory_mib, mhz=INGRESS_MHZ)

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
