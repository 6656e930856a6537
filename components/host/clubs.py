"""A host's resources for the other stacks whose PDS runs on it: for each a namespace, its own token, and a volume.

`settings/host_contract.py` makes the plain text terms for a club, and `shared.py` reads them. The club's own stack owns
its jobs, secrets and records. A club that is removed from the list loses its token. Its data directory is renamed and
never deleted (`render/host/files/host-volume-plugin.sh`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_nomad as nomad

from components.connection import HostConnection
from components.dynamic.resources import ClubNamespace, HostInUse
from components.nomad_target import NomadTarget
from components.render.acl_policies import club as club_policy
from components.render.nomad_scope import club_volume
from components.secret_values import as_secret
from components.settings.host_contract import ingress_namespace, terms_for
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings

CLUB_TOKEN = "pds-club-"  # noqa: S105 (the beginning of a name)
"""Prefix of the names of clubs' tokens and policies."""


@dataclass(frozen=True, kw_only=True)
class ClubsArgs:
    """Arguments of `Clubs`: the resources of each club, and how a club reaches this host."""

    settings: Settings
    admin: NomadTarget
    addresses: Mapping[str | None, pulumi.Output[str]]
    """By host of the cluster; None for the one host of a stack without a cluster."""
    api: Mapping[str, pulumi.Input[str]]
    management_token: pulumi.Output[str]


class Clubs(pulumi.ComponentResource):
    """Namespaces, tokens and volumes of the clubs on this host."""

    terms: dict[str, dict[str, pulumi.Input[Any]]]
    """By club, in plain text: the resources that the host grants it."""
    access: pulumi.Output[dict[str, Any]]
    """By club: its credentials for Nomad; secret."""
    tokens: dict[str, pulumi.Output[str]]
    """By name: the accessor ID of each club's token."""

    def __init__(self, name: str, args: ClubsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Clubs", name, None, opts)
        self.terms, self.tokens = {}, {}
        secret_ids: dict[str, pulumi.Output[str]] = {}
        for club, options in args.settings.clubs.items():
            token = self._club(f"{name}-{club}", club, options, args)
            self.tokens[f"{CLUB_TOKEN}{club}"] = token.accessor_id
            # Not by the property; see `nomad.py`.
            secret_ids[club] = as_secret(pulumi.get(token, "secret_id"))
            host: dict[str, pulumi.Input[Any]] = {
                "ipv4": args.addresses[options.host],
                "cluster_id": args.admin.cluster_id,
            }
            terms = terms_for(args.settings, options)
            if options.leaving:
                terms["leaving"]["ipv4"] = args.addresses[options.leaving.host]
            self.terms[club] = terms | host
        common = {key: value for key, value in args.api.items() if key not in ("token", "namespace")}
        self.access = as_secret(
            pulumi.Output.all(
                **{
                    club: pulumi.Output.all(**common, token=secret, namespace=club)
                    for club, secret in secret_ids.items()
                }
            )
        )
        self.register_outputs({"clubs": list(args.settings.clubs)})

    def _club(self, name: str, club: str, options: ClubOptions, args: ClubsArgs) -> nomad.AclToken:
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=f"{CLUB_TOKEN}{club}",
            description=f"Rights of stack {club}: everything it needs in its own namespace.",
            rules_hcl=club_policy(club, club_volume(club), *_ingresses(options)),
            opts=args.admin.options(self),
        )
        # A removed club's token has no rights, because its policy is removed too. `ServerReady` deletes the token once
        # a newer one exists.
        token = nomad.AclToken(
            f"{name}-token",
            name=f"{CLUB_TOKEN}{club}",
            type="client",
            policies=[policy.name],
            opts=args.admin.options(self, retained=True),
        )
        # After the token: if a club is removed from the list, the engine deletes this first. It refuses that while
        # the club has jobs, and then nothing of the club has changed.
        ClubNamespace(
            f"{name}-namespace",
            {
                **args.api,
                "token": args.management_token,
                "cluster_id": args.admin.cluster_id,
                "club": club,
                "volume": club_volume(club),
                "disk_gib": options.disk_gib,
                # Always both: a property that is gone is not a change.
                **(
                    {"datacenter": options.host, "leaving": options.leaving.host if options.leaving else ""}
                    if options.host
                    else {}
                ),
            },
            pulumi.ResourceOptions(
                parent=self, depends_on=[token], deleted_with=args.admin.droplet, delete_before_replace=True
            ),
        )
        return token


def _ingresses(options: ClubOptions) -> list[str]:
    """Namespaces of the ingresses that have the club's file: on a cluster those of its host and the one it leaves."""
    hosts = [options.host, options.leaving.host if options.leaving else None]
    return [ingress_namespace(host) for host in dict.fromkeys(hosts) if host] or ["default"]


def refuse_destroy_while_in_use(
    name: str, clubs: Sequence[str], stack: str, project: str, host: HostConnection, pds: pulumi.Resource
) -> None:
    """A resource that refuses its deletion while a club's PDS is on this host.

    It is not a child of `pds`: it depends on every child, so that a `destroy` deletes it before any of them.
    """
    urn = f"urn:pulumi:{stack}::{project.rpartition('/')[2]}::pulumi-python:dynamic/pds:HostInUse::{name}"
    HostInUse(
        name,
        {**host.api, "token": host.management_token, "clubs": list(clubs), "stack": stack, "urn": urn},
        pulumi.ResourceOptions(depends_on=[pds]),
    )
