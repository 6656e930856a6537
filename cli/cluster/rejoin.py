"""Hosts' agents that call servers which are gone: restarted, they find the new ones; the end of `./pds restore`.

Nomad's client reads the address of the servers at its start only. Each heartbeat replaces it by the servers' own
addresses (client/client.go, handleNodeUpdateResponse). So after all servers were rebuilt it calls dead addresses, until
it is restarted. Its tasks go on meanwhile (nomad.service, KillMode). A restart before Nomad has its state would end
them: a restarted agent ends what Nomad does not know (client/client.go, watchAllocations).
"""

import time
from collections.abc import Mapping

from cli.cluster import unknown_volumes
from cli.cluster.hosts import Cluster, looks
from cli.errors import CommandError
from cli.lib.nomad_exec import nomad_access, nomad_api
from cli.lib.stack import Stack
from cli.observe.ssh import connect, host_endpoint
from components.clients.nomad import NomadApi

_RESTART = "systemctl restart nomad.service"
_SECONDS = 300.0
_PAUSE = 5.0


def rejoin(stack: Stack) -> bool:
    """Restart the agent of each host by ssh, and wait until each node is ready. Returns whether it is; prints what is
    left to do. An agent with volumes that Nomad does not know forgets its state then (`unknown_volumes.py`). Raises
    ClusterError, ServiceError and StackError."""
    cluster = Cluster.of(stack)
    outputs = cluster.outputs
    api = nomad_api(nomad_access({**outputs, "nomad_token": outputs["nomad_management_token"]}))
    before = unknown_volumes.registrations(api)
    print("\nRestarting Nomad on each host, so that it connects to the new servers. PDSes keep running.")
    failed = [host for host in outputs["hosts"] if not _runs(stack, host, _RESTART)]
    if failed:
        print("\nRestart Nomad on these hosts within a minute, or the takeover may move them:")
        for host in failed:
            print(f"  ./pds ssh {stack.name} --host {host} -- {_RESTART}")
        return False
    if not _are_ready(cluster, api, before):
        return False
    unknown_volumes.remove_outdated(api, outputs["hosts"])
    behind = unknown_volumes.with_unknown_volumes(api, outputs["hosts"])
    return not behind or unknown_volumes.forget(api, stack.name, behind, lambda host, line: _runs(stack, host, line))


def _are_ready(cluster: Cluster, api: NomadApi, before: Mapping[str, int]) -> bool:
    end = time.monotonic() + _SECONDS
    while True:
        found, unknown = looks(cluster.passes())
        silent = sorted(
            {
                *unknown,
                *(name for name, host in found.items() if not host.is_serving),
                *unknown_volumes.unregistered(api, cluster.outputs["hosts"], before),
            }
        )
        if not silent:
            return True
        if time.monotonic() > end:
            print(f"Not ready after {_SECONDS:.0f} s: {', '.join(silent)}. `./pds list` shows more.")
            return False
        time.sleep(_PAUSE)


def _runs(stack: Stack, host: str, line: str) -> bool:
    try:
        return connect(host_endpoint(stack, host), [line], allow_ip=False) == 0
    except CommandError as error:
        print(f"host {host}: {error}")
        return False
