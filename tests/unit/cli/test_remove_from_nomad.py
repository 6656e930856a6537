"""A host that left the cluster: what its Nomad loses, and what it must not touch."""

import re
import time
from typing import Any, cast

import pytest

from cli.adoption import remove_from_nomad
from components.clients.errors import DeadlineError, ServiceError
from components.clients.nomad import NomadApi


class _Nomad:
    """Nomad with two hosts. As strict as 2.0: a volume is not deleted while an allocation uses it, nor without `force`
    while its node is unknown (nomad/host_volume_endpoint.go), and a namespace only if it is empty."""

    def __init__(self) -> None:
        self.jobs = {"house": ["pds", "pds-backup"], "host-a": ["caddy"], "rooks": ["pds"], "host-b": ["caddy"]}
        self.variables = {"house": ["nomad/jobs/pds"], "host-a": ["caddy/files/house"], "rooks": ["nomad/jobs/pds"]}
        self.volumes = {"house": ["v1"], "rooks": ["v2"]}
        self.places = {"v1": "node-1", "v2": "node-2"}
        self.nodes = {"node-1": "a", "node-2": "b"}
        self.policies = {"pds-club-house", "pds-club-rooks"}
        self.namespaces = {"default", *self.jobs}
        self.in_use = 2
        """Queries after which the allocations of a purged node count as lost."""

    def get(self, path: str) -> Any:
        if path == "/v1/namespaces":
            return [{"Name": name} for name in sorted(self.namespaces)]
        if path == "/v1/nodes":
            return [{"ID": number, "Datacenter": host} for number, host in self.nodes.items()]
        kind, namespace = re.fullmatch(r"/v1/(\w+)\?(?:type=host&)?namespace=([\w-]+)", path).groups()  # type: ignore[union-attr]
        found = {"jobs": self.jobs, "vars": self.variables, "volumes": self.volumes}[kind].get(namespace, [])
        if kind == "volumes":
            return [{"ID": item, "NodeID": self.places[item]} for item in found]
        return [{"Path" if kind == "vars" else "ID": item} for item in found]

    def post(self, path: str, _body: Any) -> Any:
        del self.nodes[path.split("/")[3]]

    def request(self, _method: str, path: str) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        kind, name = path.removeprefix("/v1/").split("/", 1)
        namespace = dict(part.split("=") for part in query.split("&")).get("namespace", "") if query else ""
        if kind == "job":
            assert "purge=true" in query
            self.jobs[namespace].remove(name)
        elif kind == "var":
            self.variables[namespace].remove(name)
        elif kind == "volume":
            assert "a" not in self.nodes.values(), "a plugin that still answers would rename the directory"
            self.in_use -= 1
            if self.in_use >= 0:
                return 500, "could not delete volume v1 in use by alloc 1"
            if "force=true" not in query:
                return 500, "volume cannot be removed from unknown node without force=true"
            self.volumes[namespace].remove(name.removeprefix("host/"))
        elif kind == "namespace":
            if any(kept.get(name) for kept in (self.jobs, self.variables, self.volumes)):
                return 500, "namespace has content"
            self.namespaces.remove(name)
        elif name.removeprefix("policy/") in self.policies:
            self.policies.remove(name.removeprefix("policy/"))
        else:
            return 404, "policy not found"
        return 200, None


@pytest.fixture
def nomad(monkeypatch: pytest.MonkeyPatch) -> _Nomad:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return _Nomad()


def _forget(nomad: _Nomad) -> None:
    remove_from_nomad.forget(cast(NomadApi, nomad), "a", ("house", "chess"))


def test_everything_of_the_host_is_removed_and_nothing_of_another(nomad: _Nomad) -> None:
    for _ in range(2):  # as after an interruption
        _forget(nomad)
    assert nomad.namespaces == {"default", "rooks", "host-b"}
    assert nomad.nodes == {"node-2": "b"}
    assert nomad.policies == {"pds-club-rooks"}
    assert (nomad.jobs["rooks"], nomad.variables["rooks"], nomad.volumes["rooks"]) == (
        ["pds"],
        ["nomad/jobs/pds"],
        ["v2"],
    )


def test_what_stays_in_use_is_reported(nomad: _Nomad, monkeypatch: pytest.MonkeyPatch) -> None:
    nomad.in_use = 10_000
    clock = iter(range(0, 10_000_000, 50))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(DeadlineError, match=r"The namespace house: .*in use by alloc 1"):
        _forget(nomad)
    assert "house" in nomad.namespaces


def test_a_club_with_its_data_on_another_host_is_left_whole(nomad: _Nomad) -> None:
    nomad.places["v1"] = "node-2"
    with pytest.raises(ServiceError, match="a volume of house on another host than a: v1"):
        _forget(nomad)
    assert (nomad.jobs["house"], nomad.volumes["house"]) == (["pds", "pds-backup"], ["v1"])
    assert "node-1" in nomad.nodes
    assert "pds-club-house" in nomad.policies
