"""The environment variables that the pinned servers read: a table, generated from the installed packages themselves.

Owns: extracting the names, and the kinds of the server's own readers (`envStr`, `envInt`, `envBool`, `envList`), from
`@atproto/pds` and the other `@atproto` packages of both version lines; and the JSON file by which the settings detect a
misspelt name. Does not own: the meaning of a name, or which of them a stack file may set.

    python -m tools.generate.env_table          writes components/settings/checks/pds_env.json
    python -m tools.generate.env_table --check  exits with 1 if that file differs from the packages
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TypedDict

from tools.trial.node import PDS_LINES, Install, install

TABLE = Path("components/settings/checks/pds_env.json")
CACHE = Path("build/cache")

_READER = re.compile(r"""env(Str|Int|Bool|List)\)?\(\s*['"]([A-Z][A-Z0-9_]*)['"]""")
_PLAIN = re.compile(r"""process\.env(?:\.([A-Z][A-Z0-9_]*)|\[['"]([A-Z][A-Z0-9_]*)['"]\])""")
_PLAIN_KINDS = {"LOG_ENABLED": "bool", "LOG_SYSTEMS": "list"}
"""Kinds of names that are read without a reader (logger.js of @atproto/common); every other is text."""
_NOT_THE_SERVERS = frozenset({"NODE_ENV"})
"""Set by the image, not by its user."""


class Name(TypedDict):
    """One variable: how its text is read, and by which version lines."""

    kind: str
    lines: list[str]


class Table(TypedDict):
    """The whole table: the package version of each line, and the names."""

    versions: dict[str, str]
    names: dict[str, Name]


def read_names(found: Install) -> dict[str, str]:
    """Name to kind (`str`, `int`, `bool`, `list`), as the installed packages read them."""
    names: dict[str, str] = {}
    packages = found.folder / "node_modules" / "@atproto"
    for file in sorted(packages.glob("*/dist/**/*.js")):
        text = file.read_text(encoding="utf-8")
        for kind, name in _READER.findall(text):
            names[name] = kind.lower()
        for dotted, quoted in _PLAIN.findall(text):
            name = dotted or quoted
            if name not in _NOT_THE_SERVERS:
                names.setdefault(name, _PLAIN_KINDS.get(name, "str"))
    return names


def make_table(installs: dict[str, Install]) -> Table:
    """The table of version line to install. Raises ValueError when two lines read one name as different kinds."""
    names: dict[str, Name] = {}
    for line, found in sorted(installs.items()):
        for name, kind in read_names(found).items():
            entry = names.setdefault(name, Name(kind=kind, lines=[]))
            if entry["kind"] != kind:
                raise ValueError(f"{name} is read as {entry['kind']} by {entry['lines']}, as {kind} by {line}")
            entry["lines"].append(line)
    versions = {line: found.version("@atproto/pds") for line, found in sorted(installs.items())}
    return Table(versions=versions, names=dict(sorted(names.items())))


def as_text(table: Table) -> str:
    """The table as the file holds it: one line for each name, sorted."""
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table["names"].items())
    return f'{{\n  "versions": {json.dumps(table["versions"])},\n  "names": {{\n{rows}\n  }}\n}}\n'


def main() -> int:
    """Write the table, or with `--check` compare it. Returns an exit code."""
    parser = argparse.ArgumentParser(description="The environment variables that the pinned PDS servers read.")
    parser.add_argument("--check", action="store_true", help="compare the file instead of writing it")
    arguments = parser.parse_args()
    last = ""

    def progress(text: str) -> None:
        nonlocal last
        head = text.split(",", 1)[0]
        if head != last:
            last = head
            print(head, file=sys.stderr)

    text = as_text(make_table({line: install(f"pds-{line}", CACHE, progress) for line in PDS_LINES}))
    if not arguments.check:
        TABLE.write_text(text, encoding="utf-8")
        print(f"{TABLE} written")
        return 0
    if TABLE.is_file() and TABLE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TABLE} is not what the packages read. Run: python -m tools.generate.env_table", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
