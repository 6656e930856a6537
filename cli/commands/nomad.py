"""`./pds nomad`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("nomad", Topic.OBSERVE, exit_codes="Nomad's; 2 if it could not be started.")
@stack_argument()
@click.argument("arguments", nargs=-1, required=True, metavar="-- ARGS...")
def nomad(stack: str, arguments: tuple[str, ...]) -> int:
    """Run Nomad's own CLI with the stack's address, token, namespace and certificates.

    \b
        ./pds nomad main -- job status

    The certificates are private files, deleted when the command ends. Do not change jobs with it: the next `up` would
    fail, and `./pds repair` would undo the change.
    """
    from cli.observe import nomad_cli

    return nomad_cli.run(Stack(stack), arguments)
