"""The measurements of a volume and an address that move between two droplets.

Times are seconds from a request, as this machine sees them: they include the way there and the pause between questions.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from components.takeover.services import Refused, Unavailable
from tools.measure_account.account import Account, MeasureError, Worker
from tools.measure_account.droplets import Droplets

T = TypeVar("T")

CASES = {
    "writes": "on, and writes to the volume, as a host that only its servers lost",
    "off": "powered off by the API",
    "panic": "its kernel has stopped, and answers no hot-unplug",
    "deleted": "its kernel has stopped, and it is deleted instead of a detach",
}
"""What happens to the droplet that has the volume."""
_ROWS = 20
"""Before each move."""
_FREE, _DETACHED = "no droplet has the volume", "the detach is completed"
_MOUNTED, _ATTACHED = "mounted at the other droplet", "the attach is completed"
_ANSWERS, _ASSIGNED = "the other droplet answers at the address", "the assignment is completed"
_IO_ERROR = "the writer gets an I/O error"


@dataclass
class Move:
    """One move of volume and address. Seconds, None if it did not come to that."""

    case: str
    seconds: dict[str, float] = field(default_factory=dict)
    """By what was waited for, in order."""
    refused: int = 0
    """How often an attach was refused after the volume was free."""
    acknowledged: int = 0
    """The last row that the writer reported before."""
    found: int | None = None
    """The last row on the volume at the other droplet."""
    fault: str = ""
    remark: str = ""


@dataclass
class Measuring:
    """The volume, the address and the two droplets of a run."""

    account: Account
    droplets: Droplets
    volume: str
    address: str
    workers: tuple[Worker, Worker]
    say: Callable[[str], None]
    _last_row: int = 0

    def moves(self) -> Iterator[Move]:
        """One move for each case, there and back. After one that does not end no case follows. If its droplet still has
        the volume, it is deleted, which is the last fence."""
        writer, spare = self.workers
        for case in CASES:
            self.say(f"the droplet that has the volume: {CASES[case]}")
            move = Move(case)
            try:
                self._move(move, writer, spare)
                if case != "deleted":
                    self._revive(writer, case)
            except (MeasureError, Unavailable, Refused, OSError) as error:
                move.fault = str(error)
            yield move
            if move.fault:
                if case != "deleted" and self._has_volume(writer):
                    yield self._last(writer)
                return
            writer, spare = spare, writer

    def _has_volume(self, worker: Worker) -> bool:
        try:
            return self.account.carrier(self.volume) == worker.number
        except (MeasureError, Unavailable, Refused):
            return False

    def _last(self, writer: Worker) -> Move:
        move = Move("deleted")
        try:
            self._without_detach(move, writer)
        except (MeasureError, Unavailable, Refused) as error:
            move.fault = str(error)
        return move

    def attach_first(self) -> None:
        """Attach the volume for the first time, and wait for rows."""
        writer = self.workers[0]
        self._wait("the volume is attached", lambda: self._done(f"volumes/{self.volume}", "attach", writer.number))
        self._wait("rows on the volume", lambda: self._row(writer) > 0)

    def _move(self, move: Move, writer: Worker, spare: Worker) -> None:
        self._wait("rows on the volume", lambda: self._row(writer) > _ROWS)
        self._stop(move.case, writer)
        move.acknowledged = max(move.acknowledged, self._last_row)
        if move.case == "deleted":
            self._without_detach(move, writer)
        else:
            self._detach(move, writer)
        self._attach(move, spare)
        self._assign(move, spare)

    def _stop(self, case: str, writer: Worker) -> None:
        if case == "off":
            self._wait("power off", lambda: self._done(f"droplets/{writer.number}", "power_off"))
        elif case in ("panic", "deleted"):
            self.droplets.stop_kernel(writer.public)
            silent = count(1)
            self._wait("silence", lambda: self.droplets.status(writer.public) is None and next(silent) >= 3)

    def _detach(self, move: Move, writer: Worker) -> None:
        began = time.monotonic()
        number = self._requested(f"volumes/{self.volume}", "detach", writer.number)

        def ended() -> bool:
            status = self.droplets.status(writer.public) if move.case == "writes" else None
            if status and status["error"] is None:
                move.acknowledged = max(move.acknowledged, int(status["row"] or 0))
            if status and status["error"]:
                self._first(move, _IO_ERROR, began)
            if self.account.carrier(self.volume) is None:
                self._first(move, _FREE, began)
            if self.account.is_over(number):
                self._first(move, _DETACHED, began)
            return {_FREE, _DETACHED} <= move.seconds.keys()

        self._wait("the detach", ended)
        if move.case == "writes":
            try:
                self._wait("the writer's error", lambda: ended() and _IO_ERROR in move.seconds, self.account.pace.fence)
            except MeasureError:
                # The fence is what the takeover depends on, so this is the finding, and no failure of the measurement.
                move.remark = "the writer got no I/O error"

    def _without_detach(self, move: Move, writer: Worker) -> None:
        began = time.monotonic()
        self._wait("the deletion is accepted", lambda: self._deleted(writer))
        self._wait("the volume is free", lambda: self.account.carrier(self.volume) is None)
        self._first(move, _FREE, began)

    def _deleted(self, writer: Worker) -> bool:
        try:
            self.account.delete_droplet(writer.number)
        except Refused as error:
            if error.status != 422:
                raise
            return False
        return True

    def _attach(self, move: Move, spare: Worker) -> None:
        began = time.monotonic()

        def accepted() -> int | None:
            action = self.account.act(f"volumes/{self.volume}", "attach", spare.number)
            move.refused += action is None
            return action

        number = self._wait("the attach is accepted", accepted)

        def ended() -> bool:
            status = self.droplets.status(spare.public)
            if status and status["found"] is not None:
                move.found = int(status["found"])
                self._first(move, _MOUNTED, began)
            if self.account.is_over(number):
                self._first(move, _ATTACHED, began)
            return {_MOUNTED, _ATTACHED} <= move.seconds.keys()

        self._wait("the attach", ended)

    def _assign(self, move: Move, spare: Worker) -> None:
        began = time.monotonic()
        number = self._requested(f"reserved_ips/{self.address}", "assign", spare.number)

        def ended() -> bool:
            status = self.droplets.status(self.address)
            if status and status["name"] == spare.name:
                self._first(move, _ANSWERS, began)
            if self.account.is_over(number):
                self._first(move, _ASSIGNED, began)
            return {_ANSWERS, _ASSIGNED} <= move.seconds.keys()

        self._wait("the address", ended)

    def _revive(self, writer: Worker, case: str) -> None:
        """Boot a droplet anew, so that nothing of the volume's former mount is left."""
        before = self.droplets.status(writer.public)
        self._requested(f"droplets/{writer.number}", "power_on" if case == "off" else "power_cycle")

        def is_new() -> bool:
            status = self.droplets.status(writer.public)
            return bool(status and (before is None or status["boot"] != before["boot"]))

        self._wait("the droplet boots again", is_new, self.account.pace.boot)

    def _row(self, worker: Worker) -> int:
        status = self.droplets.status(worker.public)
        if status and status["error"]:
            raise MeasureError(f"Droplet {worker.name} cannot write to the volume: {status['error']}.")
        self._last_row = int(status["row"] or 0) if status else 0
        return self._last_row

    def _requested(self, path: str, kind: str, droplet: int | None = None) -> int:
        return self._wait(f"{kind} is accepted", lambda: self.account.act(path, kind, droplet))

    def _done(self, path: str, kind: str, droplet: int | None = None) -> bool:
        number = self._requested(path, kind, droplet)
        return self._wait(f"{kind} is completed", lambda: self.account.is_over(number))

    def _first(self, move: Move, what: str, began: float) -> None:
        if what not in move.seconds:
            move.seconds[what] = time.monotonic() - began
            self.say(f"  {what}: {move.seconds[what]:.1f} s")

    def _wait(self, what: str, ask: Callable[[], T | None], seconds: float = 0) -> T:
        return wait(self.account, what, ask, seconds)


def wait(account: Account, what: str, ask: Callable[[], T | None], seconds: float = 0) -> T:
    """Ask until the answer is true, and return it. An API that does not answer is asked again. Raises MeasureError
    after `seconds`, by default those of an action."""
    limit = seconds or account.pace.action
    end = time.monotonic() + limit
    while True:
        try:
            if found := ask():
                return found
        except Unavailable as error:
            if time.monotonic() > end:
                raise MeasureError(f"Not within {limit:.0f} s: {what} ({error}).") from None
        if time.monotonic() > end:
            raise MeasureError(f"Not within {limit:.0f} s: {what}.")
        time.sleep(account.pace.pause)
