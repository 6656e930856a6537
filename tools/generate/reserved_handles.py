"""The words that the pinned servers reserve before a service domain: a table, generated from the packages.

Owns: extracting the words from `handle/reserved.js` of @atproto/pds of both version lines, and the JSON file by which
the settings refuse them at the preview.

    python -m tools.generate.reserved_handles          writes components/settings/checks/reserved_handles.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tools.generate.env_table import CACHE
from tools.trial import LiveError
from tools.trial.node import PDS_LINES, Install, install

TABLE = Path("components/settings/checks/reserved_handles.json")
SOURCE = "handle/reserved.js"

_WORD = re.compile(r"^\s*'([^']+)',$", re.MULTILINE)


def make_table(installs: dict[str, Install]) -> str:
    """Return the file's text. Raises LiveError if the lines reserve different words: then the table needs the lines of
    a word."""
    found = {}
    for line, server in installs.items():
        text = (server.folder / "node_modules" / "@atproto" / "pds" / "dist" / SOURCE).read_text(encoding="utf-8")
        found[line] = sorted(set(_WORD.findall(text)))
    words, *others = found.values()
    if not words or any(other != words for other in others):
        raise LiveError(f"The version lines {', '.join(found)} no longer reserve the same words.")
    versions = {line: server.version("@atproto/pds") for line, server in sorted(installs.items())}
    listed = ",\n".join(f"    {json.dumps(word)}" for word in words)
    head = f'  "source": "@atproto/pds {SOURCE}",\n  "versions": {json.dumps(versions)}'
    return f'{{\n{head},\n  "words": [\n{listed}\n  ]\n}}\n'


def main() -> int:
    """Write the table. Returns an exit code."""
    TABLE.write_text(make_table({line: install(f"pds-{line}", CACHE) for line in PDS_LINES}), encoding="utf-8")
    print(f"{TABLE} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
