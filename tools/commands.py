"""The commands of `./pds` as Markdown, from their parsers: the README's table and `docs/commands.md`.

The text is made here and not by argparse, whose own layout differs between versions of Python.
"""

import argparse

from tools.pds import parsers

_Verbs = list[tuple[str, str, argparse.ArgumentParser]]


def command_table() -> str:
    """One row a command: its name, linked to its section, and what it does."""
    rows = [f"| [`./pds {name}`](docs/commands.md#pds-{name}) | {_cell(does)} |" for name, does, _ in _verbs()]
    return "\n".join(["| Command | What it does |", "|---|---|", *rows])


def command_pages() -> str:
    """One section a command: how it is called, each argument, and the exit code."""
    return "\n\n".join(_section(name, does, verb) for name, does, verb in _verbs())


def _verbs() -> _Verbs:
    _, verbs = parsers()
    # argparse has no public list of its sub-commands.
    return [(choice.dest, choice.help or "", verbs.choices[choice.dest]) for choice in verbs._choices_actions]


def _section(name: str, does: str, verb: argparse.ArgumentParser) -> str:
    actions = [action for action in verb._actions if action.dest != "help"]
    call = verb.usage or " ".join(["./pds", name, *map(_usage, actions)])
    lines = [f"## `./pds {name}`", "", f"{does[:1].upper()}{does[1:]}{'' if does.endswith(('.', '?')) else '.'}", ""]
    lines += [f"    {call}", ""]
    lines += [f"- `{_name(action)}`: {action.help}" for action in actions if action.help]
    if verb.epilog:
        lines += [*([""] if lines[-1] else []), verb.epilog]
    return "\n".join(lines).strip()


def _usage(action: argparse.Action) -> str:
    text = _name(action)
    return text if action.required and action.nargs != "*" else f"[{text}]"


def _name(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    several = {"*": f"{value} …", "+": f"{value} …"}.get(str(action.nargs), str(value))
    if not action.option_strings:
        return several
    return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {several}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
