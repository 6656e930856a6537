"""Registration of the commands of `./pds`, and the arguments that several of them share.

A command is one file of `cli/commands/`. It registers itself with `@command`; its help is the function's docstring. The
file imports heavy modules (Pulumi, httpx) inside the function, so that `./pds --help` and completion stay fast.
"""

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import click
from click.shell_completion import CompletionItem

from offline import ROOT, stack_names

COMMANDS: dict[str, click.Command] = {}
"""Each registered command by its name."""


class Topic(StrEnum):
    """What a command is for; the README and `./pds --help` list commands by it."""

    CHANGE = "create and change stacks"
    ACCOUNTS = "accounts"
    DATA = "keys, backups, blobs"
    OBSERVE = "checks, logs, access"
    REPAIR = "repair and maintenance"


TOPICS: dict[str, Topic] = {}
"""The topic of each command."""

Function = Callable[..., int | None]
"""A command's function. Its result is the exit code; None is 0."""


def command(name: str, topic: Topic, *, exit_codes: str = "") -> Callable[[Function], click.Command]:
    """Register the function as the command `name`.

    `exit_codes` follows its help. Raises ValueError if another command has this name. The function reads the stack by
    `cli.lib.stack.Stack` and the stack file by `offline.stackfile.read_settings`.
    """

    def register(function: Function) -> click.Command:
        if name in COMMANDS:
            raise ValueError(f"`./pds {name}` is registered twice.")
        epilog = f"Exit code: {exit_codes}" if exit_codes else None
        summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
        COMMANDS[name] = click.command(name, epilog=epilog, short_help=summary)(function)
        TOPICS[name] = topic
        return COMMANDS[name]

    return register


def _stack_names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in stack_names(ROOT) if name.startswith(incomplete)]


def _check_stack(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse a stack without a file here, before a token or an engine is looked for; a callback of Click."""
    if not isinstance(value, tuple) and not (ROOT / f"Pulumi.{value}.yaml").is_file():
        here = ", ".join(stack_names(ROOT)) or "none"
        raise click.BadParameter(f"Pulumi.{value}.yaml does not exist. Stacks with a file here: {here}.")
    return value  # commands over several stacks compare them with the backend


def stack_argument(*names: str, **options: Any) -> Callable[[Function], Function]:
    """Return an argument that is the name of a stack with a file; the shell completes it from the stack files."""
    return click.argument(*(names or ("stack",)), shell_complete=_stack_names, callback=_check_stack, **options)


def stack_option(*names: str, **options: Any) -> Callable[[Function], Function]:
    """Return an option whose value is the name of a stack."""
    return click.option(*names, shell_complete=_stack_names, **{"metavar": "STACK", **options})


yes_option = click.option("--yes", is_flag=True, help="Answer yes to every prompt, also to that of `pulumi up`.")

allow_option = click.option(
    "--allow",
    multiple=True,
    metavar="NAMES",
    help="Names of resources that may be replaced or deleted, separated by spaces.",
)


def check_did(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse a value that is not a DID; a callback of Click."""
    for text in value if isinstance(value, tuple) else (value,):
        if text and not text.startswith("did:"):
            raise click.BadParameter(f"{text} is not a DID. `./pds members STACK` shows the DID of every handle.")
    return value


def did_option(*names: str, **options: Any) -> Callable[[Function], Function]:
    """Return an option whose value is a DID."""
    return click.option(*names, metavar="DID", callback=check_did, **options)
