"""A cluster's server on a machine: `pytest -x -s tests/e2e/scenarios/e2e_machine_server.py`, as root.

The exact `user_data` of the only server of a cluster, as the program renders it, under systemd and cloud-init
(`virtual_cluster.py`), with certificates of a CA made here. One scenario: each test continues from the end of the
previous one. Times are printed, never asserted, since they depend on the emulation.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from components.render.cluster.user_data import server_user_data
from components.render.host.cloud_init import MAX_BYTES
from tests.e2e.environment.tools import missing
from tests.e2e.environment.virtual import free_port
from tests.e2e.environment.virtual_cluster import RPC, ClusterVirtualMachines, identity, until, virtual_cluster
from tests.e2e.environment.virtual_nomad import Nomad, behind_endpoint
from tests.support.certificates import Authority

PROGRAMS = ("nomad", "qemu-system-x86_64", "debootstrap", "mke2fs", "debugfs", "ssh", "ssh-keygen")
STACK = "fleet"
SERVER = 1
_ENDPOINT = 4650
_MEMORY_MIB = 1024
"""As of s-1vcpu-1gb."""


@dataclass(frozen=True)
class Server:
    """The droplet, and Nomad's API behind its endpoint."""

    machines: ClusterVirtualMachines
    nomad: Nomad

    def ask(self, script: str) -> str:
        """The output of a shell script on the droplet. Raises E2eError."""
        return self.machines.ask(SERVER, script, patience=600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    authority = Authority("PDS operators")
    machines, settings, _ = virtual_cluster(tmp_path_factory.mktemp("machine"), STACK, free_port(), _MEMORY_MIB)
    data = server_user_data(settings, STACK, SERVER, identity(authority, "server.global.nomad"))
    assert len(data.encode()) <= MAX_BYTES
    try:
        machines.make(SERVER, data, {})
        yield Server(machines, behind_endpoint(machines.reach(SERVER, _ENDPOINT), authority))
    finally:
        machines.stop_all()


def test_exact_user_data_creates_a_server_that_leads(server: Server) -> None:
    address = server.machines.private_address(SERVER)
    until("a leader", lambda: bool(server.nomad.get("/v1/status/leader")))
    assert server.nomad.get("/v1/status/leader") == f"{address}:{RPC}"
    server.nomad.bootstrap()
    [member] = server.nomad.get("/v1/agent/members")["Members"]
    assert (member["Name"], member["Addr"]) == (f"{STACK}-server-1.global", address)
    assert "encrypt" in server.ask("cat /etc/nomad.d/gossip.hcl")


def test_its_own_client_runs_the_takeover_alone(server: Server) -> None:
    until("its client", lambda: [node["Status"] for node in server.nomad.get("/v1/nodes")] == ["ready"])
    [node] = server.nomad.get("/v1/nodes")
    assert node["NodePool"] == "servers"
    assert [name for name, driver in node["Drivers"].items() if driver["Detected"]] == ["raw_exec"]
    print(server.ask("python3 --version; restic version; free --mebi | head -2"))


def test_a_reboot_keeps_the_state(server: Server) -> None:
    began = time.monotonic()
    server.machines.stop(SERVER, graceful=True)
    print(f"\n== off after {time.monotonic() - began:.0f} s")
    server.machines.start(SERVER)
    server.machines.finish_boot(SERVER, began)
    until("a leader", lambda: bool(server.nomad.get("/v1/status/leader")))
    # The token is of the first boot.
    until("its client", lambda: [node["Status"] for node in server.nomad.get("/v1/nodes")] == ["ready"])
