"""Checks whether the ingress serves this stack's text, by a query to the ingress for the text's SHA-256.

If Caddy refuses a text, it keeps the previous one and the site answers as before, so only this check detects it.
`render/scripts/caddy.sh` writes the queried file. The standard library only.
"""

import http.client

from components.clients.errors import ServiceError
from components.clients.https import connection_to, system_tls
from components.clients.wait import until

_MOST = 2000
"""Limit of an answer, in bytes."""


def require(hostname: str, address: str, sha256: str, seconds: float) -> None:
    """Return once Caddy serves the text with this sum. Raises ServiceError with Caddy's message if it refused the
    text."""

    tls = system_tls()

    def served() -> str | None:
        connection = connection_to(f"https://{hostname}", address, timeout=10, tls=tls)
        try:
            connection.request("GET", f"/.well-known/pds-ingress/{sha256}")
            answer = connection.getresponse()
            text = answer.read(_MOST).decode(errors="replace").strip()
        except http.client.HTTPException as error:
            return type(error).__name__
        finally:
            connection.close()
        if answer.status == http.client.OK and text.startswith("refused:"):
            raise ServiceError(
                f"Caddy refused this stack's text and serves the last accepted one.{text.removeprefix('refused:')}\n"
                "Lines are those of the output `ingress_file`. Correct 'ingress.site_caddyfile' or "
                "'ingress.extra_caddyfile', and run `pulumi up` again."
            )
        if answer.status == http.client.OK and text == "loaded":
            return None
        return f"Caddy does not serve this stack's text yet (status {answer.status})"

    until(served, seconds, f"The ingress of {hostname}")
