"""`./pds import`."""

from pathlib import Path

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("import", Topic.CHANGE)
@stack_argument()
@click.option("--env", type=Path, required=True, metavar="FILE", help="A copy of its /pds/pds.env.")
def import_pds(stack: str, env: Path) -> int:
    """Import a PDS of upstream's installer into a stack.

    The command encrypts the secrets of `pds.env` into the stack file and compares the other settings. It pauses the
    stack, so that the first `up` starts no server. It writes a script for the old machine. The script checks a snapshot
    of the running server, stops the server, and makes the final snapshot. The command does not contact that machine,
    and no secret goes there. docs/guide/import.md lists the next steps.
    """
    from cli.backups import import_pds

    return import_pds.import_pds(Stack(stack), env)
