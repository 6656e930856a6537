"""Hosts whose agents have volumes that Nomad's servers do not know: their agents forget them; a part of `rejoin.py`.

An agent keeps its volumes on the host's volume. Servers whose state is older do not know the newest ones. They can
neither register nor delete them, and the agent refuses others with the same names
(client/hostvolumemanager/host_volumes.go). So it starts anew, as another node (`forget-agent`).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.clients.nomad import NomadApi

FORGET = "/usr/local/lib/pds/forget-agent"
_SECONDS = 300.0
_PAUSE = 5.0


def registrations(api: NomadApi) -> dict[str, int]:
    """The nodes as Nomad has them, each with the index of its last change. Raises ServiceError."""
    return {node["ID"]: int(node["ModifyIndex"]) for node in api.get("/v1/nodes")}


def unregistered(api: NomadApi, hosts: Iterable[str], before: Mapping[str, int]) -> list[str]:
    """The hosts without a ready node that has registered since `before`: a restored Nomad calls nodes ready of which it
    has not heard. Raises ServiceError."""
    ready = _ready(api)
    return sorted(
        host for host in hosts if host not in ready or before.get(ready[host]["ID"]) == int(ready[host]["ModifyIndex"])
    )


def with_unknown_volumes(api: NomadApi, hosts: Iterable[str]) -> list[str]:
    """The hosts whose node has a volume that the servers do not know. Raises ServiceError."""
    known = {item["ID"] for item in _records(api)}
    return [host for host, (_node, volumes) in _of_agents(api, hosts).items() if set(volumes.values()) - known]


def remove_outdated(api: NomadApi, hosts: Iterable[str]) -> None:
    """Remove Nomad's record of each volume whose club was moved after the snapshot: the agent of the record's node does
    not have the volume, and another host's agent has one of this name that Nomad does not know. A volume that no agent
    has is kept, because an agent may have failed to restore it. Raises ServiceError."""
    records, agents = _records(api), _of_agents(api, hosts)
    known = {item["ID"] for item in records}
    moved = {name: host for host, (_, volumes) in agents.items() for name, id_ in volumes.items() if id_ not in known}
    present = {node: (host, volumes) for host, (node, volumes) in agents.items()}
    for record in records:
        host, volumes = present.get(record["NodeID"], ("", {}))
        if host and record["Name"] in moved and record["Name"] not in volumes:
            path = f"/v1/volume/host/{record['ID']}?namespace={record['Namespace']}"
            status, answer = api.request("DELETE", path)
            removed = "is removed" if status == 200 else f"stays: Nomad refuses ({status}: {str(answer).strip()[:200]})"
            name, now = record["Name"], moved[record["Name"]]
            print(f"{name} is on host {now} by now. Nomad's record of it on {host} {removed}.")


def forget(api: NomadApi, stack: str, hosts: list[str], run: Callable[[str, str], bool]) -> bool:
    """Let the agents of the hosts forget their state, by `run` with a host and a command. Wait until Nomad has other
    nodes of them, and calls the former ones down, whose volumes the next `up` then replaces (`nomad_clubs.py`). Returns
    whether it does; prints what is left to do. Raises ServiceError."""
    former = {host: _ready(api)[host]["ID"] for host in hosts}
    print(f"\nNomad does not know the newest volumes of {', '.join(hosts)}. The agents there start as new nodes.")
    print("The PDSes there stop, and start again with the `up` below. Their data are not touched.")
    failed = [host for host in hosts if not run(host, FORGET)]
    for host in failed:
        print(f"  ./pds ssh {stack} --host {host} -- {FORGET}")
    waiting = [host for host in hosts if host not in failed]
    end = time.monotonic() + _SECONDS
    while waiting := [host for host in waiting if not _is_another(api, host, former[host])]:
        if time.monotonic() > end:
            print(f"No other node after {_SECONDS:.0f} s: {', '.join(waiting)}. `./pds list` shows more.")
            return False
        time.sleep(_PAUSE)
    return not failed


def _records(api: NomadApi) -> list[Any]:
    """All volumes, as the servers know them."""
    return list(api.get("/v1/volumes?type=host&namespace=*") or [])


def _of_agents(api: NomadApi, hosts: Iterable[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """The ready node of each host, and the volumes that its agent has: name to ID."""
    ready, found = _ready(api), {}
    for host in hosts:
        if host in ready:
            volumes = api.get(f"/v1/node/{ready[host]['ID']}")["HostVolumes"] or {}
            # A volume of the agent's own configuration has no ID.
            found[host] = ready[host]["ID"], {name: item["ID"] for name, item in volumes.items() if item.get("ID")}
    return found


def _is_another(api: NomadApi, host: str, former: str) -> bool:
    nodes = {node["ID"]: node for node in api.get("/v1/nodes")}
    is_down = former not in nodes or nodes[former]["Status"] == "down"
    others = [node for node in nodes.values() if node["Datacenter"] == host and node["ID"] != former]
    return is_down and any(node["Status"] == "ready" for node in others)


def _ready(api: NomadApi) -> dict[str, Any]:
    """The ready node of each host."""
    return {node["Datacenter"]: node for node in api.get("/v1/nodes") if node["Status"] == "ready"}
