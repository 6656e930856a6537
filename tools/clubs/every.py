"""`./pds preview-all` and `up-all`: every created stack of the project whose file is here.

For each updated stack: the engine's preview, the gate, `up`, and a check that it serves. Hosts come before their clubs;
one after the other on one host, several hosts at once; a canary before all others. After the first stack that does not
serve no further one is started. If a failure is visible beforehand, nothing is started at all. `build/logs/STACK.log`
has the engine's output.

The canary is the one that is named. Otherwise it is the first with a change on the host with the fewest changed PDSes,
since a fault there affects few.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console
from rich.table import Table

from tools.clubs.engine import Engine, StoppedError, Workspace
from tools.clubs.known import Known, by_host
from tools.clubs.screen import Screen
from tools.engine import Evaluation
from tools.gate.changes import Change
from tools.gate.digest import DigestError
from tools.gate.gate import Judgement, examine
from tools.stack import Stack, StackError
from tools.stackfile import StackFileError

WELL = ("serving", "paused")
"""States of a stack in which nothing is left to do."""

_FAILED = ("gate shut", "up failed", "not healthy")
_MARKS = {"create": "+", "delete": "-", "replace": "±"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a stack: 'unchanged', 'would change', 'up', 'gate shut', 'up failed', 'not healthy', 'no preview',
    'not run'."""

    stack: str
    outcome: str
    changes: str = ""
    remark: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Return whether the next one may start."""
        return self.outcome in ("unchanged", "would change", "up")


def exit_code(results: Collection[Result]) -> int:
    """Return 0 if all is well, 1 if something failed, 2 if a check could not run."""
    outcomes = {result.outcome for result in results}
    return 1 if outcomes & {*_FAILED} else 2 if outcomes & {"no preview", "not run"} else 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run over many stacks. `allowed` are the names that the gate allows to be lost, in any of them."""

    workspace: Workspace
    engine: Engine
    screen: Screen
    logs: Path
    allowed: frozenset[str] = frozenset()
    at_once: int = 4
    stop: threading.Event = field(default_factory=threading.Event)
    _evaluating: threading.Lock = field(default_factory=threading.Lock)
    """The offline evaluation needs exclusive use of the SDK's one runtime."""
    _hosts: dict[str, Evaluation] = field(default_factory=dict)

    def preview(self, stacks: Sequence[Known]) -> list[Result]:
        """Preview all of them, and change nothing."""
        with interruptible(self), ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._look, stacks))

    def up(self, stacks: Sequence[Known], *, everything: bool, canary: str | None) -> list[Result]:
        """Update stacks with a change, or with `everything` all; return a result for each stack, in their order."""
        results = {stack.name: Result(stack=stack.name, outcome="not run") for stack in stacks}
        wanted = list(stacks)
        if not everything:
            looked = {result.stack: result for result in self.preview(stacks)}
            wanted = [stack for stack in stacks if looked[stack.name].outcome != "unchanged"]
            names = {stack.name for stack in wanted}
            # The `up` of its host may add what a club lacks.
            hopeless = [stack for stack in wanted if stack.has_a_host or stack.host not in names]
            bad = {stack.name for stack in hopeless if not looked[stack.name].good}
            results |= {name: result for name, result in looked.items() if name in bad or name not in names}
            if bad:
                self.stop.set()
        if wanted and not self.stop.is_set():
            results |= self._up(wanted, everything, canary)
        return [results[stack.name] for stack in stacks]

    def _up(self, stacks: Sequence[Known], everything: bool, canary: str | None) -> Mapping[str, Result]:
        for stack in stacks:
            self.screen.wait(stack.name)
        groups = [list(group) for group in by_host(stacks).values()]
        first = _first(groups, canary)
        if canary and first[-1].name != canary:
            self.screen.say(f"{canary} has no change; the canary is {first[-1].name}.")
        rest = [[stack for stack in group if stack not in first] for group in groups]
        with interruptible(self), ThreadPoolExecutor(self.at_once) as pool:
            done = list(pool.submit(self._chain, first, everything).result())
            for chain in pool.map(lambda group: self._chain(group, everything), rest):
                done += chain
        return {result.stack: result for result in done}

    def _chain(self, stacks: Sequence[Known], everything: bool) -> list[Result]:
        """Run one after the other, until one is unhealthy."""
        results = []
        for stack in stacks:
            if self.stop.is_set():
                break
            result = self._bring_up(stack, everything)
            results.append(result)
            if not result.good:
                self.stop.set()
        return results

    def _look(self, stack: Known) -> Result:
        with self._log(stack.name) as log:
            return self._timed(stack.name, lambda: self._judged(stack.name, log))

    def _bring_up(self, stack: Known, everything: bool) -> Result:
        def bring() -> Result:
            with self._log(stack.name) as log:
                result = self._judged(stack.name, log)
                if result.good and (everything or result.outcome != "unchanged"):
                    result = self._up_one(stack.name, result, log)
                return result

        return self._timed(stack.name, bring)

    def _timed(self, name: str, work: Callable[[], Result]) -> Result:
        began = time.monotonic()
        result = replace(work(), seconds=time.monotonic() - began)
        self.screen.end(name, result.outcome, result.remark or result.changes)
        return result

    def _judged(self, name: str, log: IO[str]) -> Result:
        """Return the gate's verdict on the engine's preview."""
        self.screen.begin(name, "preview")
        try:
            text = self.workspace.preview(name)
            with self._evaluating:
                judgement = examine(Stack(name, self.workspace.root), text, self.allowed, self._hosts)
        except StoppedError:
            return Result(stack=name, outcome="not run")
        except (DigestError, StackFileError) as error:
            print(error, file=log)
            if self.engine.stopped:  # in the middle of it
                return Result(stack=name, outcome="not run")
            return Result(stack=name, outcome="no preview", remark=str(error))
        judgement.tell(Console(file=log, width=200, highlight=False, emoji=False))
        return _result(name, judgement)

    def _up_one(self, name: str, looked: Result, log: IO[str]) -> Result:
        self.screen.begin(name, "up")

        def say(text: str) -> None:
            print(text, file=log, flush=True)
            self.screen.line(name, text)

        try:
            state = str(self.workspace.up(name, say).get("state"))
        except StoppedError:
            return replace(looked, outcome="not run")
        except StackError as error:
            return replace(looked, outcome="up failed", remark=str(error))
        if state not in WELL:
            return replace(looked, outcome="not healthy", remark=f"after `up` it is {state}")
        return replace(looked, outcome="up")

    @contextmanager
    def _log(self, name: str) -> Iterator[IO[str]]:
        """Only its owner can read it: the engine's output has the names of everything."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{name}.log"
        path.touch(mode=0o600)
        path.chmod(0o600)
        with path.open("w") as log:
            yield log


def _result(name: str, judgement: Judgement) -> Result:
    findings, changes = judgement.verdict.findings, judgement.digest.changes
    if findings:
        return Result(stack=name, outcome="gate shut", changes=_counted(changes), remark="; ".join(findings))
    outcome = "would change" if changes else "unchanged"
    return Result(stack=name, outcome=outcome, changes=_counted(changes))


def _counted(changes: Sequence[Change]) -> str:
    """Return for example '+2 ~1'."""
    marks = [_MARKS.get(change.op, "~") for change in changes]
    return " ".join(f"{mark}{marks.count(mark)}" for mark in "+~±-" if mark in marks)


def _first(groups: Sequence[Sequence[Known]], canary: str | None) -> list[Known]:
    """Return the canary, after its host if that is updated, too."""
    for group in groups:
        for stack in group:
            if stack.name == canary:
                return [one for one in group if one == stack or (one.has_a_host and one.name == stack.host)]
    return [groups[0][0]]


@contextmanager
def interruptible(run: Run) -> Iterator[None]:
    """A termination signal stops the engines in order and waits for them: a killed one may leave unrecorded
    resources."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}

    def end(_number: int, _frame: FrameType | None) -> None:
        run.stop.set()
        run.engine.stop()

    for number in signals:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(results: Sequence[Result], logs: Path, console: Console) -> None:
    """Print the result of each, and the reasons of those that failed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stack", "outcome", "changes", "s"):
        table.add_column(name, justify="right" if name == "s" else "left")
    for result in results:
        seconds = f"{result.seconds:.0f}" if result.seconds else ""
        table.add_row(result.stack, result.outcome, result.changes, seconds)
    console.print()
    console.print(table)
    console.print()
    for result in results:
        if result.remark:
            console.print(f"{result.stack}: {result.remark}", markup=False)
    console.print(f"What the engine said: {os.path.relpath(logs)}/STACK.log", markup=False)
