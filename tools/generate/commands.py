"""The commands of `./pds` as Markdown, from their Click objects: the README's table and `docs/commands.md`."""

import inspect
import textwrap

import click

from cli.app import group
from cli.registry import TOPICS, Topic


def command_table() -> str:
    """One row a topic: its commands, each linked to its section."""
    rows = [f"| {topic} | {', '.join(map(_link, _names(topic)))} |" for topic in Topic]
    return "\n".join(["| `./pds` … | |", "|---|---|", *rows])


def _names(topic: Topic) -> list[str]:
    return [name for name, _ in _commands() if TOPICS[name] == topic]


def _link(name: str) -> str:
    return f"[`{name}`](docs/commands.md#pds-{name})"


def command_pages() -> str:
    """One section a command: its help, how it is called, each option, and the exit code."""
    return "\n\n".join(_section(name, each) for name, each in _commands())


def _commands() -> list[tuple[str, click.Command]]:
    return sorted(group().commands.items())


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").split("\n\n")


def _summary(command: click.Command) -> str:
    return " ".join(_paragraphs(command)[0].split())


def _section(name: str, command: click.Command) -> str:
    call = " ".join(["./pds", name, *map(_usage, command.params)])
    lines = [f"## `./pds {name}`", "", _summary(command), "", f"    {call}", ""]
    options = [option for option in command.params if isinstance(option, click.Option)]
    lines += [f"- `{_name(option, ', '.join(option.opts))}`: {option.help}" for option in options]
    for text in [*map(_text, _paragraphs(command)[1:]), *([command.epilog] if command.epilog else [])]:
        lines += [*([""] if lines[-1] else []), text]
    return "\n".join(lines).strip()


def _text(paragraph: str) -> str:
    """Return a paragraph on one line. Click keeps the lines of one that begins with the mark."""
    if paragraph.startswith("\b"):
        return textwrap.indent(textwrap.dedent(paragraph.removeprefix("\b\n")), "    ")
    return " ".join(paragraph.split())


def _usage(parameter: click.Parameter) -> str:
    text = _name(parameter, max(parameter.opts, key=len))
    return text if parameter.required or text.startswith("[") else f"[{text}]"


def _name(parameter: click.Parameter, flags: str) -> str:
    """Return an argument's name, or `flags` of an option with the name or the choices of its value."""
    if isinstance(parameter, click.Argument):
        return str(parameter.metavar or (parameter.name or "").upper())
    assert isinstance(parameter, click.Option)
    if parameter.is_flag:
        return flags
    choices = "|".join(map(str, parameter.type.choices)) if isinstance(parameter.type, click.Choice) else ""
    return f"{flags} {parameter.metavar or choices or (parameter.name or '').upper()}"
