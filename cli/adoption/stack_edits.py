"""Edits of stack files that are prepared first, checked as whole files, and written each at once.

The Pulumi CLI edits a copy, so that comments and encrypted values stay. A killed command leaves each file as it was, or
as it is to be.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.stack import Stack
from offline.stackfile import parse_settings, read_config, read_text

Edits = Mapping[str, Any]
"""Dotted keys below `pds:` to values: a text, a number, a truth value, a list, a map, or None to remove the key."""


def prepare(stack: Stack, edits: Edits) -> StackFileEdit:
    """The stack's file before and after. Raises StackFileError if the edited file is refused, and StackError."""
    before = read_text(stack.name, stack.root)
    config: Mapping[str, Any] = yaml.load(before, yaml.CSafeLoader)["config"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"Pulumi.{stack.name}.yaml"
        copy.write_bytes(before.encode())
        for key, value in edits.items():
            if value is None:
                if _value(config, key) is not None:
                    stack.configure(copy, "rm", f"pds:{key}")
                continue
            for path, item in _leaves(f"pds:{key}", value):
                stack.configure(copy, "set", path, item)
        after = copy.read_bytes().decode()
    parse_settings(stack.name, after)
    return StackFileEdit(stack.root / f"Pulumi.{stack.name}.yaml", before, after)


def configured(stack: Stack, key: str) -> Any:
    """The value of a key in the stack's file, as it is written; None without one."""
    return _value(read_config(stack.name, stack.root), key)


def _value(config: Mapping[Any, Any], key: str) -> Any:
    section, *keys = key.split(".")
    found: Any = config.get(f"pds:{section}", config.get(section))
    for each in keys:
        found = found.get(each) if isinstance(found, Mapping) else None
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}[{index}]", item)
    else:
        yield path, "true" if value is True else "false" if value is False else str(value)
