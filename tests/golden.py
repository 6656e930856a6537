"""Golden files: every rendered file of the dev stack, byte for byte, and the differences of its variants.

`python -m tests.golden` writes them, and so does `make generate`. A change of one of them is the effect of a change of
the program on a running stack: read its diff.
"""

from pathlib import Path
from typing import Any

from tests.programs import ALERTS, BACKUP, CLUB, run
from tools.preview import rendered
from tools.stackfile import evaluate_stack

FOLDER = Path(__file__).with_name("golden")

VARIANTS: dict[str, dict[str, Any]] = {
    "caddy": {"ingress": {"kind": "caddy"}},
    "alerts": {"alerts": ALERTS},
    "members": CLUB,
    "backup": {"backup": BACKUP},
}
"""Name to the changes in the dev stack."""


def golden_files() -> dict[str, str]:
    """`STACK/NAME` to text, as the program renders it now."""
    dev = rendered(evaluate_stack("dev"))
    files = {f"dev/{name}": text for name, text in dev.items()}
    for variant, changes in VARIANTS.items():
        for name, text in rendered(run(**changes)).items():
            if text != dev.get(name):
                files[f"{variant}/{name}"] = text
    return files


def existing() -> dict[str, Path]:
    """The same for the existing files."""
    return {str(path.relative_to(FOLDER)): path for path in sorted(FOLDER.glob("*/*"))}


def write_golden() -> list[Path]:
    """Write the files, and remove those that are not rendered any more; return the paths of the written ones."""
    files = golden_files()
    for name, path in existing().items():
        if name not in files:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(text.encode())
    return [FOLDER / name for name in files]


if __name__ == "__main__":
    for path in write_golden():
        print(f"wrote {path.relative_to(FOLDER.parent.parent)}")
