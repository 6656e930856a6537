"""The takeover as a program: repeats passes for ever, and tells a person about each step.

Environment: TAKEOVER_TOKEN (DigitalOcean's), TAKEOVER_HOSTS (JSON: name to volume_id and address), TAKEOVER_TAG (of the
workers), TAKEOVER_AFTER_SECONDS, TAKEOVER_API_URL or empty, NOMAD_TOKEN, NOMAD_ADDR, NOMAD_ALLOC_ID. Optional:
TAKEOVER_NOTIFY_URL, TAKEOVER_PING_URL of a dead man's switch, TAKEOVER_ENDPOINT, the address of several servers, and
TAKEOVER_SERVERS and TAKEOVER_SPARES, how many the stack file has.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

from components.takeover.decide import Rules, Step
from components.takeover.endpoint import Endpoint
from components.takeover.passes import MOVING, SETTLED, Passes, cluster_of, places_of
from components.takeover.reporting import DeadMansSwitch, Failures, Reporter, in_background, pinger, sender
from components.takeover.services import API, DigitalOcean, NomadServers, Refused, Unavailable
from components.takeover.watch import Watch

_PAUSE, _PAUSE_WHILE_MOVING = 5.0, 1.0
"""Least seconds between passes."""
_REQUESTS = 4
"""Requests of a pass to DigitalOcean for each host, if there is nothing to do."""
_AN_HOUR_CALM, _AN_HOUR, _A_MINUTE = 1500, 2500, 200
"""Requests about hosts that are well, about others, and while one is moved, of the 5,000 in an hour and 250 in a minute
that DigitalOcean allows a token (docs.digitalocean.com/reference/api, rate limit). The rest is for the steps of a
takeover."""


def passes_of(environment: Mapping[str, str]) -> Passes:
    """The passes of this program. Raises KeyError and ValueError for a missing or malformed variable."""
    cloud = DigitalOcean(environment["TAKEOVER_TOKEN"], environment.get("TAKEOVER_API_URL") or API)
    servers = NomadServers(environment.get("NOMAD_ADDR") or "http://127.0.0.1:4646", environment["NOMAD_TOKEN"])
    tag, address = environment["TAKEOVER_TAG"], environment.get("TAKEOVER_ENDPOINT")
    counts = (int(environment.get("TAKEOVER_SERVERS", "1")), int(environment.get("TAKEOVER_SPARES", "0")))
    return Passes(
        cloud=cloud,
        servers=servers,
        places=places_of(json.loads(environment["TAKEOVER_HOSTS"])),
        tag=tag,
        endpoint=Endpoint(cloud, servers, address, cluster_of(tag)) if address else None,
        rules=Rules(after_seconds=float(environment["TAKEOVER_AFTER_SECONDS"])),
        holder=environment["NOMAD_ALLOC_ID"],
        watch=Watch(cloud, servers, cluster_of(tag), tag, *counts),
    )


def pause(hosts: int, *, moving: bool) -> float:
    """Seconds between passes over so many hosts that are away, long enough for DigitalOcean's limits."""
    if moving:
        return max(_PAUSE_WHILE_MOVING, hosts * _REQUESTS * 60 / _A_MINUTE)
    return max(_PAUSE, hosts * _REQUESTS * 3600 / _AN_HOUR)


def calm_seconds(hosts: int) -> float:
    """Seconds between two checks of a healthy host, of so many hosts."""
    return hosts * _REQUESTS * 3600 / _AN_HOUR_CALM


def pause_after(passes: Passes) -> float:
    """Seconds from a pass to the next one."""
    steps = passes.last_steps()
    away = sum(step.kind not in SETTLED for step in steps)
    if any(step.kind in MOVING or "in progress" in step.text for step in steps):
        return passes.limited_seconds or pause(away, moving=True)
    return max(passes.limited_seconds, pause(away, moving=False))


def main() -> NoReturn:
    """Run for ever."""
    passes = passes_of(os.environ)
    webhook, switch = os.environ.get("TAKEOVER_NOTIFY_URL", ""), os.environ.get("TAKEOVER_PING_URL", "")
    failures, messages = Failures(notify=webhook, ping=switch), in_background("messages")
    send = sender(webhook, failures)
    ping = partial(in_background("pings"), pinger(switch, failures)) if switch else None
    reporter = Reporter(cluster_of(passes.tag), lambda text: messages(partial(send, text)))
    passes.tell, passes.calm_seconds = reporter.report, calm_seconds(len(passes.places))
    passes.notes, failures.missed = failures.items, partial(reporter.tell, urgent=False)
    print(f"watching {', '.join(place.name for place in passes.places)}", flush=True)
    repeat(passes, reporter, DeadMansSwitch(ping))


def repeat(passes: Passes, reporter: Reporter, switch: DeadMansSwitch) -> NoReturn:
    """Repeat passes. Whatever ends one, the next begins with new answers."""
    while True:  # no deadline: it watches as long as the cluster is there
        least = 0.0
        try:
            passes.once()
        except Unavailable as error:
            reporter.report("", Step("wait", str(error)))
        except Refused as error:
            reporter.tell(str(error), urgent=True)
        except Exception as error:  # an answer that this program does not understand ends no program
            reporter.surprise(error)
            least = _PAUSE
        switch.after_pass(is_complete=passes.is_complete)
        sys.stdout.flush()
        time.sleep(max(pause_after(passes), least))


if __name__ == "__main__":
    main()
