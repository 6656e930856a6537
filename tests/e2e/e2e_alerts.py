"""`Watch` by the real engine and the real provider, on the bench's API: `pytest tests/e2e/e2e_alerts.py`.

The component alone, without a host: what is proven is that DigitalOcean's provider takes what it asks for, that nothing
is left to do afterwards, and what an owner sees who names an address that is not the account's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.digitalocean import Api, World
from tests.e2e.tools import missing
from tests.programs import ALERTS
from tools.engine import ROOT

TOKEN = "token-of-the-account"

PROGRAM = """\
import json, os
from typing import Any
import pulumi_digitalocean as digitalocean
from components.settings.settings import read
from components.watch import Watch, WatchArgs

document = json.loads(os.environ["E2E_DOCUMENT"])
settings = read(document, "Pulumi.test.yaml", "test")
assert settings.alerts
tag = digitalocean.Tag("pds-ground-tag", name="pds-test")
no_nomad: Any = None
Watch(
    "pds-watch",
    WatchArgs(
        settings=settings, alerts=settings.alerts, stack="test", jobspec="", tag=tag.name, target=no_nomad, ready=tag
    ),
)
"""


class Stack:
    """A project with that program, its state beside it, and the API that it uses."""

    def __init__(self, folder: Path, api: Api) -> None:
        self.folder, self.api = folder, api
        self.env = {
            **os.environ,
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "of a test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "DIGITALOCEAN_API_URL": api.url,
            "DIGITALOCEAN_TOKEN": TOKEN,
            "PYTHONPATH": str(ROOT),
        }
        runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": sys.prefix}}
        (folder / "Pulumi.yaml").write_text(json.dumps({"name": "pds", "runtime": runtime}))
        (folder / "__main__.py").write_text(PROGRAM)
        self("stack", "init", "test")

    def __call__(self, *arguments: str, fails: bool = False, **document: Any) -> str:
        """What the engine says to a command that has to end well, or not, with these options beside the alerts."""
        alerts = {"email": ALERTS["email"], "slack": ALERTS["slack"], **document.pop("alerts", {})}
        operators = {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["a key"]}
        options = {"hostname": "noted.test", "operators": operators, "alerts": alerts, **document}
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env={**self.env, "E2E_DOCUMENT": json.dumps(options)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self, *arguments: str, fails: bool = False, **document: Any) -> str:
        """`pulumi up`."""
        return self("up", "--yes", "--skip-preview", *arguments, fails=fails, **document)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack that nothing was made of yet. A program that is missing is a failure with its source."""
    assert missing("pulumi", "pulumi-language-python") == []
    project = tmp_path / "project"
    project.mkdir()
    with Api(World(action_seconds=0.1, token=TOKEN), tmp_path / "api") as api:
        yield Stack(project, api)


def test_alerts_are_made_changed_and_destroyed_and_nothing_is_left_to_do(stack: Stack) -> None:
    said = stack.up(fails=True, alerts={"email": ["bob@gmail.com"]})
    assert "invalid email 'bob@gmail.com'" in said, "the API's own words reach the owner"
    stack.up()
    stack("preview", "--expect-no-changes")
    stack.up("--refresh", "--expect-no-changes")

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

    stack.up(pds={"paused": True})
    (paused,) = stack.api.dump()["uptime_checks"].values()
    assert (paused["id"], paused["enabled"]) == (check["id"], False), "paused in place"

    stack("destroy", "--yes", "--skip-preview")
    account = stack.api.dump()
    assert [account[kind] for kind in ("uptime_checks", "uptime_alerts", "alert_policies", "tags")] == [{}] * 4
