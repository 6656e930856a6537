"""The requirements on an existing Nomad; everything that it lacks is in one list."""

from copy import deepcopy
from typing import Any

import pytest

from components.clients.errors import ServiceError
from components.clients.nomad_requirements import missing_requirements, require
from tests.support.answers import Answers

REQUIRED: dict[str, Any] = {
    "volume": "pds",
    "job": "pds",
    "namespace": "default",
    "datacenter": "dc1",
    "memory_mib": 768,
    "mhz": 800,
    "ports": [3000],
    "ingress": "io",
}
NODE: dict[str, Any] = {
    "ID": "n-1",
    "Name": "droplet",
    "Attributes": {"nomad.version": "2.0.4"},
    "Drivers": {"docker": {"Healthy": True}},
    "HostVolumes": {"pds": {"ReadOnly": False}, "io": {"ReadOnly": False}},
    "NodeResources": {
        "Memory": {"MemoryMB": 2000},
        "Cpu": {"CpuShares": 2000},
        "NodeNetworks": [{"Addresses": [{"Alias": "loopback", "Address": "127.0.0.1"}]}],
    },
    "ReservedResources": {"Memory": {"MemoryMB": 256}},
}


def running(job: str, memory: int, port: int | None = None, status: str = "running") -> dict[str, Any]:
    ports = [{"Value": port}] if port else []
    return {
        "Namespace": "default",
        "JobID": job,
        "ClientStatus": status,
        "AllocatedResources": {"Tasks": {job: {"Memory": {"MemoryMB": memory}}}, "Shared": {"Ports": ports}},
    }


def nomad(node: dict[str, Any] = NODE, *allocations: dict[str, Any], answers: dict[str, Any] | None = None) -> Answers:
    return Answers(
        {
            "GET /v1/acl/token/self": (200, {"AccessorID": "a-1", "Type": "management"}),
            "anonymous GET /v1/var/nomad/jobs/pds": (403, "Permission denied"),
            "GET /v1/namespaces": (200, [{"Name": "default"}]),
            "GET /v1/nodes": (200, [{"ID": "n-1", "Status": "ready", "Datacenter": "dc1"}]),
            "GET /v1/node/n-1": (200, node),
            "GET /v1/node/n-1/allocations": (200, list(allocations)),
            **(answers or {}),
        }
    )


def node(**changes: Any) -> dict[str, Any]:
    return {**deepcopy(NODE), **changes}


def test_complete_nomad_lacks_nothing() -> None:
    others = (running("pds", 512, 3000), running("other", 900, 8080), running("gone", 9000, 3000, "complete"))
    assert missing_requirements(nomad(NODE, *others), REQUIRED) == [], "its own job and ended jobs are not counted"


def test_processors_of_other_jobs_are_counted() -> None:
    busy = running("other", 100)
    busy["AllocatedResources"]["Tasks"]["other"]["Cpu"] = {"CpuShares": 1300}
    assert missing_requirements(nomad(NODE, busy), REQUIRED) == [
        "800 MHz of processors on droplet: 700 of its 2000 are free"
    ]
    silent = node(NodeResources={key: value for key, value in NODE["NodeResources"].items() if key != "Cpu"})
    assert missing_requirements(nomad(silent, busy), REQUIRED) == [], (
        "a node that does not report its processors is accepted"
    )


LACKS = {
    "ACLs": (
        nomad(answers={"GET /v1/acl/token/self": (200, {"AccessorID": "acls-disabled", "Type": "client"})}),
        "every client of this Nomad can read",
    ),
    "a known token": (nomad(answers={"GET /v1/acl/token/self": (403, "token not found")}), "on.nomad_token"),
    "a management token": (
        nomad(answers={"GET /v1/acl/token/self": (200, {"AccessorID": "a-1", "Type": "client"})}),
        "set 'ingress.kind' to none",
    ),
    "closed variables": (
        nomad(answers={"anonymous GET /v1/var/nomad/jobs/pds": (404, "not found")}),
        "anonymous policy",
    ),
    "the namespace": (nomad(answers={"GET /v1/namespaces": (200, [])}), "nomad namespace apply default"),
    "a node in the datacenter": (
        nomad(answers={"GET /v1/nodes": (200, [{"ID": "n-1", "Status": "ready", "Datacenter": "fra"}])}),
        "there are: fra",
    ),
    "a newer Nomad": (nomad(node(Attributes={"nomad.version": "1.10.2"})), "which has 1.10.2"),
    "Docker": (nomad(node(Drivers={})), "its driver is not healthy"),
    "a host volume": (nomad(node(HostVolumes={"io": {}})), 'host_volume "pds" { path = "/srv/nomad/pds" }'),
    "the ingress's volume": (nomad(node(HostVolumes={"pds": {}})), "host volume io"),
    "a writable volume": (nomad(node(HostVolumes={"pds": {"ReadOnly": True}, "io": {}})), "read-only"),
    "a loopback network": (
        nomad(node(NodeResources={"Memory": {"MemoryMB": 2000}, "NodeNetworks": []})),
        'host_network "loopback" { cidr = "127.0.0.1/32" }',
    ),
    "its port": (nomad(NODE, running("other", 100, 3000)), "port 3000 on droplet: job other has it"),
    "memory": (nomad(NODE, running("other", 1500)), "768 MiB of memory on droplet: 244 of its 2000 are free"),
}


@pytest.mark.parametrize("requirement", LACKS)
def test_missing_requirement_is_named_with_its_remedy(requirement: str) -> None:
    api, words = LACKS[requirement]
    (found,) = missing_requirements(api, REQUIRED)
    assert words in found


def test_without_an_ingress_neither_its_volume_nor_its_rights_are_required() -> None:
    api = nomad(
        node(HostVolumes={"pds": {}}),
        answers={"GET /v1/acl/token/self": (200, {"AccessorID": "a-1", "Type": "client"})},
    )
    assert missing_requirements(api, {**REQUIRED, "ingress": ""}) == []


def test_reports_the_node_with_the_fewest_missing_requirements() -> None:
    nodes = [{"ID": name, "Status": "ready", "Datacenter": "dc1"} for name in ("n-0", "n-1")]
    api = nomad(node(Drivers={}), answers={"GET /v1/nodes": (200, nodes)})
    api.answers |= {"GET /v1/node/n-0": (200, node(ID="n-0", Name="bare", HostVolumes={}, Drivers={}))}
    api.answers |= {"GET /v1/node/n-0/allocations": (200, [])}
    assert missing_requirements(api, REQUIRED) == ["Docker on droplet: its driver is not healthy there"]


def test_lists_all_missing_requirements_and_states_that_nothing_was_created() -> None:
    api = nomad(node(Drivers={}, HostVolumes={}))
    with pytest.raises(ServiceError) as caught:
        require(api, REQUIRED)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("lacks the following. Nothing was created in it.")
    assert len(lines) == 4
