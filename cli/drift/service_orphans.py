"""Alerts and Spaces keys of a stack that are not in its state.

The account is asked only for what the stack file configures: a token without these scopes stays enough for a stack
without alerts and buckets.
"""

from collections.abc import Iterator

from cli.drift.orphan import Orphan
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import State
from components.settings.sections.settings import Settings


def service_orphans(stack: str, settings: Settings, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    """Yield them. Raises DigitalOceanError."""
    alerts = settings.alerts
    if alerts and (alerts.email or alerts.slack):
        yield from _uptime_checks(stack, state, account)
        yield from _alert_policies(stack, state, account)
    if settings.backup or settings.blobs:
        yield from _spaces_keys(stack, state, account)


def _uptime_checks(stack: str, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    known = state.ids("UptimeCheck")
    for item in account.list_all("uptime/checks"):
        if item["name"] == f"pds-{stack}" and item["id"] not in known:
            yield Orphan(
                kind="uptime check",
                id=item["id"],
                about=f"{item['name']}, of {item['target']}, with its alerts. The next `up` creates another one, and "
                "both send alerts.",
                delete=(("doctl", "monitoring", "uptime", "delete", item["id"]),),
            )


def _alert_policies(stack: str, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    known = state.ids("MonitorAlert")
    for item in account.list_all("monitoring/alerts", key="policies"):
        # The description has the stack's name: 'pds-STACK cpu above 90 %' (components/operations/alerts.py).
        if item["description"].partition(" ")[0] == f"pds-{stack}" and item["uuid"] not in known:
            yield Orphan(
                kind="alert",
                id=item["uuid"],
                about=f"{item['description']}. The next `up` creates another one, and both send alerts.",
                delete=(("doctl", "monitoring", "alert", "delete", item["uuid"]),),
            )


def _spaces_keys(stack: str, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    known = state.ids("SpacesKey")
    for item in account.list_all("spaces/keys"):
        if item["name"] in (f"pds-{stack}-backup", f"pds-{stack}-blobs") and item["access_key"] not in known:
            buckets = ", ".join(grant["bucket"] for grant in item["grants"]) or "no bucket"
            yield Orphan(
                kind="Spaces key",
                id=item["access_key"],
                about=f"{item['name']}, created {item['created_at']}, for {buckets}. Only its creation showed its "
                "secret. A server that still has it loses access with its deletion: run `up` first.",
                delete=(("doctl", "spaces", "keys", "delete", item["access_key"]),),
            )
