"""Golden files: every rendered file of the dev stack, and the differences of its variants.

They are byte for byte what the program renders, except that a program's own script is its name and SHA-256: the script
is a file of the repository already. `python -m tests.golden` writes them, and so does `make generate`. A change of one
of them is the effect of a change of the program on a running stack: read its diff.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from components.render.host import cloud_init
from offline.stackfile import evaluate_stack
from tests.support.programs import ALERTS, BACKUP, CLUB, cluster, run
from tools.preview import rendered

FOLDER = Path(__file__).with_name("golden")

VARIANTS: dict[str, dict[str, Any]] = {
    "caddy": {"ingress": {"kind": "caddy"}},
    "alerts": {"alerts": ALERTS},
    "members": CLUB,
    "backup": {"backup": BACKUP},
    "blobs": {"backup": BACKUP, "blobs": {"bucket": "club-blobs"}},
    "metrics": {"metrics": {"store": True}, "alerts": ALERTS},
    "unreferenced-blobs": {"pds": {"unreferenced_blob_days": 30}},
}
"""Name to the changes in the dev stack."""


_SCRIPT = re.compile(
    r'( *)destination +?= "local/([\w/-]+\.(?:[cm]js|sh|json|py))"'
    r"\n(?: *(?:change_mode|left_delimiter|right_delimiter) "
    r"[^\n]*\n)* *data +=[^\n]*<<-?EOT\n(.*?)^ *EOT$",
    re.M | re.S,
)
"""A script in a job file: indentation, file name, text."""
_HOST_FILES = Path(cloud_init.__file__).with_name("files")


def golden_files() -> dict[str, str]:
    """`STACK/NAME` to text, as the program renders it now, with digests of scripts."""
    dev = rendered(evaluate_stack("dev"))
    files = {f"dev/{name}": text for name, text in dev.items()}
    for variant, changes in VARIANTS.items():
        for name, text in rendered(run(**changes)).items():
            if text != dev.get(name):
                files[f"{variant}/{name}"] = text
    return {name: with_digests(text) for name, text in {**files, **_of_a_cluster()}.items()}


def _of_a_cluster() -> dict[str, str]:
    evaluation = cluster()
    droplets = {item.name: str(item.inputs["userData"]) for item in evaluation.of("droplet:Droplet")}
    return {
        "cluster/server.yaml": droplets["pds-cluster-droplets-server-1"],
        "cluster/worker.yaml": droplets["pds-cluster-droplets-worker-1"],
        "cluster/takeover.nomad.hcl": evaluation.jobspec("pds-takeover"),
        "cluster/snapshots.nomad.hcl": evaluation.jobspec("pds-nomad-snapshots"),
        "cluster/caddy.nomad.hcl": str(evaluation.one("pds-ingress-a-job").inputs["jobspec"]),
    }


def with_digests(text: str) -> str:
    """`text` with the name and digest of each script in place of its lines."""
    text = _SCRIPT.sub(lambda found: f'{found[1]}script "{found[2]}" sha256:{_digest(found[3])}', text)
    for path in sorted(_HOST_FILES.iterdir()):
        body = "".join(f"    {line}\n" if line else "\n" for line in path.read_text().splitlines())
        text = text.replace(f"  content: |\n{body}", f"  content: {path.name} sha256:{_digest(body)}\n")
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
