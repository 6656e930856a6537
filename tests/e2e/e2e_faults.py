"""Each call of the API fails once, in each way: `pytest tests/e2e/e2e_faults.py`, as root; some minutes a case.

`up` fails clearly or recovers, the next one goes on, and in the end there is one of everything with data. Where an
answer is lost after the API has acted, nobody can know what was made: what is left over then is counted, and what
blocks the way is adopted as the operator would.
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.bench import ROOT, Bench, bench
from tests.e2e.tools import BenchError, missing

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
_AFTER_THE_ZONE = ("GET", "/v2/domains/[^/]+")
_HANG = 10.0
_MOST_TRIES = 12


@pytest.mark.parametrize("kind", ["500", "429", "hang", "lost"])
def test_every_call_fails_once(kind: str, tmp_path: Path) -> None:
    lines = missing("pulumi", "nomad", "dockerd", "stunnel")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    with bench(tmp_path, Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))) as running:
        for method, path in CALLS:
            running.api.fail(method, path, kind, seconds=_HANG)
        failed = _until_it_works(running, "up", "--yes", "--skip-preview")
        _all_struck(running)
        assert running.health()[0] == 200
        running.pulumi("preview", "--expect-no-changes")
        left = _left_over(running)
        print(f"{kind}: `up` failed {len(failed)} times before it worked; left over: {left or 'nothing'}")
        for text in failed:
            print(f"  {text}")
        # Nothing with data may be there twice, whatever was lost.
        assert len([item for item in running.api.dump()["volumes"].values() if item["name"] == "pds-bench"]) == 1
        if kind != "lost":
            assert not left

        running.api.control("DELETE", "faults")
        for method, path in DESTROYED:
            running.api.fail(method, path, kind, seconds=_HANG)
        running.pulumi("state", "unprotect", "--all", "--yes")
        failed = _until_it_works(running, "destroy", "--yes", "--skip-preview")
        print(f"{kind}: `destroy` failed {len(failed)} times before it worked")
        for text in failed:
            print(f"  {text}")
        if kind != "lost":
            assert running.api.dump()["droplets"] == {}


def _until_it_works(running: Bench, *command: str) -> list[str]:
    """Run again until it succeeds; the errors of the runs before. Raises BenchError where it never does."""
    errors: list[str] = []
    for _ in range(_MOST_TRIES):
        done = running.pulumi(*command, check=False)
        if done.code == 0:
            return errors
        said = re.findall(r"error: +(?:sdk-v2\S+ )?(.*)", done.output)
        assert any("/v2/" in line or "404" in line for line in said), done.output[-4000:]
        errors.append(next(line for line in said if "/v2/" in line or "404" in line))
        _adopt(running, done.output)
    raise BenchError("it never worked: " + "\n".join(errors))


def _adopt(running: Bench, output: str) -> None:
    """What an operator does about a thing that was made though its answer was lost."""
    account = running.api.dump()
    if "already exists" in output and "volumes" in output:
        [volume] = [item["id"] for item in account["volumes"].values() if item["name"] == "pds-bench"]
        running.configure(volume={"adopt": volume})
    if "Name already exists" in output:
        running.configure(dns={"create_zone": False})
    if "already attached to another Droplet" in output:
        # Nobody knows of this one but the account; its disk holds nothing, the data is on the volume.
        [orphan] = [number for volume in account["volumes"].values() for number in volume["droplet_ids"]]
        running.delete(f"/v2/droplets/{orphan}")
    if "Error deleting firewall" in output and "404" in output:
        # It is gone, and the provider does not take that for an answer; a look at it does.
        urn = running.urn("pds-ground-firewall")
        running.pulumi("refresh", "--yes", "--skip-preview", "--target", urn)
    if "duplicate name" in output:
        [number] = account["firewalls"]
        running.delete(f"/v2/firewalls/{number}")


def _all_struck(running: Bench) -> None:
    waiting = [
        f"{rule['method']} {rule['path']}"
        for rule in running.api.control("GET", "faults")["faults"]
        if not rule["struck"]
    ]
    assert waiting == []


def _left_over(running: Bench) -> dict[str, int]:
    """How many more of a kind there are than a stack has."""
    account = running.api.dump()
    wanted = Counter({"droplets": 1, "volumes": 1, "reserved_ips": 1, "firewalls": 1, "domains": 1, "tags": 1})
    return {kind: len(account[kind]) - count for kind, count in wanted.items() if len(account[kind]) != count}
