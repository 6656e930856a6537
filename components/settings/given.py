"""Warnings about values that are accepted unchecked and may not mean what the operator expects; shown at each
preview."""

from collections.abc import Iterator

from components.settings.environment import unchecked_names
from components.settings.handles import wildcards
from components.settings.settings import Settings

SHORT_SECRET = 16
"""Shorter adopted secrets cause a warning. The server itself has no minimum."""

_PAIRS = (("app_view_url", "app_view_did"), ("report_service_url", "report_service_did"))
"""Options of `pds` that describe one service together: its address, and the audience of the server's tokens."""


def given_warnings(settings: Settings) -> Iterator[str]:
    """Unchecked names, guessable secrets, incomplete pairs, handles without an address."""
    for name, home in unchecked_names(settings):
        yield f"pds:pds.{home}.{name}: a library of the server reads it; neither name nor value is checked."
    for one, other in (*_PAIRS, *(reversed(pair) for pair in _PAIRS)):
        given = settings.pds.model_fields_set
        if one in given and other not in given:
            yield (
                f"pds:pds.{other}: it is still {getattr(settings.pds, other)}, and '{one}' is another service's. Write "
                "both, or the server makes tokens for the one and sends them to the other."
            )
    yield from _short_secrets(settings)
    yield from _handles_without_address(settings)


def _short_secrets(settings: Settings) -> Iterator[str]:
    for key, secret in (
        ("secrets.jwt_secret", settings.secrets.jwt_secret),
        ("secrets.admin_password", settings.secrets.admin_password),
        ("backup.password", settings.backup.password if settings.backup else None),
    ):
        if secret and len(secret.get_secret_value()) < SHORT_SECRET:
            yield (
                f"pds:{key}: it is shorter than {SHORT_SECRET} characters, and can be guessed. It is taken as it is, "
                "since it is in use already."
            )


def _handles_without_address(settings: Settings) -> Iterator[str]:
    for domain, record in wildcards(settings).items():
        if record is None:
            yield (
                f"pds:service_handle_domains: {domain} is not in the zone {settings.zone}, so no record is made there. "
                f"Make 'A *{domain}' with this stack's address, or handles under it have none."
            )
    if not settings.dns.wildcard and (settings.invites or not settings.pds.invite_required):
        yield (
            "pds:dns.wildcard: without it a handle that is taken with an invite has no address. Members of the stack "
            "file have records of their own."
        )
