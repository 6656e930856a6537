"""Texts of other parties on this terminal."""

import unicodedata

_KEPT = "\t"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that move the cursor, end a line, or reverse or hide text (unicode.org, UAX 44)."""


def printable(text: str) -> str:
    """Return `text` with each character that a terminal would act on as its escape, for example `\\x1b`."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
