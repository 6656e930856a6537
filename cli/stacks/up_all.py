"""Previews or updates several stacks with the engine; `./pds preview-all`, `./pds up-all`. Their help has the order."""

import os
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

from cli.lib.stack import CLUSTER_OUTPUT, StackError
from cli.lib.subprocesses import TERMINATION, handled
from cli.stacks.automation import Engine, StoppedError, Workspace
from cli.stacks.progress import ProgressDisplay
from cli.stacks.stack_files import KnownStack, by_host
from offline.mock_engine import Evaluation
from offline.stackfile import StackFileError
from policy.changes import Change
from policy.digest import DigestError
from policy.preflight import Assessment, assess

WELL = ("serving", "paused")
"""States of a stack in which nothing is left to do."""

_FAILED = ("preflight failed", "up failed", "not healthy")
_MARKS = {"create": "+", "delete": "-", "replace": "±"}


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """The result of a stack: 'unchanged', 'would change', 'up', 'preflight failed', 'up failed', 'not healthy',
    'no preview', 'not run'."""

    stack: str
    outcome: str
    changes: str = ""
    remark: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Return whether the next one may start."""
        return self.outcome in ("unchanged", "would change", "up")


def exit_code(results: Collection[UpdateResult]) -> int:
    """Return 0 if all is well, 1 if something failed, 2 if a check could not run."""
    outcomes = {result.outcome for result in results}
    return 1 if outcomes & {*_FAILED} else 2 if outcomes & {"no preview", "not run"} else 0


@dataclass(frozen=True, kw_only=True)
class UpdateRun:
    """One run over many stacks. `allowed` are the names that preflight allows to be lost, in any of them."""

    workspace: Workspace
    engine: Engine
    display: ProgressDisplay
    logs: Path
    allowed: frozenset[str] = frozenset()
    at_once: int = 4
    stop: threading.Event = field(default_factory=threading.Event)
    _evaluating: threading.Lock = field(default_factory=threading.Lock)
    """The offline evaluation needs exclusive use of the SDK's one runtime."""
    _hosts: dict[str, Evaluation] = field(default_factory=dict)

    def preview(self, stacks: Sequence[KnownStack]) -> list[UpdateResult]:
        """Preview all of them, and change nothing."""
        with interruptible(self), ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._look, stacks))

    def up(self, stacks: Sequence[KnownStack], *, unchanged_too: bool, canary: str | None) -> list[UpdateResult]:
        """Update stacks with a change, or with `unchanged_too` all; return a result for each stack, in their order."""
        results = {stack.name: UpdateResult(stack=stack.name, outcome="not run") for stack in stacks}
        selected = list(stacks)
        if not unchanged_too:
            previews = {result.stack: result for result in self.preview(stacks)}
            selected = [stack for stack in stacks if previews[stack.name].outcome != "unchanged"]
            names = {stack.name for stack in selected}
            # The `up` of its host may add what a club lacks.
            hopeless = [stack for stack in selected if stack.has_a_host or stack.host not in names]
            failed = {stack.name for stack in hopeless if not previews[stack.name].good}
            results |= {name: result for name, result in previews.items() if name in failed or name not in names}
            if failed:
                self.stop.set()
        if selected and not self.stop.is_set():
            results |= self._up(selected, unchanged_too, canary)
        return [results[stack.name] for stack in stacks]

    def _up(self, stacks: Sequence[KnownStack], unchanged_too: bool, canary: str | None) -> Mapping[str, UpdateResult]:
        for stack in stacks:
            self.display.wait(stack.name)
        groups = [list(group) for group in by_host(stacks).values()]
        first = _first(groups, canary)
        if canary and first[-1].name != canary:
            self.display.say(f"{canary} has no change; the canary is {first[-1].name}.")
        rest = [[stack for stack in group if stack not in first] for group in groups]
        with interruptible(self), ThreadPoolExecutor(self.at_once) as pool:
            results = list(pool.submit(self._chain, first, unchanged_too).result())
            for chain in pool.map(lambda group: self._chain(group, unchanged_too), rest):
                results += chain
        return {result.stack: result for result in results}

    def _chain(self, stacks: Sequence[KnownStack], unchanged_too: bool) -> list[UpdateResult]:
        """Run one after the other, until one is unhealthy."""
        results = []
        for stack in stacks:
            if self.stop.is_set():
                break
            result = self._bring_up(stack, unchanged_too)
            results.append(result)
            if not result.good:
                self.stop.set()
        return results

    def _look(self, stack: KnownStack) -> UpdateResult:
        with self._log(stack.name) as log:
            return self._timed(stack.name, lambda: self._judged(stack.name, log))

    def _bring_up(self, stack: KnownStack, unchanged_too: bool) -> UpdateResult:
        def bring() -> UpdateResult:
            with self._log(stack.name) as log:
                result = self._judged(stack.name, log)
                if result.good and (unchanged_too or result.outcome != "unchanged"):
                    result = self._up_one(stack.name, result, log)
                return result

        return self._timed(stack.name, bring)

    def _timed(self, name: str, work: Callable[[], UpdateResult]) -> UpdateResult:
        began = time.monotonic()
        result = replace(work(), seconds=time.monotonic() - began)
        self.display.end(name, result.outcome, result.remark or result.changes)
        return result

    def _judged(self, name: str, log: IO[str]) -> UpdateResult:
        """Return the result of preflight on the engine's preview."""
        self.display.begin(name, "preview")
        try:
            text = self.workspace.preview(name)
            with self._evaluating:
                assessment = assess(name, text, self.allowed, self._hosts, self.workspace.root)
        except StoppedError:
            return UpdateResult(stack=name, outcome="not run")
        except (DigestError, StackFileError) as error:
            print(error, file=log)
            if self.engine.stopped:  # in the middle of it
                return UpdateResult(stack=name, outcome="not run")
            return UpdateResult(stack=name, outcome="no preview", remark=str(error))
        assessment.print_to(Console(file=log, width=200, highlight=False, emoji=False))
        return _result(name, assessment)

    def _up_one(self, name: str, previewed: UpdateResult, log: IO[str]) -> UpdateResult:
        self.display.begin(name, "up")

        def show(text: str) -> None:
            print(text, file=log, flush=True)
            self.display.line(name, text)

        try:
            outputs = self.workspace.up(name, show)
        except StoppedError:
            return replace(previewed, outcome="not run")
        except StackError as error:
            return replace(previewed, outcome="up failed", remark=str(error))
        state = str(outputs.get("state"))
        # A cluster has no PDS that could serve. Its `up` has waited for its hosts.
        if state not in WELL and CLUSTER_OUTPUT not in outputs:
            return replace(previewed, outcome="not healthy", remark=f"after `up` it is {state}")
        return replace(previewed, outcome="up")

    @contextmanager
    def _log(self, name: str) -> Iterator[IO[str]]:
        """Readable only by its owner, because the engine's output names members."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{name}.log"
        path.touch(mode=0o600)
        path.chmod(0o600)
        with path.open("w") as log:
            yield log


def _result(name: str, assessment: Assessment) -> UpdateResult:
    findings, changes = assessment.verdict.findings, assessment.digest.changes
    if findings:
        return UpdateResult(
            stack=name, outcome="preflight failed", changes=_counted(changes), remark="; ".join(findings)
        )
    outcome = "would change" if changes else "unchanged"
    return UpdateResult(stack=name, outcome=outcome, changes=_counted(changes))


def _counted(changes: Sequence[Change]) -> str:
    """Return for example '+2 ~1'."""
    marks = [_MARKS.get(change.op, "~") for change in changes]
    return " ".join(f"{mark}{marks.count(mark)}" for mark in "+~±-" if mark in marks)


def _first(groups: Sequence[Sequence[KnownStack]], canary: str | None) -> list[KnownStack]:
    """Return the canary, after its host if that is updated, too."""
    for group in groups:
        for stack in group:
            if stack.name == canary:
                return [one for one in group if one == stack or (one.has_a_host and one.name == stack.host)]
    return [groups[0][0]]


@contextmanager
def interruptible(run: UpdateRun) -> Iterator[None]:
    """A termination signal stops the engines in order and waits for them: a killed one may leave unrecorded
    resources."""

    def end(_number: int, _frame: FrameType | None) -> None:
        run.stop.set()
        run.engine.stop()

    with handled(TERMINATION, end):
        yield


def print_results(results: Sequence[UpdateResult], logs: Path, console: Console) -> None:
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
    console.print(f"Engine output: {os.path.relpath(logs)}/STACK.log", markup=False)
