"""`Alerts` with the real engine and the real provider: `pytest tests/e2e/scenarios/e2e_alerts.py`; see `alone.py`.

Also the error for an e-mail address that is not verified in the account.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.environment.alone import Alone, alone
from tests.support.programs import ALERTS

PROGRAM = """\
from typing import Any
import pulumi_digitalocean as digitalocean
from components.operations.alerts import Alerts, AlertsArgs

assert settings.alerts
tag = digitalocean.Tag("pds-host-network-tag", name="pds-test")
no_nomad: Any = None
Alerts("pds-alerts", AlertsArgs(settings=settings, stack="test", tag=tag.name, target=no_nomad, ready=tag))
"""
RECIPIENTS = {"email": ALERTS["email"], "slack": ALERTS["slack"]}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Alone]:
    with alone(tmp_path, PROGRAM, {}) as running_stack:
        yield running_stack


def test_alerts_are_created_changed_and_destroyed(stack: Alone) -> None:
    output = stack.up(fails=True, alerts={**RECIPIENTS, "email": ["bob@gmail.com"]})
    assert "invalid email 'bob@gmail.com'" in output, "the operator must see the API's error"
    stack.up(alerts=RECIPIENTS)
    stack("preview", "--expect-no-changes", alerts=RECIPIENTS)
    stack.up("--refresh", "--expect-no-changes", alerts=RECIPIENTS)

    account = stack.api.dump()
    (check,) = account["uptime_checks"].values()
    assert (check["name"], check["target"]) == ("pds-test", "https://noted.test/xrpc/_health")
    uptime = {alert["name"]: alert["type"] for alert in account["uptime_alerts"][check["id"]].values()}
    assert uptime == {
        "pds-test down": "down_global",
        "pds-test slow": "latency",
        "pds-test certificate": "ssl_expiry",
    }
    assert len(account["alert_policies"]) == 3
    for policy in account["alert_policies"].values():
        assert policy["tags"] == ["pds-test"]
        assert policy["alerts"] == {"email": ALERTS["email"], "slack": [ALERTS["slack"]]}
    assert "ZZZZZZ" not in stack("stack", "export"), "Slack's webhook is a secret in the state, too"

    stack.up(alerts=RECIPIENTS, pds={"paused": True})
    (paused,) = stack.api.dump()["uptime_checks"].values()
    assert (paused["id"], paused["enabled"]) == (check["id"], False), "paused in place"

    stack("destroy", "--yes", "--skip-preview", alerts=RECIPIENTS)
    account = stack.api.dump()
    assert [account[kind] for kind in ("uptime_checks", "uptime_alerts", "alert_policies", "tags")] == [{}] * 4
