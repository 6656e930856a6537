"""The program and stack files of a git revision, compared with those of the working tree."""

import difflib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from offline import stack_names
from offline.mock_engine import Evaluation
from policy.changes import Change, between, show

_DEADLINE = 600.0
"""Seconds for git, or for the program of another revision."""

_EVALUATE = """
import pickle, sys
from pathlib import Path
from offline.stackfile import evaluate_stack
def outcome(stack):
    try:
        return evaluate_stack(stack, root=Path.cwd())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
sys.stdout.buffer.write(pickle.dumps({stack: outcome(stack) for stack in sys.argv[1:]}))
"""


class UnknownRevisionError(Exception):
    """Git does not know the revision; the text names what to write."""


class Revision:
    """A git revision, checked out beside the working tree while the context lasts. `stacks` are to be compared.

    Raises UnknownRevisionError on entry.
    """

    def __init__(self, root: Path, name: str, stacks: Collection[str]) -> None:
        self._root, self.name, self._stacks = root, name, stacks

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._tree = Path(self._folder.name) / "tree"
        done = self._git("rev-parse", "--verify", "--end-of-options", f"{self.name}^{{commit}}")
        if not done.returncode:
            done = self._git("worktree", "add", "--detach", str(self._tree), done.stdout.strip())
        if done.returncode:
            self._folder.cleanup()
            raise UnknownRevisionError(
                f"Not comparable: git does not know {self.name}. Write a commit, a tag or a branch such as "
                "origin/main; `git branch --all` lists the branches."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._git("worktree", "remove", "--force", str(self._tree))
        self._folder.cleanup()

    @cached_property
    def files(self) -> Collection[str]:
        """The stacks that have a file in the revision."""
        return stack_names(self._tree)

    @cached_property
    def evaluations(self) -> Mapping[str, Evaluation | str]:
        """Each stack as the revision's program requests it, or why that failed."""
        return evaluate_elsewhere(self._tree, self._stacks)

    def _git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(self._root), *arguments], capture_output=True, text=True, timeout=_DEADLINE
        )


def evaluate_elsewhere(tree: Path, stacks: Collection[str]) -> dict[str, Evaluation | str]:
    """Evaluate stacks with the program of another tree, in one separate process."""
    done = subprocess.run([sys.executable, "-c", _EVALUATE, *stacks], cwd=tree, capture_output=True, timeout=_DEADLINE)
    if done.returncode:
        return dict.fromkeys(stacks, done.stderr.decode(errors="replace").strip().splitlines()[-1])
    evaluations: dict[str, Evaluation | str] = pickle.loads(done.stdout)  # noqa: S301 (written by the line above)
    return evaluations


def compare(
    console: Console, stack: str, revision: Revision, now: Evaluation, rendered: Callable[[Evaluation], dict[str, str]]
) -> list[Change] | None:
    """Show what changes from the revision to `now`; return None if they cannot be compared.

    `rendered` maps file name to text.
    """
    if stack not in revision.files:
        console.print(f"Not comparable: Pulumi.{stack}.yaml is not in {revision.name}. Commit it, or leave DIFF out.")
        return None
    before = revision.evaluations[stack]
    if isinstance(before, str):
        console.print(
            f"Not comparable: the program at {revision.name} does not evaluate for {stack}. If it is older than this "
            f"tool, compare with a later commit. It says:\n{before}",
            markup=False,
        )
        return None
    console.print(
        f"From {revision.name} to the working tree, stack {stack}. This compares two programs, not the running stack.\n"
    )
    changes = between(before, now)
    show(console, changes)
    _file_changes(console, rendered(before), rendered(now))
    if {item.urn: item.raw for item in before.resources} == {item.urn: item.raw for item in now.resources}:
        console.print("No input of any resource changes.")
    return changes


def _file_changes(console: Console, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    for name in sorted(old.keys() | new.keys()):
        lines = difflib.unified_diff(
            old.get(name, "").splitlines(), new.get(name, "").splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=2
        )
        for line in lines:
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            console.print(line, style=style, markup=False)
    if old.get("cloud-init.yaml") != new.get("cloud-init.yaml"):
        console.print(
            "\ncloud-init differs. No running host changes. A rebuild (host.generation) applies it.",
            markup=False,
        )
