"""One who reads a page of the documents and types what it says: each command has to stand there, letter by letter.

Owns what counts as a command of a page, and what of a page was typed. What a person does with an editor is the story's.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.bench import DEADLINE, ROOT, Run
from tests.e2e.tools import BenchError

_PROGRAMS = r"(?:pulumi|\./pds|make|\.ci/\w+|cp|ssh|curl|export|systemctl|doctl|restic|aws) "


def commands(page: str, *sections: str) -> list[str]:
    """Each command of a page, or of these sections of it, in its order: spans of code and lines that are indented.

    A comment behind a command is none of it. Raises BenchError for a section that is not there.
    """
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    if sections:
        text = "\n".join(_section(text, page, name) for name in sections)
    found: list[str] = []
    for match in re.finditer(r"^    (?P<line>.*)$|`(?P<span>[^`]+)`", text, re.MULTILINE):
        code = " ".join((match["line"] or match["span"] or "").partition("  #")[0].split())
        # In two columns, as a page may have two files side by side, the command is alone in its line.
        if re.match(_PROGRAMS, code) and code not in found:
            found.append(code)
    return found


def _section(text: str, page: str, name: str) -> str:
    found = re.search(rf"^#+ {re.escape(name)}$(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise BenchError(f"{page} has no section {name!r}")
    return found[1]


@dataclass
class Reader:
    """Somebody in the project's folder, with her shell and environment; she says yes to what the engine asks."""

    project: Path
    env: dict[str, str]
    typed: set[str] = field(default_factory=set)

    def types(self, page: str, command: str, *, means: str | None = None, says: str = "", check: bool = True) -> Run:
        """Type a command of the page. `means` is what that is here, where the page has a word to fill in; `says` is
        what she answers when asked. Raises BenchError where the page has no such command, and where it fails."""
        if command not in commands(page):
            raise BenchError(f"{page} has no command `{command}`; it has: {'; '.join(commands(page))}")
        self.typed.add(command)
        print(f"{page} $ {means or command}", flush=True)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", means or command],
            cwd=self.project,
            # The engine takes a yes for a mistake where it would change nothing.
            env=self.env | ({} if "preview" in command else {"PULUMI_SKIP_CONFIRMATIONS": "true"}),
            input=says,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        print(done.stdout, flush=True)
        if check and done.returncode:
            raise BenchError(f"`{command}` of {page} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return Run(command, done.stdout, done.returncode, 0.0)

    def left(self, sections: Mapping[str, tuple[str, ...]], elsewhere: Mapping[str, str]) -> list[str]:
        """What these pages' sections have that she neither typed nor finds in `elsewhere`."""
        return [
            f"{page}: {command}"
            for page, names in sections.items()
            for command in commands(page, *names)
            if command not in self.typed and command not in elsewhere
        ]
