"""`./pds preflight`."""

from pathlib import Path

import click

from cli.lib.stack import Stack
from cli.registry import Topic, allow_option, command, stack_argument


@command("preflight", Topic.CHANGE, exit_codes="0 passed, 1 failed, 2 the check could not run.")
@stack_argument()
@click.option("--preview", type=Path, metavar="FILE", help="File with an earlier preview; '-' for standard input.")
@allow_option
def preflight(stack: str, preview: Path | None, allow: tuple[str, ...]) -> int:
    """Check a change before `up`: one line for each finding.

    The command evaluates the stack's program offline, where every text is known. The engine's own preview shows the
    effects of `up` on existing resources. Every check runs on both. Without `--preview` the command runs the engine
    itself. The preview, which holds all inputs, is never written to a file.
    """
    from cli.lib import preflight

    return preflight.run(Stack(stack), preview, allow)
