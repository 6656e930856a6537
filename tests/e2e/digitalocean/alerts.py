"""Uptime checks with their alerts, and monitoring's alert policies. Nothing is measured, and no message is sent."""

from collections.abc import Sequence
from typing import Any

from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, listed, read_fields
from tests.e2e.digitalocean.errors import ApiError, not_found, refused
from tests.e2e.digitalocean.world import Json

_CHECK: Fields = {"name": str, "type": str, "target": str, "regions": list, "enabled": bool}
_ALERT: Fields = {
    "name": str,
    "type": str,
    "threshold": int,
    "comparison": str,
    "notifications": dict,
    "period": str,
}
_POLICY: Fields = {
    "type": str,
    "description": str,
    "compare": str,
    "value": (int, float),
    "window": str,
    "entities": list,
    "tags": list,
    "alerts": dict,
    "enabled": bool,
}
_PERIODS = ("2m", "3m", "5m", "10m", "15m", "30m", "1h")
_WINDOWS = ("5m", "10m", "30m", "1h")
_METRICS = ("cpu", "memory_utilization_percent", "disk_utilization_percent", "load_1", "load_5", "load_15")


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise refused(f"{name} has to be one of {', '.join(choices)}")


def _recipients(call: Call, field: str, value: Any) -> Json:
    """The recipients. The API accepts only addresses of verified members (digitalocean/openapi#830 shows its
    message)."""
    requested = read_fields(value, {"email": list, "slack": list}, where=f"{field}.")
    for at, email in enumerate(requested.get("email", [])):
        if email not in call.world.verified_emails:
            message = f"invalid value for field '{field}.email[{at}]': invalid email '{email}'"
            raise ApiError(400, "bad_request", message)
    for at, slack in enumerate(requested.get("slack", [])):
        read_fields(slack, {"url": str, "channel": str}, ("url", "channel"), where=f"{field}.slack[{at}].")
    recipients = {"email": requested.get("email", []), "slack": requested.get("slack", [])}
    if not any(recipients.values()):
        raise refused(f"{field} names no recipient")
    return recipients


def _find(things: dict[str, Json], identity: str) -> Json:
    if identity not in things:
        raise not_found()
    return things[identity]


def _check_fields(call: Call, required: tuple[str, ...]) -> Json:
    requested = call.fields(_CHECK, required)
    if "type" in requested:
        _one_of("type", requested["type"], ("ping", "http", "https"))
    for region in requested.get("regions", []):
        _one_of("regions", region, ("us_east", "us_west", "eu_west", "se_asia"))
    if not requested.get("target", "https://x").startswith(("http://", "https://")) and requested.get("type") != "ping":
        raise refused("target has to be a URL")
    return requested


def _create_check(call: Call) -> Answer:
    # The specification also requires a `method` that no model has and no client sends.
    requested = _check_fields(call, ("name", "target", "regions", "type", "enabled"))
    identity = call.world.new_uuid()
    call.world.uptime_checks[identity] = {"id": identity, **requested}
    call.world.uptime_alerts[identity] = {}
    return Answer(201, {"check": call.world.uptime_checks[identity]})


def _check(call: Call) -> Json:
    return _find(call.world.uptime_checks, call.path["id"])


def _update_check(call: Call) -> Answer:
    check = _check(call)
    check.update(_check_fields(call, ()))
    return Answer(200, {"check": check})


def _delete_check(call: Call) -> Answer:
    identity = _check(call)["id"]
    del call.world.uptime_checks[identity], call.world.uptime_alerts[identity]
    return Answer(204)


def _alerts(call: Call) -> dict[str, Json]:
    return call.world.uptime_alerts[_check(call)["id"]]


def _alert_fields(call: Call) -> Json:
    requested = call.fields(_ALERT, ("name", "type", "notifications", "period"))
    _one_of("type", requested["type"], ("latency", "down", "down_global", "ssl_expiry"))
    _one_of("period", requested["period"], _PERIODS)
    # Its own provider sends 0 and '' for omitted values.
    if requested.get("comparison"):
        _one_of("comparison", requested["comparison"], ("greater_than", "less_than"))
    if requested["type"] in ("latency", "ssl_expiry") and not (
        requested.get("threshold") and requested.get("comparison")
    ):
        raise refused(f"an alert of type {requested['type']} needs a threshold and a comparison")
    return {**requested, "notifications": _recipients(call, "notifications", requested["notifications"])}


def _create_alert(call: Call) -> Answer:
    alerts = _alerts(call)
    requested = _alert_fields(call)
    identity = call.world.new_uuid()
    alerts[identity] = {"id": identity, **requested}
    return Answer(201, {"alert": alerts[identity]})


def _update_alert(call: Call) -> Answer:
    alert = _find(_alerts(call), call.path["alert"])
    alert.update(_alert_fields(call))
    return Answer(200, {"alert": alert})


def _delete_alert(call: Call) -> Answer:
    alerts = _alerts(call)
    del alerts[_find(alerts, call.path["alert"])["id"]]
    return Answer(204)


def _policy_fields(call: Call) -> Json:
    requested = call.fields(_POLICY, ("type", "description", "compare", "value", "window", "alerts", "enabled"))
    _one_of("type", requested["type"], [f"v1/insights/droplet/{metric}" for metric in _METRICS])
    _one_of("compare", requested["compare"], ("GreaterThan", "LessThan"))
    _one_of("window", requested["window"], _WINDOWS)
    for number in requested.get("entities", []):
        if not str(number).isdigit() or int(number) not in call.world.droplets:
            raise refused(f"entities: there is no droplet {number}")
    for tag in requested.get("tags", []):
        if tag not in call.world.tags:
            raise refused(f"tags: there is no tag {tag}")
    given = {"entities": requested.get("entities", []), "tags": requested.get("tags", [])}
    return {**requested, **given, "alerts": _recipients(call, "alerts", requested["alerts"])}


def _create_policy(call: Call) -> Answer:
    requested = _policy_fields(call)
    identity = call.world.new_uuid()
    call.world.alert_policies[identity] = {"uuid": identity, **requested}
    return Answer(200, {"policy": call.world.alert_policies[identity]})


def _policy(call: Call) -> Json:
    return _find(call.world.alert_policies, call.path["id"])


def _update_policy(call: Call) -> Answer:
    policy = _policy(call)
    policy.update(_policy_fields(call))
    return Answer(200, {"policy": policy})


def _delete_policy(call: Call) -> Answer:
    del call.world.alert_policies[_policy(call)["uuid"]]
    return Answer(204)


def _list_policies(call: Call) -> Answer:
    return listed(call, "policies", list(call.world.alert_policies.values()))


_CHECKS = "/v2/uptime/checks"
_POLICIES = "/v2/monitoring/alerts"

ROUTES = (
    Route("GET", _CHECKS, lambda call: listed(call, "checks", list(call.world.uptime_checks.values())), PAGING),
    Route("POST", _CHECKS, _create_check),
    Route("GET", f"{_CHECKS}/{{id}}", lambda call: Answer(200, {"check": _check(call)})),
    Route("PUT", f"{_CHECKS}/{{id}}", _update_check),
    Route("DELETE", f"{_CHECKS}/{{id}}", _delete_check),
    Route("GET", f"{_CHECKS}/{{id}}/alerts", lambda call: listed(call, "alerts", list(_alerts(call).values())), PAGING),
    Route("POST", f"{_CHECKS}/{{id}}/alerts", _create_alert),
    Route(
        "GET",
        f"{_CHECKS}/{{id}}/alerts/{{alert}}",
        lambda call: Answer(200, {"alert": _find(_alerts(call), call.path["alert"])}),
    ),
    Route("PUT", f"{_CHECKS}/{{id}}/alerts/{{alert}}", _update_alert),
    Route("DELETE", f"{_CHECKS}/{{id}}/alerts/{{alert}}", _delete_alert),
    Route("GET", _POLICIES, _list_policies, PAGING),
    Route("POST", _POLICIES, _create_policy),
    Route("GET", f"{_POLICIES}/{{id}}", lambda call: Answer(200, {"policy": _policy(call)})),
    Route("PUT", f"{_POLICIES}/{{id}}", _update_policy),
    Route("DELETE", f"{_POLICIES}/{{id}}", _delete_policy),
)
