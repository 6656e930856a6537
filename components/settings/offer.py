"""What a host's stack tells a club's: the one contract between two stacks, seen from both ends.

Plain text is here, and what is wrong with it. What opens Nomad for the club is a secret beside it, made in `clubs.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components.settings.checks import memory_asked, same_region
from components.settings.faults import Fault, SettingsError
from components.settings.placement import Club
from components.settings.settings import Settings

SCHEMA = 1
"""Raised when what is told changes its meaning."""


class OfferError(ValueError):
    """The host offers nothing, or nothing that can be read here; the text says what to do."""


def offer(settings: Settings, club: Club) -> dict[str, Any]:
    """What the host with these settings tells `club`, as far as it is known before anything is made."""
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
    """What the owner should know of an offer that was accepted: only the host knows where its droplet is."""
    return same_region(settings, found.get("droplet_region"))


def accepted(settings: Settings, stack: str, offers: Mapping[str, Any] | None, opens: bool) -> Mapping[str, Any]:
    """The offer to `stack`, whose settings go with it. `opens`: its secret part could be decrypted.

    Raises OfferError where there is none, and SettingsError where `stack` asks for something else.
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
    # A stack reference brings every number as one with a fraction.
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
