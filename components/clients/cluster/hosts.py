"""The hosts of a cluster, placed on workers from the operator's machine. The standard library only."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from components.clients.cluster.account import operator_token
from components.clients.console import shell_variable, show
from components.clients.errors import PendingError, ServiceError
from components.clients.https import client_tls
from components.clients.wait import until
from components.takeover.decide import Rules, Step
from components.takeover.passes import Passes, is_placed, places_of
from components.takeover.services import API, DigitalOcean, NomadServers, Refused, Unavailable

Hosts = Mapping[str, Mapping[str, str]]
"""`volume_id` and `address` by name."""


def passes_of(nomad: Mapping[str, Any], hosts: Hosts, tag: str, token: str, rules: Rules, holder: str) -> Passes:
    """Passes over the hosts of a cluster. `nomad`: `address`, `ca_pem`, `cert_pem`, `key_pem` and `token`; `tag` is
    that of the workers, `token` DigitalOcean's."""
    tls = client_tls(nomad["ca_pem"], nomad["cert_pem"], nomad["key_pem"])
    cloud = _cloud(token, shell_variable("DIGITALOCEAN_API_URL") or API)
    return Passes(
        cloud=cloud,
        servers=NomadServers(nomad["address"], nomad["token"], tls),
        places=places_of(hosts),
        tag=tag,
        rules=rules,
        holder=holder,
        now=cloud.now,  # the clock of an operator's machine may be wrong by hours
    )


@cache
def _cloud(token: str, url: str) -> DigitalOcean:
    """One client of a token, however often passes are made: it knows until when DigitalOcean takes no request."""
    return DigitalOcean(token, url)


def place(nomad: Mapping[str, Any], hosts: Hosts, tag: str, seconds: float) -> None:
    """Attach what no droplet has, assign the addresses, and wait for the nodes. Raises ServiceError."""
    passes = passes_of(nomad, hosts, tag, operator_token(), Rules(may_detach=False), holder="")
    shown: set[str] = set()

    def look() -> list[Step]:
        steps = once(passes)
        for host, step in zip(passes.places, steps, strict=True):
            if step.kind in ("attach", "assign") and step.text not in shown:
                shown.add(step.text)
                show(step.text)
            if step.kind == "foreign":
                raise ServiceError(
                    f"Host {host.name}: its volume is attached to droplet {step.droplet}, which is not a worker of "
                    "this cluster. It stays there. `./pds adopt` moves a host with a droplet of its own into a "
                    "cluster. If that droplet is lost, delete it, which detaches the volume."
                )
            if step.kind == "refused":
                raise ServiceError(f"{step.text[0].upper()}{step.text[1:]}.")
        return steps

    def placed() -> str | None:
        steps = look()
        return None if is_placed(steps) else "; ".join(step.text for step in steps if step.kind != "fine")

    def ready() -> str | None:
        return "; ".join(step.text for step in look() if step.kind != "fine") or None

    until(placed, seconds, "The hosts of the cluster", pause=2)
    until(ready, seconds, "The hosts of the cluster", pause=5)


def once(passes: Passes) -> list[Step]:
    """One pass. Raises PendingError if a service cannot answer, ServiceError if it refuses."""
    try:
        return passes.once()
    except Unavailable as error:
        raise PendingError(f"{error}.") from error
    except Refused as error:
        hint = " Give the DigitalOcean token the scope for it." if error.status == 403 else ""
        raise ServiceError(f"{error}.{hint}") from error
