"""`make preview`: the desired resource graph of a stack, without engine, account or network.

It evaluates the real program and prints the requested resources. It has no state, so it does not know the existing
ones. It writes the rendered files to `build/STACK/`. With `--diff REV` it does the same for the program and stack file
of a git revision, and shows the differences, with every input whose change would replace a stateful resource. The
findings of preflight (`policy`) follow. `--all` shows every stack file, one after the other.

Exit codes: 0 preflight passes, 1 the stack file is refused, 2 preflight fails, 3 the revision cannot be compared. With
`--all` it is the highest of them.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import pulumi
from rich.console import Console

from components.render.jobs.registry import NOMAD_JOBS
from components.settings.sections.settings import Settings
from offline import stack_names
from offline.mock_engine import ROOT, Evaluation
from offline.resource_tree import resource_tree
from offline.stackfile import StackFileError, evaluate_stack, read_settings
from policy.changes import names
from policy.preflight import PolicyVerdict, of_changes, of_program
from tools.compare import Revision, UnknownRevisionError, compare


def _job(job_id: str, evaluation: Evaluation) -> str | None:
    """Return None if the stack has no such job."""
    try:
        return evaluation.jobspec(job_id)
    except LookupError:
        return None


FILES: dict[str, Callable[[Evaluation], object]] = {
    **{job.file: partial(_job, job.job_id) for job in NOMAD_JOBS},
    "ingress.hcl": lambda evaluation: _ingress_file(evaluation, "io"),
    "Caddyfile": lambda evaluation: _ingress_file(evaluation, "caddy"),
    "cloud-init.yaml": lambda evaluation: _user_data(evaluation),
    "agent.hcl": lambda evaluation: _written(evaluation, "/etc/nomad.d/agent.hcl"),
}
"""Rendered files by name: the content of `build/STACK/`, of the ingress those of its kind."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    # A tree is cut at the terminal's edge; without a terminal, as in a file or in CI, nothing is cut.
    console = Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    stacks = stack_names(ROOT) if options.all else [options.stack]
    allowed = names(options.allow)
    if not options.diff:
        return max(_one(console, stack, titled=options.all) for stack in stacks)
    try:
        with Revision(ROOT, options.diff, stacks) as revision:
            code = max(_one(console, stack, revision, allowed, titled=options.all) for stack in stacks)
            for stack in sorted(set(revision.files) - set(stacks)) if options.all else ():
                console.print(
                    f"\n== Pulumi.{stack}.yaml is removed: this repository no longer updates that stack. Its PDS keeps "
                    "running.",
                    markup=False,
                )
            return code
    except UnknownRevisionError as error:
        console.print(str(error), markup=False)
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make preview", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stack", default="dev", help="the stack; its file is Pulumi.STACK.yaml")
    which.add_argument("--all", action="store_true", help="every stack that has a file")
    parser.add_argument("--diff", metavar="REV", help="compare with this git revision")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAMES",
        help="names of resources that may be replaced or deleted",
    )
    return parser


def _one(
    console: Console,
    stack: str,
    revision: Revision | None = None,
    allowed: Collection[str] = (),
    *,
    titled: bool = False,
) -> int:
    """Preview one stack; return its exit code. With `titled`, a stack that the revision lacks is new, not an error."""
    if titled:
        console.print(f"\n== stack {stack}", markup=False)
    if titled and revision and stack not in revision.files:
        console.print("It is new: there is nothing to compare it with.")
        revision = None
    try:
        now = evaluate_stack(stack)
        settings = read_settings(stack)
        if revision:
            changes = compare(console, stack, revision, now, rendered)
            return 3 if changes is None else _preflight(console, now, settings, of_changes(changes, allowed))
    except (StackFileError, pulumi.RunError) as error:
        output = console if titled else Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        output.print(str(error), style="red", markup=False)
        return 1
    _show(console, stack, now)
    return _preflight(console, now, settings, [])


def _show(console: Console, stack: str, now: Evaluation) -> None:
    console.print(f"The graph of stack {stack} as the program requests it. The preview does not read the state.\n")
    console.print(resource_tree(now))
    _say(console, now)
    for path in write_files(now, ROOT / "build" / stack):
        console.print(f"wrote {path.relative_to(ROOT)}")


def _preflight(console: Console, now: Evaluation, settings: Settings, lost: list[str]) -> int:
    console.print()
    verdict = PolicyVerdict((*of_program(now, settings), *lost))
    verdict.print_to(console)
    return 2 if verdict.findings else 0


def _say(console: Console, evaluation: Evaluation) -> None:
    console.print()
    for severity, message in evaluation.messages:
        if severity in ("warning", "error"):
            console.print(f"{severity}: {message}", style="yellow", markup=False)


def write_files(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write every rendered file of the stack; return their paths. Stand-ins replace secrets."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in rendered(evaluation).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths


def rendered(evaluation: Evaluation) -> dict[str, str]:
    """Map file name to text, for the files of this stack."""
    found = {name: pick(evaluation) for name, pick in FILES.items()}
    return {name: str(text) for name, text in found.items() if text}


def _ingress_file(evaluation: Evaluation, kind: str) -> object:
    files = [item.inputs["path"] for item in evaluation.resources if item.name == "pds-ingress-file-variable"]
    return evaluation.outputs.get("ingress_file") if files and files[0].startswith(f"{kind}/") else None


def _user_data(evaluation: Evaluation) -> str | None:
    """Return None if the host is another stack's or not managed by this project."""
    droplets = [item for item in evaluation.resources if item.name == "pds-host-droplet"]
    return str(droplets[0].inputs["userData"]) if droplets else None


def _written(evaluation: Evaluation, path: str) -> str | None:
    import yaml

    document = yaml.load(_user_data(evaluation) or "{}", yaml.CSafeLoader)
    for entry in document.get("write_files", []):
        if entry["path"] == path:
            return str(entry["content"])
    return None


if __name__ == "__main__":
    sys.exit(main())
