"""The structure of the operator's IO configuration texts, parsed by the rules of HCL's own scanner.

IO reads the texts of all stacks as one, so an unbalanced brace in one breaks all of them. This module checks strings,
comments, heredocs and brackets. IO checks blocks and their attributes. Source of the rules: hclsyntax/spec.md of
hashicorp/hcl. A text may be secret, so errors never repeat any of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from components.settings.fields.errors import Fault
from components.settings.sections.settings import Settings

_PAIRS = {"}": "{", "]": "[", ")": "("}
_SKIPPED = re.compile(r"\s+|(?:#|//)[^\n]*|/\*.*?\*/", re.DOTALL)
_HEREDOC = re.compile(r"<<-?([A-Za-z_][\w-]*)\r?\n(?:.*?\n)??[ \t]*\1(?=\r?\n|$)", re.DOTALL)
_STRING = re.compile(r'"(?:\\.|\$\{[^}\n]*\}|[^"\\\n])*"')
_WORD = re.compile(r"[A-Za-z_][\w.-]*")


class HclError(ValueError):
    """The text is incomplete. The message names the line and the reason."""


@dataclass(frozen=True)
class Block:
    """A top-level block of a text."""

    keyword: str
    labels: tuple[str, ...]
    line: int


def blocks(text: str) -> list[Block]:
    """The top-level blocks of a text. Raises HclError."""
    found: list[Block] = []
    opened: list[tuple[str, int]] = []
    heading: list[str] = []
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        piece = _piece(text, at, line)
        if piece in ("{", "[", "("):
            if piece == "{" and not opened and heading:
                found.append(Block(heading[0], tuple(word.strip('"') for word in heading[1:]), line))
            opened.append((piece, line))
        elif piece in _PAIRS and (not opened or opened.pop()[0] != _PAIRS[piece]):
            raise HclError(f"'{piece}' in line {line} closes nothing")
        if not opened:
            heading = _heading(heading, piece)
        at += len(piece)
    if opened:
        raise HclError(f"'{opened[-1][0]}' in line {opened[-1][1]} is never closed")
    return found


def _piece(text: str, at: int, line: int) -> str:
    for pattern in (_SKIPPED, _HEREDOC, _STRING, _WORD):
        if found := pattern.match(text, at):
            return found[0]
    for start, what in (("/*", "comment"), ("<<", "text"), ('"', "quotation mark")):
        if text.startswith(start, at):
            raise HclError(f"the {what} in line {line} is never closed")
    return text[at]


def _heading(heading: list[str], piece: str) -> list[str]:
    """The words before the next block, as far as they are known after `piece`."""
    if "\n" in piece and not piece.startswith("<<"):
        return []
    if _WORD.fullmatch(piece) or (heading and _STRING.fullmatch(piece)):
        return [*heading, piece]
    return heading if _SKIPPED.fullmatch(piece) else []


def raw_hcl_faults(settings: Settings) -> Iterator[Fault]:
    """Faults in the texts that are added to IO's configuration."""
    secret = settings.ingress.license_hcl
    for key, text in (
        ("ingress.extra_hcl", settings.ingress.extra_hcl),
        ("ingress.license_hcl", secret.get_secret_value() if secret else ""),
    ):
        try:
            found = blocks(text)
        except HclError as error:
            yield Fault(key, f"{error}.", "Write complete blocks, as in an IO configuration file.")
            continue
        for block in found:
            if block.keyword in ("host", "ingress") and settings.hostname in block.labels:
                yield Fault(key, f"line {block.line}: the program writes this host itself.", "Remove the block.")
