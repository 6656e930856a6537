"""Resources of a stack's state that the account lacks, has switched off or has changed, with the commands that correct
the state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cli.drift.changed_alerts import ALERTS, alert_fault
from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import Resource, State


@dataclass(frozen=True, kw_only=True)
class MissingResource:
    """A resource of the state that the account does not have, has switched off, or has changed."""

    kind: str
    name: str
    urn: str
    id: str
    fault: str
    """'does not exist', or what else is wrong with it."""
    about: str
    command: tuple[str, ...]
    """Arguments that correct the state, for `pulumi up`."""
    leave: tuple[str, ...]
    """The same for `pulumi destroy`. A droplet takes along its resources: no request to delete reaches them."""


_ABSENT = "does not exist"

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
    "UptimeCheck": "uptime/checks/{id}",
    "UptimeAlert": "uptime/checks/{checkId}/alerts/{id}",
    "MonitorAlert": "monitoring/alerts/{id}",
    "SpacesKey": "spaces/keys/{id}",
}
"""The API's path of a resource of the state."""


def missing_resources(stack: str, state: State, account: DigitalOceanAccount) -> list[MissingResource]:
    """The resources of the state that the account lacks, has switched off or has changed. Raises DigitalOceanError."""
    missing = []
    for item in state.resources:
        if item.type not in PATHS or not item.id:
            continue
        present = account.get(PATHS[item.type].format(**{**item.outputs, "id": item.id}))
        if fault := _fault(present, item):
            missing.append(
                MissingResource(
                    kind=item.type,
                    name=item.name,
                    urn=item.urn,
                    id=item.id,
                    fault=fault,
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


def _fault(present: Json | None, item: Resource) -> str | None:
    if present is None or (item.type == "ReservedIpAssignment" and not _leads_to(present, item)):
        return _ABSENT
    return alert_fault(present, item) if item.type in ALERTS else None


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
        case "SpacesKey":
            return "The host cannot use its bucket. The next `up` does not detect it."
        case kind if kind in ALERTS:
            return "It does not alert as the stack file says. The next `up` does not detect it."
        case _:
            return "The next `up` does not detect it."
