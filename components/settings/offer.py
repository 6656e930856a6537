"""The values that a host's stack passes to a club's stack: the only contract between two stacks.

This module holds its plain text and validates it. The secret part, which grants the club access to Nomad, is made in
`clubs.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components.settings.checks import memory_asked, same_region
from components.settings.faults import Fault, SettingsError
from components.settings.placement import Club
from components.settings.settings import Settings

SCHEMA = 1
"""Raise it if passed values change their meaning."""


class OfferError(ValueError):
    """The host passes no values, or none that this version can read. The message says what to do."""


def offer(settings: Settings, club: Club) -> dict[str, Any]:
    """The values that the host with these settings passes to `club`, as far as they are known before resources
    exist."""
    return {
        "schema": SCHEMA,
        "port": club.port,
        "disk_gib": club.disk_gib,
        "memory_mib": club.memory_mib,
        "ingress": settings.ingress.kind,
        "dialect": settings.ingress.dialect,
        "datacenter": settings.nomad.datacenter,
        "region": settings.nomad.region,
        "droplet_region": settings.host.region,
    }


def warning(settings: Settings, found: Mapping[str, Any]) -> str | None:
    """A warning about an accepted offer: only the host knows its droplet's region."""
    return same_region(settings, found.get("droplet_region"))


def accepted(settings: Settings, stack: str, offers: Mapping[str, Any] | None, opens: bool) -> Mapping[str, Any]:
    """The offer to `stack`, if it matches that stack's settings. `opens`: its secret part could be decrypted.

    Raises OfferError if there is none, and SettingsError if `stack` requests something else.
    """
    assert settings.on
    host, file = settings.on.stack, f"Pulumi.{settings.on.stack}.yaml"
    found: Mapping[str, Any] | None = (offers or {}).get(stack)
    if found is None:
        raise OfferError(
            f"Stack {host} gives {stack} no room. Write 'clubs: {{{stack}: {{port: {settings.pds.port}}}}}' under "
            f"'pds:' in {file}, and run `pulumi up --stack {host}` first."
        )
    if found.get("schema") != SCHEMA:
        raise OfferError(
            f"Stack {host} was brought up by another version of this program. Run `pulumi up --stack {host}` first."
        )
    if not opens:
        raise OfferError(
            f"Stack {host} can be read, its secrets cannot: stacks that share a host share its passphrase, or its "
            f"secrets provider. Use that of {host}, and `pulumi stack change-secrets-provider` for {stack}."
        )
    # A stack reference returns every number as a float.
    whole = {key: int(value) if isinstance(value, float) else value for key, value in found.items()}
    faults = list(_differences(settings, whole, file))
    if faults:
        raise SettingsError(f"Pulumi.{stack}.yaml", faults)
    return found


def _differences(settings: Settings, found: Mapping[str, Any], file: str) -> Iterator[Fault]:
    asked = {
        "pds.port": ("port", settings.pds.port),
        "ingress.kind": ("ingress", settings.ingress.kind),
        "nomad.datacenter": ("datacenter", settings.nomad.datacenter),
        "nomad.region": ("region", settings.nomad.region),
    }
    if settings.ingress.kind == found["ingress"] == "io":
        asked["ingress.dialect"] = ("dialect", settings.ingress.dialect)
    for key, (name, ours) in asked.items():
        if ours != found[name]:
            remedy = f"Write '{key.rpartition('.')[2]}: {found[name]}'."
            yield Fault(key, f"{ours} is not what the host has, which is {found[name]}.", remedy)
    wanted = sum(memory_asked(settings).values())
    if wanted > found["memory_mib"]:
        yield Fault(
            "pds.memory_mib",
            f"its jobs ask for {wanted} MiB, and the host gives it {found['memory_mib']}.",
            f"Write less, or raise 'memory_mib' for it among the 'clubs' in {file}.",
        )
