"""`make preview`: the desired resource graph of a stack, without engine, account or network.

It evaluates the real program and prints the requested resources. It has no state, so it does not know the existing
ones. It writes the rendered files to `build/STACK/`. With `--diff REV` it does the same for the program and stack file
of a git revision, and shows the differences, with every input whose change would replace a stateful resource. The
findings of preflight (`policy`) follow.

Exit codes: 0 preflight passes, 1 the stack file is refused, 2 preflight fails, 3 the revision cannot be compared.
"""

import argparse
import difflib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pulumi
from rich.console import Console

from components.render.jobs.registry import NOMAD_JOBS
from components.settings.settings import Settings
from offline.mock_engine import ROOT, Evaluation
from offline.resource_tree import resource_tree
from offline.stackfile import StackFileError, evaluate_stack, read_settings
from policy.changes import Change, between, names, show
from policy.preflight import PolicyVerdict, of_changes, of_program


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

_DEADLINE = 600.0
"""Seconds for git, or for a program of another revision."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="make preview", description=__doc__)
    parser.add_argument("--stack", default="dev", help="the stack; its file is Pulumi.STACK.yaml")
    parser.add_argument("--diff", metavar="REV", help="compare with this git revision")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAMES",
        help="names of resources that may be replaced or deleted",
    )
    options = parser.parse_args(arguments)
    # A tree is cut at the terminal's edge; without a terminal, as in a file or in CI, nothing is cut.
    console = Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    try:
        now = evaluate_stack(options.stack)
        settings = read_settings(options.stack)
        if options.diff:
            changes = _compare(console, options.stack, options.diff, now)
            if changes is None:
                return 3
            return _preflight(console, now, settings, of_changes(changes, names(options.allow)))
    except (StackFileError, pulumi.RunError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(str(error), style="red", markup=False)
        return 1
    console.print(
        f"The graph of stack {options.stack} as the program requests it. The preview does not read the state.\n"
    )
    console.print(resource_tree(now))
    _say(console, now)
    for path in write_files(now, ROOT / "build" / options.stack):
        console.print(f"wrote {path.relative_to(ROOT)}")
    return _preflight(console, now, settings, [])


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

    document = yaml.safe_load(_user_data(evaluation) or "{}")
    for entry in document.get("write_files", []):
        if entry["path"] == path:
            return str(entry["content"])
    return None


def _compare(console: Console, stack: str, revision: str, now: Evaluation) -> list[Change] | None:
    """Show what changes from `revision` to the working tree; return None if they cannot be compared."""
    wanted = ["rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        done = subprocess.run(["git", "-C", str(ROOT), *wanted], capture_output=True, text=True, timeout=_DEADLINE)
        if not done.returncode:
            adding = ["worktree", "add", "--detach", str(tree), done.stdout.strip()]
            done = subprocess.run(["git", "-C", str(ROOT), *adding], capture_output=True, text=True, timeout=_DEADLINE)
        if done.returncode:
            console.print(
                f"Not comparable: git does not know {revision}. Write a commit, a tag or a branch such as origin/main; "
                "`git branch --all` lists the branches.",
                markup=False,
            )
            return None
        try:
            before = _evaluate_elsewhere(tree, stack)
        finally:
            removing = ["worktree", "remove", "--force", str(tree)]
            subprocess.run(["git", "-C", str(ROOT), *removing], capture_output=True, timeout=_DEADLINE)
    if isinstance(before, str):
        console.print(
            f"Not comparable: the program at {revision} does not evaluate for {stack}. If it is older than this tool, "
            f"compare with a later commit. It says:\n{before}",
            markup=False,
        )
        return None
    console.print(
        f"From {revision} to the working tree, stack {stack}. This compares two programs, not the running stack.\n"
    )
    changes = between(before, now)
    show(console, changes)
    _file_changes(console, before, now)
    if {item.urn: item.raw for item in before.resources} == {item.urn: item.raw for item in now.resources}:
        console.print("No input of any resource changes.")
    return changes


def _evaluate_elsewhere(tree: Path, stack: str) -> Evaluation | str:
    """Evaluate the program of another tree in a separate process, or return why that failed."""
    import pickle

    script = (
        "import pickle, sys; from pathlib import Path; from offline.stackfile import evaluate_stack;"
        "sys.stdout.buffer.write(pickle.dumps(evaluate_stack(sys.argv[1], root=Path.cwd())))"
    )
    done = subprocess.run([sys.executable, "-c", script, stack], cwd=tree, capture_output=True, timeout=_DEADLINE)
    if done.returncode:
        return done.stderr.decode(errors="replace").strip().splitlines()[-1]
    evaluation: Evaluation = pickle.loads(done.stdout)  # noqa: S301 (written by the line above)
    return evaluation


def _file_changes(console: Console, before: Evaluation, now: Evaluation) -> None:
    old, new = rendered(before), rendered(now)
    for name in sorted(old.keys() | new.keys()):
        lines = difflib.unified_diff(
            old.get(name, "").splitlines(), new.get(name, "").splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=2
        )
        for line in lines:
            style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
            console.print(line, style=style, markup=False)
    if old.get("cloud-init.yaml") != new.get("cloud-init.yaml"):
        console.print(
            "\ncloud-init differs. No living host changes by it; a rebuild (host.generation) would bring it.",
            markup=False,
        )


if __name__ == "__main__":
    sys.exit(main())
