"""Whether the ingress serves this stack's text, asked of the ingress itself by the text's SHA-256.

Caddy goes on with the text before where it refuses one, and the site answers as ever: only this tells. What is at the
path is written by `render/files/caddy.sh`. The standard library only, as in `probes.py`.
"""

import http.client

from components import probes

_MOST = 2000
"""Bytes that are read of an answer."""


def require(hostname: str, address: str, sha256: str, seconds: float) -> None:
    """Return once Caddy serves the text with this sum. Raises ProbeError with Caddy's words where it refused it."""

    def served() -> str | None:
        connection = probes.connection_to(f"https://{hostname}", address, timeout=10)
        try:
            connection.request("GET", f"/.well-known/pds-ingress/{sha256}")
            answer = connection.getresponse()
            text = answer.read(_MOST).decode(errors="replace").strip()
        except http.client.HTTPException as error:
            return type(error).__name__
        finally:
            connection.close()
        if answer.status == http.client.OK and text.startswith("refused:"):
            raise probes.ProbeError(
                f"Caddy refused this stack's text and serves the last one it took.{text.removeprefix('refused:')}\n"
                "Lines are those of the output `ingress_file`. Correct 'ingress.site_caddyfile' or "
                "'ingress.extra_caddyfile', and run `pulumi up` again."
            )
        if answer.status == http.client.OK and text == "loaded":
            return None
        return f"Caddy does not serve this stack's text yet (status {answer.status})"

    probes.until(served, seconds, f"The ingress of {hostname}")
