"""An env file as docker compose parses it, which gave the server of upstream's installer its environment.

The rules are those of compose-spec/compose-go, dotenv/parser.go and template/template.go: quotes, escapes, comments,
spaces around '=', and `${NAME}` of the same file. A file is refused if compose would take a value from elsewhere.
"""

import re
from collections.abc import Mapping

_SPACE = " \t\v\f\r\x85\xa0"
_KEY = re.compile(rf"(?:export[{_SPACE}\n]+)?([^\W\d][\w.\[\]-]*)[{_SPACE}]*([=:\n]|$)")
_DOUBLE = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_SINGLE = re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL)
_ESCAPE = re.compile(r'\\([abcfnrtv$"\\]|0[0-7]{0,3})')
_ESCAPED = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    '"': '"',
    "\\": "\\",
    "$": "$$",
}
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)"
    r"|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<op>:?[-+?])(?P<word>[^{}]*))?\}|(?P<bad>\{))",
    re.ASCII,
)


class DotenvError(ValueError):
    """The file cannot be parsed as compose does. The text names line and cause, and shows no value."""


def parse(text: str) -> dict[str, str]:
    """Return every name of the file with its value. Raises DotenvError."""
    values: dict[str, str] = {}
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    at = 0
    while (at := _statement(text, at)) < len(text):
        line = text.count("\n", 0, at) + 1
        match = _KEY.match(text, at)
        if not match:
            raise DotenvError(f"line {line} is not 'NAME=value'")
        name, at = match[1], match.end()
        if match[2] in ("\n", ""):
            raise DotenvError(f"line {line}: {name} has no value, and compose takes it from the environment there")
        at += len(text[at:]) - len(text[at:].lstrip(_SPACE))
        values[name], at = _value(text, at, values, line)
    return values


def _statement(text: str, at: int) -> int:
    """Return the start of the next statement."""
    while at < len(text) and (text[at].isspace() or text[at] == "#"):
        at = _line_end(text, at) if text[at] == "#" else at + 1
    return at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _value(text: str, at: int, values: Mapping[str, str], line: int) -> tuple[str, int]:
    if text[at : at + 1] == '"':
        match = _DOUBLE.match(text, at)
        if not match:
            raise DotenvError(f"the quotation mark in line {line} is never closed")
        plain = match[1].replace('\\"', '"') if "\\" in match[1] else match[1]
        return _expanded(_ESCAPE.sub(_escape, plain), values, line), _rest(text, match.end(), line)
    if text[at : at + 1] == "'":
        match = _SINGLE.match(text, at)
        if not match:
            raise DotenvError(f"the quotation mark in line {line} is never closed")
        return match[1].replace("\\'", "'"), _rest(text, match.end(), line)
    end = _line_end(text, at)
    return _expanded(text[at:end].partition(" #")[0].rstrip(), values, line), end


def _escape(match: re.Match[str]) -> str:
    letter = match[1]
    if letter.startswith("0"):
        return chr(int(letter, 8)) if len(letter) == 4 else match[0]
    return _ESCAPED.get(letter, match[0])


def _rest(text: str, at: int, line: int) -> int:
    """Check the end of a line after a quoted value. Compose would parse what follows as another name."""
    end = _line_end(text, at)
    rest = text[at:end].strip()
    if rest and not rest.startswith("#"):
        raise DotenvError(f"line {line}: something follows the closing quotation mark")
    return end


def _expanded(value: str, values: Mapping[str, str], line: int) -> str:
    def meant(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["name"] or match["braced"]
        if not name:
            raise DotenvError(f"line {line}: compose refuses the '${{' there. Put the value into single quotes")
        operator, word = match["op"] or "", match["word"] or ""
        earlier = values.get(name)
        present = bool(earlier) if operator.startswith(":") else earlier is not None
        if operator.endswith("-"):
            return str(earlier) if present else word
        if operator.endswith("+"):
            return word if present else ""
        if earlier is None or (operator and not present):
            raise DotenvError(f"line {line}: ${{{name}}} is not set in this file above it. Write its value")
        return earlier

    return _REFERENCE.sub(meant, value)
