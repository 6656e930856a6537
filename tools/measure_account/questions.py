"""Two questions with a yes or no: does a firewall's rule for a tag admit a public address? Are scopes checked first?

An answer needs its controls: without them a closed port or a refusal could have another cause.
"""

from collections.abc import Mapping

from components.clients.cluster.account import NEEDED
from components.takeover.services import Http, Refused
from tools.measure_account.account import Account, Worker
from tools.measure_account.droplet_agent import PORTS
from tools.measure_account.droplets import Droplets

_ADMITTED, _CLOSED = PORTS[1], PORTS[2]


def tag_rule(droplets: Droplets, asking: Worker, asked: Worker, address: str) -> dict[str, str]:
    """Return what a droplet reaches of another that the firewall opens to their tag only, and the conclusions.
    `address` is the reserved IP of the other. Raises OSError if the asking droplet does not answer."""

    def reaches(host: str, port: int) -> bool:
        return droplets.connects(asking.public, host, port)

    private, closed = reaches(asked.private, _ADMITTED), reaches(asked.private, _CLOSED)
    control = "as expected" if private and not closed else "FAILED: the rule is not in force, so the rest means nothing"
    found = {"control: the private address is admitted, a port without a rule is closed": control}
    for name, host in (("public address", asked.public), ("reserved IP", address)):
        admitted, other = reaches(host, _ADMITTED), reaches(host, _CLOSED)
        found[f"a rule for the tag admits a droplet's public address, to the other's {name}"] = (
            "FAILED: a port without a rule is open there" if other else "yes" if admitted else "no"
        )
    return found


def scopes_first(account: Account, full: Http, limited: Http) -> dict[str, str]:
    """Return the status that each request of the program's check of a token gets with either token. `limited` lacks
    every scope of a takeover: 403 for what does not exist means that the scope is checked first, 404 that it is not."""
    found = {}
    for scope, (method, path, body) in NEEDED.items():
        if body is not None or "/actions" in path:  # those of what does not exist
            statuses = [_status(http, method, path, body) for http in (limited, full)]
            found[f"{scope}: {method} {path}"] = f"without it {statuses[0]}, with it {statuses[1]}"
    own = f"/v2/volumes?name={account.run}"
    found[f"control: GET {own}"] = f"without block_storage:read {_status(limited, 'GET', own)}"
    return found


def _status(http: Http, method: str, path: str, body: Mapping[str, object] | None = None) -> int:
    try:
        return 404 if http.call(method, path, body) is None else 200
    except Refused as error:
        return error.status
