"""`./pds COMMAND`: operator commands that complement `pulumi`. Builds them from `cli/commands/` and runs one."""

import importlib
import pkgutil
import sys
from typing import Any

import click

from cli import commands
from cli.errors import CommandError
from cli.registry import COMMANDS, TOPICS, Topic

_INTERRUPTED = 130


class Group(click.Group):
    """The commands, listed by topic in the help."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one table a topic, as in the README."""
        widest = max(map(len, self.commands))
        for topic in Topic:
            rows = [
                (name.ljust(widest), command.get_short_help_str(200))
                for name, command in sorted(self.commands.items())
                if TOPICS[name] == topic
            ]
            with formatter.section(topic[0].upper() + topic[1:]):
                formatter.write_dl(rows)


def group() -> Group:
    """Return `./pds` with every command of `cli/commands/`."""
    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        importlib.import_module(module.name)
    return Group(
        "pds",
        commands=COMMANDS,
        help="Operator commands that complement `pulumi`.",
        context_settings={"max_content_width": 100},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command, or print the help without one; return the exit code."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code: Any = group().main(given, prog_name="./pds", complete_var="_PDS_COMPLETE", standalone_mode=False)
        return int(code or 0)
    except (click.Abort, KeyboardInterrupt):  # the second during an import, before Click is there
        return _INTERRUPTED
    except click.UsageError as error:
        help_of = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        print(f"{error.format_message()}{help_of}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(error, file=sys.stderr)
        return int(code)


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error whose text is for the operator; None for any other error."""
    if isinstance(error, CommandError):
        return error.exit_code
    # Imported late: `./pds --help` does without them.
    from components.clients.errors import ServiceError
    from offline.stackfile import StackFileError
    from policy.digest import DigestError

    if isinstance(error, ServiceError):
        return 1
    return 2 if isinstance(error, StackFileError | DigestError) else None


if __name__ == "__main__":
    sys.exit(main())
