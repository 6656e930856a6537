"""Resources that are in the state of a stack and missing in the account, with the commands that correct the state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import Resource, State


@dataclass(frozen=True, kw_only=True)
class MissingResource:
    """A resource of the state that the account does not have."""

    kind: str
    name: str
    urn: str
    id: str
    about: str
    command: tuple[str, ...]
    """Arguments that correct the state, for `pulumi up`."""
    leave: tuple[str, ...]
    """The same for `pulumi destroy`. A droplet takes along its resources: no request to delete reaches them."""


PATHS: Mapping[str, str] = {
    "Droplet": "droplets/{id}",
    "Volume": "volumes/{id}",
    "ReservedIp": "reserved_ips/{id}",
    "ReservedIpAssignment": "reserved_ips/{ipAddress}",
    "Firewall": "firewalls/{id}",
    "Domain": "domains/{id}",
    "DnsRecord": "domains/{domain}/records/{id}",
    "Vpc": "vpcs/{id}",
    "Tag": "tags/{id}",
    "Project": "projects/{id}",
}
"""The API's path of a resource of the state."""


def missing_resources(stack: str, state: State, account: DigitalOceanAccount) -> list[MissingResource]:
    """The resources of the state that the account does not have. Raises AccountError."""
    missing = []
    for item in state.resources:
        if item.type not in PATHS or not item.id:
            continue
        present = account.get(PATHS[item.type].format(**{**item.outputs, "id": item.id}))
        if present is None or (item.type == "ReservedIpAssignment" and not _leads_to(present, item)):
            missing.append(
                MissingResource(
                    kind=item.type,
                    name=item.name,
                    urn=item.urn,
                    id=item.id,
                    about=_gone(item),
                    command=(again := ("pulumi", *refresh([item.name]), "--stack", stack)),
                    leave=_without_dependents(stack, item) if item.type == "Droplet" else again,
                )
            )
    return missing


def refresh(names: Sequence[str], *more: str) -> tuple[str, ...]:
    """Return arguments of `pulumi` that correct the state of these resources, and of no other."""
    targets = [part for name in names for part in ("--target", f"**::{name}")]
    return ("refresh", "--yes", "--skip-preview", *more, *targets)


def _without_dependents(stack: str, item: Resource) -> tuple[str, ...]:
    return ("pulumi", "state", "delete", "--stack", stack, "--yes", "--target-dependents", item.urn)


def _leads_to(address: Json, assignment: Resource) -> bool:
    droplet = address["droplet"]
    return droplet is not None and int(droplet["id"]) == int(assignment.outputs["dropletId"])


def _gone(item: Resource) -> str:
    match item.type:
        case "Volume":
            return "The members' data are gone from the account with it; a backup or snapshot may have them."
        case "ReservedIp":
            return "The PDS's records still point to the address, which may belong to another account now."
        case "ReservedIpAssignment":
            return "The address does not lead to the droplet that the state names."
        case _:
            return "The next `up` does not notice by itself."
