"""The workflows' commands, with the real engine, Nomad, Docker and PDS: `pytest tests/e2e/scenarios/e2e_ci.py -x`, as
root.

The steps are read from the workflow files and run in a shell as a runner would: each with its own environment, unset
secrets being empty, and after a failure only those that always run. Omitted: installations, and `./pds check`, which
uses the public address of the server.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.environment.environment import DEADLINE, HOSTNAME, PROGRAMS, ROOT, STACK, E2eEnvironment, e2e_env
from tests.e2e.environment.tools import missing

LEFT_OUT = re.compile(r"make venv|\./pds check")
RUNNER = "203.0.113.99"
LABEL = "77-1"


@dataclass(frozen=True)
class Step:
    """The result of a step."""

    run: str
    code: int
    output: str


def job(running: E2eEnvironment, workflow: str, allow: str = "") -> list[Step]:
    """Run the one job of a workflow, until it fails."""
    document = yaml.load((ROOT / f".github/workflows/{workflow}.yaml").read_text(), yaml.CSafeLoader)
    [found] = document["jobs"].values()
    done: list[Step] = []
    for step in found["steps"]:
        script = step.get("run", "")
        failed = any(one.code for one in done)
        if not script or LEFT_OUT.match(script) or (failed and step.get("if") != "always()"):
            continue
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", _with_address(script)],
            cwd=running.project,
            env={**_runner(running), **_given(running, step["env"]), "STACK": STACK, "LABEL": LABEL, "ALLOW": allow},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        print(f"$ {script}\n{ran.stdout}", flush=True)
        done.append(Step(script, ran.returncode, ran.stdout))
    return done


def _with_address(script: str) -> str:
    """The script with an address, since no service on the Internet can return the address of this machine."""
    return f"{script} --address {RUNNER}" if script.startswith("./pds allow-ip") and "--close" not in script else script


def _runner(running: E2eEnvironment) -> dict[str, str]:
    """A runner's own environment, and the variables that point to the e2e environment's account."""
    own = ("DIGITALOCEAN_TOKEN", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_BACKEND_URL")
    return {name: value for name, value in running.env.items() if name not in own}


def _given(running: E2eEnvironment, env: Mapping[str, str]) -> dict[str, str]:
    """Each value as GitHub would insert it: a missing one is empty."""
    return {name: running.env.get(name, "") if "${{" in value else value for name, value in env.items()}


def temporary_firewalls(running: E2eEnvironment) -> list[str]:
    """The temporary firewalls for a runner."""
    return [item["name"] for item in running.api.dump()["firewalls"].values() if "-allow-ip-" in item["name"]]


def opened_and_closed(running: E2eEnvironment, before: int) -> bool:
    """Whether a firewall was created and deleted after this number of requests, and none exists now."""
    requests = running.api.requests()[before:]
    created = [item for item in requests if item["method"] == "POST" and item["path"] == "/v2/firewalls"]
    opened = [item for item in created if "-allow-ip-" in str(item["body"])]
    closed = [item for item in requests if item["method"] == "DELETE" and item["path"].startswith("/v2/firewalls/")]
    return len(opened) == len(closed) == 1 and temporary_firewalls(running) == []


def state(running: E2eEnvironment) -> dict[str, str]:
    """The state, file by file."""
    folder = running.folder / "state"
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.json")}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2eEnvironment]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with e2e_env(tmp_path_factory.mktemp("bench"), cache) as made:
        shutil.copy2(ROOT / "pds", made.project)
        (made.project / "venv").symlink_to(sys.prefix)
        yield made


def test_first_deploy_creates_a_pds_and_leaves_no_temporary_firewall(running: E2eEnvironment) -> None:
    steps = job(running, "deploy")
    assert [(step.run, step.code) for step in steps if step.code] == []
    assert len(steps) == 5, "allow-ip, preview, preflight, up, close"
    assert running.health()[0] == httpx.codes.OK
    assert opened_and_closed(running, 0), "by the tag, which is created before the host"
    output = "".join(step.output for step in steps)
    hidden = [running.env["DIGITALOCEAN_TOKEN"], running.env["PULUMI_CONFIG_PASSPHRASE"]]
    hidden += [running.outputs()[name] for name in ("admin_password", "nomad_token", "nomad_management_token")]
    assert [text for text in hidden if text in output] == [], "logs of a public repository are public"


def test_deploy_without_a_change_passes_and_changes_nothing(running: E2eEnvironment) -> None:
    before = len(running.api.requests())
    steps = job(running, "deploy")
    assert [step.code for step in steps] == [0] * 5
    assert "Nothing would change.\nPreflight passed." in steps[2].output
    assert opened_and_closed(running, before)


def test_drift_check_finds_nothing_and_changes_nothing(running: E2eEnvironment) -> None:
    before, was = len(running.api.requests()), state(running)
    assert [step.code for step in job(running, "drift")] == [0] * 3
    assert state(running) == was
    assert opened_and_closed(running, before)


def test_rebuild_without_permission_stops_at_preflight_and_the_firewall_is_closed(running: E2eEnvironment) -> None:
    droplets = set(running.api.dump()["droplets"])
    running.configure(host={"generation": 2})
    before, was = len(running.api.requests()), state(running)
    steps = job(running, "deploy")
    assert [(step.run.split()[:2], step.code) for step in steps[2:]] == [
        (["./pds", "preflight"], 1),
        (["./pds", "allow-ip"], 0),
    ]
    assert "preflight: lost state: Droplet pds-host-droplet would be replaced" in steps[2].output
    assert state(running) == was
    assert set(running.api.dump()["droplets"]) == droplets
    assert opened_and_closed(running, before)


def test_rebuild_allowed_by_name_is_deployed(running: E2eEnvironment) -> None:
    droplets = set(running.api.dump()["droplets"])
    steps = job(running, "deploy", allow="pds-host-droplet")
    assert [step.code for step in steps] == [0] * 5
    assert set(running.api.dump()["droplets"]) != droplets
    assert running.health()[0] == httpx.codes.OK
    assert temporary_firewalls(running) == []


def test_drift_check_names_what_changed_in_the_account(running: E2eEnvironment) -> None:
    records = running.api.dump()["records"][HOSTNAME].values()
    [record] = [item["id"] for item in records if (item["type"], item["name"]) == ("A", "*")]
    running.delete(f"/v2/domains/{HOSTNAME}/records/{record}")
    before, was = len(running.api.requests()), state(running)
    steps = job(running, "drift")
    assert [step.code == 0 for step in steps] == [True, False, True]
    assert "pds-dns-wildcard" in steps[1].output
    assert state(running) == was, "the drift check must change nothing"
    assert opened_and_closed(running, before)
