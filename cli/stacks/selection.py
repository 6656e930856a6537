"""Commands over several stacks: which stacks they concern, and the run over them."""

import os
from collections.abc import Iterable, Sequence

from rich.console import Console

from cli.lib.stack import StackError
from cli.stacks import up_all as updates
from cli.stacks import upgrade as upgrades
from cli.stacks.automation import Engine, Workspace
from cli.stacks.list_stacks import StackList, stack_list
from cli.stacks.progress import ProgressDisplay
from cli.stacks.stack_files import KnownStack, known_stacks
from cli.stacks.up_all import UpdateRun
from offline import ROOT as ROOT
from offline.stackfile import StackFileError
from policy.changes import names

_LOGS = ROOT / "build" / "logs"


def workspace() -> Workspace:
    """Return the project's folder with its engine. Raises StackError."""
    return Workspace(Engine(), ROOT)


def list_all() -> StackList:
    """Inspect every stack that has a file here or is in the backend. Raises StackError if there is none."""
    stacks = known_stacks(ROOT, workspace().names())
    if not stacks:
        raise StackError("There is no stack: no Pulumi.STACK.yaml here, and none of this project in the backend.")
    return stack_list(ROOT, stacks)


def preview_all(stacks: Sequence[str], allow: Iterable[str], at_once: int) -> int:
    """Preview the stacks, or all of them if none is given; return the exit code."""
    run, selected = _run(stacks, allow, at_once, terminal := console())
    with run.display:
        results = run.preview(selected)
    updates.print_results(results, run.logs, terminal)
    return updates.exit_code(results)


def up_all(
    stacks: Sequence[str], allow: Iterable[str], at_once: int, *, unchanged_too: bool, canary: str | None
) -> int:
    """Update the stacks with a change, or with `unchanged_too` all; return the exit code."""
    run, selected = _run(stacks, allow, at_once, terminal := console())
    if canary:
        _refuse_unknown([canary], selected)
    with run.display:
        results = run.up(selected, unchanged_too=unchanged_too, canary=canary)
    updates.print_results(results, run.logs, terminal)
    return updates.exit_code(results)


def upgrade_selected(
    stacks: Sequence[str], canary: str | None, to: str, package: str | None, without: Sequence[str]
) -> int:
    """Upgrade the server of the stacks, or of all of them if none is given; return the exit code."""
    terminal = console()
    _, every = _run(stacks, (), 1, terminal)
    if canary:
        _refuse_unknown([canary], every)
    selected = [stack for stack in every if not (stack.settings and stack.settings.cluster)]  # it has no server

    def update(stack: KnownStack) -> bool:
        run, one = _run([stack.name], (), 1, terminal)  # read again: its file has changed
        with run.display:
            results = run.up(one, unchanged_too=True, canary=None)
        updates.print_results(results, run.logs, terminal)
        return updates.exit_code(results) == 0

    return upgrades.upgrade_all(selected, canary, to, package, update, without)


def _run(
    stacks: Sequence[str], allow: Iterable[str], at_once: int, terminal: Console
) -> tuple[UpdateRun, Sequence[KnownStack]]:
    engine = Engine()
    folder = Workspace(engine, ROOT)
    runnable = _runnable(known_stacks(folder.root, folder.names()), terminal)
    _refuse_unknown(stacks, runnable)
    selected = [stack for stack in runnable if stack.name in stacks or not stacks]
    run = UpdateRun(
        workspace=folder,
        engine=engine,
        display=ProgressDisplay(terminal, [stack.name for stack in selected]),
        logs=_LOGS,
        allowed=names(allow),
        at_once=max(1, at_once),
    )
    return run, selected


def _runnable(stacks: Sequence[KnownStack], terminal: Console) -> Sequence[KnownStack]:
    """Return the created stacks whose file is here. Raises StackError and StackFileError, before anything is
    started."""
    runnable = []
    for stack in stacks:
        if stack.created and stack.settings:
            runnable.append(stack)
        elif stack.created and stack.has_a_file:
            raise StackFileError(stack.fault)
        else:
            reason = stack.fault if stack.created else f"it does not exist yet (`pulumi stack init {stack.name}`)."
            terminal.print(f"{stack.name}: left out, {reason}", markup=False)
    if not runnable:
        raise StackError("No stack of the backend has a file Pulumi.STACK.yaml here. `./pds new` creates one.")
    return runnable


def _refuse_unknown(requested: Sequence[str], stacks: Sequence[KnownStack]) -> None:
    known = [stack.name for stack in stacks]
    if unknown := [name for name in requested if name not in known]:
        raise StackError(f"There is no stack {', '.join(unknown)} here; there are: {', '.join(known)}.")


def console() -> Console:
    """Return the terminal. Without one, as in a file or in CI, no line is cut."""
    return Console(soft_wrap=True, highlight=False, emoji=False, width=None if os.isatty(1) else 200)
