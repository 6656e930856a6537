"""A stack as the engine has it, asked through the Pulumi CLI."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.engine import ROOT


class StackError(Exception):
    """The CLI is not there, or has no such stack; the text says which."""


@dataclass(frozen=True)
class Stack:
    """`name` is the stack's; `root` is the folder of Pulumi.yaml."""

    name: str
    root: Path = field(default=ROOT)

    def outputs(self) -> dict[str, Any]:
        """All outputs, secrets in clear: for use, not for show. Raises StackError."""
        found: dict[str, Any] = json.loads(self._ask("stack", "output", "--json", "--show-secrets") or "{}")
        return found

    def output(self, name: str) -> Any:
        """One output, in clear. Raises StackError."""
        return json.loads(self._ask("stack", "output", name, "--json", "--show-secrets"))

    def _ask(self, *arguments: str) -> str:
        if not shutil.which("pulumi"):
            raise StackError("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.")
        command = ["pulumi", *arguments, "--stack", self.name]
        # Without a terminal the CLI would ask for a passphrase and wait; with one it may.
        quiet = [] if sys.stdin is not None and sys.stdin.isatty() else ["--non-interactive"]
        done = subprocess.run([*command, *quiet], cwd=self.root, capture_output=True, text=True)
        if done.returncode:
            raise StackError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")
        return done.stdout
