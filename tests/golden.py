"""Golden files: every rendered file of the dev stack, byte for byte, in `golden/dev/`.

`python -m tests.golden` writes them, and so does `make generate`. A change of one of them is what a change of the
program does to a living stack: read its diff.
"""

from pathlib import Path

from tools.preview import rendered
from tools.stackfile import evaluate_stack

FOLDER = Path(__file__).with_name("golden") / "dev"


def golden_files() -> dict[str, str]:
    """File name to text, as the program renders it now."""
    return rendered(evaluate_stack("dev"))


def write_golden() -> list[Path]:
    """Write the files, and remove those that the stack no longer has; the paths of what was written."""
    files = golden_files()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).write_bytes(text.encode())
    return [FOLDER / name for name in files]


if __name__ == "__main__":
    for path in write_golden():
        print(f"wrote {path.relative_to(FOLDER.parent.parent.parent)}")
