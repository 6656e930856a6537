"""A club's namespace and volume on a host, by Nomad's API. Every operation can be repeated.

Not by the provider's Namespace and DynamicHostVolume (docs/decisions/0013). It cannot create an existing volume, as
after a rebuilt host, and it cannot delete a missing one, as after an emptied Nomad; both would block `up` for ever.
`render/files/pds-dir.sh` owns the directory behind the volume. The standard library only, as in `probes.py`.
"""

from typing import Any

from components.probes import Json, NomadApi, ProbeError, until

_MODES = ("single-node-writer", "single-node-reader-only")
"""A read-only mount needs a mode of its own (scheduler/feasible.go)."""

_READY = 60  # seconds: a directory and a quota


def make(api: NomadApi, club: str, volume: str, gib: int) -> str:
    """Create the club's namespace, and its volume with this quota, or grow the existing one. Returns the volume's ID.

    Raises ProbeError for a smaller quota, and for a larger one while a job uses the volume: Nomad refuses both
    (nomad/structs/host_volumes.go, ValidateUpdate).
    """
    namespace = {
        "Name": club,
        "Description": f"The PDS of stack {club}.",
        "Capabilities": {"EnabledTaskDrivers": ["docker"]},
    }
    api.put(f"/v1/namespace/{club}", namespace)
    found = _named(api, club, volume)
    if found and _fits(api, club, found["ID"], gib):
        return str(found["ID"])
    wanted: dict[str, Any] = {
        "Name": volume,
        "Namespace": club,
        "PluginID": "pds-dir",
        "RequestedCapacityMinBytes": gib * 1024**3,
        "RequestedCapacityMaxBytes": gib * 1024**3,
        "RequestedCapabilities": [{"AccessMode": mode, "AttachmentMode": "file-system"} for mode in _MODES],
    }
    if found:
        wanted |= {"ID": found["ID"], "NodeID": found["NodeID"]}
    made = ""

    def asked() -> str | None:
        nonlocal made
        made = api.put(f"/v1/volume/host/create?namespace={club}", {"Volume": wanted})["Volume"]["ID"]
        return None

    def ready() -> str | None:
        state = (_named(api, club, volume) or {}).get("State")
        return None if state == "ready" else f"it is {state or 'not there'}"

    # On a slow host the node joins some time after Nomad has a leader.
    until(asked, _READY, f"A place for volume {volume}")
    until(ready, _READY, f"Volume {volume}")
    return made


def _fits(api: NomadApi, club: str, volume_id: str, gib: int) -> bool:
    whole = api.get(f"/v1/volume/host/{volume_id}?namespace={club}")
    has = int(whole["RequestedCapacityMaxBytes"]) // 1024**3
    if has > gib:
        raise ProbeError(
            f"The quota of stack {club} can grow, never shrink. It has {has} GiB: write 'disk_gib: {has}'."
        )
    if has < gib and whole.get("Allocations"):
        raise ProbeError(
            f"Nomad lets the quota of stack {club} grow while its PDS is stopped. Write 'pds: {{paused: true}}' in "
            f"Pulumi.{club}.yaml, run `pulumi up --stack {club}`, then this one again; then unpause."
        )
    return has == gib


def there(api: NomadApi, club: str, volume: str) -> str:
    """The volume's ID; empty if there is none."""
    return str((_named(api, club, volume) or {}).get("ID", ""))


def give_up(api: NomadApi, club: str, volume: str) -> None:
    """Remove both from Nomad, which renames the directory. Raises ProbeError while the club still has a job."""
    found = _named(api, club, volume)
    if found:
        _delete(api, club, f"/v1/volume/host/{found['ID']}?namespace={club}")
    if any(item["Name"] == club for item in api.get("/v1/namespaces")):
        _delete(api, club, f"/v1/namespace/{club}")


def refuse_in_use(api: NomadApi, clubs: list[str], stack: str, urn: str) -> None:
    """Raises ProbeError while a club of `clubs` has a job on this host, and if Nomad cannot answer.

    `urn` is that of the calling resource, in the state of the host's `stack`.
    """
    try:
        there = [club for club in clubs if _jobs(api, club)]
    except ProbeError as error:
        raise ProbeError(
            f"Whether the PDS of {_and(clubs)} is still on this host cannot be asked. {str(error).rstrip('.')}. "
            f"Nothing was destroyed. Let Nomad answer (`./pds rescue {stack}`), then destroy again. Only if the host "
            f"is gone for good, and its clubs with it: `pulumi state delete --stack {stack} '{urn}'`."
        ) from error
    if there:
        steps = "; ".join(
            f"`./pds move {club} --to STACK` takes {club} to another host, `pulumi destroy --stack {club}` ends it"
            for club in there
        )
        raise ProbeError(
            f"The PDS of {_and(there)} is on this host, and its members would be cut off. Nothing was destroyed. "
            f"First: {steps}."
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
        raise ProbeError(
            f"The PDS of stack {club} still runs on this host, and nothing of it was touched. First "
            f"`pulumi destroy --stack {club}` or, to keep it here, put it back among the 'clubs'."
        )
    raise ProbeError(
        f"Nomad does not let go of {club}: {status} {str(answer).strip()[:200]}. What is still in its namespace is its "
        f"stack's: `pulumi destroy --stack {club}`. The data are kept below /srv/nomad on the host."
    )


def _named(api: NomadApi, club: str, volume: str) -> Json:
    every = api.get(f"/v1/volumes?type=host&namespace={club}") or []
    return next((item for item in every if item["Name"] == volume), None)
