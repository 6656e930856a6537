"""Checks that an existing Nomad fulfils the needs of a PDS, and reports everything it lacks in one list.

A dynamic resource runs it during `up`, so it uses the standard library only. Facts: the API's answers to /v1/nodes,
/v1/node/ID and /v1/node/ID/allocations (developer.hashicorp.com/nomad/api-docs/nodes).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components.probes import Json, NomadApi, ProbeError

_OLDEST = (2, 0, 4)
"""Nomad's Docker driver has known vulnerabilities before this version."""

_NO_ACLS = "acls-disabled"
"""Accessor ID of every token if ACLs are disabled (nomad/structs/acl.go)."""


def lacking(api: NomadApi, wants: Mapping[str, Any]) -> list[str]:
    """What that Nomad lacks, each with a remedy; empty if nothing is missing.

    `wants` has `volume`, `job`, `namespace`, `datacenter`, `memory_mib`, `mhz`, `ports` (static ones, of loopback) and
    `ingress` ("" if it is not ours). Raises NotYetError if Nomad does not answer.
    """
    found = list(_rights(api, wants))
    if found:
        return found  # the other queries need them
    names = {item["Name"] for item in api.get("/v1/namespaces")}
    if wants["namespace"] not in names:
        found.append(f"namespace {wants['namespace']}: run `nomad namespace apply {wants['namespace']}`")
    nodes = [item for item in api.get("/v1/nodes") if item["Status"] == "ready"]
    here = [item for item in nodes if item["Datacenter"] == wants["datacenter"]]
    if not here:
        there = ", ".join(sorted({item["Datacenter"] for item in nodes})) or "none"
        return [*found, f"a ready node in datacenter {wants['datacenter']}; there are: {there}. Set 'nomad.datacenter'"]
    # With several nodes, report the one with the fewest missing requirements.
    return found + min((list(_of_node(api, item["ID"], wants)) for item in here), key=len)


def _rights(api: NomadApi, wants: Mapping[str, Any]) -> Iterator[str]:
    status, answer = api.request("GET", "/v1/acl/token/self")
    if status == 200 and answer["AccessorID"] == _NO_ACLS:
        yield "ACLs: without them every client of this Nomad can read the rotation key. Set 'acl { enabled = true }'"
        return
    if status != 200:
        yield f"the token: it is answered with {status} ({str(answer).strip()[:80]}). Set 'on.nomad_token' anew"
    elif wants["ingress"] and answer["Type"] != "management":
        yield (
            "a management token: the ingress's job gets a right of its own. Give one, or run the ingress yourself and "
            "write 'ingress: {kind: none}'"
        )
    # Not a list request, which returns an empty list for any token.
    if api.request("GET", f"/v1/var/nomad/jobs/{wants['job']}", token="")[0] != 403:
        yield "closed variables: they are readable without a token. Take that from the anonymous policy"


def _of_node(api: NomadApi, node_id: str, wants: Mapping[str, Any]) -> Iterator[str]:
    node = api.get(f"/v1/node/{node_id}")
    name, attributes = node["Name"], node["Attributes"]
    version = attributes.get("nomad.version", "0")
    if _numbers(version) < _OLDEST:
        yield f"Nomad 2.0.4 or newer on {name}, which has {version}: older ones have known holes"
    if not ((node.get("Drivers") or {}).get("docker") or {}).get("Healthy"):
        yield f"Docker on {name}: its driver is not healthy there"
    volumes = node.get("HostVolumes") or {}
    for volume in (wants["volume"], *([wants["ingress"]] if wants["ingress"] else ())):
        if volume not in volumes:
            block = f'client {{ host_volume "{volume}" {{ path = "/srv/nomad/{volume}" }} }}'
            yield f"host volume {volume} on {name}: {block}, and a directory there"
        elif volumes[volume].get("ReadOnly"):
            yield f"host volume {volume} on {name} for writing: it is read-only"
    networks = (node.get("NodeResources") or {}).get("NodeNetworks") or []
    addresses = [item for network in networks for item in network.get("Addresses") or []]
    if [item["Address"] for item in addresses if item.get("Alias") == "loopback"] != ["127.0.0.1"]:
        yield f'the network "loopback" on {name}: client {{ host_network "loopback" {{ cidr = "127.0.0.1/32" }} }}'
    yield from _room(api, node, wants)


def _room(api: NomadApi, node: Json, wants: Mapping[str, Any]) -> Iterator[str]:
    mine = (wants["namespace"], wants["job"])
    taken: dict[int, str] = {}
    used = used_mhz = 0
    for item in api.get(f"/v1/node/{node['ID']}/allocations") or []:
        owner = (item["Namespace"], item["JobID"].partition("/")[0])
        if item["ClientStatus"] not in ("pending", "running") or owner == mine or owner[1] == wants["ingress"]:
            continue
        resources = item.get("AllocatedResources") or {}
        tasks = (resources.get("Tasks") or {}).values()
        used += sum(task["Memory"]["MemoryMB"] for task in tasks)
        used_mhz += sum(_mhz(task) for task in tasks)
        taken |= {port["Value"]: item["JobID"] for port in (resources.get("Shared") or {}).get("Ports") or []}
    for port in wants["ports"]:
        if port in taken:
            yield f"port {port} on {node['Name']}: job {taken[port]} has it"
    there = node["NodeResources"]["Memory"]["MemoryMB"]
    free = there - (node.get("ReservedResources") or {}).get("Memory", {}).get("MemoryMB", 0) - used
    if free < wants["memory_mib"]:
        yield f"{wants['memory_mib']} MiB of memory on {node['Name']}: {free} of its {there} are free"
    mhz = _mhz(node["NodeResources"])
    free = mhz - _mhz(node.get("ReservedResources") or {}) - used_mhz
    if mhz and free < wants["mhz"]:  # 0: the node does not report it
        yield f"{wants['mhz']} MHz of processors on {node['Name']}: {free} of its {mhz} are free"


def _mhz(resources: Json) -> int:
    return int((resources.get("Cpu") or {}).get("CpuShares") or 0)


def _numbers(version: str) -> tuple[int, ...]:
    release = version.partition("-")[0].partition("+")[0]
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def require(api: NomadApi, wants: Mapping[str, Any]) -> None:
    """Raise ProbeError with everything that is missing."""
    found = lacking(api, wants)
    if found:
        lines = "\n".join(f"  - {item}." for item in found)
        raise ProbeError(f"The Nomad at {api.address} lacks, and nothing was put into it:\n{lines}")
