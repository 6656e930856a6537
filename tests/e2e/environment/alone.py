"""One component with the real engine and the real provider, on the e2e environment's API, without a host.

This shows that DigitalOcean's provider accepts the component's inputs and has no change afterwards.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offline.mock_engine import ROOT
from tests.e2e.digitalocean import Api, World
from tests.e2e.environment.tools import E2eError, missing

_TOKEN = "token-of-the-account"
_DEADLINE = 600.0
SETTINGS = """\
import json, os
from components.settings.parse import read

settings = read(json.loads(os.environ["E2E_DOCUMENT"]), "Pulumi.test.yaml", "test")
"""
"""The first lines of a program of such a project."""


class Alone:
    """A project with its own program, its state beside it, and the API that it uses."""

    def __init__(self, folder: Path, api: Api, program: str, more: Mapping[str, str]) -> None:
        self.api = api
        self._folder = folder
        self._env = {
            **os.environ,
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "of a test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "DIGITALOCEAN_API_URL": api.url,
            "DIGITALOCEAN_TOKEN": _TOKEN,
            "PYTHONPATH": str(ROOT),
            **more,
        }
        runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": sys.prefix}}
        (folder / "Pulumi.yaml").write_text(json.dumps({"name": "pds", "runtime": runtime}))
        (folder / "__main__.py").write_text(SETTINGS + program)
        self("stack", "init", "test")

    def __call__(self, *arguments: str, fails: bool = False, **options: Any) -> str:
        """The engine's output for a command that must succeed, or fail if `fails` is set, with these options."""
        operators = {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["a key"]}
        document = {"hostname": "noted.test", "operators": operators, **options}
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self._folder,
            env={**self._env, "E2E_DOCUMENT": json.dumps(document)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self, *arguments: str, fails: bool = False, **options: Any) -> str:
        """`pulumi up`."""
        return self("up", "--yes", "--skip-preview", *arguments, fails=fails, **options)


@contextmanager
def alone(folder: Path, program: str, more: Mapping[str, str], **world: Any) -> Iterator[Alone]:
    """A stack without resources; `more` is for the engine's environment, `world` for the account. Raises E2eError if a
    program is missing, with its source."""
    if lines := missing("pulumi", "pulumi-language-python"):
        raise E2eError("\n".join(lines))
    project = folder / "project"
    project.mkdir()
    with Api(World(action_seconds=0.1, token=_TOKEN, **world), folder / "api") as api:
        yield Alone(project, api, program, more)
