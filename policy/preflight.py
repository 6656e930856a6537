"""Runs every check of a change: on the stack's program, evaluated offline, and on the engine's preview.

In the offline evaluation every text is known. The engine's preview shows the effects of `up` on existing resources.
Used by `./pds preflight`, `./pds up-all`, `make preview` and the tests. Changes nothing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pulumi
from rich.console import Console

from components.settings.sections.settings import Settings
from offline import ROOT
from offline.mock_engine import Evaluation
from offline.stackfile import StackFileError, evaluate_stack, read_settings
from policy.changes import Change, find_lost_state, find_other_identity, find_smaller_disks, show, unknown_disks
from policy.checks import findings
from policy.digest import Digest, DigestError, read_digest
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open
from policy.view import of_evaluation

_LOST = "lost state"


@dataclass(frozen=True)
class PolicyVerdict:
    """The findings, a line each, with the name of the check before it; empty if every check passes."""

    findings: tuple[str, ...]

    def print_to(self, console: Console) -> None:
        """Print the verdict."""
        for line in self.findings:
            console.print(f"preflight: {line}", style="red", markup=False)
        if any(line.startswith(f"{_LOST}: ") for line in self.findings):
            console.print(
                "To replace or delete it on purpose, allow its name: `--allow NAME` "
                "(docs/guide/ci.md#preflight-checks).",
                markup=False,
            )
        console.print(f"Preflight {'failed' if self.findings else 'passed'}.", style="bold")


def of_program(evaluation: Evaluation, settings: Settings) -> list[str]:
    """Return the findings of every check in the offline evaluation. Raises LookupError."""
    by_check = findings(of_evaluation(evaluation, **_explicit_choices(settings)))
    by_check["secrets in the open"] = find_secrets_in_the_open(evaluation)
    by_check["secrets in texts"] = find_secrets_in_texts(evaluation)
    return _lines(by_check)


def of_changes(changes: Iterable[Change], allowed: Collection[str]) -> list[str]:
    listed = list(changes)
    return _lines(
        {
            "identity": find_other_identity(listed),
            "disk": find_smaller_disks(listed),
            _LOST: find_lost_state(listed, allowed),
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


def _explicit_choices(settings: Settings) -> dict[str, bool]:
    return {
        "nomad_anywhere": bool(settings.operators and settings.operators.nomad_anywhere),
        "open_registration": settings.pds.open_registration,
    }


def _lines(by_check: dict[str, list[str]]) -> list[str]:
    return [f"{name}: {text}" for name, texts in by_check.items() for text in texts]


@dataclass(frozen=True)
class Assessment:
    """The engine's preview, and the verdict on it and on the program."""

    digest: Digest
    verdict: PolicyVerdict
    unused: tuple[str, ...]
    """Allowed names without a lost resource."""

    def print_to(self, console: Console) -> None:
        """Print changes and verdict."""
        for warning in (*self.digest.warnings, *unknown_disks(self.digest.changes)):
            console.print(f"warning: {warning}", style="yellow", markup=False)
        show(console, self.digest.changes)
        if not self.digest.changes:
            console.print("Nothing would change.")
        for name in self.unused:
            console.print(f"allowed, and not replaced or deleted: {name}", style="yellow", markup=False)
        self.verdict.print_to(console)


def assess(
    stack: str,
    preview: str,
    allowed: Collection[str],
    hosts: dict[str, Evaluation] | None = None,
    root: Path = ROOT,
) -> Assessment:
    """Run all checks on the program of `stack` and on the engine's `preview` of it; `hosts` is that of
    `evaluate_stack`.

    Raises StackFileError and DigestError.
    """
    settings = read_settings(stack, root)
    try:
        lines = of_program(evaluate_stack(stack, root=root, hosts=hosts), settings)
    except pulumi.RunError as error:  # for example a host that has no place for it
        raise StackFileError(str(error)) from None
    digest = read_digest(preview, stack, **_explicit_choices(settings))
    try:
        lines += of_digest(digest, allowed)
    except LookupError as error:
        raise DigestError(f"The preview is incomplete: {error}.") from None
    lost = {change.name for change in digest.changes if change.loses_state}
    return Assessment(digest, PolicyVerdict(tuple(dict.fromkeys(lines))), tuple(sorted(set(allowed) - lost)))
