"""Alerts that were edited in DigitalOcean's panel: `up` sees none of it, and the alert sends nothing or too late."""

from typing import Any

import pytest

from cli.drift.changed_alerts import alert_fault
from cli.lib.stack import Resource

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:x"}

UPTIME_CHECK = {"type": "https", "target": "https://noted.at/xrpc/_health", "regions": ["eu_west", "us_east"]}
UPTIME_ALERT = {"type": "ssl_expiry", "threshold": 7, "comparison": "less_than", "period": "1h"}
POLICY = {"type": "v1/insights/droplet/cpu", "value": 90, "compare": "GreaterThan", "window": "30m", "enabled": True}


def sent_to(*emails: str, slack: str = "") -> dict[str, Any]:
    """Recipients as the API returns them."""
    channels = [{"channel": slack, "url": "https://hooks.slack.com/services/T/B/x"}] if slack else []
    return {"email": list(emails), "slack": channels}


def in_state(*emails: str, **more: Any) -> dict[str, Any]:
    """The same as the provider writes it."""
    return {"emails": list(emails), **more}


def check(**change: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return "UptimeCheck", {**UPTIME_CHECK, "enabled": True}, {**UPTIME_CHECK, "enabled": True, **change}


def alert(**change: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    outputs = {**UPTIME_ALERT, "checkId": "x", "notifications": [in_state("ann@noted.at")]}
    return "UptimeAlert", outputs, {**UPTIME_ALERT, "notifications": sent_to("ann@noted.at"), **change}


def policy(**change: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    outputs = {**POLICY, "tags": ["pds-main"], "alerts": in_state("ann@noted.at", "eve@noted.at")}
    there = {**POLICY, "tags": ["pds-main"], "entities": [], "alerts": sent_to("eve@noted.at", "ann@noted.at")}
    return "MonitorAlert", outputs, {**there, **change}


@pytest.mark.parametrize(
    ("resource", "fault"),
    [
        (check(), None),
        (check(regions=["us_east", "eu_west"]), None),
        (check(enabled=False), "is switched off"),
        (check(target="https://other.at"), "was changed: its target is https://other.at, not https://noted.at/xrpc/_health"),
        (check(regions=["us_east"]), "was changed: its regions are us_east, not eu_west, us_east"),
        (alert(), None),
        (alert(threshold=1), "was changed: its threshold is 1, not 7"),
        (alert(comparison="greater_than"), "was changed: its comparison is greater_than, not less_than"),
        (alert(period="2m"), "was changed: its period is 2m, not 1h"),
        (alert(notifications=sent_to()), "was changed: its recipients are none"),
        (alert(notifications=None), "was changed: its recipients are none"),
        (alert(notifications=sent_to("eve@noted.at")), "was changed: its addresses are eve@noted.at, not ann@noted.at"),
        (policy(), None),
        (policy(tags=[]), "was changed: its tags are none, not pds-main"),
        (policy(value=100, window="1h"), "was changed: its value is 100, not 90, its window is 1h, not 30m"),
        (policy(alerts=sent_to("eve@noted.at")),
            "was changed: its addresses are eve@noted.at, not ann@noted.at, eve@noted.at"),
    ],
)  # fmt: skip
def test_names_what_was_changed(resource: tuple[str, dict[str, Any], dict[str, Any]], fault: str | None) -> None:
    kind, outputs, present = resource
    assert alert_fault(present, Resource("urn::alert", kind, "id", outputs)) == fault


@pytest.mark.parametrize(
    "recipients",
    [SECRET, [SECRET], [in_state(slacks=[{"channel": "#pds", "url": SECRET}])], [in_state(slacks=SECRET)]],
    ids=["all of it", "the only one", "the URL alone", "the channels"],
)
def test_recipients_that_the_state_encrypts_are_not_called_changed(recipients: Any) -> None:
    """A Slack URL is a secret, and the engine may encrypt what is around it as well."""
    outputs = {**UPTIME_ALERT, "notifications": recipients}
    present = {**UPTIME_ALERT, "notifications": sent_to(slack="pds")}
    assert alert_fault(present, Resource("urn::alert", "UptimeAlert", "id", outputs)) is None
    gone = {**UPTIME_ALERT, "notifications": sent_to()}
    assert (
        alert_fault(gone, Resource("urn::alert", "UptimeAlert", "id", outputs))
        == "was changed: its recipients are none"
    )


def test_a_slack_channel_that_was_changed_is_named() -> None:
    outputs = {**UPTIME_ALERT, "notifications": [in_state(slacks=[{"channel": "#pds", "url": SECRET}])]}
    present = {**UPTIME_ALERT, "notifications": sent_to(slack="#random")}
    fault = alert_fault(present, Resource("urn::alert", "UptimeAlert", "id", outputs))
    assert fault == "was changed: its Slack channels are random, not pds"
