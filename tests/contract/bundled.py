"""The newest server in few files, for the tests that start it dozens of times.

A start of the 0.5 line reads 3,170 modules, which is more than half of its processor time. With few files it takes half
(`os.times` of a start on empty data, on 2026-11-27: 1.8 s instead of 3.5 s). The code is the same. Tests of how the
server starts, what it loads and what it flushes use the modules as npm installs them (`pds_installs`).

Does not own: the 0.4 line. Its modules are CommonJS with computed exports, and it starts faster.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.trial.node import Install, alone, install

_PROGRAM = Path(__file__).with_name("bundle.cjs")
_SERVER = Path("node_modules/@atproto/pds")


def bundled(server: Install, cache: Path) -> Install:
    """Return `server` with its modules joined, made in `cache` or found there."""
    bundler = install("bundler", cache).folder
    made_of = f"{server.folder.name} {bundler.name}".encode() + _PROGRAM.read_bytes()
    folder = server.folder.with_name(f"{server.name}-bundled-{hashlib.sha256(made_of).hexdigest()[:16]}")
    with alone(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            _make(server, bundler, folder)
    return replace(server, folder=folder)


def _make(server: Install, bundler: Path, folder: Path) -> None:
    """Make `folder`: the server's package with few files, and links to all others."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as partial:
        made = Path(partial) / "made"
        package = made / _SERVER
        package.mkdir(parents=True)
        shutil.copy2(server.folder / "package.json", made)
        shutil.copy2(server.folder / _SERVER / "package.json", package)
        for parent in (Path("node_modules"), _SERVER.parent):
            for entry in (server.folder / parent).iterdir():
                if not (made / parent / entry.name).exists():
                    (made / parent / entry.name).symlink_to(entry)
        if (own := server.folder / _SERVER / "node_modules").is_dir():
            (package / "node_modules").symlink_to(own)
        command = [server.node, _PROGRAM, bundler / "node_modules" / "esbuild", package / "dist"]
        subprocess.run(command, cwd=server.folder, check=True, timeout=600)
        made.rename(folder)
