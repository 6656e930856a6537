"""The commands for many stacks, and their output."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from tools import preview
from tools import upgrade as upgrades
from tools.clubs import every, move, new, table
from tools.clubs.engine import Engine, Workspace
from tools.clubs.every import Run
from tools.clubs.known import Known, known
from tools.clubs.screen import Screen
from tools.engine import ROOT
from tools.gate.changes import names
from tools.gate.gate import examine
from tools.stack import Stack, StackError
from tools.stackfile import StackFileError, evaluate_stack

_LOGS = ROOT / "build" / "logs"


def add(verbs: "argparse._SubParsersAction[Any]") -> None:
    """Add them to `./pds`."""
    verb = verbs.add_parser(
        "club",
        help="add a PDS: write its stack file, create its stack, preview",
        description=new.__doc__,
        epilog="Exit code: 0 created and the gate is open, 1 the gate is shut, 2 refused or the check could not run.",
    )
    verb.add_argument("name", metavar="NAME", help="name of the stack; its file is Pulumi.NAME.yaml")
    verb.add_argument("--hostname", required=True, metavar="DOMAIN", help="domain name of the PDS; permanent")
    verb.add_argument("--on", metavar="STACK", help="stack whose host it shares (default: its own droplet)")
    verb.add_argument("--memory-mib", type=int, metavar="N", help="memory limit of the server")
    verb.add_argument("--disk-gib", type=int, metavar="N", help="quota on the host, or size of its own volume")
    verb.add_argument("--zone", metavar="DOMAIN", help="DNS zone of the name at DigitalOcean")
    verb.add_argument("--create-zone", action="store_true", help="also create that zone")
    verb.add_argument("--manual-dns", action="store_true", help="records are created by hand, in a zone elsewhere")
    verb.add_argument(
        "--cidr",
        action="append",
        default=[],
        metavar="RANGE",
        help="address range of the administrators of its own host",
    )
    verb.add_argument(
        "--ssh-key", action="append", default=[], metavar="NAME", help="SSH key of the account for its own host"
    )
    verb.set_defaults(run=_club)

    verb = verbs.add_parser(
        "clubs",
        help="list every stack: state, version, accounts, disk, memory, backups, cost, and room for the next club",
        description=table.__doc__,
        epilog="Exit code: 0; 2 if there was nothing to query.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_clubs)

    for name, what in (("preview-all", "preview every stack"), ("up-all", "update every stack")):
        verb = verbs.add_parser(
            name,
            help=what,
            description=every.__doc__,
            epilog="Exit code: 0 all is well, 1 something failed or the gate is shut, 2 the check could not run.",
        )
        verb.add_argument("stacks", nargs="*", metavar="STACK", help="only these stacks (default: all)")
        verb.add_argument(
            "--allow",
            action="append",
            default=[],
            metavar="NAMES",
            help="names of resources that may be replaced or deleted",
        )
        verb.add_argument("--at-once", type=int, default=4, metavar="N", help="engines to run at once (default: 4)")
        if name == "up-all":
            verb.add_argument("--all", action="store_true", help="include stacks without a change")
            verb.add_argument("--canary", metavar="STACK", help="stack to update first, alone")
        verb.set_defaults(run=_up_all if name == "up-all" else _preview_all)

    verb = verbs.add_parser(
        "move",
        help="move a club to another host, with everything its server ever acknowledged",
        description=move.__doc__,
        epilog="Exit code: 0 moved, 1 not finished, 2 it could not start or continue. It can always be run again.",
    )
    verb.add_argument("club", metavar="CLUB", help="the club's stack")
    verb.add_argument("--to", required=True, metavar="HOST", help="stack of the target host")
    verb.add_argument("--yes", action="store_true", help="passed on to `pulumi up`, which prompts otherwise")
    verb.add_argument("--without", nargs="+", default=(), metavar="DID", help="accounts to leave behind")
    verb.set_defaults(
        run=lambda options: move.move(Stack(options.club), options.to, yes=options.yes, without=tuple(options.without))
    )


def _club(options: argparse.Namespace) -> int:
    console = _console()
    workspace = Workspace(Engine(), ROOT)
    wish = new.Wish(
        name=options.name,
        hostname=options.hostname,
        on=options.on,
        memory_mib=options.memory_mib,
        disk_gib=options.disk_gib,
        zone=options.zone,
        create_zone=options.create_zone,
        manual_dns=options.manual_dns,
        cidrs=tuple(options.cidr),
        ssh_keys=tuple(options.ssh_key),
    )
    plan = new.plan(wish, workspace.root, workspace.names())
    if wish.on:
        Stack(wish.on, workspace.root).outputs()  # decrypts its secrets, as it has to decrypt the club's
    workspace.secrets_provider = plan.secrets_provider
    plan.carry_out(workspace)
    if plan.host:
        console.print(plan.host.diff(f"with {wish.name}"), markup=False)
    console.print(f"{plan.text}\nWrote {plan.file.name}, and made stack {wish.name}. What it will be:\n", markup=False)
    console.print(preview.graph(evaluate_stack(wish.name, root=workspace.root)))
    # The state of the host has the club's values, which the next `up` there writes.
    first = wish.on if plan.host and wish.on else wish.name
    console.print(f"\nThe engine's preview of {first}:\n")
    stack = Stack(first, workspace.root)
    judgement = examine(stack, workspace.preview(first), frozenset())
    judgement.tell(console)
    ups = [f"pulumi up --stack {one}" for one in dict.fromkeys((first, wish.name))]
    console.print(f"\nNext: ./pds up-all, or {' && '.join(ups)}", markup=False)
    return 1 if judgement.verdict.findings else 0


def _clubs(options: argparse.Namespace) -> int:
    stacks = known(ROOT, Workspace(Engine(), ROOT).names())
    if not stacks:
        raise StackError("There is no stack: no Pulumi.STACK.yaml here, and none of this project in the backend.")
    report = table.report(ROOT, stacks)
    if options.json:
        print(report.json())
    else:
        report.tell(_console())
    return 0


def _preview_all(options: argparse.Namespace) -> int:
    console = _console()
    run, stacks = _run(options, console)
    with run.screen:
        results = run.preview(stacks)
    every.tell(results, run.logs, console)
    return every.exit_code(results)


def _up_all(options: argparse.Namespace) -> int:
    console = _console()
    run, stacks = _run(options, console)
    if options.canary:
        _refuse_unknown([options.canary], stacks)
    with run.screen:
        results = run.up(stacks, everything=options.all, canary=options.canary)
    every.tell(results, run.logs, console)
    return every.exit_code(results)


def upgrade(options: argparse.Namespace) -> int:
    """Run `./pds upgrade` for several stacks; return the exit code."""
    console = _console()
    options.allow, options.at_once = [], 1
    _, stacks = _run(options, console)
    if options.canary:
        _refuse_unknown([options.canary], stacks)

    def bring(stack: Known) -> bool:
        options.stacks = [stack.name]
        run, one = _run(options, console)  # read again: its file has changed
        with run.screen:
            results = run.up(one, everything=True, canary=None)
        every.tell(results, run.logs, console)
        return every.exit_code(results) == 0

    return upgrades.upgrade_all(stacks, options.canary, options.to, options.package, bring, options.without)


def _run(options: argparse.Namespace, console: Console) -> tuple[Run, Sequence[Known]]:
    engine = Engine()
    workspace = Workspace(engine, ROOT)
    stacks = _runnable(known(workspace.root, workspace.names()), console)
    _refuse_unknown(options.stacks, stacks)
    stacks = [stack for stack in stacks if stack.name in options.stacks or not options.stacks]
    screen = Screen(console, [stack.name for stack in stacks])
    allowed = names(options.allow)
    run = Run(
        workspace=workspace,
        engine=engine,
        screen=screen,
        logs=_LOGS,
        allowed=allowed,
        at_once=max(1, options.at_once),
    )
    return run, stacks


def _runnable(stacks: Sequence[Known], console: Console) -> Sequence[Known]:
    """Return the created ones whose file is here. Raises StackError and StackFileError, before anything is started."""
    found = []
    for stack in stacks:
        if stack.made and stack.settings:
            found.append(stack)
        elif stack.made and stack.has_a_file:
            raise StackFileError(stack.fault)
        else:
            why = stack.fault if stack.made else f"it is not made (`pulumi stack init {stack.name}`)."
            console.print(f"{stack.name}: left out, {why}", markup=False)
    if not found:
        raise StackError("There is no stack to look at: none is made that has its file here.")
    return found


def _refuse_unknown(wanted: Sequence[str], stacks: Sequence[Known]) -> None:
    there = [stack.name for stack in stacks]
    if unknown := [name for name in wanted if name not in there]:
        raise StackError(f"There is no stack {', '.join(unknown)} here; there are: {', '.join(there)}.")


def _console() -> Console:
    # Without a terminal, as in a file or in CI, nothing is cut.
    return Console(soft_wrap=True, highlight=False, emoji=False, width=None if os.isatty(1) else 200)
