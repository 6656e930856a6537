"""The shutdown of `./pds drain`: what is left if it fails, and who acts meanwhile."""

import json
import time
from collections.abc import Callable
from typing import Any, Self

import pytest

from cli.cluster import drain
from cli.cluster.hosts import Cluster, ClusterError
from cli.lib.digitalocean import DigitalOceanError
from components.takeover.decide import Rules
from components.takeover.passes import Passes
from components.takeover.services import Unavailable
from tests.support.fake_cluster import FakeCluster
from tests.unit.cli.test_cluster import _stack
from tests.unit.cli.test_cluster import account as account

SHUT_DOWN = drain._shut_down
PENDING = DigitalOceanError("DigitalOcean answered 422 to droplets/1/actions: Droplet already has a pending event.")
BROKEN = DigitalOceanError("DigitalOcean answered 500 to droplets/1/actions: Try again.")


class Droplets:
    """The droplets of an account. A shutdown takes 30 seconds; an action is refused while another one runs."""

    def __init__(self, fake: FakeCluster) -> None:
        self.fake = fake
        self.actions: list[dict[str, str]] = []
        self.ends = float("inf")
        self.seconds = 30.0
        self.refusals: list[BaseException] = []
        self.lost = False
        """Whether the answer to a shutdown that was accepted is lost."""
        self.each: Callable[[], None] = lambda: None

    def __call__(self, _token: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def create(self, path: str, body: Any) -> None:
        assert (path, body) == ("droplets/1/actions", {"type": "shutdown"})
        if self.refusals:
            raise self.refusals.pop(0)
        if any(action["status"] == "in-progress" for action in self.actions):
            raise PENDING
        self.actions.append({"type": "shutdown", "status": "in-progress"})
        self.ends = self.fake.time + self.seconds
        if self.lost:
            raise BROKEN

    def get(self, path: str) -> Any:
        assert path == "droplets/1"
        self.each()
        if self.fake.time >= self.ends and self.fake.alive[1]:
            self.actions[-1]["status"] = "completed"
            self.fake.cut_power(1)
        return {"status": "active" if self.fake.alive[1] else "off"}

    def list_all(self, path: str) -> list[dict[str, str]]:
        assert path == "droplets/1/actions"
        return self.actions


@pytest.fixture
def droplets(account: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Droplets:
    made = Droplets(account)
    monkeypatch.setattr(drain, "_shut_down", SHUT_DOWN)
    monkeypatch.setattr(drain, "DigitalOceanAccount", made)
    monkeypatch.setattr(time, "monotonic", account.now)
    return made


def _spare_for_b(account: FakeCluster) -> int | None:
    return Cluster.of(_stack()).passes().spare_for(account.places[1])


def _job(account: FakeCluster) -> Passes:
    return Passes(account, account, account.places, "workers", Rules(), "job", account.now)


def test_the_takeover_waits_for_a_slow_shutdown(account: FakeCluster, droplets: Droplets) -> None:
    job = _job(account)
    droplets.seconds = 150
    account.down_since["a"] = account.time  # its agent stops at once, its containers take longer

    def each() -> None:
        if account.alive[1]:
            job.once()
            assert account.volumes["a"].carrier == 1, "the volume is detached from a droplet that is off"
            assert not account.volumes["a"].running

    droplets.each = each
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert account.volumes["a"].carrier == 3


def test_a_shutdown_is_requested_again_while_another_action_is_not_over(
    account: FakeCluster, droplets: Droplets
) -> None:
    droplets.refusals = [PENDING, PENDING]
    assert drain.drain(_stack(), "a", yes=True) == 0
    assert account.volumes["a"].carrier == 3


@pytest.mark.parametrize("error", [BROKEN, KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_a_shutdown_that_is_not_accepted_leaves_the_spare_to_other_hosts(
    account: FakeCluster, droplets: Droplets, error: BaseException
) -> None:
    droplets.refusals = [error]
    with pytest.raises(type(error)):
        drain.drain(_stack(), "a", yes=True)
    assert account.alive[1]
    assert _spare_for_b(account) == 3
    assert not _job(account).is_held()


@pytest.mark.parametrize("seconds", [30.0, 10_000.0], ids=["it ends", "it hangs"])
def test_a_droplet_that_goes_off_keeps_the_spare_of_its_host(
    account: FakeCluster, droplets: Droplets, seconds: float
) -> None:
    droplets.lost, droplets.seconds = True, seconds
    with pytest.raises(DigitalOceanError):
        drain.drain(_stack(), "a", yes=True)
    assert _spare_for_b(account) is None
    account.pass_time(40)
    droplets.get("droplets/1")
    for _ in range(60 if seconds == 30 else 0):
        _job(account).once()
        account.pass_time(4)
    assert account.volumes["a"].carrier == (3 if seconds == 30 else 1)


def test_a_shutdown_that_ended_without_effect_frees_the_spare(account: FakeCluster, droplets: Droplets) -> None:
    droplets.seconds = 10_000

    def each() -> None:
        if account.time > 1_000_100:
            droplets.actions[-1]["status"] = "errored"

    droplets.each = each
    with pytest.raises(ClusterError, match="Droplet 1 is not off after 180 s: active"):
        drain.drain(_stack(), "a", yes=True)
    assert _spare_for_b(account) == 3


def test_the_note_of_a_droplet_of_which_nothing_is_known_stays(account: FakeCluster, droplets: Droplets) -> None:
    droplets.refusals = [BROKEN]
    silent: list[str] = []

    def fails(path: str) -> Any:
        silent.append(path)
        raise DigitalOceanError("does not answer.")

    droplets.list_all = fails  # type: ignore[method-assign]
    with pytest.raises(DigitalOceanError, match="answered 500"):
        drain.drain(_stack(), "a", yes=True)
    assert json.loads(account.items["retired"]) == {"1": "a"}
    assert silent, "the first error is the one that is shown"


def test_a_volume_that_has_left_its_droplet_meanwhile_keeps_it_excluded(
    account: FakeCluster, droplets: Droplets
) -> None:
    droplets.refusals = [BROKEN]
    create = droplets.create

    def moved(path: str, body: Any) -> None:
        account.volumes["a"].carrier = None
        create(path, body)

    droplets.create = moved  # type: ignore[method-assign]
    with pytest.raises(DigitalOceanError):
        drain.drain(_stack(), "a", yes=True)
    assert json.loads(account.items["retired"]) == {"1": "a"}, "it may hang with I/O errors"


def test_a_shutdown_is_waited_for_while_a_state_is_unknown(account: FakeCluster, droplets: Droplets) -> None:
    get, answers = droplets.get, [DigitalOceanError("answered 502.")]

    def unsure(path: str) -> Any:
        if answers:
            account.before = _fails_once(account)
            raise answers.pop()
        return get(path)

    droplets.get = unsure  # type: ignore[method-assign]
    assert drain.drain(_stack(), "a", yes=True) == 0, "a droplet that was told to shut down goes off"
    assert account.volumes["a"].carrier == 3


def _fails_once(account: FakeCluster) -> Callable[[int], None]:
    def fail(_number: int) -> None:
        account.before = lambda _number: None
        raise Unavailable("Nomad does not answer")

    return fail
