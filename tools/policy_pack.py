"""Writes the policy pack as one folder, `build/policy-pack`, for `pulumi policy publish`; `make policy`.

Pulumi packs the folder of PulumiPolicy.yaml and nothing beside it. So the packages that the policies import lie in it.
"""

import shutil
import sys
from pathlib import Path

from offline import ROOT

TARGET = ROOT / "build/policy-pack"
PACKAGES = ("components", "offline", "policy")
_TOP = ("__main__.py", "requirements.txt")


def write(target: Path = TARGET, root: Path = ROOT) -> Path:
    """Write the folder anew, and return it."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in PACKAGES:
        shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _TOP:
        shutil.copy2(root / "policy" / name, target)
    project = (root / "policy/PulumiPolicy.yaml").read_text()
    (target / "PulumiPolicy.yaml").write_text(project.replace("../build/policy-venv", "venv"))
    return target


if __name__ == "__main__":
    print(
        f"Wrote {write().relative_to(ROOT)}. `pulumi policy publish ORGANIZATION` there publishes it to Pulumi Cloud."
    )
    sys.exit(0)
