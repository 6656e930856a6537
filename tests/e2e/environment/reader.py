"""A reader of a documentation page who types its commands: each must be on the page, letter by letter.

Owns which text of a page is a command, and which commands were typed. The scenario makes a person's edits.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.environment.environment import DEADLINE, ROOT, Run
from tests.e2e.environment.tools import E2eError

_PROGRAMS = r"(?:pulumi|\./pds|make|\.ci/\w+|cp|ssh|curl|export|systemctl|doctl|restic|aws) "


def commands(page: str, *sections: str) -> list[str]:
    """Each command of a page, or of these sections of it, in order: spans of code and indented lines.

    A comment behind a command is not part of it. Raises E2eError for a missing section.
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
        raise E2eError(f"{page} has no section {name!r}")
    return found[1]


@dataclass
class Reader:
    """A person in the project's folder, with a shell and environment, who confirms the engine's prompts."""

    project: Path
    env: dict[str, str]
    typed: set[str] = field(default_factory=set)

    def types(self, page: str, command: str, *, means: str | None = None, says: str = "", check: bool = True) -> Run:
        """Type a command of the page. `means` replaces it if the page has a placeholder; `says` is the input for a
        prompt. Raises E2eError if the page has no such command, and if it fails."""
        if command not in commands(page):
            raise E2eError(f"{page} has no command `{command}`; it has: {'; '.join(commands(page))}")
        self.typed.add(command)
        print(f"{page} $ {means or command}", flush=True)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-c", means or command],
            cwd=self.project,
            # The engine reports a yes as a mistake if nothing would change.
            env=self.env | ({} if "preview" in command else {"PULUMI_SKIP_CONFIRMATIONS": "true"}),
            input=says,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        print(done.stdout, flush=True)
        if check and done.returncode:
            raise E2eError(f"`{command}` of {page} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return Run(command, done.stdout, done.returncode, 0.0)

    def left(self, sections: Mapping[str, tuple[str, ...]], elsewhere: Mapping[str, str]) -> list[str]:
        """Commands of these pages' sections that were neither typed nor are in `elsewhere`."""
        return [
            f"{page}: {command}"
            for page, names in sections.items()
            for command in commands(page, *names)
            if command not in self.typed and command not in elsewhere
        ]
