"""The PDS stopped and started as its stack file says: `pds.paused`, through the engine.

Nomad is not told: a job that is stopped outside the engine makes the next `up` fail.
"""

from tools.stack import Stack, StackError
from tools.stackfile import read_settings

_KEY = ("config", "set", "--path", "pds:pds.paused")


def pause(stack: Stack, *, yes: bool) -> None:
    """Stop the PDS, and bring the stack up to date; with nothing on the volume that is an `up` that ends well.

    Raises StackError, StackFileError.
    """
    if not read_settings(stack.name, stack.root).pds.paused:
        _ran(stack, *_KEY, "true")
    _up(stack, yes=yes)


def unpause(stack: Stack, *, yes: bool) -> None:
    """Let the PDS run. Raises StackError, StackFileError."""
    if read_settings(stack.name, stack.root).pds.paused:
        _ran(stack, *_KEY, "false")
    _up(stack, yes=yes)


def _up(stack: Stack, *, yes: bool) -> None:
    if stack.talk("up", *(["--yes", "--skip-preview"] if yes else [])):
        raise StackError("`pulumi up` did not come to its end. Run the same again when it does.")


def _ran(stack: Stack, *arguments: str) -> None:
    if stack.run(*arguments).code:
        raise StackError(f"Pulumi.{stack.name}.yaml could not be changed. Write 'paused' under 'pds:pds' yourself.")
