"""Sets one number in a stack file and changes no other byte, as `cli/lib/edit_stackfile.py` adds entries.

Used by `./pds upgrade` of a cluster, which raises generations. `pulumi config set` would rewrite the indentation of the
whole file.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from cli.lib.edit_stackfile import scalar
from offline.stackfile import StackFileError


def set_number(name: str, text: str, path: Sequence[str], value: int) -> str:
    """Return `text` with `value` at `path` below `config`, as in ("cluster", "servers", "generations", "2"). Maps that
    are missing on the way are made. Raises StackFileError if the file is written in a way that this cannot change."""
    after = _changed(text, path, value)
    before, now = yaml.load(text, yaml.CSafeLoader), None
    try:
        now = yaml.load(after, yaml.CSafeLoader) if after is not None else None
    except yaml.YAMLError:
        now = None
    if after is None or now != _expected(before, path, value):
        raise StackFileError(
            f"'{path[0]}' in {name} has a form that this command cannot edit. Set '{'.'.join(path)}' to {value} by "
            "hand, then repeat the command."
        )
    return after


def _keys(path: Sequence[str], depth: int) -> tuple[str, ...]:
    """The spellings of a key: a section of this project has its name before it, or not."""
    return (f"pds:{path[0]}", path[0]) if depth == 0 else (path[depth],)


def _expected(document: Any, path: Sequence[str], value: int) -> Any:
    expected = _apart(document)
    inner = expected["config"]
    for depth in range(len(path)):
        keys = _keys(path, depth)
        # A number without quotes is a number to YAML, and text to the engine.
        key = next((key for key in inner if str(key) in keys), keys[0])
        if depth == len(path) - 1:
            inner[key] = value
        else:
            inner[key] = inner.get(key) or {}
            inner = inner[key]
    return expected


def _apart(value: Any) -> Any:
    """A copy in which no two places are one object, as those of an anchor are."""
    return {key: _apart(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _changed(text: str, path: Sequence[str], value: int) -> str | None:
    node = _child(yaml.compose(text, Loader=yaml.CSafeLoader), ("config",))
    for depth in range(len(path)):
        if not isinstance(node, yaml.MappingNode):
            return None
        inner = _child(node, _keys(path, depth))
        rest = path[depth:]
        if inner is None:
            return _inserted(text, node, (_keys(path, depth)[0], *rest[1:]), value)
        if depth == len(path) - 1 or _is_empty(inner):
            return _replaced(text, inner, _flow(rest[1:], value))
        node = inner
    return None


def _is_empty(node: yaml.Node) -> bool:
    return not node.value and isinstance(node, yaml.ScalarNode | yaml.MappingNode)


def _replaced(text: str, node: yaml.Node, new: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    # An absent value stands right behind its colon.
    return f"{text[:start]}{'' if end > start or text[start - 1] == ' ' else ' '}{new}{text[end:]}"


def _inserted(text: str, node: yaml.MappingNode, rest: Sequence[str], value: int) -> str:
    entry = f"{scalar(rest[0])}: {_flow(rest[1:], value)}"
    if node.flow_style:
        close = node.end_mark.index - 1
        return f"{text[:close]}{', ' if node.value else ''}{entry}{text[close:]}"
    end = "\r\n" if "\r\n" in text else "\n"
    at = text.rfind("\n", 0, node.start_mark.index) + 1
    # Before the first key of the block: behind its last one there may be comments that belong to what follows.
    return f"{text[:at]}{' ' * node.start_mark.column}{entry}{end}{text[at:]}"


def _flow(rest: Sequence[str], value: int) -> str:
    return f"{{{scalar(rest[0])}: {_flow(rest[1:], value)}}}" if rest else str(value)


def _child(node: yaml.Node | None, keys: Sequence[str]) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value in keys), None)
