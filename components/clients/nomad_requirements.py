"""Checks that an existing Nomad meets the requirements of a PDS, and reports everything missing in one list.

A dynamic resource runs it during `up`, so it uses the standard library only. Facts: the API's answers to /v1/nodes,
/v1/node/ID and /v1/node/ID/allocations (developer.hashicorp.com/nomad/api-docs/nodes).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components.clients.errors import ServiceError
from components.clients.nomad import Json, NomadApi
from components.settings.fields.nomad_version import OLDEST_NOMAD, OLDEST_NOMAD_TEXT, version_numbers

_NO_ACLS = "acls-disabled"
"""Accessor ID of every token if ACLs are disabled (nomad/structs/acl.go)."""

Requirements = Mapping[str, Any]
"""`volume`, `job`, `namespace`, `datacenter`, `memory_mib`, `mhz`, `ports` (static ones, on loopback) and `ingress`
(empty if this stack does not run it)."""


def missing_requirements(api: NomadApi, required: Requirements) -> list[str]:
    """What that Nomad lacks, each with a remedy; empty if nothing is missing.

    Raises PendingError if Nomad does not answer.
    """
    missing = list(_missing_rights(api, required))
    if missing:
        return missing  # the other queries need these rights
    namespaces = {item["Name"] for item in api.get("/v1/namespaces")}
    if required["namespace"] not in namespaces:
        missing.append(f"namespace {required['namespace']}: run `nomad namespace apply {required['namespace']}`")
    ready = [item for item in api.get("/v1/nodes") if item["Status"] == "ready"]
    in_datacenter = [item for item in ready if item["Datacenter"] == required["datacenter"]]
    if not in_datacenter:
        existing = ", ".join(sorted({item["Datacenter"] for item in ready})) or "none"
        node = f"a ready node in datacenter {required['datacenter']}; there are: {existing}. Set 'nomad.datacenter'"
        return [*missing, node]
    # With several nodes, report the one with the fewest missing requirements.
    return missing + min((list(_missing_on_node(api, item["ID"], required)) for item in in_datacenter), key=len)


def _missing_rights(api: NomadApi, required: Requirements) -> Iterator[str]:
    status, answer = api.request("GET", "/v1/acl/token/self")
    if status == 200 and answer["AccessorID"] == _NO_ACLS:
        yield "ACLs: without them every client of this Nomad can read the rotation key. Set 'acl { enabled = true }'"
        return
    if status != 200:
        yield f"a valid token: Nomad answers {status} to it ({str(answer).strip()[:80]}). Set 'on.nomad_token' again"
    elif required["ingress"] and answer["Type"] != "management":
        yield (
            "a management token: the program creates an ACL policy for the ingress's job. Set one, or run the ingress "
            "yourself and set 'ingress.kind' to none"
        )
    # Not a list request, which returns an empty list for any token.
    if api.request("GET", f"/v1/var/nomad/jobs/{required['job']}", token="")[0] != 403:
        yield "closed variables: they are readable without a token. Remove that right from the anonymous policy"


def _missing_on_node(api: NomadApi, node_id: str, required: Requirements) -> Iterator[str]:
    node = api.get(f"/v1/node/{node_id}")
    name, attributes = node["Name"], node["Attributes"]
    version = attributes.get("nomad.version", "0")
    if version_numbers(version) < OLDEST_NOMAD:
        yield f"Nomad {OLDEST_NOMAD_TEXT} or newer on {name}, which has {version}: older ones have vulnerabilities"
    if not ((node.get("Drivers") or {}).get("docker") or {}).get("Healthy"):
        yield f"Docker on {name}: its driver is not healthy there"
    volumes = node.get("HostVolumes") or {}
    for volume in (required["volume"], *([required["ingress"]] if required["ingress"] else ())):
        if volume not in volumes:
            block = f'client {{ host_volume "{volume}" {{ path = "/srv/nomad/{volume}" }} }}'
            yield f"host volume {volume} on {name}: {block}, and a directory there"
        elif volumes[volume].get("ReadOnly"):
            yield f"host volume {volume} on {name} for writing: it is read-only"
    networks = (node.get("NodeResources") or {}).get("NodeNetworks") or []
    addresses = [item for network in networks for item in network.get("Addresses") or []]
    if [item["Address"] for item in addresses if item.get("Alias") == "loopback"] != ["127.0.0.1"]:
        yield f'the network "loopback" on {name}: client {{ host_network "loopback" {{ cidr = "127.0.0.1/32" }} }}'
    yield from _missing_capacity(api, node, required)


def _missing_capacity(api: NomadApi, node: Json, required: Requirements) -> Iterator[str]:
    own_job = (required["namespace"], required["job"])
    port_owners: dict[int, str] = {}
    used_mib = used_mhz = 0
    for item in api.get(f"/v1/node/{node['ID']}/allocations") or []:
        job = (item["Namespace"], item["JobID"].partition("/")[0])
        if item["ClientStatus"] not in ("pending", "running") or job == own_job or job[1] == required["ingress"]:
            continue
        resources = item.get("AllocatedResources") or {}
        tasks = (resources.get("Tasks") or {}).values()
        used_mib += sum(task["Memory"]["MemoryMB"] for task in tasks)
        used_mhz += sum(_mhz(task) for task in tasks)
        port_owners |= {port["Value"]: item["JobID"] for port in (resources.get("Shared") or {}).get("Ports") or []}
    for port in required["ports"]:
        if port in port_owners:
            yield f"port {port} on {node['Name']}: job {port_owners[port]} has it"
    reserved = node.get("ReservedResources") or {}
    total_mib = node["NodeResources"]["Memory"]["MemoryMB"]
    free_mib = total_mib - reserved.get("Memory", {}).get("MemoryMB", 0) - used_mib
    if free_mib < required["memory_mib"]:
        yield f"{required['memory_mib']} MiB of memory on {node['Name']}: {free_mib} of its {total_mib} are free"
    total_mhz = _mhz(node["NodeResources"])
    free_mhz = total_mhz - _mhz(reserved) - used_mhz
    if total_mhz and free_mhz < required["mhz"]:  # 0: the node does not report it
        yield f"{required['mhz']} MHz of processors on {node['Name']}: {free_mhz} of its {total_mhz} are free"


def _mhz(resources: Json) -> int:
    return int((resources.get("Cpu") or {}).get("CpuShares") or 0)


def require(api: NomadApi, required: Requirements) -> None:
    """Raise ServiceError with everything that is missing."""
    missing = missing_requirements(api, required)
    if missing:
        lines = "\n".join(f"  - {item}." for item in missing)
        raise ServiceError(f"The Nomad at {api.address} lacks the following. Nothing was created in it.\n{lines}")
