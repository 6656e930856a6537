"""The program without an engine: evaluation, stack files, and the rules of replacement."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder, which has Pulumi.yaml and the stack files."""


def stack_names(folder: Path) -> list[str]:
    """Return the stacks that have a file in `folder`, sorted."""
    return sorted(file.name.removeprefix("Pulumi.").removesuffix(".yaml") for file in folder.glob("Pulumi.*.yaml"))
