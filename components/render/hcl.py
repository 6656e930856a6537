"""Writes HCL text from dataclasses: one generic writer for job specs and ingress files.

A dataclass that derives from `Block` is a block: its fields, in order, are its attributes and nested blocks; `label`
fields are its labels. The type of a field's value decides its form: a `Block` or a tuple of them nests, a dict becomes
a map attribute, a number, boolean or list is written directly, None is omitted. Text is fully quoted, so that no value
can end its string or begin an interpolation; only `Raw` writes an expression. This module does not parse: the tests
read everything back with an independent parser.
"""

import dataclasses
import json
import re
from functools import lru_cache
from typing import Any, ClassVar


class Raw(str):
    """Text that is written unquoted: an HCL expression such as `var.ingress_state`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One HCL block. `keyword` is its type; fields whose metadata has `label` are its labels."""

    keyword: ClassVar[str]


def label() -> Any:
    """Declare a field that is the block's label."""
    return dataclasses.field(metadata={"label": True})


def quote(text: str) -> str:
    """`text` as an HCL string literal without interpolation. HCL normalizes all text to Unicode's form NFC."""
    # JSON's escapes are HCL's, except two that HCL does not know.
    literal = re.sub(
        r"\\\\|\\[bf]", lambda found: _NO_HCL.get(found[0], found[0]), json.dumps(text, ensure_ascii=False)
    )
    return literal.replace("${", "$${").replace("%{", "%%{")


_NO_HCL = {r"\b": r"\u0008", r"\f": r"\u000c"}


def heredoc(text: str, indent: str) -> str:
    """`text`, which must pass `fits_heredoc`, as an indented heredoc without interpolation."""
    escaped = text.removesuffix("\n").replace("${", "$${").replace("%{", "%%{")
    body = "\n".join(f"{indent}{line}" if line else "" for line in escaped.split("\n"))
    return f"<<-EOT\n{body}\n{indent}EOT"


def fits_heredoc(text: str) -> bool:
    """Whether an indented heredoc preserves `text`.

    A heredoc ends with a newline. HCL removes the smallest indentation of all lines, which must be the writer's own. A
    line with the end mark would end it.
    """
    lines = text.split("\n")
    return (
        len(lines) > 1
        and lines.pop() == ""
        and any(line[:1].strip() for line in lines)
        and all(line == "" or line.strip() not in ("", "EOT") for line in lines)
        and all(line.replace("\t", " ").isprintable() for line in lines)
    )


def write(block: Block, depth: int = 0) -> str:
    """The block as text, formatted like `nomad fmt`: two spaces a level, equals signs aligned."""
    pad = "  " * (depth + 1)
    labels, attributes, nested = "", [], []
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if field.metadata.get("label"):
            labels += f" {quote(value)}"
        elif value is None or value == () or value == {}:
            continue
        elif isinstance(value, Block):
            nested.append(write(value, depth + 1))
        elif isinstance(value, tuple) and isinstance(value[0], Block):
            nested += [write(item, depth + 1) for item in value]
        elif isinstance(value, dict):
            nested.append(_map(field.name, value, pad))
        else:
            attributes.append((field.name, _value(value, pad)))
    width = max((len(name) for name, _text in attributes), default=0)
    lines = [f"{pad}{name.ljust(width)} = {text}" for name, text in attributes]
    body = "\n".join([*lines, *(("\n" if lines or index else "") + text for index, text in enumerate(nested))])
    outer = "  " * depth
    return f"{outer}{block.keyword}{labels} {{\n{body}\n{outer}}}"


def _map(name: str, entries: dict[str, str], pad: str) -> str:
    width = max(len(key) for key in entries)
    inner = "\n".join(f"{pad}  {key.ljust(width)} = {_value(value, pad)}" for key, value in entries.items())
    return f"{pad}{name} {{\n{inner}\n{pad}}}"


def _value(value: Any, pad: str) -> str:
    match value:
        case Raw():
            return str(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return _literal(value, pad)
        case tuple() | list():
            return f"[{', '.join(_value(item, pad) for item in value)}]"
    raise TypeError(f"no HCL for {type(value).__name__}")


@lru_cache(maxsize=1024)
def _literal(value: str, pad: str) -> str:
    """The text in the form that preserves it. Several jobs have the same scripts, and each is rendered twice."""
    return heredoc(value, pad) if fits_heredoc(value) else quote(value)
