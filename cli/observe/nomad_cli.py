"""Nomad's own CLI with a stack's access; `./pds nomad`.

It takes certificates by path only. They are in a private temporary directory, in memory if the system has one. The
directory is removed when the command ends.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.errors import CommandError
from cli.lib.nomad_exec import nomad_access
from cli.lib.private_files import write_private
from cli.lib.stack import Stack
from cli.lib.subprocesses import ignore_signals, orderly_end, run_in_foreground

_FILES = {"ca_pem": "NOMAD_CACERT", "client_cert_pem": "NOMAD_CLIENT_CERT", "client_key_pem": "NOMAD_CLIENT_KEY"}
"""Part of the access, and the variable with the path of its file (developer.hashicorp.com/nomad/commands)."""
_IN_MEMORY = ("/dev/shm",)  # noqa: S108 (a private directory is made in it)


def run(stack: Stack, arguments: Sequence[str]) -> int:
    """Run `nomad ARGUMENTS`; return its exit code. Raises CommandError."""
    if not shutil.which("nomad"):
        raise CommandError(
            "The Nomad CLI is not on PATH; see https://developer.hashicorp.com/nomad/install. `./pds logs` and "
            "`./pds traffic` need none."
        )
    access = nomad_access(stack.required_outputs("nomad_address", "nomad_token"))
    with orderly_end():
        folder = Path(tempfile.mkdtemp(prefix="pds-nomad-", dir=_memory()))
        try:
            return run_in_foreground(["nomad", *arguments], _environment(access, folder))
        finally:
            ignore_signals()
            shutil.rmtree(folder)


def _memory() -> str | None:
    """Return a file system in memory; None for the system's own place for temporary files."""
    return next((path for path in _IN_MEMORY if os.access(path, os.W_OK | os.X_OK)), None)


def _environment(access: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the child's variables, without those for another Nomad, and write the files that they name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")}
    environment |= {"NOMAD_ADDR": access["address"], "NOMAD_TOKEN": access["token"]}
    environment["NOMAD_NAMESPACE"] = access.get("namespace", "default")
    for part, variable in _FILES.items():
        if text := access.get(part):
            write_private(folder / part, text.encode())
            environment[variable] = str(folder / part)
    return environment
