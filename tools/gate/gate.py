"""`./pds gate`: decides whether a change may go to `pulumi up`. It changes nothing.

It evaluates the stack's program offline, where every text is known. The engine's own preview shows the effects of `up`
on existing resources. Every check runs on both. Without `--preview` it runs the engine itself, and the preview, which
holds all inputs of the stack, is never in a file.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pulumi
from rich.console import Console

from components.settings.settings import Settings
from tools.engine import Evaluation
from tools.gate.changes import Change, find_lost_state, find_other_identity, find_smaller_disks, show, unknown_disks
from tools.gate.checks import findings
from tools.gate.digest import Digest, DigestError, read
from tools.gate.secrets import find_secrets_in_texts, find_secrets_in_the_open
from tools.gate.view import of_evaluation
from tools.stack import Stack
from tools.stackfile import StackFileError, evaluate_stack, read_settings

_DEADLINE = 3600.0
"""Seconds for the engine's preview; a host that does not answer costs it one."""

_LOST = "lost state"


@dataclass(frozen=True)
class Verdict:
    """The findings, a line each, with the name of the check before it; empty if the gate passes."""

    findings: tuple[str, ...]

    def tell(self, console: Console) -> None:
        """Print the verdict."""
        for line in self.findings:
            console.print(f"gate: {line}", style="red", markup=False)
        if any(line.startswith(f"{_LOST}: ") for line in self.findings):
            console.print("What is meant to go is allowed by its name: `--allow NAME` (docs/ci.md).", markup=False)
        console.print(f"The gate is {'shut' if self.findings else 'open'}.", style="bold")


def of_program(evaluation: Evaluation, settings: Settings) -> list[str]:
    """Return the findings of every check in the offline evaluation. Raises LookupError."""
    found = findings(of_evaluation(evaluation, **_chosen(settings)))
    found["secrets in the open"] = find_secrets_in_the_open(evaluation)
    found["secrets in texts"] = find_secrets_in_texts(evaluation)
    return _lines(found)


def of_changes(changes: Iterable[Change], allowed: Collection[str]) -> list[str]:
    """Return the effects of the change on existing resources."""
    found = list(changes)
    return _lines(
        {
            "identity": find_other_identity(found),
            "disk": find_smaller_disks(found),
            _LOST: find_lost_state(found, allowed),
        }
    )


def of_digest(digest: Digest, allowed: Collection[str]) -> list[str]:
    """Return the findings of every check in the engine's preview; of a failed one, the losses it shows and why it
    failed.

    Raises LookupError.
    """
    lost = of_changes(digest.changes, allowed)
    if digest.errors:
        return [*lost, *_lines({"failed preview": list(digest.errors)})]
    return [*_lines(findings(digest.view)), *lost]


def _chosen(settings: Settings) -> dict[str, bool]:
    """Return the explicit choices of a stack file."""
    return {
        "nomad_anywhere": bool(settings.operators and settings.operators.nomad_anywhere),
        "open_registration": settings.pds.open_registration,
    }


def _lines(found: dict[str, list[str]]) -> list[str]:
    return [f"{name}: {text}" for name, texts in found.items() for text in texts]


@dataclass(frozen=True)
class Judgement:
    """The verdicts on both sides of a change."""

    digest: Digest
    verdict: Verdict
    unused: tuple[str, ...]
    """Allowed names without a lost resource."""

    def tell(self, console: Console) -> None:
        """Print both."""
        for warning in (*self.digest.warnings, *unknown_disks(self.digest.changes)):
            console.print(f"warning: {warning}", style="yellow", markup=False)
        show(console, self.digest.changes)
        if not self.digest.changes:
            console.print("Nothing would change.")
        for name in self.unused:
            console.print(f"allowed, and not replaced or deleted: {name}", style="yellow", markup=False)
        self.verdict.tell(console)


def examine(
    stack: Stack, preview: str, allowed: Collection[str], hosts: dict[str, Evaluation] | None = None
) -> Judgement:
    """Run all checks on the stack's program and on the engine's `preview` of it; `hosts` is that of `evaluate_stack`.

    Raises StackFileError and DigestError.
    """
    settings = read_settings(stack.name, stack.root)
    try:
        found = of_program(evaluate_stack(stack.name, root=stack.root, hosts=hosts), settings)
    except pulumi.RunError as error:  # for example a host that has no place for it
        raise StackFileError(str(error)) from None
    digest = read(preview, stack.name, **_chosen(settings))
    try:
        found += of_digest(digest, allowed)
    except LookupError as error:
        raise DigestError(f"The preview lacks what has to be in it: {error}.") from None
    lost = {change.name for change in digest.changes if change.loses_state}
    return Judgement(digest, Verdict(tuple(dict.fromkeys(found))), tuple(sorted(set(allowed) - lost)))


def judge(stack: Stack, preview: Path | None, allowed: Collection[str], console: Console) -> int:
    """Run all checks and print the result: 0 if the gate passes, else 1.

    `preview` is a file with the engine's preview, `-` for standard input. Raises StackError, StackFileError and
    DigestError.
    """
    read_settings(stack.name, stack.root)  # refused before the engine runs
    judgement = examine(stack, _preview(stack, preview), allowed)
    judgement.tell(console)
    return 1 if judgement.verdict.findings else 0


def _preview(stack: Stack, file: Path | None) -> str:
    if file is None:
        return _ask_engine(stack)
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DigestError(f"{file} cannot be read: {error}") from None


def _ask_engine(stack: Stack) -> str:
    """Return the engine's preview. Its other output goes to standard error."""
    command = ["pulumi", "preview", "--json", "--show-sames", "--stack", stack.name, "--non-interactive"]
    if not shutil.which(command[0]):
        raise DigestError("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.")
    environment = {key: value for key, value in os.environ.items() if key != "PULUMI_ENABLE_STREAMING_JSON_PREVIEW"}
    done = subprocess.run(
        command,
        cwd=stack.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_DEADLINE,
    )
    if done.returncode and not done.stdout.strip():
        raise DigestError(f"The engine made no preview: `{' '.join(command)}` ended with {done.returncode}.")
    return done.stdout
