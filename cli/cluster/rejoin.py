"""Hosts' agents that call servers which are gone: restarted, they find the new ones; the end of `./pds restore`.

Nomad's client reads the address of the servers at its start only. Each heartbeat replaces it by the servers' own
addresses (client/client.go, handleNodeUpdateResponse). So after all servers were rebuilt it calls dead addresses, until
it is restarted. Its tasks go on meanwhile (nomad.service, KillMode). A restart before Nomad has its state would end
them: a restarted agent ends what Nomad does not know (client/client.go, watchAllocations).
"""

import time

from cli.cluster.hosts import Cluster, looks
from cli.errors import CommandError
from cli.lib.stack import Stack
from cli.observe.ssh import connect, host_endpoint

_RESTART = "systemctl restart nomad.service"
_SECONDS = 300.0
_PAUSE = 5.0


def rejoin(stack: Stack) -> bool:
    """Restart the agent of each host by ssh, and wait until each node is ready. Returns whether it is; prints what is
    left to do. Raises ClusterError and StackError."""
    cluster = Cluster.of(stack)
    print("\nRestarting Nomad on each host, so that it connects to the new servers. PDSes keep running.")
    failed = [host for host in cluster.outputs["hosts"] if not _is_restarted(stack, host)]
    if failed:
        print("\nRestart Nomad on these hosts within five minutes, or the takeover moves one:")
        for host in failed:
            print(f"  ./pds ssh {stack.name} --host {host} -- {_RESTART}")
        return False
    end = time.monotonic() + _SECONDS
    while True:
        found, unknown = looks(cluster.passes())
        silent = sorted([*unknown, *(name for name, host in found.items() if not host.is_serving)])
        if not silent:
            return True
        if time.monotonic() > end:
            print(f"Not ready after {_SECONDS:.0f} s: {', '.join(silent)}. `./pds list` shows more.")
            return False
        time.sleep(_PAUSE)


def _is_restarted(stack: Stack, host: str) -> bool:
    try:
        return connect(host_endpoint(stack, host), [_RESTART], allow_ip=False) == 0
    except CommandError as error:
        print(f"host {host}: {error}")
        return False
