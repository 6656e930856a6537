"""Whether a cluster's servers are lost: from Nomad's answer, the account's droplets, and the engine's state."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cli.cluster.hosts import ClusterError
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import State
from components.clients.nomad import NomadApi

_SERVER = re.compile(r".*-server-\d+")
_LOOKS = 7
_PAUSE = 10.0
"""Seconds between two looks: a leader's election and a droplet's reboot end within the minute of all of them."""


@dataclass(frozen=True)
class Servers:
    """The servers of a cluster in the engine's state."""

    count: int
    droplets: frozenset[str]
    """DigitalOcean's numbers, without those that are deleted."""
    cluster_id: str
    """The accessor ID by which Nomad knows the stack's management token, unless its state is lost."""
    generations: tuple[int, ...]
    """The generations that the last `up` accepted."""
    is_unfinished: bool
    """Whether an `up` has rebuilt servers and did not see Nomad on them."""

    @classmethod
    def of(cls, state: State) -> "Servers":
        """Read them. Raises ClusterError if the state has no bootstrapped Nomad."""
        found = [item for item in state.of("Droplet") if _SERVER.fullmatch(item.name)]
        bootstraps, accounts = state.of("NomadBootstrap"), state.of("ClusterAccount")
        cluster_id = str(bootstraps[0].outputs.get("cluster_id") or "") if bootstraps else ""
        if not found or not cluster_id:
            raise ClusterError(
                "The engine's state has no Nomad servers (a droplet, or 'cluster_id' of NomadBootstrap, is missing), "
                "so no snapshot can be restored. Run `pulumi up` of the cluster and of each club."
            )
        droplets = frozenset(item.id for item in found if not item.replacing)
        seen = str(bootstraps[0].outputs.get("droplet_id") or "")
        accepted = (accounts[0].outputs.get("servers") or {}).get("generations") if accounts else None
        return cls(
            len(found),
            droplets,
            cluster_id,
            tuple(map(int, accepted or ())),
            seen not in droplets or any(item.replacing for item in found) or bool(state.pending),
        )


def are_rebuilt(servers: Servers, api: NomadApi, token: str, outputs: Mapping[str, Any]) -> bool:
    """Whether the servers are rebuilt already, and their Nomad is empty; False if they are lost.

    Raises ClusterError if Nomad has its state, or if it may have it: most servers' droplets are active.
    """
    active = 0
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        if _is_empty(servers, api, outputs):
            return True
        active = _active(servers, token)
        if 2 * active > servers.count and not servers.is_unfinished:
            raise ClusterError(
                f"Nomad at {outputs['nomad_address']} does not answer with its state, but {active} of "
                f"{servers.count} servers' droplets are active. Nothing was changed. If only the server behind the "
                "address is lost, `./pds repair` of this stack leads the address to another one. If the firewall "
                "blocks this machine, correct 'operators.cidrs'. If the servers' state is lost, power them off (`doctl "
                "compute droplet-action power-off ID --wait`) and repeat the command."
            )
    return servers.is_unfinished and 2 * active > servers.count


def accessor(api: NomadApi) -> str | None:
    """The accessor ID by which Nomad knows the stack's token, '' if it does not know it; None without an answer."""
    try:
        status, answer = api.request("GET", "/v1/acl/token/self")
    except OSError:
        return None
    if status == 200:
        return str(answer["AccessorID"])
    return "" if status == 403 else None


def _is_empty(servers: Servers, api: NomadApi, outputs: Mapping[str, Any]) -> bool:
    found = accessor(api)
    if found == servers.cluster_id:
        raise ClusterError(
            f"Nomad answers at {outputs['nomad_address']} and has its state. Nothing was changed. To rebuild a single "
            "lost server, raise its generation in 'cluster.servers.generations'."
        )
    # Bootstrapped again, or not yet: in both cases the stack's token is not the one that the state knows.
    return found is not None


def _active(servers: Servers, token: str) -> int:
    with DigitalOceanAccount(token) as account:
        found = [account.get(f"droplets/{number}") for number in sorted(servers.droplets)]
    return sum(droplet is not None and droplet["status"] in ("new", "active") for droplet in found)
