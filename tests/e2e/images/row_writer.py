"""A small image that writes as the server does, for machines under emulation: Node, the server's copy of SQLite, and
`row-writer/writer.cjs`. It is laid out for a registry without an engine."""

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from tests.e2e.environment.outside import lay_out_parts
from tests.e2e.environment.tools import run
from tests.e2e.images.build import server_files

TAG = "pds.local/row-writer:1"
WRITER = Path(__file__).parent / "row-writer" / "writer.cjs"

_MODULES = ("better-sqlite3", "bindings", "file-uri-to-path")
_LIBRARIES = ("libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libstdc++.so.6")
_LOADER = "lib64/ld-linux-x86-64.so.2"


def row_writer_image(cache: Path, folder: Path) -> str:
    """Make the image one that a registry in `folder` serves; its tag. Raises E2eError."""
    parts = server_files(cache)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        root = Path(work) / "root"
        _system(parts.system, Path(work) / "system", root)
        (root / "usr/local/bin").mkdir(parents=True)
        shutil.copy2(parts.node, root / "usr/local/bin/node")
        _app(parts.app, root / "app")
        layer, config = Path(work) / "layer.tar", Path(work) / "config.json"
        with tarfile.open(layer, "w") as tar:
            tar.add(root, arcname=".")
        with layer.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        config.write_text(json.dumps(_config(digest)))
        lay_out_parts(folder, TAG, config, [layer])
    return TAG


def _system(archive: Path, unpacked: Path, root: Path) -> None:
    """The loader and the libraries of Node, at the paths that a program expects."""
    unpacked.mkdir()
    names = [f"./usr/lib/x86_64-linux-gnu/{name}" for name in ("ld-*", "libc*", "libdl*", "libgcc*", "libm*")]
    names += [f"./usr/lib/x86_64-linux-gnu/{name}" for name in ("libpthread*", "libstdc++*")]
    run(["tar", "--extract", "--file", str(archive), "--directory", str(unpacked), "--wildcards", *names])
    libraries = unpacked / "usr/lib/x86_64-linux-gnu"
    for target, name in [(_LOADER, Path(_LOADER).name), *((f"lib/x86_64-linux-gnu/{n}", n) for n in _LIBRARIES)]:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2((libraries / name).resolve(), root / target)


def _app(app: Path, target: Path) -> None:
    """The server's copy of SQLite without pnpm's links, and the file by which its preloads find it."""
    modules = app / "node_modules"
    (target / "node_modules/@atproto/pds").mkdir(parents=True)
    shutil.copy2(modules / "@atproto/pds/package.json", target / "node_modules/@atproto/pds")
    # pnpm puts what a module requires beside it.
    beside = (modules / "@atproto/pds").resolve().parent.parent
    for name in _MODULES:
        module = (beside / name).resolve()
        shutil.copytree(module, target / "node_modules" / name, ignore=shutil.ignore_patterns("deps", "src"))
        beside = module.parent
    shutil.copy2(WRITER, target)


def _config(layer: str) -> dict[str, object]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/usr/local/bin/node"], "WorkingDir": "/app", "Env": ["PATH=/usr/local/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created_by": "tests/e2e/images/row_writer.py"}],
    }
