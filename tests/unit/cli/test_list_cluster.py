"""`./pds list` of a cluster and its clubs: where they are, what is left on each host, and what they cost."""

import pytest
import yaml

from cli import app
from cli.cluster import hosts
from tests.support.fake_project import HOST, FakeProject, club
from tests.support.programs import CLUSTER
from tests.unit.cli.test_list import OUTPUTS, shown
from tests.unit.cli.test_list import project as project
from tests.unit.cli.test_list import world as world


def test_shows_hosts_room_and_cost_of_a_cluster(
    project: FakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {f"pds:{key}": value for key, value in CLUSTER.items()}
    project.stack("fleet", yaml.safe_dump({"config": config}), None, hosts={"a": {}, "b": {}})
    project.stack("chess", club("chess", 3101, "fleet") + "  pds:nomad: {datacenter: a}\n", **OUTPUTS)
    lines = ["host a (ip-a) on worker 1, droplet 1: ready; clubs chess", "spares: none"]
    monkeypatch.setattr(hosts.Cluster, "of", lambda _stack: None)
    monkeypatch.setattr(hosts, "lines", lambda _cluster: lines)
    rows, report = shown(capsys)
    assert (rows["chess"]["host"], rows["fleet"]["state"]) == ("fleet/a", "cluster")
    whole = 3 * 6 + 3 * 24 + 0.1 * (50 + 60)
    assert rows["chess"]["usd_per_month"] == pytest.approx(whole / 2)
    assert rows["fleet"]["usd_per_month"] is None, "the clubs' rows have its cost"
    assert report["notes"][-2:] == [f"fleet: {line}." for line in lines]
    assert any(f"the cluster costs ${whole:.2f} a month (3 of s-1vcpu-1gb" in note for note in report["notes"])
    free = {item["cluster_host"]: item for item in report["free_capacity"] if item["host"] == "fleet"}
    assert {host: item["disk_gib"] for host, item in free.items()} == {"a": 50 - 5 - 5, "b": 60 - 5 - 5}
    assert free["a"]["memory_mib"] == int(4096 * 0.94) - 512 - 256 - 896
    project.stack("dev", HOST + "  pds:pds: {memory_mib: 700}\n", **OUTPUTS)
    app.main(["list"])
    assert "--on fleet --host b" in capsys.readouterr().out
