"""Removes a host that left the cluster from its Nomad: the node, and the jobs, variables, volumes and namespaces on it.

Nothing of it is on a disk that the cluster still has. Left there, its jobs would start on the next host of that name.
Every step can be repeated.
"""

from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.clients.wait import until
from components.settings.host_contract import ingress_namespace

_DEADLINE = 120.0
"""Seconds until Nomad counts the allocations of a purged node as lost."""


def forget(api: NomadApi, host: str, clubs: Sequence[str]) -> None:
    """Remove the host and its clubs. Raises ServiceError."""
    known = {item["Name"] for item in api.get("/v1/namespaces")}
    namespaces = [name for name in (*clubs, ingress_namespace(host)) if name in known]
    for namespace in namespaces:
        if volumes := _volumes_elsewhere(api, host, namespace):
            raise ServiceError(
                f"Nomad has a volume of {namespace} on another host than {host}: {', '.join(volumes)}. That PDS "
                f"was moved, or is being moved. Nothing of {host} was removed. Finish `./pds move`, then "
                "repeat the command."
            )
    for namespace in namespaces:
        for job in api.get(f"/v1/jobs?namespace={namespace}"):
            _delete(api, f"/v1/job/{quote(job['ID'], safe='')}?namespace={namespace}&purge=true")
    for node in api.get("/v1/nodes"):
        if node["Datacenter"] == host:
            api.post(f"/v1/node/{node['ID']}/purge", {})
    for namespace in namespaces:
        until(partial(_emptied, api, host, namespace), _DEADLINE, f"The namespace {namespace}")
        print(f"removed namespace {namespace} from the cluster's Nomad")
    for club in clubs:
        _delete(api, f"/v1/acl/policy/pds-club-{club}")


def is_forgotten(api: NomadApi, host: str) -> bool:
    """Whether `forget` is over: the host's own namespace is the last that it deletes. Raises ServiceError."""
    return ingress_namespace(host) not in {item["Name"] for item in api.get("/v1/namespaces")}


def _volumes_elsewhere(api: NomadApi, host: str, namespace: str) -> list[str]:
    """The volumes on the nodes of other hosts, whose plugin would remove the directory."""
    others = {item["ID"] for item in api.get("/v1/nodes") if item["Datacenter"] != host}
    volumes = api.get(f"/v1/volumes?type=host&namespace={namespace}") or []
    return [item["ID"] for item in volumes if item["NodeID"] in others]


def _emptied(api: NomadApi, host: str, namespace: str) -> str | None:
    """Remove what is left in a namespace, and the namespace; what is in the way, or None."""
    try:
        for variable in api.get(f"/v1/vars?namespace={namespace}") or []:
            _delete(api, f"/v1/var/{quote(variable['Path'])}?namespace={namespace}")
        kept = _volumes_elsewhere(api, host, namespace)
        for volume in api.get(f"/v1/volumes?type=host&namespace={namespace}") or []:
            if volume["ID"] in kept:
                continue
            # Its node is gone, and Nomad asks no plugin then: the directory on the volume stays as it is.
            _delete(api, f"/v1/volume/host/{volume['ID']}?namespace={namespace}&force=true")
        _delete(api, f"/v1/namespace/{namespace}")
    except ServiceError as error:
        return str(error)
    return None


def _delete(api: NomadApi, path: str) -> None:
    status, answer = api.request("DELETE", path)
    if status not in (200, 404):
        raise ServiceError(f"Nomad answered {status} to DELETE {path.partition('?')[0]}: {str(answer).strip()[:200]}")
