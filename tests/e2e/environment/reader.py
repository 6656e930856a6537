"""A reader of a documentation page who types its commands: each must be on the page, letter by letter.

It finds the commands and the parts of stack files on a page, and records which commands were typed. The scenario makes
the reader's edits.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from cli.lib.subprocesses import child
from tests.e2e.environment.environment import DEADLINE, ROOT, Run
from tests.e2e.environment.tools import E2eError, run

_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""A terminal of its own for a command that prompts for secrets."""
_SHELL = ("bash", "--noprofile", "--norc", "-c")
_END = 300.0
"""Seconds for a command to end after Ctrl-C."""
_PROGRAMS = (
    r"(?:pulumi|\./pds|make|\.ci/\w+|cp|ssh|curl|export|systemctl|journalctl|doctl|restic|aws|(?:venv/bin/)?python -m) "
)


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


def options(page: str, first: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """The sections of a stack file in a page's indented block that begins with the line `first`, without `pds:`.

    Each text in `changes` must be in it, and is replaced, as a person replaces the values of an example. Raises
    E2eError.
    """
    lines = (ROOT / page).read_text().splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith(f"    {first}")), None)
    if start is None:
        raise E2eError(f"{page} has no block that begins with `{first}`")
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith("    ")), len(lines))
    block = "\n".join(line[4:] for line in lines[start:end])
    for text, replacement in changes.items():
        if text not in block:
            raise E2eError(f"{page} has no `{text}` in the block `{first}`")
        block = block.replace(text, replacement)
    return {key.removeprefix("pds:"): value for key, value in yaml.load(block, yaml.CSafeLoader).items()}


def stack_files(page: str) -> dict[str, dict[str, Any]]:
    """The whole stack files of a page, by stack, without `pds:`. The first line of each is `# Pulumi.STACK.yaml`, the
    second `config:`. Raises E2eError for a page without such a block."""
    file = re.compile(r"^    # Pulumi\.(\w+)\.yaml.*\n(    config:\n(?:      .*\n)+)", re.MULTILINE)
    files = {}
    for name, block in file.findall((ROOT / page).read_text()):
        config = yaml.load(block, yaml.CSafeLoader)["config"]
        files[name] = {key.removeprefix("pds:"): value for key, value in config.items()}
    if not files:
        raise E2eError(f"{page} has no whole stack file")
    return files


def blocks(page: str) -> list[list[str]]:
    """The indented blocks of a page, as lines without indent and comments, but for lines of comments alone."""
    found = re.findall(r"^\n((?:    +\S.*\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    lines = ([" ".join(line.partition("  #")[0].split()) for line in block.splitlines()] for block in found)
    return [[line for line in block if line] for block in lines]


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
        self._note(page, command, means)
        done = subprocess.run(
            [*_SHELL, means or command],
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

    def converses(self, page: str, command: str, answers: Sequence[tuple[str, Callable[[], str]]], **env: str) -> str:
        """Type a command that prompts, in a terminal, and return what it prints.

        `answers` has a text of each prompt, in order, and what to type there. Raises E2eError if a prompt does not come
        or the command fails.
        """
        self._note(page, command, None)
        shell = [sys.executable, "-c", _TERMINAL, *_SHELL, command]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with child(shell, DEADLINE, cwd=self.project, env=self.env | env, start_new_session=True, **pipes) as process:
            assert process.stdin
            assert process.stdout
            output = ""
            for prompt, answer in answers:
                # What is typed before the space is lost: getpass empties the terminal's input, then writes it.
                output += (text := _until(process.stdout, prompt) + _until(process.stdout, ": "))
                if not (prompt in text and text.endswith(": ")):
                    raise E2eError(f"`{command}` of {page} did not prompt for {prompt!r}:\n{output[-6000:]}")
                process.stdin.write(f"{answer()}\n")
                process.stdin.flush()
            output += process.stdout.read()
            code = process.wait(_END)
        print(output, flush=True)
        if code:
            raise E2eError(f"`{command}` of {page} ended with {code}:\n{output[-6000:]}")
        return output

    @contextmanager
    def starts(self, page: str, command: str, *, means: str | None = None) -> "Iterator[subprocess.Popen[str]]":
        """Type a command of the page that runs until Ctrl-C, which it gets at the end of the block. `means` is as in
        `types`. Raises E2eError if the page has no such command."""
        self._note(page, command, means)
        with child(
            # As in a terminal, also if this process ignores Ctrl-C, as one in the background does.
            ["env", "--default-signal=INT", *_SHELL, means or command],
            DEADLINE,
            cwd=self.project,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            yield process
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_END)

    def _note(self, page: str, command: str, means: str | None) -> None:
        if command not in commands(page):
            raise E2eError(f"{page} has no command `{command}`; it has: {'; '.join(commands(page))}")
        self.typed.add(command)
        print(f"{page} $ {means or command}", flush=True)

    def left(self, sections: Mapping[str, tuple[str, ...]], elsewhere: Mapping[str, str]) -> list[str]:
        """Commands of these pages' sections that were neither typed nor are in `elsewhere`."""
        return [
            f"{page}: {command}"
            for page, names in sections.items()
            for command in commands(page, *names)
            if command not in self.typed and command not in elsewhere
        ]


def _until(stream: IO[str], text: str) -> str:
    """What `stream` has up to `text`, or up to its end."""
    read = ""
    while not read.endswith(text) and (character := stream.read(1)):
        read += character
    return read


def clone(project: Path) -> None:
    """Make the project's folder a clone of this checkout, with its packages installed."""
    for name in run(["git", "ls-files", "-z", "--cached"], cwd=ROOT).split("\0"):
        target = project / name
        if name and (ROOT / name).is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    (project / "venv").symlink_to(sys.prefix)
    run(["git", "init", "--quiet", "--initial-branch=main"], cwd=project)
    commit(project, "As it was cloned")


def commit(project: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run(["git", "add", "--all"], cwd=project)
    author = ["-c", "user.name=owner", "-c", "user.email=owner@bench.test"]
    run(["git", *author, "commit", "--quiet", "--allow-empty", "--message", message], cwd=project)
