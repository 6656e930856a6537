"""`./pds upgrade` of a cluster: order, refusals, and a kill at each step."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.cluster import drain, upgrade
from cli.cluster.hosts import ClusterError
from components.takeover.decide import Action, Rules
from components.takeover.interfaces import UPGRADE
from components.takeover.passes import Passes
from tests.support.fake_cluster import KilledError
from tests.unit.cli.upgraded_cluster import ORDER, World, make_world, run
from tests.unit.cli.upgraded_cluster import world as world


def test_rebuilds_servers_then_spares_then_each_host_s_worker(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world) == 0
    assert "All workers and all 3 servers are rebuilt, and every host is ready." in capsys.readouterr().out
    assert world.rebuilt == ORDER
    assert world.endpoint == 2, "another server was named before the first was rebuilt"
    assert world.fake.is_serving("a")
    assert world.fake.is_serving("b")
    assert world.fake.violations == []
    assert world.variable is None


def test_killed_anywhere_the_next_run_rebuilds_the_rest_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, monkeypatch)
    run(world)
    for number in range(1, world.events + 1):
        world = make_world(tmp_path, monkeypatch)
        world.dies_at = number
        with pytest.raises(KilledError):
            run(world)
        if world.fake.down_since:
            # A drain was cut off: the takeover of the cluster moves the host.
            job = Passes(world.fake, world.fake, world.fake.places, "workers", Rules(), "job", world.fake.now)
            for _ in range(60):
                job.once()
                world.fake.pass_time(4)
        assert run(world) == 0
        assert sorted(world.rebuilt) == sorted(ORDER), f"killed in call {number}"
        assert world.fake.violations == []


def test_an_interrupted_run_applies_no_file_that_rebuilds_two_droplets(world: World) -> None:
    world.dies_at = 8
    with pytest.raises(KilledError):
        run(world)
    assert world.variable, "it was interrupted"
    rebuilt = list(world.rebuilt)
    file = world.root / "Pulumi.fleet.yaml"
    content = yaml.load(file.read_text(), yaml.CSafeLoader)
    content["config"]["pds:cluster"]["servers"]["generations"] = {"2": 7, "3": 7}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError, match="more than one droplet: server-2, server-3"):
        run(world)
    assert world.rebuilt == rebuilt


def test_an_interrupted_run_applies_no_file_that_rebuilds_the_worker_of_a_host(world: World) -> None:
    drained = drain.drain

    def cut_short(*arguments: Any, **options: Any) -> int:
        drained(*arguments, **options)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain, "drain", cut_short)
        with pytest.raises(KilledError):
            run(world)
    assert world.fake.volumes["a"].carrier == world.workers[2], "worker 3 was rebuilt, and host a drained to it"
    rebuilt = list(world.rebuilt)
    file = world.root / "Pulumi.fleet.yaml"
    content = yaml.load(file.read_text(), yaml.CSafeLoader)
    # Another checkout: it has the server's numbers, and not that of worker 3.
    content["config"]["pds:cluster"]["workers"]["generations"] = {"3": 1}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterError, match=r"rebuild worker 3, droplet \d+, which runs host a"):
        run(world)
    assert world.rebuilt == rebuilt


def test_the_only_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, monkeypatch, servers=1)
    assert run(world) == 0
    assert world.rebuilt == ["worker 3", "worker 1", "worker 2"]
    said = capsys.readouterr().out
    assert "This command keeps the only server, because it has Nomad's state" in said
    assert "All workers are rebuilt, and every host is ready." in said


def _address_elsewhere(world: World) -> None:
    world.fake.volumes["a"].address_at = 3


def _action(world: World) -> None:
    world.fake.volumes["a"].actions.append(Action("resize", "in-progress", world.fake.time))


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (lambda world: setattr(world, "healthy", False), "The servers are not healthy"),
        (lambda world: world.fake.cut_power(1), r"Host a: its node is not ready\. Run `\./pds repair fleet` first"),
        (_address_elsewhere, r"Host a: ip-a does not lead to its droplet\. Run `\./pds repair fleet` first"),
        (_action, r"Host a: an action on its volume is in progress\. Repeat the command when it is over"),
        (lambda world: world.fake.items.update(retired='{"3": "b"}'), "There is no spare worker"),
        (lambda world: setattr(world, "changes_pending", True), "changes that are not applied"),
        (
            lambda world: setattr(world, "leads_to", 2),
            r"203\.0\.113\.9 leads to server 2, and the stack file names server 1.*endpoint: 2' into Pulumi",
        ),
    ],
)
def test_refuses_before_anything_is_touched(world: World, fault: Any, problem: str) -> None:
    fault(world)
    before = (world.root / "Pulumi.fleet.yaml").read_bytes()
    with pytest.raises(ClusterError, match=problem):
        run(world)
    assert (world.root / "Pulumi.fleet.yaml").read_bytes() == before
    assert world.variable is None
    assert world.rebuilt == []


def test_stops_if_the_servers_do_not_become_healthy(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def sick(*_arguments: str, env: Any = None) -> int:
        code = World.run_interactively(world)
        world.healthy = False
        return code

    world.run_interactively = sick  # type: ignore[method-assign]
    assert run(world) == 1
    assert world.rebuilt == ["server 2"]
    assert "Repeat `./pds upgrade fleet`" in capsys.readouterr().out
    assert world.variable, "the next run goes on"


def test_stops_if_a_worker_s_state_cannot_be_refreshed(world: World) -> None:
    world.refresh_code = 1
    assert run(world) == 1
    assert [name for name in world.rebuilt if name.startswith("worker")] == []
    assert world.off == set()


def test_asks_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    assert upgrade.upgrade(world, yes=False, settle_seconds=0) == 1  # type: ignore[arg-type]
    assert world.rebuilt == []


def test_a_spare_that_a_takeover_has_just_chosen_is_not_rebuilt_under_its_host(world: World) -> None:
    retire = Passes.retire

    def late(passes: Passes, droplet: int, host: str | None = UPGRADE) -> None:
        retire(passes, droplet, host)
        if host == UPGRADE and world.fake.volumes["a"].carrier == 1:
            world.fake.cut_power(1)
            world.fake.detach("a", 1)
            world.fake.pass_time(4)
            world.fake.attach("a", 3)
            world.fake.assign("ip-a", 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passes, "retire", late)
        assert run(world) == 0
    assert sorted(world.rebuilt) == sorted(ORDER)
    assert world.fake.is_serving("a")
    assert json.loads(world.fake.items["retired"]).get("3") in (None, UPGRADE)


def _release_b(world: World) -> None:
    """The third step of `./pds release fleet b`: no output names the host, and its worker runs it."""
    del world.hosts["b"]


def test_refuses_while_a_worker_runs_a_host_that_is_being_released(world: World) -> None:
    _release_b(world)
    with pytest.raises(
        ClusterError, match=r"Worker 2, droplet 2, has volume b of no host of fleet(.|\n)*Nothing was changed"
    ):
        run(world)
    assert (world.rebuilt, world.off, world.variable) == ([], set(), None)


def test_an_interrupted_run_stops_before_a_worker_with_a_host_that_is_being_released(world: World) -> None:
    world.dies_at = 8
    with pytest.raises(KilledError):
        run(world)
    _release_b(world)
    rebuilt = list(world.rebuilt)
    with pytest.raises(ClusterError, match=r"If a `\./pds release` .* was interrupted, PDSes may run there"):
        run(world)
    assert (world.rebuilt, world.off) == (rebuilt, set())


def test_goes_on_once_the_release_is_complete(world: World) -> None:
    _release_b(world)
    with pytest.raises(ClusterError):
        run(world)
    world.fake.volumes["b"].carrier = 900
    world.fake.alive[900] = True
    assert run(world) == 0
    assert sorted(world.rebuilt) == sorted(ORDER)


def test_looks_at_the_droplet_s_volumes_right_before_it_cuts_the_power(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A volume that is attached after all other looks."""
    world.listed[3] = ["506f"]
    assert run(world) == 1
    assert world.off == set()
    assert "Droplet 3 still has a volume, and was not rebuilt" in capsys.readouterr().out
    world.listed.clear()
    assert run(world) == 0, "the volume was only listed for a while after its detach"
