"""`python -m tools.measure_account` against the API of the tests: what it prints, and that it leaves nothing behind.

A run is interrupted at each request that changes something, before and after it, and at one of each kind of the others.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from components.takeover.services import Http, Refused, Unavailable
from tests.e2e.digitalocean import Api, World
from tests.e2e.digitalocean.limits import RateLimit
from tests.e2e.environment.api_client import FIREWALL, TOKEN, Client
from tests.unit.tools.measure_account.fleet import Fleet
from tools.measure_account import __main__ as command
from tools.measure_account import account as account_module
from tools.measure_account.account import Account, Pace, Record

LIMITED = "token-with-one-scope"
KINDS = ("droplets", "volumes", "reserved_ips", "firewalls", "tags")
PACE = Pace(pause=0, boot=60, action=60, fence=0.2, removal=60, late=0)
T = TypeVar("T")
Call = tuple[str, str]
Point = tuple[Call, int]
"""A kind of request, and which of that kind."""


class _Unlimited(RateLimit):
    """Without pauses the requests of an hour take a second."""

    def count(self, now: float) -> None:
        """No limit."""


class _AtOnce(Executor):
    """Machines that have done their work before the next request. In a pool they are later on a busy machine, and the
    address of a request without an answer is looked for once only (`late`)."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run it."""
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Bench:
    """An account with resources of its own, and the command on it."""

    def __init__(self, client: Client, fleet: Fleet, folder: Path) -> None:
        self.client, self.fleet, self.folder = client, fleet, folder
        self.before = self._resources()
        self.calls: list[Call] = []
        self.strike: Callable[[Call, bool], None] = lambda _call, _done: None
        """Called before and after each request."""

    def run(self, *arguments: str) -> int:
        """Run the command. Returns its exit code."""
        self.calls = []
        return command.main([*arguments], self.folder)

    def count(self, monkeypatch: pytest.MonkeyPatch, call: Callable[[Http, str, str, Any], Any]) -> None:
        """Make each request of the command by `call`, between the two strikes."""

        def counted(http: Http, method: str, path: str, body: Any = None) -> Any:
            self.calls.append((method, path))
            self.strike((method, path), False)
            answer = call(http, method, path, body)
            self.strike((method, path), True)
            return answer

        monkeypatch.setattr(Http, "call", counted)

    def left(self) -> dict[str, Any]:
        """What the run added to the account or changed there."""
        now = self._resources()
        return {kind: now[kind] for kind in KINDS if now[kind] != self.before[kind]}

    def _resources(self) -> dict[str, Any]:
        self.client.api.ask("GET", "/v2/account")  # actions end at a request
        return self.client.api.dump(*KINDS)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An account with resources whose names are like a run's."""
    fleet = Fleet()
    limited = {LIMITED: frozenset({"account:read"})}
    world = World(machines=fleet, action_seconds=0, token=TOKEN, limited_tokens=limited, pool=_AtOnce())
    with Api(world, tmp_path_factory.mktemp("api")) as api:
        api.rate_limit = _Unlimited()
        client = Client(api, fleet)
        other = client.droplet(name="pds-measure-other", tags=["pds-measure"])
        client.volume(name="pds-measure-other")
        made = client.ask("POST", "/reserved_ips", {"droplet_id": other["id"]}, 202)
        client.finished(made["links"]["actions"][0])
        client.ask("POST", "/firewalls", {**FIREWALL, "name": "pds-measure-other", "tags": ["pds-measure"]}, 202)
        yield client


@pytest.fixture
def bench(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    fleet = client.machines
    assert isinstance(fleet, Fleet)
    fleet.admits_public, fleet.is_fenced, fleet.keeps = True, True, True
    made = Bench(client, fleet, tmp_path)
    made.count(monkeypatch, Http.call)
    monkeypatch.setattr(command, "HttpDroplets", fleet)
    monkeypatch.setattr(account_module, "Pace", lambda: PACE)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    monkeypatch.setenv("DIGITALOCEAN_API_URL", client.api.url)
    monkeypatch.delenv("DIGITALOCEAN_LIMITED_TOKEN", raising=False)
    return made


@pytest.fixture
def unconnected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same without connections, for the thousands of requests of hundreds of runs."""

    def call(_http: Http, method: str, path: str, body: Any) -> Any:
        answer = bench.client.api.ask(method, path, body)
        if answer.status == 404 and method == "GET":
            return None
        if answer.status >= 400:
            raise Refused(answer.status, str(answer.body))
        return answer.body or {}

    bench.count(monkeypatch, call)
    return bench


def test_measures_each_case_and_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIGITALOCEAN_LIMITED_TOKEN", LIMITED)
    assert bench.run("--yes") == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert text.count("the detach is completed") == 2 * 3, "once when it happens, once in the table"
    assert text.count("the writer gets an I/O error") == 2, "only a droplet that is alive can get one"
    for what in ("the attach is completed", "mounted at the other droplet", "the assignment is completed"):
        assert text.count(what) == 2 * 4
    assert len(re.findall(r"acknowledged rows on the volume │ all \d+", text)) == 4
    assert text.count("no droplet has the volume") == 2 * 4
    assert "admits a droplet's public address, to the other's reserved IP: yes" in text
    assert "block_storage_action:create: POST" in text
    assert text.count("without it 403, with it 404") == 3, "the double checks the scope first, as the program assumes"
    assert bench.left() == {}
    assert [*bench.folder.iterdir()] == [], "the record is removed with the resources"


def test_says_what_it_costs_and_makes_nothing_without_a_yes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run() == 2, "pytest's standard input is no terminal"
    assert "Use --yes" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: "y")
    assert bench.run() == 1
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Cost: 0.0180 USD an hour: droplets 2 x 0.00893 (this account's own price), volume 0.00015" in text
    assert {method for method, _path in bench.calls} == {"GET"}
    assert bench.left() == {}


def test_refuses_a_size_that_the_region_does_not_have(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--yes", "--size", "s-0vcpu") == 2
    assert "no size 's-0vcpu' in region 'fra1'" in capsys.readouterr().out
    assert bench.left() == {}


@cache
def _kind(call: Call) -> Call:
    """The request without numbers and names."""
    return call[0], re.sub(r"[0-9a-f-]{36}|\d+(\.\d+)+|\d+\b|pds-measure-\w+", "_", call[1])


def _points(bench: Bench, with_removal: bool = True) -> list[Point]:
    """The requests of a whole run to interrupt: those that change something, and the first of each kind of read. How
    often a state is asked for depends on the machine."""
    assert bench.run("--yes") == 0
    counts: Counter[Call] = Counter()
    for call in bench.calls:
        if "tag_name=" in call[1] and not with_removal:
            break
        counts[_kind(call)] += 1
    return [(kind, at) for kind, count in counts.items() for at in range(1, count + 1) if kind[0] != "GET" or at == 1]


def _strike(bench: Bench, point: Point, is_done: bool, error: type[BaseException]) -> list[Call]:
    """Let one request of the next run end with `error`. Returns the list to which that request is added."""
    struck: list[Call] = []

    same: list[Call] = []

    def strike(call: Call, done: bool) -> None:
        if _kind(call) != point[0]:
            return
        if not done:
            same.append(call)
        if done == is_done and len(same) == point[1] and not struck:
            struck.append(call)
            raise error("at a request")

    bench.strike = strike
    return struck


@pytest.mark.parametrize("error", [KeyboardInterrupt, Unavailable], ids=["interrupted", "without an answer"])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_leaves_nothing_if_it_ends_at_any_request(
    unconnected: Bench, error: type[BaseException], is_done: bool
) -> None:
    bench = unconnected
    # No signal interrupts the removal.
    points = _points(bench, with_removal=error is not KeyboardInterrupt)
    assert len(points) > 20
    for point in points:
        struck = _strike(bench, point, is_done, error)
        bench.run("--yes")
        assert struck or point[1] > 1, f"the run came to {point}"
        assert bench.left() == {}, f"{point}"
        assert [*bench.folder.iterdir()] == []


def test_a_killed_run_is_removed_by_its_name(unconnected: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = unconnected
    remove = Account.remove
    for point in _points(bench):
        _strike(bench, point, True, SystemExit)
        if not _is_of_removal(point):
            # As SIGKILL: the end of the block does nothing.
            monkeypatch.setattr(Account, "remove", lambda self: [])
        bench.run("--yes")
        bench.strike = lambda _call, _done: None
        monkeypatch.setattr(Account, "remove", remove)
        for record in bench.folder.iterdir():
            assert bench.run("--remove", record.stem) == 0
        assert bench.left() == {}, f"{point}"
        assert [*bench.folder.iterdir()] == []


def _is_of_removal(point: Point) -> bool:
    """Whether the removal makes this request."""
    return point[0][0] == "DELETE" or any(text in point[0][1] for text in ("tag_name=", "?name=", "/tags/"))


def test_removes_no_run_that_it_does_not_know(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--remove", "pds-measure-other") == 2
    assert "There is no run 'pds-measure-other'" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert bench.calls == []


def test_names_what_it_cannot_remove(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(account_module, "Pace", lambda: replace(PACE, removal=0.5))

    def strike(call: Call, done: bool) -> None:
        if call[0] == "DELETE" and "/volumes/" in call[1]:
            raise Unavailable("the API does not answer")

    bench.strike = strike
    assert bench.run("--yes") == 2
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    found = re.search(r"Not removed: .*Run `venv/bin/python -m tools\.measure_account --remove (\S+)`", text)
    assert found, text
    assert "the API does not answer" in text
    bench.strike = lambda _call, _done: None
    monkeypatch.setattr(account_module, "Pace", lambda: PACE)
    assert bench.run("--remove", found[1]) == 0
    assert bench.left() == {}


def test_says_if_a_detached_droplet_goes_on_and_rows_are_missing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.fleet.is_fenced = bench.fleet.keeps = False
    assert bench.run("--yes") == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "│ the writer got no I/O error │" in text
    assert "acknowledged rows on the volume │ NOT ALL: 0 of" in text
    assert bench.left() == {}


def test_says_if_a_tag_admits_private_addresses_only(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.fleet.admits_public = False
    assert bench.run("--yes") == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "admits a droplet's public address, to the other's public address: no" in text
    assert "a token's scopes: not measured" in text


def test_a_detach_that_does_not_end_is_measured_by_the_deletion_of_the_droplet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(account_module, "Pace", lambda: replace(PACE, action=0.3))
    act = Account.act

    def stuck(self: Account, path: str, kind: str, droplet: int | None = None) -> int | None:
        return None if kind == "detach" else act(self, path, kind, droplet)

    monkeypatch.setattr(Account, "act", stuck)
    assert bench.run("--yes") == 2
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Not within 0 s: detach is accepted." in text
    assert "│ deleted │ no droplet has the volume" in text
    assert "powered off by the API" not in text, "no case follows"
    assert bench.left() == {}


def test_an_address_that_appeared_meanwhile_and_is_not_known_to_be_the_runs_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer to the creation was lost, nothing was made, and an address of the operator's appeared."""
    made: list[str] = []

    def strike(call: Call, done: bool) -> None:
        if call == ("POST", "/v2/reserved_ips") and not done:
            made.append(bench.client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"])
            raise KeyboardInterrupt

    bench.strike = strike
    assert bench.run("--yes") == 2
    assert f"perhaps the reserved IP {made[0]}" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert list(bench.left()) == ["reserved_ips"], "it is not deleted"
    bench.client.ask("DELETE", f"/reserved_ips/{made[0]}", status=204)
    assert bench.left() == {}


def test_a_record_is_private_to_its_run(tmp_path: Path) -> None:
    one, two = Record.new(tmp_path), Record.new(tmp_path)
    assert one.name != two.name
    one.write()
    assert Record.read(tmp_path, one.name) == one
