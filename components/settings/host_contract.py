"""The contract between a host's stack and the stack of a club on it: the values that the host grants the club.

This module makes and checks the plain text terms. `host/clubs.py` makes the secret part, which gives the club access to
Nomad.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components.settings.checks.capacity import memory_demand
from components.settings.checks.warnings import same_region
from components.settings.fields.errors import Fault, SettingsError
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings

SCHEMA = 1
"""Raise it if terms change their meaning."""

Terms = Mapping[str, Any]


class HostContractError(ValueError):
    """The host grants the club nothing, or terms that this version cannot read. The message says what to do."""


def ingress_namespace(host: str) -> str:
    """The Nomad namespace of the ingress on a cluster's host."""
    return f"host-{host}"


def terms_for(settings: Settings, club: ClubOptions) -> dict[str, Any]:
    """The terms that the host with these settings grants `club`, as far as they are known before resources exist.

    On a cluster each host is a datacenter, and its ingress reads the files of the host's own namespace.
    """
    on_a_cluster: dict[str, Any] = _on(club.host) if club.host else {}
    if club.leaving:
        on_a_cluster["leaving"] = {"port": club.leaving.port, **_on(club.leaving.host)}
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
        **on_a_cluster,
    }


def _on(host: str) -> dict[str, Any]:
    return {"datacenter": host, "ingress_namespace": ingress_namespace(host)}


def terms_at(terms: Terms, datacenter: str) -> Terms:
    """The terms in this datacenter: those of the host that the club leaves, if it is that one's, else the others."""
    whole = {key: value for key, value in terms.items() if key != "leaving"}
    leaving = terms.get("leaving") or {}
    left = leaving.get("datacenter") == datacenter != whole["datacenter"]
    return {**whole, **leaving} if left else whole


def terms_warning(settings: Settings, terms: Terms) -> str | None:
    """A warning about accepted terms. Only the host knows its droplet's region."""
    return same_region(settings, terms.get("droplet_region"))


def accepted_terms(
    settings: Settings, stack: str, terms_by_club: Mapping[str, Terms] | None, secret_readable: bool
) -> Terms:
    """The terms for `stack`, if they match that stack's settings. `secret_readable`: their secret part was decrypted.

    Raises HostContractError if there are none, and SettingsError if `stack` requests something else.
    """
    assert settings.on
    host, file = settings.on.stack, f"Pulumi.{settings.on.stack}.yaml"
    terms: Terms | None = (terms_by_club or {}).get(stack)
    if terms is None:
        raise HostContractError(
            f"Stack {host} does not list {stack} as a club. Add '{stack}: {{port: {settings.pds.port}}}' to "
            f"'pds:clubs' in {file}, and run `pulumi up --stack {host}` first."
        )
    if terms.get("schema") != SCHEMA:
        raise HostContractError(
            f"Another version of this program applied stack {host}. Run `pulumi up --stack {host}` first."
        )
    if not secret_readable:
        raise HostContractError(
            f"The secrets of stack {host} cannot be decrypted. Stacks that share a host share its passphrase or its "
            f"secrets provider. Use that of {host}, and run `pulumi stack change-secrets-provider` for {stack}."
        )
    terms = terms_at(terms, settings.nomad.datacenter)
    # A stack reference returns every number as a float.
    whole = {key: int(value) if isinstance(value, float) else value for key, value in terms.items()}
    faults = list(_differences(settings, whole, file))
    if faults:
        raise SettingsError(f"Pulumi.{stack}.yaml", faults)
    return terms


def _differences(settings: Settings, terms: Terms, file: str) -> Iterator[Fault]:
    must_match = {
        "pds.port": ("port", settings.pds.port),
        "ingress.kind": ("ingress", settings.ingress.kind),
        "nomad.datacenter": ("datacenter", settings.nomad.datacenter),
        "nomad.region": ("region", settings.nomad.region),
    }
    if settings.ingress.kind == terms["ingress"] == "io":
        must_match["ingress.dialect"] = ("dialect", settings.ingress.dialect)
    for key, (term, configured) in must_match.items():
        if configured != terms[term]:
            remedy = f"Write '{key.rpartition('.')[2]}: {terms[term]}'."
            yield Fault(key, f"it is {configured}, and the host has {terms[term]}.", remedy)
    if settings.backup and settings.backup.volume and terms.get("ingress_namespace"):
        yield Fault(
            "backup.volume",
            "the disk stays on its worker when the host moves to another one, and is lost when the worker is rebuilt.",
            "Write a bucket instead of 'volume' (docs/guide/backups.md).",
        )
    demand = memory_demand(settings)
    if demand > terms["memory_mib"]:
        yield Fault(
            "pds.memory_mib",
            f"the jobs reserve {demand} MiB, and the host grants {terms['memory_mib']} MiB.",
            f"Write less, or raise 'memory_mib' of this stack among the 'clubs' in {file}.",
        )
