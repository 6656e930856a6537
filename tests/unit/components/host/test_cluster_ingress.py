"""Two hosts of one cluster: each has an ingress of its own, and a club's names lead to the host that it is on."""

import json
import re
from functools import cache

import pytest
import yaml

from offline.mock_engine import Evaluation, evaluate
from tests.support.invariants import kind as kind_of
from tests.support.programs import CLUSTER, shared

FOLDERS = {"caddy": "data", "io": "io"}
"""The folder in each ingress's container with its certificates."""
KINDS = tuple(FOLDERS)
CLUBS = {"chess": "a", "rooks": "b"}


@cache
def _cluster(kind: str) -> Evaluation:
    config = {f"pds:{key}": json.dumps(value) for key, value in {**CLUSTER, "ingress": {"kind": kind}}.items()}
    return evaluate("fleet", config, secret_keys=frozenset({"pds:cluster"}))


@cache
def _club(kind: str, club: str) -> Evaluation:
    return shared(
        stack=club,
        on="fleet",
        host=_cluster(kind),
        nomad={"datacenter": CLUBS[club]},
        ingress={"kind": kind},
        hostname=f"pds.{club}-club.org",
        dns={"provider": "digitalocean", "zone": f"{club}-club.org"},
        pds={"port": 3101, "memory_mib": 256},
    )


def _address(kind: str, host: str) -> str:
    return str(_cluster(kind).outputs["hosts"][host]["address"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["a", "b"])
def test_each_host_runs_its_own_ingress_with_the_files_of_its_clubs_only(kind: str, host: str) -> None:
    job = str(_cluster(kind).one(f"pds-ingress-{host}-job").inputs["jobspec"])
    assert re.search(rf'namespace += "host-{host}"', job)
    assert f'datacenters = ["{host}"]' in job, "where members' connections arrive with their own addresses"
    assert re.search(rf'nomadVarList \\*"{kind}/files\\*"', job), "in the namespace of the job"
    rights = _cluster(kind).one(f"pds-ingress-{host}-policy").inputs
    assert rights["jobAcl"] == {"namespace": f"host-{host}", "jobId": kind}
    assert re.findall(r'namespace "([^"]+)"', rights["rulesHcl"]) == [f"host-{host}"]
    assert rights["name"] == f"{kind}-files-{host}", "two policies of one name would be one"


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_move_with_the_volume_of_their_host(kind: str) -> None:
    for job in (str(_cluster(kind).one(f"pds-ingress-{host}-job").inputs["jobspec"]) for host in "ab"):
        assert re.search(rf'volume "{kind}" \{{\s+type += "host"\s+read_only = false\s+source += "{kind}"', job)
        assert re.findall(r'volume += "(\w+)"\s+destination = "(\S+)"', job) == [(kind, f"/{FOLDERS[kind]}")]
    worker = next(item for item in _cluster(kind).of("droplet:Droplet") if "-worker-" in item.name)
    files = {
        file["path"]: file["content"]
        for file in yaml.load(str(worker.inputs["userData"]), yaml.CSafeLoader)["write_files"]
    }
    assert re.search(rf'host_volume "{kind}" \{{\s+path += "/srv/nomad/{kind}"', files["/etc/pds/agent.hcl"])
    assert "Where=/srv/nomad\n" in files["/etc/pds/srv-nomad.mount"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("club", sorted(CLUBS))
def test_a_club_is_served_by_the_ingress_and_the_address_of_its_host(kind: str, club: str) -> None:
    host, evaluation = CLUBS[club], _club(kind, club)
    file = evaluation.one("pds-ingress-file-variable").inputs
    assert (file["namespace"], file["path"]) == (f"host-{host}", f"{kind}/files/{club}")
    assert "127.0.0.1:3101" in file["items"]["text"], "the server of the other host has the same port"
    records = {item.inputs["value"] for item in evaluation.of(":DnsRecord") if item.inputs["type"] == "A"}
    assert records == {_address(kind, host)}
    (ready,) = [item for item in evaluation.resources if kind_of(item) == "DnsReady"]
    assert ready.inputs["ip"] == _address(kind, host)
    assert not any("-ingress-job" in item.name for item in evaluation.of("job:Job")), "the cluster runs it"


def test_hosts_have_different_addresses() -> None:
    assert _address("caddy", "a") != _address("caddy", "b"), "the tests above would show nothing"
