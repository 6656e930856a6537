"""Alerts of the account that differ from the stack's state: recipients, thresholds, targets.

The engine compares the stack file with its state, so `up` does not see an alert that was edited in the panel.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cli.lib.digitalocean import Json
from cli.lib.stack import Resource

ALERTS = ("UptimeCheck", "UptimeAlert", "MonitorAlert")

_VALUES: Mapping[str, tuple[str, ...]] = {
    "UptimeCheck": ("type", "target", "regions"),
    "UptimeAlert": ("type", "threshold", "comparison", "period"),
    "MonitorAlert": ("type", "value", "compare", "window", "tags", "entities"),
}
"""What is compared besides the recipients. The API and the state use the same names."""
_RECIPIENTS = {"UptimeAlert": "notifications", "MonitorAlert": "alerts"}
_ENCRYPTED = "4dabf18193072939515e22adb298388d"
"""The key of an encrypted value in a state (pulumi, sdk/go/common/resource/properties.go, SigKey)."""


def alert_fault(present: Json, item: Resource) -> str | None:
    """Return what differs between an alert of the account and the state's, or None."""
    if not present.get("enabled", True) and item.outputs.get("enabled", True):
        return "is switched off"
    differences = [*_values(present, item), *_recipients(present, item)]
    return f"was changed: {', '.join(differences)}" if differences else None


def _values(present: Json, item: Resource) -> Iterator[str]:
    for name in _VALUES[item.type]:
        if name not in item.outputs or _is_secret(item.outputs[name]):
            continue
        actual, expected = _comparable(present.get(name)), _comparable(item.outputs[name])
        if actual != expected:
            verb = "are" if isinstance(expected, list) and name.endswith("s") else "is"
            yield f"its {name} {verb} {_shown(actual)}, not {_shown(expected)}"


def _recipients(present: Json, item: Resource) -> Iterator[str]:
    name = _RECIPIENTS.get(item.type)
    if name is None or name not in item.outputs:
        return
    there = present.get(name) or {}
    addresses = _comparable(there.get("email"))
    channels = _comparable([_channel(slack) for slack in there.get("slack") or []])
    if not addresses and not channels:
        yield "its recipients are none"
        return
    expected = item.outputs[name]
    if isinstance(expected, list):  # the state has a list of one for an uptime alert
        expected = expected[0] if expected else {}
    if _is_secret(expected):  # a Slack URL makes all of it a secret
        return
    for part, actual, wanted in (
        ("addresses", addresses, expected.get("emails")),
        ("Slack channels", channels, expected.get("slacks")),
    ):
        if _is_secret(wanted) or any(_is_secret(each) for each in wanted or ()):
            continue
        names = _comparable([_channel(each) if isinstance(each, Mapping) else each for each in wanted or []])
        if actual != names:
            yield f"its {part} are {_shown(actual)}, not {_shown(names)}"


def _channel(slack: Mapping[str, Any]) -> str:
    return str(slack.get("channel", "")).removeprefix("#")


def _comparable(value: Any) -> Any:
    """Return a value without what the account may return in another form: the order of a list, a missing list."""
    return sorted(map(str, value)) if isinstance(value, list) else value or []


def _shown(value: Any) -> str:
    return (", ".join(value) if isinstance(value, list) else str(value)) or "none"


def _is_secret(value: Any) -> bool:
    return isinstance(value, Mapping) and _ENCRYPTED in value
