"""`./pds repair` and the lines of `list` for a cluster, on services with a clock of their own."""

import json
import time
from typing import Any

import click
import pytest

from cli.cluster import drain, hosts
from cli.cluster.hosts import Cluster, ClusterError
from components.takeover.decide import DETACH_SECONDS, Action, Rules
from components.takeover.passes import Passes
from components.takeover.services import Refused
from tests.support.fake_cluster import FakeCluster

OUTPUTS: dict[str, Any] = {
    "hosts": {"a": {}, "b": {}},
    "workers": ["1", "2", "3"],
    "servers": ["9"],
    "worker_tag": "workers",
    "clubs": {"rooks": {"datacenter": "a"}, "chess": {"datacenter": "a"}},
}


class _Stack:
    name = "fleet"

    def required_outputs(self, *_names: str) -> dict[str, Any]:
        return OUTPUTS


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two hosts on workers 1 and 2, and a spare."""
    fake = FakeCluster({"a": 1, "b": 2}, workers=3)

    def passes(_cluster: Cluster) -> Passes:
        rules = Rules(may_detach=False)
        return Passes(fake, fake, fake.places, "workers", rules, "me", fake.now, seizes=True)

    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "token")
    monkeypatch.setattr(Cluster, "passes", passes)
    monkeypatch.setattr(time, "sleep", fake.pass_time)
    monkeypatch.setattr(time, "time", fake.now)
    monkeypatch.setattr(drain, "_shut_down", lambda _cluster, _passes, droplet: fake.cut_power(droplet))
    return fake


def _stack() -> Any:
    return _Stack()


def test_lines_say_who_carries_what(account: FakeCluster) -> None:
    account.cut_power(2)
    account.items["retired"] = '{"3": "b"}'
    assert hosts.lines(Cluster.of(_stack())) == [
        "host a (ip-a) on worker 1, droplet 1: ready; clubs chess, rooks",
        "host b (ip-b) on worker 2, droplet 2: NOT READY; no club",
        "spares: none",
        "worker 3, droplet 3 lost host b: raise its generation to make it a spare (if it hangs, first `doctl compute "
        "droplet-action power-off 3 --wait`)",
        "servers: 9",
    ]


def _gone(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = account.carrier

    def answer(volume: str) -> int | None:
        if volume == "a":
            raise Refused(404, "volume a does not exist")
        return carrier(volume)

    monkeypatch.setattr(account, "carrier", answer)


def test_a_host_without_its_volume_hides_no_other(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _gone(account, monkeypatch)
    assert hosts.lines(Cluster.of(_stack()))[:2] == [
        "host b (ip-b) on worker 2, droplet 2: ready; no club",
        "host a: UNKNOWN. volume a does not exist.",
    ]
    assert hosts.repair(_stack(), yes=True) == 1, "a person has to look at host a"
    account.cut_power(2)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.volumes["b"].carrier == 3


def test_repair_finds_nothing_to_do(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts.repair(_stack(), yes=True) == 0
    assert "Nothing to repair" in capsys.readouterr().out
    assert account.volumes["a"].carrier == 1


def test_repair_brings_a_dead_host_back_at_once(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.cut_power(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.is_serving("a")
    assert account.volumes["a"].carrier == 3
    assert account.volumes["b"].carrier == 2
    assert account.violations == []
    assert "host a: detach its volume from droplet 1" in capsys.readouterr().out


def test_repair_asks_first(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    account.cut_power(1)
    monkeypatch.setattr(click, "confirm", lambda _text: False)
    assert hosts.repair(_stack(), yes=False) == 1
    assert account.volumes["a"].carrier == 1


@pytest.mark.parametrize("steps", [0, 1], ids=["while the person reads the question", "after its droplet was retired"])
def test_repair_leaves_a_host_that_came_back_where_it_is(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    account.cut_power(1)
    for _ in range(steps):
        passes = Cluster.of(_stack()).passes()
        passes.rules = Rules(may_detach=False, leave={"a"})
        passes.once()

    def confirm(_text: str) -> bool:
        account.alive[1] = True
        del account.down_since["a"]
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    assert hosts.repair(_stack(), yes=False) == 0
    assert account.is_serving("a")
    assert [action.kind for action in account.volumes["a"].actions] == ["attach"], "nothing was taken from it"
    assert Cluster.of(_stack()).passes().retired() == {}, "its droplet may have hosts again"
    assert "host a is back on the droplet that it was on" in capsys.readouterr().out


def test_repair_without_a_spare_changes_nothing(account: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    account.cut_power(1)
    account.items["retired"] = '{"3": "b"}'
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.volumes["a"].carrier == 1
    said = capsys.readouterr().out
    assert "host a was on worker 1, droplet 1" in said
    assert "there is no spare worker. Raise 'cluster.workers.spares'" in said
    assert "`./pds repair fleet` continues" in said


def test_repair_of_two_hosts_with_one_spare_moves_one_and_leaves_the_other_where_it_is(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.down_since = {"a": account.time - 300, "b": account.time - 300}  # both serve: only the servers lost them
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.is_serving("a"), "it was brought to its end, although host b needs a person"
    assert (account.volumes["a"].carrier, account.volumes["b"].carrier) == (3, 2)
    said = capsys.readouterr().out
    assert "Spares: 1." in said
    assert "host b is down, and there is no spare worker" in said


def test_repair_waits_for_a_host_that_a_takeover_has_just_moved(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.alive[4] = True
    account.cut_power(1)
    account.detach("a", 1)
    account.pass_time(5)
    account.attach("a", 3)
    account.pass_time(5)
    assert not account.is_serving("a")
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.is_serving("a")
    assert account.volumes["a"].carrier == 3
    assert [action.kind for action in account.volumes["a"].actions] == ["attach", "detach", "attach"]
    assert "Attached less than three minutes ago: a." in capsys.readouterr().out


def test_repair_ends_at_a_volume_on_a_droplet_that_is_no_worker(account: FakeCluster) -> None:
    account.volumes["a"].carrier = 77
    account.down_since["a"] = account.time - 300
    began = account.time
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.time - began < 60


def test_repair_names_the_last_fence_if_the_detach_does_not_end(account: FakeCluster) -> None:
    account.cut_power(1)
    account.detaches_never_end = True
    with pytest.raises(ClusterError, match="doctl compute droplet delete 1"):
        hosts.repair(_stack(), yes=True)
    assert account.volumes["a"].carrier == 1
    assert account.time < 1_000_000 + 2 * DETACH_SECONDS


def _failed_detach(account: FakeCluster) -> None:
    """Days ago a detach from droplet 1 failed, and the host was ready again."""
    account.volumes["a"].actions.append(Action("detach", "errored", account.time - 3 * 86_400))


def test_repair_requests_a_detach_itself_although_an_earlier_one_failed(account: FakeCluster) -> None:
    _failed_detach(account)
    account.cut_power(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.volumes["a"].carrier == 3


def test_repair_goes_on_after_detaches_that_failed_for_longer_than_a_person_waits(account: FakeCluster) -> None:
    account.cut_power(1)
    for seconds in range(0, 2 * int(DETACH_SECONDS), 60):
        account.volumes["a"].actions.append(Action("detach", "errored", account.time + seconds))
    account.pass_time(2 * DETACH_SECONDS)
    assert hosts.repair(_stack(), yes=True) == 0, "DigitalOcean detaches again"
    assert account.is_serving("a")


def test_repair_gives_up_if_each_of_its_detaches_fails(account: FakeCluster) -> None:
    account.cut_power(1)
    account.detaches_fail = True
    with pytest.raises(ClusterError, match="doctl compute droplet delete 1"):
        hosts.repair(_stack(), yes=True)
    assert len(account.volumes["a"].actions) > 2, "it requested the detach again and again"


@pytest.mark.parametrize("at", [3, None], ids=["on a spare", "on no droplet"])
def test_repair_assigns_an_address_to_the_droplet_that_has_the_volume(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: int | None
) -> None:
    account.volumes["a"].address_at = at
    monkeypatch.setattr(click, "confirm", lambda _text: pytest.fail("nothing is taken away, so nothing is asked"))
    assert hosts.repair(_stack(), yes=False) == 0
    assert account.is_serving("a")
    assert [action.kind for action in account.volumes["a"].actions] == ["attach"], "the host stays where it is"
    said = capsys.readouterr().out
    assert "host a: assign ip-a to droplet 1" in said
    assert "Nothing to repair" not in said


def test_repair_that_assigns_an_address_holds_the_lease_and_gives_it_back(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.volumes["a"].address_at = 3
    account.items["lease"] = f'{{"holder": "job", "until": {account.time + 60}}}'
    assign, held = account.assign, []

    def watched(address: str, droplet: int) -> None:
        held.append(json.loads(account.items["lease"])["holder"])
        assign(address, droplet)

    monkeypatch.setattr(account, "assign", watched)
    assert hosts.repair(_stack(), yes=True) == 0
    assert held == ["me"], "the job waits meanwhile"
    assert json.loads(account.items["lease"])["until"] <= account.time


def test_repair_moves_no_host_that_dies_while_its_address_is_assigned(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", account.now)
    account.volumes["a"].address_at = 3
    assign = account.assign

    def dies(address: str, droplet: int) -> None:
        account.cut_power(1)
        assign(address, droplet)

    monkeypatch.setattr(account, "assign", dies)
    assert hosts.repair(_stack(), yes=True) == 1
    assert account.volumes["a"].carrier == 1, "the operator was not asked about a move"


def test_repair_of_swapped_addresses_assigns_each_to_its_host(account: FakeCluster) -> None:
    account.volumes["a"].address_at, account.volumes["b"].address_at = 2, 1
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.is_serving("a")
    assert account.is_serving("b")


def test_repair_names_the_address_in_the_way_if_it_is_no_host_s(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.volumes["a"].address_at, account.other_addresses = None, {1: "203.0.113.9"}
    assert hosts.repair(_stack(), yes=True) == 1
    said = capsys.readouterr().out
    assert "unassign 203.0.113.9" in said
    assert "`./pds repair fleet` continues" in said


def test_repair_names_the_refusal_of_an_address_that_cannot_be_assigned(
    account: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "monotonic", account.now)
    account.volumes["a"].carrier, account.volumes["a"].address_at = 2, None
    assert hosts.repair(_stack(), yes=True) == 1
    assert "assign ip-a to droplet 2: refused (The Droplet already has a reserved IP.)" in capsys.readouterr().out


def test_repair_frees_the_spare_of_a_drain_that_was_cut_short(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.items["retired"] = '{"1": "a"}'
    passes = Cluster.of(_stack()).passes()
    assert passes.spare_for(account.places[1]) is None
    assert hosts.repair(_stack(), yes=True) == 0
    assert passes.spare_for(account.places[1]) == 3
    assert "worker 1, droplet 1 keeps its host" in capsys.readouterr().out
    assert not passes.is_held()


def test_repair_leaves_the_spare_of_a_drain_that_is_at_work(
    account: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    account.items = {"retired": '{"1": "a"}', "lease": f'{{"holder": "drain", "until": {account.time + 50}}}'}
    assert hosts.repair(_stack(), yes=True) == 0
    assert Cluster.of(_stack()).passes().retired() == {1: "a"}
    assert "Repeat this command in a minute." in capsys.readouterr().out


def test_repair_attaches_to_another_spare_if_one_is_refused(account: FakeCluster) -> None:
    account.alive[4] = True
    account.attaches_refused = {3}
    account.cut_power(1)
    assert hosts.repair(_stack(), yes=True) == 0
    assert account.volumes["a"].carrier == 4


def test_repair_takes_the_lease_of_the_job(account: FakeCluster) -> None:
    account.cut_power(1)
    account.items["lease"] = f'{{"holder": "job", "until": {account.time + 60}}}'
    assert hosts.repair(_stack(), yes=True) == 0


def test_repair_gives_the_lease_back_to_the_job_in_the_end(account: FakeCluster) -> None:
    account.cut_power(1)
    hosts.repair(_stack(), yes=True)
    job = Passes(account, account, account.places, "workers", Rules(), "job", account.now)
    assert [step.kind for step in job.once()] == ["fine", "fine"]
