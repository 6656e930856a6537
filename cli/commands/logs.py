"""`./pds logs`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("logs", Topic.OBSERVE)
@stack_argument()
@click.option("--task", default="pds", metavar="NAME", help="Task whose output to show (default: pds).")
@click.option("-f", "--follow", is_flag=True, help="Show further lines as they come, also of the next allocations.")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, metavar="N", help="Lines to show (default: 100).")
def logs(stack: str, task: str, follow: bool, lines: int) -> None:
    """Show what a task of the stack has written, standard output first.

    The newest allocation in Nomad that has the task is shown; its name goes to standard error. Control characters are
    shown as escapes. Ctrl-C ends `--follow`.
    """
    from cli.observe import logs

    logs.show(Stack(stack), task, lines, keep_following=follow)
