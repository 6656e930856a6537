"""A host with stand-ins for commands that log their calls, for the scripts of `components/render/host/files`."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.render.host import cloud_init

FILES = Path(cloud_init.__file__).with_name("files")
SCRIPTS = sorted(FILES.glob("*.sh"))
MIB = 1024 * 1024


def tool(name: str, package: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not path:
        pytest.fail(f"'{name}' is missing: install Debian's package '{package}'.")
    return path


@dataclass
class Machine:
    """A directory that stands for a host's `/`, and the stand-ins on its PATH."""

    root: Path
    stands: Path

    def stand_in(self, name: str, body: str = "", code: int = 0) -> None:
        """Put a command on PATH that logs its call, then runs `body` and ends with `code`."""
        file = self.stands / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.stands}/.calls"\n{body}\nexit {code}\n')
        file.chmod(0o755)

    def file(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def configure(self, **values: str) -> None:
        defaults = {
            "STACK": "dev",
            "VOLUME": "pds-dev",
            "ADOPT": "0",
            "SWAP_GIB": "0",
            "PACKAGES": "docker.io stunnel4",
            "METRICS_GIB": "1",
        }
        lines = [f"{name}='{value}'" for name, value in (defaults | values).items()]
        self.file("etc/pds/host.env", "\n".join(lines) + "\n")

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/sh", FILES / script, *arguments],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def begin(self, script: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a script that runs beside the test."""
        return subprocess.Popen(
            ["/bin/sh", FILES / script, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.stands}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PDS_ROOT": str(self.root),
            "PDS_WAIT_SECONDS": "0",
        }

    def calls(self, *names: str) -> list[str]:
        """The calls of the stand-ins, in order; only of those named, if any are."""
        log = self.stands / ".calls"
        lines = log.read_text().replace(str(self.root), "").splitlines() if log.exists() else []
        lines = [line.rstrip() for line in lines]
        return [line for line in lines if not names or line.split()[0] in names]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root, stands = tmp_path / "root", tmp_path / "stands"
    root.mkdir()
    stands.mkdir()
    host = Machine(root, stands)
    host.configure()
    return host
