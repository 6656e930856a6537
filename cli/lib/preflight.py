"""Gets the engine's preview, runs the checks of `policy/` on it and prints the result; `./pds preflight`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from cli.lib.stack import Stack
from offline.stackfile import read_settings
from policy.changes import names
from policy.digest import DigestError
from policy.preflight import assess

_DEADLINE = 3600.0
"""Seconds for the engine's preview; a host that does not answer costs it one."""


def run(stack: Stack, preview: Path | None, allow: Iterable[str] = ()) -> int:
    """Run all checks and print the result; return 0 if they pass, else 1.

    `preview` is a file with the engine's preview, `-` for standard input. Each text of `allow` has names of resources
    that may be lost. Raises StackFileError and DigestError.
    """
    read_settings(stack.name, stack.root)  # refused before the engine runs
    assessment = assess(stack.name, _preview(stack, preview), names(allow), root=stack.root)
    assessment.print_to(Console(soft_wrap=True, highlight=False, emoji=False))
    return 1 if assessment.verdict.findings else 0


def _preview(stack: Stack, file: Path | None) -> str:
    if file is None:
        return preview_of_engine(stack)
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DigestError(f"{file} cannot be read: {error}") from None


def preview_of_engine(stack: Stack) -> str:
    """Return the engine's preview, for `read_digest`. Its other output goes to standard error. Raises DigestError."""
    command = ["pulumi", "preview", "--json", "--show-sames", "--stack", stack.name, "--non-interactive"]
    if not shutil.which(command[0]):
        raise DigestError("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.")
    environment = {key: value for key, value in os.environ.items() if key != "PULUMI_ENABLE_STREAMING_JSON_PREVIEW"}
    completed = subprocess.run(
        command,
        cwd=stack.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_DEADLINE,
    )
    if completed.returncode and not completed.stdout.strip():
        raise DigestError(f"The engine made no preview: `{' '.join(command)}` ended with {completed.returncode}.")
    return completed.stdout
