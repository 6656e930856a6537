"""The servers with their modules in one file, for the tests that start one again and again.

Loading the modules is most of a start: the 0.4 line has 2,663. In one file, with the functions that V8 compiled once
and without the quadratic time of one table, a load takes 0.6 s of processor time instead of 1.8 s in the 0.4 line, and
0.5 s instead of 2.4 s in the 0.5 line (user and system time of a Node that requires the package, with a compile cache;
busy machine, 2026-11-27). The code is the same. Tests of how the server starts, what it loads and what it flushes use
the modules as npm installs them (`pds_installs`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.trial.node import Install, Progress, alone, install

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


def quick_install(name: str, cache: Path, progress: Progress = lambda text: None) -> Install:
    """Install as `install` does, but a server with its modules joined."""
    installed = install(name, cache, progress)
    return bundled(installed, cache) if name.startswith("pds-") else installed


def _make(server: Install, bundler: Path, folder: Path) -> None:
    """Make `folder`: the server's package with one file of code, and links to all others."""
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
