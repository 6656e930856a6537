"""Changes that a command makes as its owner would: a value in the stack file, then `pulumi up`. `pds.paused` stops and
starts the PDS this way.

Nomad is not used: a job that is stopped outside the engine makes the next `up` fail.
"""

from collections.abc import Mapping

from cli.lib.stack import Stack, StackError
from components.settings.stack_identity import MOVED_TO, place
from offline.stackfile import read_settings

_KEY = "pds:pds.paused"


def pause(stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
    """Stop the PDS, and update the stack; `env` as in `up`. On an empty volume this `up` succeeds.

    Raises StackError, StackFileError.
    """
    if not read_settings(stack.name, stack.root).pds.paused:
        change(stack, _KEY, "true")
    up(stack, yes=yes, env=env)


def unpause(stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
    """Start the PDS. Raises StackError, StackFileError."""
    if read_settings(stack.name, stack.root).pds.paused:
        change(stack, _KEY, "false")
    up(stack, yes=yes, env=env)


def up(stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
    """Run `pulumi up`, with additional environment if need be. Raises StackError if it fails."""
    if stack.run_interactively("up", *(["--yes", "--skip-preview"] if yes else []), env=env):
        raise StackError("`pulumi up` did not succeed. Fix the fault above and repeat the command.")


def moved_to(stack: Stack) -> dict[str, str]:
    """The environment with which `up` accepts the place in the stack file as the PDS's new one. Raises
    StackFileError."""
    return {MOVED_TO: written_place(stack)}


def written_place(stack: Stack) -> str:
    """The place of the PDS in the stack file. Raises StackFileError."""
    return place(read_settings(stack.name, stack.root))


def change(stack: Stack, key: str, value: str) -> None:
    """Write one value into the stack file, `key` as in "pds:pds.paused". Raises StackError."""
    if stack.run("config", "set", "--path", key, value).code:
        raise StackError(f"Pulumi.{stack.name}.yaml could not be changed. Write {value} as '{key}' yourself.")


def change_together(stack: Stack, options: Mapping[str, str]) -> None:
    """Write values into the stack file in one step: a command that is killed leaves all or none. Raises StackError."""
    words = [word for key, value in options.items() for word in ("--plaintext", f"{key}={value}")]
    if stack.run("config", "set-all", "--path", *words).code:
        text = ", ".join(f"{value} as '{key}'" for key, value in options.items())
        raise StackError(f"Pulumi.{stack.name}.yaml could not be changed. Write {text} yourself.")
