"""The operator's IO configuration texts, parsed by the grammar of HCL's native syntax.

IO reads the texts of all stacks as one, so an error in one breaks all of them. IO checks which blocks and attributes
exist. Source of the rules: hclsyntax/spec.md, scan_tokens.rl and parser.go of hashicorp/hcl 2. python-hcl2 8.1.4 takes
two attributes in a line and refuses nested templates. A text may be secret, so errors never repeat any of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from components.settings.fields.errors import Fault
from components.settings.sections.settings import Settings

_INLINE = re.compile(r"(?:[ \t]|/\*.*?\*/)*", re.DOTALL)
_LINES = re.compile(r"(?:[ \t]|\r?\n|/\*.*?\*/|(?:#|//)[^\n]*)*", re.DOTALL)
_LINE_END = re.compile(r"(?:#|//)[^\n]*(?:\n|$)|\r?\n|$(?![\r\n])")
_WORD = re.compile(r"[^\W\d][\w-]*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?!\w)")
_INDEX = re.compile(r"[0-9]+(?:\.[0-9]+)*(?!\w)|\*")
_OPERATOR = re.compile(r"==|!=|<=|>=|&&|\|\||/(?![/*])|<(?!<)|[-+*%>]")
_ESCAPE = re.compile(r'\\(?:[nrt"\\]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})')
_HEREDOC = re.compile(r"<<-?([^\W\d][\w-]*)\r?\n")
_DEEPEST = 64


class HclError(ValueError):
    """The text is no HCL. The message names the line and the reason."""


@dataclass(frozen=True)
class Block:
    """A top-level block of a text."""

    keyword: str
    labels: tuple[str, ...]
    line: int


def blocks(text: str) -> list[Block]:
    """The top-level blocks of a text. Raises HclError."""
    return _Parser(text).top_level_blocks()


class _Parser:
    """Recursive descent over one text. `lines` says whether newlines are spaces at this place."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._found: list[Block] = []

    def top_level_blocks(self) -> list[Block]:
        """All of them, in their order. Raises HclError."""
        self._body(None)
        return self._found

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _sees(self, *words: str) -> bool:
        return self._text.startswith(words, self._at)

    def _take(self, word: str) -> bool:
        taken = self._sees(word)
        self._at += len(word) if taken else 0
        return taken

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else None

    def _space(self, lines: bool) -> None:
        self._match(_LINES if lines else _INLINE)
        if self._sees("/*"):
            raise HclError(f"the comment in line {self._line} is never closed")

    def _refuse(self, what: str) -> NoReturn:
        if self._sees("}", "]", ")"):
            raise HclError(f"'{self._text[self._at]}' in line {self._line} closes nothing")
        raise HclError(f"in line {self._line} {what}")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise HclError(f"in line {self._line} more than {_DEEPEST} brackets are open")

    def _close(self, opened: str, close: str, line: int, comma: str = "") -> None:
        """The end of what `opened` began in `line`."""
        self._space(lines=True)
        if self._take(close):
            self._depth -= 1
        elif self._at == len(self._text):
            raise HclError(f"'{opened}' in line {line} is never closed")
        else:
            self._refuse(f"there is no {comma}'{close}'")

    def _body(self, opened: int | None) -> None:
        """Attributes and blocks until the end of the text, or of the block that was opened in a line."""
        names: set[str] = set()
        while True:
            self._space(lines=True)
            if self._at == len(self._text):
                if opened is not None:
                    raise HclError(f"'{{' in line {opened} is never closed")
                return
            if opened is not None and self._take("}"):
                self._depth -= 1
                return
            line, word = self._line, self._match(_WORD)
            if word is None:
                self._refuse("there is neither 'name = value' nor a block")
            self._space(lines=False)
            if self._take("="):
                if word in names:
                    raise HclError(f"the name in line {line} has a value already")
                names.add(word)
                self._expression(lines=False)
                self._end_of_line("the value")
            else:
                self._block(word, line)

    def _block(self, keyword: str, line: int) -> None:
        labels: list[str] = []
        while not self._sees("{"):
            start = self._at
            if self._take('"'):
                self._quoted(templates=False)
            elif self._match(_WORD) is None:
                self._refuse("there is neither 'name = value' nor a block with its '{'")
            labels.append(self._text[start : self._at].strip('"'))
            self._space(lines=False)
        if self._depth == 0:
            self._found.append(Block(keyword, tuple(labels), line))
        opened = self._line
        self._take("{")
        self._deeper()
        self._space(lines=False)
        if self._sees("\n", "\r\n", "#", "//") or self._at == len(self._text):
            self._body(opened)
        else:
            self._single_line(opened)
        self._end_of_line("the block")

    def _single_line(self, opened: int) -> None:
        """The rest of a block in one line: at most one attribute."""
        if self._match(_WORD):
            self._space(lines=False)
            if not self._take("="):
                self._refuse("a block in one line holds more than 'name = value'")
            self._expression(lines=False)
            self._space(lines=False)
            if self._sees("\n", "\r\n", "#", "//"):
                raise HclError(f"the block in line {opened} begins on that line and does not end on it")
        self._close("{", "}", opened, "second line and no ")

    def _end_of_line(self, what: str) -> None:
        self._space(lines=False)
        if self._match(_LINE_END) is None:
            self._refuse(f"something follows {what}")

    def _expression(self, lines: bool) -> None:
        self._operand(lines)
        self._space(lines)
        while self._match(_OPERATOR):
            self._operand(lines)
            self._space(lines)
        if self._take("?"):
            self._expression(lines)
            self._space(lines)
            if not self._take(":"):
                self._refuse("the condition has no ':'")
            self._expression(lines)

    def _operand(self, lines: bool) -> None:
        self._space(lines)
        while self._take("-") or self._take("!"):
            self._space(lines)
        line = self._line
        if self._take('"'):
            self._quoted(templates=True)
        elif self._sees("<<"):
            self._heredoc()
        elif self._take("("):
            self._deeper()
            self._expression(lines=True)
            self._close("(", ")", line)
        elif self._take("["):
            self._list("[", "]", line)
        elif self._take("{"):
            self._object(line)
        elif self._match(_WORD):
            self._call()
        elif self._match(_NUMBER) is None:
            self._refuse("a value is missing or is no HCL")
        self._selected(lines)

    def _call(self) -> None:
        is_call = False
        while self._take("::"):
            is_call = True
            if self._match(_WORD) is None:
                self._refuse("the name of a function is missing")
        before = self._at
        self._space(lines=False)
        line = self._line
        if self._take("("):
            self._list("(", ")", line)
        elif is_call:
            self._refuse("a function has no '('")
        else:
            self._at = before

    def _selected(self, lines: bool) -> None:
        """Attributes, indices and splats of a value."""
        while True:
            before = self._at
            self._space(lines)
            line = self._line
            if self._sees("...") or not (self._sees(".") or self._sees("[")):
                self._at = before
                return
            if self._take("."):
                self._space(lines)
                if self._match(_WORD) is None and self._match(_INDEX) is None:
                    self._refuse("a name is missing after the dot")
                continue
            self._take("[")
            self._deeper()
            self._space(lines=True)
            if not self._take("*"):
                self._expression(lines=True)
            self._close("[", "]", line)

    def _list(self, opened: str, close: str, line: int) -> None:
        """The values of a list, or a function's arguments."""
        self._deeper()
        self._space(lines=True)
        if opened == "[" and self._named("for"):
            self._for("[", "]", line)
            return
        while not self._sees(close):
            self._expression(lines=True)
            self._space(lines=True)
            if (opened == "(" and self._take("...")) or not self._take(","):
                break
            self._space(lines=True)
        self._close(opened, close, line, "comma or ")

    def _object(self, line: int) -> None:
        self._deeper()
        self._space(lines=True)
        if self._named("for"):
            self._for("{", "}", line)
            return
        while not self._sees("}") and self._at < len(self._text):
            self._expression(lines=False)
            self._space(lines=False)
            if not (self._take("=") or self._take(":")):
                self._refuse("an item of the map has no '='")
            self._expression(lines=False)
            self._space(lines=False)
            if not self._take(",") and not self._sees("\n", "\r\n", "#", "//"):
                break
            self._space(lines=True)
        self._close("{", "}", line, "comma or ")

    def _for(self, opened: str, close: str, line: int) -> None:
        """The rest of a 'for' in a list or a map."""
        self._loop_header()
        self._space(lines=True)
        if not self._take(":"):
            self._refuse("the 'for' has no ':'")
        self._expression(lines=True)
        self._space(lines=True)
        if opened == "{":
            if not self._take("=>"):
                self._refuse("the 'for' has no '=>'")
            self._expression(lines=True)
            self._space(lines=True)
            self._take("...")
            self._space(lines=True)
        if self._named("if"):
            self._expression(lines=True)
        self._close(opened, close, line)

    def _loop_header(self) -> None:
        """The names of a 'for', and what it goes over."""
        for _ in range(2):
            self._space(lines=True)
            if self._match(_WORD) is None:
                self._refuse("the 'for' has no name")
            self._space(lines=True)
            if not self._take(","):
                break
        if not self._named("in"):
            self._refuse("the 'for' has no 'in'")
        self._expression(lines=True)

    def _named(self, keyword: str) -> bool:
        """Takes a keyword."""
        found = _WORD.match(self._text, self._at)
        taken = bool(found and found[0] == keyword)
        self._at += len(keyword) if taken else 0
        return taken

    def _quoted(self, templates: bool) -> None:
        """The rest of a quoted text, in one line."""
        line, opened = self._line, list[str]()
        while not self._take('"'):
            if self._at == len(self._text) or self._sees("\n", "\r\n"):
                raise HclError(f"the quotation mark in line {line} is never closed")
            if self._sees("\\"):
                if self._match(_ESCAPE) is None:
                    self._refuse("a backslash is followed by no known letter")
            elif self._sees("${", "%{") and not templates:
                self._refuse("the label of a block is computed")
            else:
                self._template_part(opened)
        if opened:
            raise HclError(f"in line {line} '%{{ {opened[-1]}' has no end")

    def _heredoc(self) -> None:
        line, found = self._line, _HEREDOC.match(self._text, self._at)
        if not found:
            self._refuse("'<<' is followed by no word and line end")
        self._at, opened = found.end(), list[str]()
        end = re.compile(rf"[ \t]*{re.escape(found[1])}[ \t]*(?=\r?\n|$(?!\n))")
        while True:
            if self._text[self._at - 1] == "\n" and self._match(end):
                break
            if self._at == len(self._text):
                raise HclError(f"the text in line {line} is never closed")
            self._template_part(opened)
        if opened:
            raise HclError(f"in line {line} '%{{ {opened[-1]}' has no end")

    def _template_part(self, opened: list[str]) -> None:
        """One character, or one sequence of a template. `opened` has the directives without an end."""
        if self._take("$${") or self._take("%%{"):
            return
        line = self._line
        if self._take("${"):
            self._deeper()
            self._take("~")
            self._expression(lines=True)
        elif self._take("%{"):
            self._deeper()
            self._take("~")
            self._space(lines=True)
            self._directive(opened)
        else:
            self._at += 1
            return
        self._space(lines=True)
        self._take("~")
        self._close("{", "}", line)

    def _directive(self, opened: list[str]) -> None:
        if self._named("if"):
            self._expression(lines=True)
            opened.append("if")
        elif self._named("for"):
            self._loop_header()
            opened.append("for")
        elif self._named("else"):
            if not opened or opened[-1] != "if":
                self._refuse("an 'else' has no 'if'")
            opened[-1] = "if …else"
        elif self._named("endif") or self._named("endfor"):
            word = self._text[self._at - 3 : self._at].removeprefix("d")
            if not opened or not opened.pop().startswith(word):
                self._refuse(f"an 'end{word}' has no '{word}'")
        else:
            self._refuse("'%{' is followed by no known word")


def raw_hcl_faults(settings: Settings) -> Iterator[Fault]:
    """Faults in the texts that are added to IO's configuration."""
    if settings.ingress.kind != "io":
        return  # this ingress takes no such texts; another check reports it
    secret, seen = settings.ingress.license_hcl, set[str]()
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
            names = {label.lower() for label in block.labels} if block.keyword in ("host", "ingress") else set[str]()
            if settings.hostname in names:
                yield Fault(key, f"line {block.line}: the program writes this host itself.", "Remove the block.")
            elif names & seen:
                yield Fault(key, f"line {block.line}: an earlier block has this host, too.", "Merge the two.")
            seen |= names
