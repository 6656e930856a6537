"""An operator who runs the commands that `./pds orphans` prints."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from tests.e2e.environment.environment import STACK, E2eEnvironment
from tests.e2e.environment.tools import E2eError

Found = dict[str, Any]

_DOCTL: Sequence[tuple[str, str]] = (
    (r"compute droplet delete (\d+)", "/v2/droplets/{0}"),
    (r"compute volume delete ([0-9a-f-]+)", "/v2/volumes/{0}"),
    (r"compute reserved-ip delete ([0-9.]+)", "/v2/reserved_ips/{0}"),
    (r"compute firewall delete ([0-9a-f-]+)", "/v2/firewalls/{0}"),
    (r"compute domain delete (\S+)", "/v2/domains/{0}"),
    (r"compute domain records delete (\S+) (\d+)", "/v2/domains/{0}/records/{1}"),
    (r"compute tag delete (\S+)", "/v2/tags/{0}"),
)
"""doctl's deletions: the command, and the path of the API (digitalocean/doctl, commands/)."""


def orphans(running: E2eEnvironment) -> Found:
    """The tool's report, as JSON."""
    done = running.pds("orphans", "--json", check=False)
    try:
        found: Found = json.loads(done.output)
    except ValueError:
        raise E2eError(f"`{done.command}` ended with {done.code}:\n{done.output}") from None
    if done.code != int(bool(found["orphans"] or found["missing"])):
        raise E2eError(f"`{done.command}` ended with {done.code} and reports {found}")
    return found


def follow(running: E2eEnvironment, command: Sequence[str]) -> None:
    """Run a printed command. Raises E2eError for an invalid one."""
    line = shlex.join(command)
    print(f"  the owner: {line}", flush=True)
    if command[0] == "pulumi":
        at = command.index("--stack")
        assert command[at + 1] == STACK
        running.pulumi(*command[1:at], *command[at + 2 :])
        return
    shutdown = re.fullmatch(r"doctl compute droplet-action shutdown (\d+) --wait", line)
    if shutdown:
        running.act(f"/v2/droplets/{shutdown[1]}/actions", {"type": "shutdown"})
        return
    for pattern, path in _DOCTL:
        if found := re.fullmatch(f"doctl {pattern}", line):
            running.delete(path.format(*found.groups()))
            return
    raise E2eError(f"the tool printed a command that is none: {line}")


def put_away(running: E2eEnvironment, wanted: Callable[[Found], bool]) -> list[str]:
    """Adopt what can be adopted, delete the rest, of the orphans that `wanted` selects; return their kinds."""
    done = []
    for item in orphans(running)["orphans"]:
        if wanted(item) and not item["taken"]:
            for command in [item["adopt"]] if item["adopt"] else item["delete"]:
                follow(running, command)
            done.append(item["kind"])
    return done
