"""The Nomad placement of one PDS's jobs: the namespace, and the host volume with its data."""

from dataclasses import dataclass

from components.settings.sections.settings import Settings

OWN_VOLUME = "pds"
"""The host volume of a host's own PDS, as in the post."""


@dataclass(frozen=True, kw_only=True)
class NomadScope:
    """`namespace` is None for the default one, which a job need not name."""

    namespace: str | None
    volume: str


def nomad_scope(settings: Settings, stack: str) -> NomadScope:
    """The placement that the stack's settings define."""
    on = settings.on
    if on is None:
        return NomadScope(namespace=None, volume=OWN_VOLUME)
    if on.stack:
        return NomadScope(namespace=stack, volume=club_volume(stack))
    return NomadScope(namespace=None if on.namespace == "default" else on.namespace, volume=on.volume)


def club_volume(stack: str) -> str:
    """Name of a club's volume: unique on its host across namespaces (client/hostvolumemanager)."""
    return f"{OWN_VOLUME}-{stack}"
