"""The e2e environment's DigitalOcean API: uptime checks, their alerts and alert policies. No engine, loopback
only."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.environment.api_client import Client, Json, Unconnected, served

CHECK: Mapping[str, Any] = {
    "name": "pds-test",
    "type": "https",
    "target": "https://noted.test/xrpc/_health",
    "regions": ["eu_west", "us_east"],
    "enabled": True,
}
SLACK = {"channel": "#alerts", "url": "https://hooks.slack.com/services/T1234567/AAAAAAAA/ZZZZZZ"}
ALERT: Mapping[str, Any] = {
    "name": "pds-test slow",
    "type": "latency",
    "threshold": 5000,
    "comparison": "greater_than",
    "period": "5m",
    "notifications": {"email": ["owner@bench.test"], "slack": [SLACK]},
}
POLICY: Mapping[str, Any] = {
    "type": "v1/insights/droplet/cpu",
    "description": "pds-test cpu",
    "compare": "GreaterThan",
    "value": 90,
    "window": "30m",
    "entities": [],
    "tags": ["pds-test"],
    "alerts": {"email": ["owner@bench.test"], "slack": None},
    "enabled": True,
}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        yield made


def _check(client: Client) -> Json:
    made: Json = client.ask("POST", "/uptime/checks", CHECK, 201)["check"]
    return made


def test_check_is_stored_as_requested_and_deleted_with_its_alerts(client: Client) -> None:
    check = _check(client)
    assert check == {"id": check["id"], **CHECK}
    path = f"/uptime/checks/{check['id']}"
    assert client.ask("PUT", path, {**CHECK, "enabled": False})["check"]["enabled"] is False
    alert = client.ask("POST", f"{path}/alerts", ALERT, 201)["alert"]
    assert alert == {"id": alert["id"], **ALERT}
    assert client.ask("PUT", f"{path}/alerts/{alert['id']}", {**ALERT, "threshold": 9000})["alert"]["threshold"] == 9000
    assert [item["threshold"] for item in client.ask("GET", f"{path}/alerts")["alerts"]] == [9000]
    assert len(client.ask("GET", "/uptime/checks")["checks"]) == 1
    client.ask("DELETE", path, status=204)
    client.refused("GET", f"{path}/alerts/{alert['id']}", status=404)
    client.refused("DELETE", path, status=404)


def test_alert_belongs_to_its_check_only(client: Client) -> None:
    one, other = _check(client), _check(client)
    alert = client.ask("POST", f"/uptime/checks/{one['id']}/alerts", ALERT, 201)["alert"]
    client.refused("GET", f"/uptime/checks/{other['id']}/alerts/{alert['id']}", status=404)
    client.ask("DELETE", f"/uptime/checks/{one['id']}/alerts/{alert['id']}", status=204)
    assert client.ask("GET", f"/uptime/checks/{one['id']}/alerts")["alerts"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": ["mars"]}, "regions"),
        ({"type": "tcp"}, "type"),
        ({"target": "noted.test"}, "target"),
        ({"target": None}, "target is missing"),
        ({"method": "GET"}, "method is no field"),
    ],
)
def test_refuses_an_invalid_check(client: Client, change: Json, message: str) -> None:
    assert message in client.refused("POST", "/uptime/checks", {**CHECK, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "slow"}, "type"),
        ({"period": "4m"}, "period"),
        ({"comparison": "GreaterThan"}, "comparison"),
        ({"threshold": 0}, "threshold"),
        ({"notifications": {"email": None, "slack": None}}, "names no recipient"),
        ({"notifications": {"emails": ["owner@bench.test"]}}, "notifications.emails is no field"),
        ({"notifications": {"slack": [{"channel": "#alerts"}]}}, "slack[0].url is missing"),
    ],
)
def test_refuses_an_invalid_uptime_alert(client: Client, change: Json, message: str) -> None:
    assert message in client.refused("POST", f"/uptime/checks/{_check(client)['id']}/alerts", {**ALERT, **change})


def test_down_alert_needs_no_threshold(client: Client) -> None:
    down_alert = {**ALERT, "type": "down_global", "threshold": 0, "comparison": ""}
    client.ask("POST", f"/uptime/checks/{_check(client)['id']}/alerts", down_alert, 201)


def test_accepts_only_verified_members_as_recipients(client: Client) -> None:
    stranger = {"email": ["owner@bench.test", "bob@gmail.com"], "slack": []}
    path = f"/uptime/checks/{_check(client)['id']}/alerts"
    message = client.refused("POST", path, {**ALERT, "notifications": stranger}, 400)
    assert message == "invalid value for field 'notifications.email[1]': invalid email 'bob@gmail.com'"
    client.ask("POST", "/tags", {"name": "pds-test"}, 201)
    assert "bob@gmail.com" in client.refused("POST", "/monitoring/alerts", {**POLICY, "alerts": stranger}, 400)


def test_policy_requires_existing_droplets_or_tags(client: Client) -> None:
    assert "no tag pds-test" in client.refused("POST", "/monitoring/alerts", POLICY)
    client.ask("POST", "/tags", {"name": "pds-test"}, 201)
    policy = client.ask("POST", "/monitoring/alerts", POLICY)["policy"]
    assert policy == {"uuid": policy["uuid"], **POLICY, "alerts": {"email": ["owner@bench.test"], "slack": []}}
    assert "no droplet 7" in client.refused("POST", "/monitoring/alerts", {**POLICY, "entities": ["7"]})
    path = f"/monitoring/alerts/{policy['uuid']}"
    assert client.ask("PUT", path, {**POLICY, "value": 80})["policy"]["value"] == 80
    assert len(client.ask("GET", "/monitoring/alerts")["policies"]) == 1
    client.ask("DELETE", path, status=204)
    client.refused("GET", path, status=404)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "cpu"}, "type"),
        ({"window": "2m"}, "window"),
        ({"compare": "greater_than"}, "compare"),
        ({"description": None}, "description is missing"),
        ({"value": "90"}, "value has the wrong type"),
    ],
)
def test_refuses_an_invalid_policy(client: Client, change: Json, message: str) -> None:
    client.ask("POST", "/tags", {"name": "pds-test"}, 201)
    assert message in client.refused("POST", "/monitoring/alerts", {**POLICY, **change})
