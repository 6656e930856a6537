"""Edits of stack files that add entries and change no other byte.

Comments, order, line ends and encrypted values stay. The result is parsed again and refused unless it equals the old
content with the new entries. Used by `./pds members --adopt`, `./pds new` and `./pds assign-hosts`.

A round trip of ruamel.yaml (0.19.1, with `preserve_quotes`) keeps comments and quotes, but not the rest of a person's
file: it rewrites indentation and the spaces inside `{}` and `[]`, moves comments to other columns, turns `True` into
`true`, and writes LF instead of CRLF. The diff of the change would show unrelated lines.
"""

import difflib
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.lib.private_files import write_whole
from offline.stackfile import StackFileError

Scalar = str | int | bool
Entry = Mapping[str, Scalar]
_Lines = Callable[[int, str], list[str]]
"""Indent and line end to lines."""

_PLAIN = re.compile(r"[a-z][a-z0-9.@+_-]*")
"""Text that needs no quotes, unless it is a YAML keyword, such as `no`."""


@dataclass(frozen=True)
class StackFileEdit:
    """A stack file before and after, in text."""

    path: Path
    before: str
    after: str

    def diff(self, label: str) -> str:
        """Return the change as a unified diff; `label` names the new file."""
        name = self.path.name
        return "".join(
            difflib.unified_diff(self.before.splitlines(True), self.after.splitlines(True), name, f"{name} ({label})")
        )

    def require_current(self) -> None:
        """Raises StackFileError if the file is no longer the one before the change."""
        if self.path.read_bytes() != self.before.encode():
            raise StackFileError(
                f"{self.path.name} was changed after this command had read it, and was left as it is now. Repeat the "
                "command, which reads it again."
            )

    def write(self) -> None:
        """Write it to the file, whole or not at all: a crash leaves the old one. Raises as `require_current`."""
        self.require_current()
        target = self.path.resolve()
        write_whole(target, self.after.encode(), stat.S_IMODE(target.stat().st_mode))


def add_items(name: str, text: str, keys: Sequence[str], new: Sequence[Entry]) -> str:
    """Return `text` with further items in a list below `config`. `keys` are the spellings of its key; the first one is
    used for a new list. Raises StackFileError if lines cannot be added to the list as it is written."""

    def lines(indent: int, end: str) -> list[str]:
        lines_ = []
        for entry in new:
            for number, (key, value) in enumerate(entry.items()):
                lines_.append(f"{' ' * indent}{'  ' if number else '- '}{key}: {scalar(value)}{end}")
        return lines_

    key, old = _old(text, keys)
    expected = [*(old or []), *new]
    after = _added(text, keys, lines, ", ".join(flow(entry) for entry in new))
    return _checked(name, text, key, expected, after, "".join(lines(4, "\n")))


def add_key(name: str, text: str, keys: Sequence[str], new: str, entry: Entry, comment: str = "") -> str:
    """Return `text` with the key `new` in a map below `config`; `comment` stands above a new map. Raises as
    `add_items`."""

    def lines(indent: int, end: str) -> list[str]:
        return [f"{' ' * indent}{scalar(new)}: {flow(entry)}{end}"]

    key, old = _old(text, keys)
    expected = {**(old or {}), new: dict(entry)}
    after = _added(text, keys, lines, f"{scalar(new)}: {flow(entry)}", comment)
    return _checked(name, text, key, expected, after, "".join(lines(4, "\n")))


def add_option(name: str, text: str, keys: Sequence[str], entry: str, new: str, value: Scalar) -> str:
    """Return `text` with the option `new` in the existing `entry` of a map below `config`. Raises as `add_items`."""
    end = "\r\n" if "\r\n" in text else "\n"
    key, old = _old(text, keys)
    line, after = f"{new}: {scalar(value)}", None
    config = _child(yaml.compose(text, Loader=yaml.CSafeLoader), ("config",))
    present = _child(_child(config, keys), (entry,))
    if isinstance(present, yaml.MappingNode) and present.value:
        close = present.end_mark.index - 1
        after = (
            f"{text[:close]}, {line}{text[close:]}"
            if present.flow_style
            else _insert(text, _last(present), [f"{' ' * present.start_mark.column}{line}{end}"], end)
        )
    expected = {**old, entry: {**old[entry], new: value}}
    return _checked(name, text, key, expected, after, f"    {scalar(entry)}: {{{line}, …}}\n")


def _old(text: str, keys: Sequence[str]) -> tuple[str, Any]:
    config = yaml.load(text, yaml.CSafeLoader)["config"]
    key = next((key for key in keys if key in config), keys[0])
    return key, config.get(key)


def _checked(name: str, before: str, key: str, expected: Any, after: str | None, lines: str) -> str:
    old, now = yaml.load(before, yaml.CSafeLoader), None
    try:
        now = yaml.load(after, yaml.CSafeLoader) if after else None
    except yaml.YAMLError:
        now = None
    if after is None or now != {**old, "config": {**old["config"], key: expected}}:
        section = key.removeprefix("pds:")
        raise StackFileError(
            f"'{section}' in {name} has a form that this command cannot edit. Add these lines to '{key}' by hand:\n"
            f"{lines}"
        )
    return after


def _added(text: str, keys: Sequence[str], lines: _Lines, flow: str, comment: str = "") -> str | None:
    end = "\r\n" if "\r\n" in text else "\n"
    config = _child(yaml.compose(text, Loader=yaml.CSafeLoader), ("config",))
    if not isinstance(config, yaml.MappingNode) or config.flow_style:
        return None
    indent = config.start_mark.column
    present = _child(config, keys)
    if present is None:
        over = [f"{' ' * indent}# {comment}{end}"] if comment else []
        return _insert(text, _last(config), [*over, f"{' ' * indent}{keys[0]}:{end}", *lines(indent + 2, end)], end)
    if isinstance(present, yaml.CollectionNode) and not present.flow_style:
        return _insert(text, _last(present), lines(present.start_mark.column, end), end)
    if present.value:
        close = present.end_mark.index - 1
        return f"{text[:close]}, {flow}{text[close:]}"
    # `[]`, `{}` or nothing: removed, and the new entries stand below the key.
    start, stop = present.start_mark.index, present.end_mark.index
    if text[start:stop]:
        text = text[:start].rstrip(" ") + text[stop:]
    return _insert(text, len(text[:start].rstrip()), lines(indent + 2, end), end)


def _child(node: yaml.Node | None, keys: Sequence[str]) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value in keys), None)


def _last(node: yaml.Node) -> int:
    """Return the index of a node's last character; a block's own end mark is behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        inner = node.value[-1]
        return _last(inner[1] if isinstance(inner, tuple) else inner)
    return int(node.end_mark.index)


def _insert(text: str, after: int, lines: list[str], end: str) -> str:
    """Insert `lines` below the line of the character before `after`."""
    at = text.find("\n", max(after - 1, 0)) + 1
    if not at:
        return text + end + "".join(lines)
    return text[:at] + "".join(lines) + text[at:]


def flow(entry: Entry) -> str:
    """Return an entry on one line."""
    return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in entry.items()) + "}"


def scalar(value: Scalar) -> str:
    """Return a value as it is written in a stack file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    plain = _PLAIN.fullmatch(value) and yaml.load(value, yaml.CSafeLoader) == value
    return value if plain else "'" + value.replace("'", "''") + "'"
