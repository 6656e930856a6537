"""Each call of the API fails once, in each way: `pytest tests/e2e/scenarios/e2e_faults.py`, as root; some minutes a
case.

`up` fails clearly or recovers, the next one continues, and in the end everything exists once. If a response is lost
after the API has acted, the engine cannot know what was created. `./pds orphans` finds it, and the test runs the
commands that it prints.
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.environment.environment import ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.owner import follow, orphans, put_away
from tests.e2e.environment.tools import E2eError, missing

CALLS = (
    ("GET", "/v2/account/keys"),
    ("POST", "/v2/tags"),
    ("POST", "/v2/reserved_ips"),
    ("POST", "/v2/volumes"),
    ("POST", "/v2/domains"),
    ("POST", "/v2/domains/[^/]+/records"),
    ("POST", "/v2/firewalls"),
    ("POST", "/v2/droplets"),
    ("POST", "/v2/reserved_ips/[^/]+/actions"),
    ("GET", "/v2/tags/[^/]+"),
    ("GET", "/v2/reserved_ips/[^/]+"),
    ("GET", "/v2/volumes/[^/]+"),
    ("GET", "/v2/firewalls/[^/]+"),
    ("GET", "/v2/domains/[^/]+"),
    ("GET", "/v2/domains/[^/]+/records/[0-9]+"),
    ("GET", "/v2/droplets/[0-9]+"),
    ("GET", "/v2/droplets/[0-9]+/actions"),
    ("GET", "/v2/reserved_ips/[^/]+/actions/[0-9]+"),
)
DESTROYED = (
    ("POST", "/v2/droplets/[0-9]+/actions"),
    ("POST", "/v2/volumes/[^/]+/actions"),
    ("POST", "/v2/reserved_ips/[^/]+/actions"),
    ("DELETE", "/v2/droplets/[0-9]+"),
    ("DELETE", "/v2/domains/[^/]+/records/[0-9]+"),
    ("DELETE", "/v2/firewalls/[^/]+"),
    ("DELETE", "/v2/tags/[^/]+"),
)
_OF_OUR_OWN_ZONE = "GET /v2/domains/[^/]+"
"""Not called after the operator has adopted the zone as an existing one."""
_HANG = 10.0
_MOST_TRIES = 12


@pytest.mark.parametrize("kind", ["500", "429", "hang", "lost"])
def test_up_recovers_from_every_failing_call(kind: str, tmp_path: Path) -> None:
    lines = missing("pulumi", "nomad", "dockerd", "stunnel")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    with e2e_env(tmp_path, Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))) as running:
        for method, path in CALLS:
            running.api.fail(method, path, kind, seconds=_HANG)
        failed = _until_it_works(running, "up", "--yes", "--skip-preview")
        assert _waiting(running) == ([_OF_OUR_OWN_ZONE] if kind == "lost" else [])
        assert running.health()[0] == 200
        running.pulumi("preview", "--expect-no-changes")
        left = put_away(running, lambda item: not item["data"])
        print(f"{kind}: `up` failed {len(failed)} times before it worked; left over: {left or 'nothing'}")
        for text in failed:
            print(f"  {text}")
        # Data may never exist twice, whatever was lost. Other left-over resources are found and removed.
        assert _beyond_one_stack(running) == {}
        assert kind == "lost" or not left
        assert orphans(running) == {"orphans": [], "missing": [], "gaps": [], "empty": False}
        running.pulumi("preview", "--expect-no-changes")

        running.api.clear_faults()
        for method, path in DESTROYED:
            running.api.fail(method, path, kind, seconds=_HANG)
        running.pulumi("state", "unprotect", "--all", "--yes")
        failed = _until_it_works(running, "destroy", "--yes", "--skip-preview")
        print(f"{kind}: `destroy` failed {len(failed)} times before it worked")
        for text in failed:
            print(f"  {text}")
        put_away(running, lambda item: not item["data"] and item["kind"] != "reserved-ip")
        # The zone is not listed if the operator had to adopt it as an existing one.
        kept = {"volume", "reserved-ip", "zone"} - ({"zone"} if kind == "lost" else set())
        assert {item["kind"] for item in orphans(running)["orphans"]} == kept
        account = running.api.dump()
        assert account["droplets"] == account["firewalls"] == {}


def _until_it_works(running: E2eEnvironment, *command: str) -> list[str]:
    """Run again until it succeeds; return the errors of the earlier runs. Raises E2eError if it never does."""
    errors: list[str] = []
    for _ in range(_MOST_TRIES):
        done = running.pulumi(*command, check=False)
        if done.code == 0:
            return errors
        errors_printed = re.findall(r"error: +(?:sdk-v2\S+ )?(.*)", done.output)
        assert any("/v2/" in line or "404" in line for line in errors_printed), done.output[-4000:]
        errors.append(next(line for line in errors_printed if "/v2/" in line or "404" in line))
        _put_right(running, leaving=command[0] == "destroy")
    raise E2eError("it never worked: " + "\n".join(errors))


def _put_right(running: E2eEnvironment, leaving: bool) -> None:
    """An operator's action for a resource whose creation's response was lost: the command that `./pds orphans`
    prints."""
    with running.api.without_faults():
        if not leaving:
            put_away(running, lambda item: item["blocks"])
        gone = orphans(running)["missing"]
        # Deleting a droplet from the state deletes its dependents, too.
        for item in [item for item in gone if item["kind"] == "Droplet"] or gone:
            follow(running, item["leave" if leaving else "command"])


def _waiting(running: E2eEnvironment) -> list[str]:
    """The calls that were not made and therefore did not fail."""
    return [f"{rule['method']} {rule['path']}" for rule in running.api.fault_rules() if not rule["struck"]]


def _beyond_one_stack(running: E2eEnvironment) -> dict[str, int]:
    """Number of resources by kind beyond those of one stack."""
    account = running.api.dump()
    expected = Counter({"droplets": 1, "volumes": 1, "reserved_ips": 1, "firewalls": 1, "domains": 1, "tags": 1})
    return {kind: len(account[kind]) - count for kind, count in expected.items() if len(account[kind]) != count}
