"""What is refused before anything of a cluster is created or rebuilt: by its account, and by its servers.

DigitalOcean has no request that shows a token's scopes. So each scope is tried: the takeover's by reads and by actions
on what does not exist, and others by reads that a takeover has no use for. Rights to write that it has no use for can't
be tried without writing. Sources: digitalocean/openapi (`security` of each operation, sizes).
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from components.clients.console import shell_variable
from components.clients.errors import PendingError, ServiceError
from components.takeover.services import API, Http, Refused, Unavailable

_NOTHING = "00000000-0000-4000-8000-000000000000"
"""The ID of no volume."""
_NO_ADDRESS = "192.0.2.1"
"""A documentation address (RFC 5737), which is no reserved IP."""

NEEDED: Mapping[str, tuple[str, str, Mapping[str, object] | None]] = {
    "block_storage:read": ("GET", "/v2/volumes?per_page=1", None),
    "block_storage_action:read": ("GET", f"/v2/volumes/{_NOTHING}/actions", None),
    "block_storage_action:create": ("POST", f"/v2/volumes/{_NOTHING}/actions", {"type": "detach", "droplet_id": 1}),
    "droplet:read": ("GET", "/v2/droplets?per_page=1", None),
    "reserved_ip:read": ("GET", "/v2/reserved_ips?per_page=1", None),
    "reserved_ip:update": (
        "POST",
        f"/v2/reserved_ips/{_NO_ADDRESS}/actions",
        {"type": "assign", "droplet_id": 1},
    ),
}
"""Scope to a request that needs it and changes nothing."""

_NEEDLESS = {
    "domain:read": "/v2/domains?per_page=1",
    "firewall:read": "/v2/firewalls?per_page=1",
    "spaces_key:read": "/v2/spaces/keys?per_page=1",
    "uptime:read": "/v2/uptime/checks?per_page=1",
}
"""Scope to a read that a token of the takeover is refused. A token with full access has them all."""


def operator_token() -> str:
    """The token of the shell in which `pulumi up` runs. Raises ServiceError."""
    token = shell_variable("DIGITALOCEAN_TOKEN") or shell_variable("DIGITALOCEAN_ACCESS_TOKEN")
    if not token:
        raise ServiceError(
            "The hosts of the cluster are placed by DigitalOcean's API, and this resource reads its token from the "
            "shell only: set DIGITALOCEAN_TOKEN, also if 'digitalocean:token' is in the stack file."
        )
    return token


def refuse_missing_sizes(region: str, sizes: Mapping[str, str]) -> None:
    """Refuse a size that `region` does not have. `sizes`: key in the stack file to slug. Raises ServiceError."""
    answer = _asked(_operator(), "/v2/sizes?per_page=200")
    known = {str(size["slug"]): size for size in answer.get("sizes", [])}
    faults = []
    for key, slug in sorted(sizes.items()):
        found = known.get(slug)
        if found is None:
            faults.append(f"'{key}': DigitalOcean has no size '{slug}'; `doctl compute size list` shows them.")
        elif region not in found["regions"] or not found["available"]:
            there = ", ".join(sorted(found["regions"])) if found["available"] else "no region at present"
            faults.append(f"'{key}': region '{region}' has no size '{slug}', which is in: {there}.")
    if faults:
        remedy = "Write another size, or for a new cluster another 'host.region'. Nothing was changed."
        raise ServiceError(" ".join((*faults, remedy)))


def refuse_wrong_rights(token: str, url: str) -> None:
    """Refuse a takeover's token with too few rights, or with too many. Raises ServiceError."""
    http = Http(url, {"Authorization": f"Bearer {token}"})
    missing = [scope for scope, (method, path, body) in NEEDED.items() if not _may(http, method, path, body)]
    needless = [scope for scope, path in _NEEDLESS.items() if _may(http, "GET", path)]
    remedy = f"Create a token with {', '.join(NEEDED)}, and no more. Nothing was changed."
    if missing:
        raise ServiceError(f"'cluster.takeover.token' lacks {', '.join(missing)}. {remedy}")
    if needless:
        raise ServiceError(
            f"'cluster.takeover.token' may do more than a takeover needs, such as {', '.join(needless)}. {remedy}"
        )


def refuse_rebuilt_servers(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse a rebuild of servers by which Nomad loses its state: of more than one without a snapshot, of the one that
    the cluster's address leads to or led to, and by a lower generation; and fewer servers. `old` and `new`: `endpoint`,
    a number from 1, the servers' `generations`, their `tag`, and `names`, the beginning of their droplets' names. `old`
    is empty for a new cluster, which has nothing to compare. Raises ServiceError."""
    if not old:
        return
    _refuse_another_count(old, new)
    pairs = list(enumerate(zip(old["generations"], new["generations"], strict=False), 1))
    rebuilt = [number for number, (before, after) in pairs if before != after]
    key = "'cluster.servers.generations"
    _refuse_lower("servers", old["generations"], new["generations"])
    if len(rebuilt) == len(pairs):
        _refuse_without_snapshot()
        return
    if len(rebuilt) > 1:
        raise ServiceError(
            f"{key}' rebuilds the servers {', '.join(map(str, rebuilt))}: without a majority Nomad loses its state. "
            "Raise one generation, run `pulumi up`, and wait until the servers are healthy before the next. Nothing "
            "was changed."
        )
    for number in rebuilt:
        if number in (old["endpoint"], new["endpoint"]):
            other = next(n for n in range(1, len(new["generations"]) + 1) if n != number)
            raise ServiceError(
                f"{key}.{number}': the cluster's address leads to this server. Rebuilt, it could not join the others. "
                f"First write 'cluster.servers.endpoint: {other}' alone, and run `pulumi up`. Nothing was changed."
            )
        if f"{new['names']}{number}" in _droplets_with_an_address():
            raise ServiceError(
                f"{key}.{number}': a takeover has led the cluster's address to this server. Rebuilt, it could not join "
                f"the others. First run `pulumi up --refresh` without this generation: the address then leads to "
                f"server {new['endpoint']:.0f}, which has to be healthy. Nothing was changed."
            )


def _refuse_another_count(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse fewer servers, and an address that leads to a new one, which would connect to itself. An `up` that ended
    early may have written down more servers than it created: those that exist count."""
    was, now = len(old["generations"]), len(new["generations"])
    if now >= was and new["endpoint"] == old["endpoint"]:
        return
    names = {str(item["name"]) for item in _droplets(new["tag"])}
    there = [number for number in range(1, max(was, now) + 1) if f"{new['names']}{number}" in names]
    if now < was and any(number > now for number in there):
        raise ServiceError(
            f"'cluster.servers.count' is {now}, and was {was} in the last `up`. Without a majority of these servers "
            f"Nomad loses its state. The number can only grow. Write 'count: {was}' back. Nothing was changed."
        )
    if new["endpoint"] != old["endpoint"] and new["endpoint"] not in there:
        raise ServiceError(
            f"'cluster.servers.endpoint' names server {new['endpoint']:.0f}, which does not exist yet. It joins the "
            "others by the address, which has to lead to one of them. Write "
            f"'endpoint: {old['endpoint']:.0f}' back and run `pulumi up`. Name the new server once all are healthy. "
            "Nothing was changed."
        )


def refuse_rebuilt_carriers(
    old: Mapping[str, Any], new: Mapping[str, Any], pending: Mapping[int, float] = MappingProxyType({})
) -> dict[int, float]:
    """Refuse to rebuild or delete a worker that has the volume of a host, and a lower generation. `old` and `new`: the
    workers' `generations`, their `tag`, and `names`, the beginning of their droplets' names. `old` is empty for a new
    cluster. Raises ServiceError.

    Returns the droplets, by DigitalOcean's numbers, that this `up` is to rebuild or delete, each with the generation
    that it has. An `up` that ends before has written `new`, so the next one compares nothing: it gives them as
    `pending`. A droplet whose generation is wanted again is not rebuilt. A rebuilt droplet has another number, so
    nothing has to be taken off the list. `./pds upgrade` reads the preview, too."""
    if not old:
        return {}
    was, now = old["generations"], new["generations"]
    changed = {number for number in range(1, len(was) + 1) if was[number - 1 : number] != now[number - 1 : number]}
    workers = _workers(new) if pending else {}
    present = {number: pending[droplet] for droplet, (number, _) in workers.items() if droplet in pending}
    _refuse_lower("workers", was, now, present)
    found: dict[int, float] = {}
    for droplet, (number, is_carrier) in (workers or (_workers(new) if changed else {})).items():
        if number not in changed and droplet not in pending:
            continue
        has = pending[droplet] if droplet in pending else was[number - 1]
        if [has] == now[number - 1 : number]:
            continue
        if is_carrier:
            raise ServiceError(_carries(droplet, number, has, is_deleted=number > len(now)))
        found[droplet] = has
    return dict(sorted(found.items()))


def _carries(droplet: int, number: int, has: float, *, is_deleted: bool) -> str:
    cause, back = "a new generation rebuilds", f"write 'cluster.workers.generations.{number}: {has:.0f}' back"
    if is_deleted:
        cause, back = "fewer hosts or 'cluster.workers.spares' delete", "write the former number back"
    return (
        f"Droplet {droplet} runs a host, and {cause} it: worker {number}. The host's clubs would be down meanwhile. "
        "`./pds list` shows which worker runs which host. Move it first: `./pds drain` of this stack and the host, or "
        f"`./pds repair` if it is down. Or {back}. Nothing was changed."
    )


def has_carrier(workers: Mapping[str, Any], pending: Collection[int]) -> bool:
    """Whether one of these droplets has the volume of a host by now. Raises ServiceError."""
    return bool(pending) and any(carries for droplet, (_, carries) in _workers(workers).items() if droplet in pending)


def _refuse_lower(
    kind: str, was: Sequence[float], now: Sequence[float], present: Mapping[int, float] = MappingProxyType({})
) -> None:
    """Refuse a lower generation of the cluster's servers or workers: the droplet would be rebuilt. `present`: number to
    the generation of the droplet that the last `up` did not come to rebuild, which may be wanted again."""
    for number, (before, after) in enumerate(zip(was, now, strict=False), 1):
        if after < before and after != present.get(number):
            raise ServiceError(
                f"'cluster.{kind}.generations.{number}' is {after:.0f}, and was {before:.0f} in the last `up`. Is the "
                "stack file that of an older checkout? A generation can only be raised. Nothing was changed."
            )


def _operator() -> Http:
    """DigitalOcean with the operator's token."""
    return Http(shell_variable("DIGITALOCEAN_API_URL") or API, {"Authorization": f"Bearer {operator_token()}"})


def _droplets_with_an_address() -> set[str]:
    """The names of the droplets that have a reserved IP."""
    found = _asked(_operator(), "/v2/reserved_ips?per_page=200").get("reserved_ips", [])
    return {str(item["droplet"]["name"]) for item in found if item["droplet"]}


def _droplets(tag: str) -> list[Mapping[str, Any]]:
    """The droplets with this tag, as DigitalOcean shows them; at most 200."""
    query = urlencode({"tag_name": tag, "per_page": 200})
    return list(_asked(_operator(), f"/v2/droplets?{query}").get("droplets", []))


def _workers(workers: Mapping[str, Any]) -> dict[int, tuple[int, bool]]:
    """The workers by DigitalOcean's number: their own number, and whether they have a volume."""
    found = [(item, str(item["name"]).removeprefix(workers["names"])) for item in _droplets(workers["tag"])]
    return {int(item["id"]): (int(number), bool(item["volume_ids"])) for item, number in found if number.isdigit()}


def _refuse_without_snapshot() -> None:
    """All servers at once are an empty Nomad, which only `./pds restore` fills: it names the snapshot."""
    if not shell_variable("PDS_NOMAD_SNAPSHOT"):
        raise ServiceError(
            "'cluster.servers.generations' rebuilds every server, and Nomad's state is on these only. If they are "
            "lost, `./pds restore` of this stack rebuilds them with a snapshot of the state. Without a snapshot see "
            "docs/guide/cluster.md, 'After: all servers lost'. Nothing was changed."
        )


def _may(http: Http, method: str, path: str, body: Mapping[str, object] | None = None) -> bool:
    """Whether the token has the scope: without it the answer is 403, whatever is asked for."""
    try:
        http.call(method, path, body)
    except Unavailable as error:
        raise PendingError(f"{error}. The rights of 'cluster.takeover.token' are not known. Try again.") from None
    except Refused as error:
        if error.status == 401:
            raise ServiceError("'cluster.takeover.token' is expired, deleted or misspelt (401).") from None
        return error.status != 403
    return True


def _asked(http: Http, path: str) -> Mapping[str, list[Mapping[str, Any]]]:
    try:
        answer: Mapping[str, list[Mapping[str, Any]]] = http.call("GET", path) or {}
    except Unavailable as error:
        raise PendingError(f"{error}. Try again.") from None
    except Refused as error:
        raise ServiceError(f"{error}. Is DIGITALOCEAN_TOKEN right, and does it have the scope for it?") from None
    return answer
