"""A club's namespace and volume on a host, by Nomad's API. Every operation can be repeated.

The provider's Namespace and DynamicHostVolume are not used (docs/decisions/0013). They cannot create an existing
volume, as after a rebuilt host, and cannot delete a missing one, as after an emptied Nomad. Both would block `up` for
ever.
`render/host/files/host-volume-plugin.sh` creates the directory behind the volume. The standard library only.
"""

from typing import Any

from components.clients.errors import ServiceError
from components.clients.nomad import Json, NomadApi
from components.clients.wait import until

_MODES = ("single-node-writer", "single-node-reader-only")
"""A read-only mount needs a mode of its own (scheduler/feasible.go)."""

_PDS_JOB = "pds"
"""ID of the server's job (`components/render/nomad_job.py`)."""

_READY = 60  # seconds: a directory and a quota


def create_club(api: NomadApi, club: str, volume: str, gib: int, datacenter: str = "", leaving: str = "") -> str:
    """Create the club's namespace, and its volume with this quota, or grow the existing one. Returns the volume's ID.

    `datacenter` is the host of a cluster. A club that moves also keeps its volume on the host `leaving`: volumes of one
    name may be on several nodes (nomad/host_volume_endpoint.go, placeHostVolume), and the datacenter of a job decides.
    One on a further host is removed, once there is one on `datacenter`.

    Raises ServiceError if the only volume is on a further host, or if there is a further one while the PDS is paused or
    its job is not on `datacenter`; for a smaller quota, and for a larger one while a job uses the volume: Nomad refuses
    both (nomad/structs/host_volumes.go, ValidateUpdate).
    """
    namespace = {
        "Name": club,
        "Description": f"The PDS of stack {club}.",
        "Capabilities": {"EnabledTaskDrivers": ["docker"]},
    }
    api.put(f"/v1/namespace/{club}", namespace)
    existing = _volume(api, club, volume, datacenter)
    if datacenter:
        _remove_from_former_nodes(api, club, volume, datacenter)
        further = _further_volumes(api, club, volume, {datacenter, leaving})
        if further and not existing:
            _refuse_another_host(api, club, next(iter(further.values())), datacenter)
        if further and not _serves(api, club, datacenter):
            _refuse_to_leave(club, next(iter(further)), datacenter)
        for host, left in further.items():
            _leave(api, club, host, left)
    if existing and _has_quota(api, club, existing["ID"], gib):
        return str(existing["ID"])
    request: dict[str, Any] = {
        "Name": volume,
        "Namespace": club,
        "PluginID": "pds-dir",
        "RequestedCapacityMinBytes": gib * 1024**3,
        "RequestedCapacityMaxBytes": gib * 1024**3,
        "RequestedCapabilities": [{"AccessMode": mode, "AttachmentMode": "file-system"} for mode in _MODES],
    }
    if datacenter:
        request["Constraints"] = [{"LTarget": "${node.datacenter}", "RTarget": datacenter, "Operand": "="}]
    if existing:
        request |= {"ID": existing["ID"], "NodeID": existing["NodeID"]}
    created_id = ""

    def create() -> str | None:
        nonlocal created_id
        if datacenter and not existing:
            request["NodeID"] = node = _ready_node(api, datacenter)
            if not node:
                return f"no node of host {datacenter} is ready"
        created_id = api.put(f"/v1/volume/host/create?namespace={club}", {"Volume": request})["Volume"]["ID"]
        return None

    def is_ready() -> str | None:
        state = (_volume(api, club, volume, datacenter) or {}).get("State")
        return None if state == "ready" else f"it is {state or 'missing'}"

    # On a slow host the node joins some time after Nomad has a leader.
    until(create, _READY, f"A node for volume {volume}")
    until(is_ready, _READY, f"Volume {volume}")
    return created_id


def _has_quota(api: NomadApi, club: str, existing_id: str, gib: int) -> bool:
    details = api.get(f"/v1/volume/host/{existing_id}?namespace={club}")
    quota = int(details["RequestedCapacityMaxBytes"]) // 1024**3
    if quota > gib:
        raise ServiceError(
            f"The quota of stack {club} can grow, never shrink. It is {quota} GiB: write 'disk_gib: {quota}'."
        )
    if quota < gib and details.get("Allocations"):
        raise ServiceError(
            f"Nomad raises the quota of stack {club} only while its PDS is stopped. Run `pulumi config set --path "
            f"pds.paused true --stack {club}` and `pulumi up --stack {club}`. Then run this `up` again, and unpause."
        )
    return quota == gib


def _further_volumes(api: NomadApi, club: str, volume: str, hosts: set[str]) -> dict[str, Json]:
    """The club's volumes on other hosts of the cluster than these, by host."""
    found = {_datacenter(api, item): item for item in _volumes(api, club, volume)}
    return {host: item for host, item in found.items() if host not in hosts}


def _refuse_another_host(api: NomadApi, club: str, volume: Json, datacenter: str) -> None:
    """A host keeps its node's ID on its volume, so the node of the club's data never changes."""
    node = _node(api, volume)
    where = node["Datacenter"]
    if node["Status"] == "ready" and volume["Name"] not in (node.get("HostVolumes") or {}):
        # Not removed here: an agent that failed to restore the volume does not have it either (plugin `create`).
        raise ServiceError(
            f"Nomad has a record of the volume of stack {club} on host {where}, and the agent there does not have the "
            f"volume. The stack file names {datacenter}. Nothing was changed. If Nomad was restored from a snapshot of "
            f"before the move to {datacenter}, remove the record: `./pds nomad STACK -- volume delete -type host "
            f"-namespace {club} {volume['ID']}` with the cluster's stack, and run this `up` again. Otherwise the data "
            f"are on host {where}: write 'host: {where}' back, and restart Nomad there."
        )
    raise ServiceError(
        f"The data of stack {club} are on host {where}, and the stack file names {datacenter}. They were not touched. "
        f"Write 'host: {where}' back, then run `./pds move {club} --to STACK --host {datacenter}` with the cluster's "
        "stack, which takes the data along."
    )


def _serves(api: NomadApi, club: str, datacenter: str) -> bool:
    """Whether the club's PDS is neither paused nor removed, and runs on this host."""
    path = f"/v1/job/{_PDS_JOB}?namespace={club}"
    status, job = api.request("GET", path)
    if status == 404:
        return False
    if status != 200:
        raise ServiceError(f"Nomad at {api.address} answered {status} to {path}: {str(job).strip()[:200]}")
    is_wanted = not job["Stop"] and any(group["Count"] for group in job["TaskGroups"])
    return is_wanted and datacenter in job["Datacenters"]


def _refuse_to_leave(club: str, where: str, datacenter: str) -> None:
    """No allocation protects the volume of a paused PDS, or of one that failed and waits for its next attempt. In a
    move the volume on the other host may still be empty."""
    raise ServiceError(
        f"The PDS of stack {club} is paused, or its job is not on host {datacenter}. Its data may exist only on host "
        f"{where}, but the cluster's file names only {datacenter}. Nothing was changed. If the file is of an older "
        "checkout, run `git pull`. To finish a move, write "
        f"'leaving: {{host: {where}, port: PORT}}' back for {club} in 'clubs', with the port that it has there, and "
        f"repeat the same `./pds move` as before. Otherwise start the PDS: remove 'paused' from "
        f"Pulumi.{club}.yaml, run `pulumi up --stack {club}`, and run this `up` again."
    )


def _leave(api: NomadApi, club: str, host: str, volume: Json) -> None:
    """Remove the volume on a host that the club has left, which renames the directory."""
    status, answer = api.request("DELETE", f"/v1/volume/host/{volume['ID']}?namespace={club}")
    if status != 200:
        raise ServiceError(
            f"Nomad does not remove the volume of stack {club} on host {host}, which it left: {status} "
            f"{str(answer).strip()[:200]}. Nothing else was changed. If the club still runs there, finish its move "
            "with the same `./pds move` as before. Else wait until the host is ready, and run `pulumi up` again."
        )


def volume_id(api: NomadApi, club: str, volume: str, datacenter: str = "") -> str:
    """The ID of the volume, in this datacenter if one is given; empty if there is none."""
    return str((_volume(api, club, volume, datacenter) or {}).get("ID", ""))


def remove_club(api: NomadApi, club: str, volume: str) -> None:
    """Remove volume and namespace from Nomad, which renames the volume's directory.

    Raises ServiceError while the club still has a job, also that of a paused PDS: Nomad itself refuses only the
    volume of a running one.
    """
    names = [item["Name"] for item in api.get("/v1/namespaces")]
    jobs = _jobs(api, club) if club in names else []
    if jobs:
        raise ServiceError(
            f"The PDS of stack {club} is still on this host, running or paused: Nomad has its jobs {', '.join(jobs)}. "
            f"Nothing of it was changed. First run `pulumi destroy --stack {club}`, or take it to another host with "
            f"`./pds move {club} --to STACK`. To keep it here, add it to the 'clubs' again."
        )
    for existing in _volumes(api, club, volume):
        _delete(api, club, f"/v1/volume/host/{existing['ID']}?namespace={club}")
    if club in names:
        _delete(api, club, f"/v1/namespace/{club}")


def refuse_in_use(api: NomadApi, clubs: list[str], stack: str, urn: str) -> None:
    """Raises ServiceError while a club of `clubs` has a job on this host, and if Nomad cannot answer.

    `urn` is that of the calling resource, in the state of the host's `stack`.
    """
    try:
        running = [club for club in clubs if _jobs(api, club)]
    except ServiceError as error:
        raise ServiceError(
            f"Nomad cannot report whether the PDS of {_and(clubs)} is still on this host. {str(error).rstrip('.')}. "
            f"Nothing was destroyed. Repair Nomad (`./pds repair {stack}`), then destroy again. Only if the host and "
            f"its clubs are lost for good: `pulumi state delete --stack {stack} '{urn}'`."
        ) from error
    if running:
        steps = "; ".join(
            f"`./pds move {club} --to STACK` takes {club} to another host, `pulumi destroy --stack {club}` ends it"
            for club in running
        )
        raise ServiceError(
            f"The PDS of {_and(running)} runs on this host, so its members would lose it. Nothing was destroyed. "
            f"First {steps}."
        )


def _jobs(api: NomadApi, club: str) -> list[str]:
    """The club's jobs that are not stopped: a paused PDS is on this host, too."""
    # Without dispatched runs: Nomad remembers those of a removed job for a while.
    return [job["ID"] for job in api.get(f"/v1/jobs?namespace={club}") if not job["Stop"] and not job["ParentID"]]


def _and(names: list[str]) -> str:
    return " and of ".join(f"stack {name}" for name in names)


def _delete(api: NomadApi, club: str, path: str) -> None:
    status, answer = api.request("DELETE", path)
    if status == 200:
        return
    if "in use by allocations" in str(answer):
        raise ServiceError(
            f"The PDS of stack {club} still runs on this host. Nothing of it was changed. First run "
            f"`pulumi destroy --stack {club}`. To keep it here, add it to the 'clubs' again."
        )
    raise ServiceError(
        f"Nomad refuses to remove {club}: {status} {str(answer).strip()[:200]}. Its stack owns what is left in the "
        f"namespace: `pulumi destroy --stack {club}`. The data are kept below /srv/nomad on the host."
    )


def _volume(api: NomadApi, club: str, volume: str, datacenter: str = "") -> Json:
    volumes = _volumes(api, club, volume)
    return next((item for item in volumes if not datacenter or _is_on(api, item, datacenter)), None)


def _is_on(api: NomadApi, volume: Json, datacenter: str) -> bool:
    node = _node(api, volume)
    return bool(node["Datacenter"] == datacenter and not _is_former(api, node))


def _is_former(api: NomadApi, node: Json) -> bool:
    """Whether its host has another node by now, because the agent forgot this one (`forget-agent`)."""
    if node["Status"] != "down":
        return False
    stubs = api.get("/v1/nodes")
    return any(stub["Datacenter"] == node["Datacenter"] and stub["Status"] == "ready" for stub in stubs)


def _ready_node(api: NomadApi, datacenter: str) -> str:
    """The host's node that is ready, or "". Nomad itself takes the first one by ID, also one that is down
    (nomad/host_volume_endpoint.go, placeHostVolume)."""
    stubs = [stub for stub in api.get("/v1/nodes") if stub["Datacenter"] == datacenter]
    return next((str(stub["ID"]) for stub in stubs if stub["Status"] == "ready"), "")


def _remove_from_former_nodes(api: NomadApi, club: str, volume: str, datacenter: str) -> None:
    """Remove the club's volumes on nodes that the host no longer has. No agent hears of it, and the directory stays."""
    for item in _volumes(api, club, volume):
        node = _node(api, item)
        if node["Datacenter"] == datacenter and _is_former(api, node):
            _delete(api, club, f"/v1/volume/host/{item['ID']}?namespace={club}&force=true")


def _volumes(api: NomadApi, club: str, volume: str) -> list[Json]:
    volumes = api.get(f"/v1/volumes?type=host&namespace={club}") or []
    return [item for item in volumes if item["Name"] == volume]


def _datacenter(api: NomadApi, volume: Json) -> str:
    return str(_node(api, volume)["Datacenter"])


def _node(api: NomadApi, volume: Json) -> Json:
    """The node of a volume. Raises ServiceError if Nomad has forgotten it, as `nomad system gc` does with a node that
    is down (core_sched.go, nodeGC)."""
    node = api.find(f"/v1/node/{volume['NodeID']}")
    if node is None:
        details = api.get(f"/v1/volume/host/{volume['ID']}?namespace={volume['Namespace']}")
        hosts = [item["RTarget"] for item in details.get("Constraints") or [] if "datacenter" in item["LTarget"]]
        host = f"host {hosts[0]}" if hosts else "its host"
        raise ServiceError(
            f"Nomad has forgotten the node of {host}, on which the volume {volume['Name']} is, because the host is "
            "down. Nothing was changed. The node comes back with the host: `./pds repair` of the cluster's stack moves "
            "it to a spare. Then repeat this command."
        )
    return node
