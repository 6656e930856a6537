"""A host's resources for the other stacks whose PDS runs on it: for each a namespace, its own token, and a volume.

`settings/offer.py` makes the plain text values for a club; `shared.py` reads them. The club's own stack owns its jobs,
secrets and records. A club that is removed from the list loses its token. Its data are renamed, never deleted
(`render/files/pds-dir.sh`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_nomad as nomad

from components.entropy import as_secret
from components.facts import ClubRoom
from components.render.policies import club as club_policy
from components.render.where import club_volume
from components.settings.offer import offer
from components.settings.placement import Club
from components.settings.settings import Settings
from components.target import NomadTarget

CLUB_TOKEN = "pds-club-"  # noqa: S105 (the beginning of a name)
"""Prefix of the names of clubs' tokens and policies."""


@dataclass(frozen=True, kw_only=True)
class ClubsArgs:
    """Arguments of `Clubs`: the resources of each club, and how a club reaches this host."""

    settings: Settings
    admin: NomadTarget
    ipv4: pulumi.Output[str]
    api: Mapping[str, pulumi.Input[str]]
    management_token: pulumi.Output[str]


class Clubs(pulumi.ComponentResource):
    """Namespaces, tokens and volumes of the clubs on this host."""

    offers: dict[str, dict[str, pulumi.Input[Any]]]
    """By club, in plain text: its resources."""
    access: pulumi.Output[dict[str, Any]]
    """By club: its credentials for Nomad; secret."""
    tokens: dict[str, pulumi.Output[str]]
    """By name: the accessor ID of each club's token."""

    def __init__(self, name: str, args: ClubsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Clubs", name, None, opts)
        self.offers, self.tokens = {}, {}
        opens: dict[str, pulumi.Output[str]] = {}
        for club, gets in args.settings.clubs.items():
            token = self._room(f"{name}-{club}", club, gets, args)
            self.tokens[f"{CLUB_TOKEN}{club}"] = token.accessor_id
            # Not by the property; see `nomad.py`.
            opens[club] = as_secret(pulumi.get(token, "secret_id"))
            found: dict[str, pulumi.Input[Any]] = {"ipv4": args.ipv4, "cluster_id": args.admin.cluster_id}
            self.offers[club] = offer(args.settings, gets) | found
        common = {key: value for key, value in args.api.items() if key not in ("token", "namespace")}
        self.access = as_secret(
            pulumi.Output.all(
                **{club: pulumi.Output.all(**common, token=secret, namespace=club) for club, secret in opens.items()}
            )
        )
        self.register_outputs({"clubs": list(args.settings.clubs)})

    def _room(self, name: str, club: str, gets: Club, args: ClubsArgs) -> nomad.AclToken:
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=f"{CLUB_TOKEN}{club}",
            description=f"What stack {club} may do: in its own namespace, everything it needs.",
            rules_hcl=club_policy(club, club_volume(club)),
            opts=args.admin.options(self),
        )
        # A removed club's token has no rights: its policy is removed too. `Ready` deletes it once there is a newer one.
        token = nomad.AclToken(
            f"{name}-token",
            name=f"{CLUB_TOKEN}{club}",
            type="client",
            policies=[policy.name],
            opts=args.admin.options(self, left=True),
        )
        # After the token: when a club is removed from the list, this goes first, and Nomad refuses that while the
        # club's server runs. Then nothing of it has changed.
        ClubRoom(
            f"{name}-room",
            {
                **args.api,
                "token": args.management_token,
                "cluster_id": args.admin.cluster_id,
                "club": club,
                "volume": club_volume(club),
                "disk_gib": gets.disk_gib,
            },
            pulumi.ResourceOptions(
                parent=self, depends_on=[token], deleted_with=args.admin.droplet, delete_before_replace=True
            ),
        )
        return token
