"""`make try`: a live PDS on this machine, configured by this program's own rendered job.

The program is evaluated for a stack. The environment of the PDS task comes from the rendered job, its secrets from the
Nomad variable. `tools/trial` runs the real server with exactly these, and the stack file's members get accounts on it.
Generated secrets are real ones, kept under `build/try/STACK` with the data, so that a second run finds its PDS again.
"""

import argparse
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pulumi
from rich.console import Console

from cli.lib.private_files import write_private
from components.clients.errors import ServiceError
from components.dynamic.accounts import AccountProvider, HandleProvider
from components.settings.checks.pds_env import pinned_server
from components.settings.ingress_state import IngressState
from offline.hcl_reader import only_job, task_of
from offline.mock_engine import ROOT, Evaluation
from offline.stackfile import StackFileError, evaluate_stack
from tools.trial.owner import Step
from tools.trial.session import serve


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="make try", description=__doc__)
    parser.add_argument("--stack", default="dev", help="the stack; its file is Pulumi.STACK.yaml")
    parser.add_argument("--check", action="store_true", help="stop after the checks; exit non-zero if a check failed")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120, emoji=False)
    data = ROOT / "build" / "try" / options.stack
    data.mkdir(parents=True, exist_ok=True)
    try:
        evaluation = evaluate_stack(options.stack, secret=KeptSecrets(data / "secrets.json"))
    except (StackFileError, pulumi.RunError) as error:
        Console(stderr=True, emoji=False).print(str(error), style="red", markup=False)
        return 1
    environment, secret_names = task_environment(evaluation)
    wanted = evaluation.outputs["package_version"]
    line = ".".join(wanted.split(".")[:2])
    if wanted != pinned_server(line):
        console.print(
            f"The stack's image holds @atproto/pds {wanted}; here runs {pinned_server(line)}, the one of that line "
            "that this project pins from npm.",
            soft_wrap=True,
        )
    return serve(
        environment,
        secret_names,
        data=data,
        cache=ROOT / "build" / "cache",
        line=line,
        check=options.check,
        console=console,
        further=lambda url: member_steps(evaluation, url),
    )


def member_steps(evaluation: Evaluation, url: str) -> Iterator[Step]:
    """Return a step for each of the stack file's members, by name, created by the program's own providers on the server
    at `url` (loopback)."""
    where = urlsplit(url)
    # Resources are registered concurrently, so their order has no meaning.
    members = sorted(
        (item for item in evaluation.resources if item.type.endswith(":Account")), key=lambda item: item.name
    )
    for item in members:
        handle, begun = item.inputs["handle"], time.monotonic()
        here = {
            "url": f"http://{urlsplit(item.inputs['url']).hostname}:{where.port}",
            "ip": where.hostname,
            "ingress_state": IngressState.OPEN.value,
        }
        try:
            account = AccountProvider().create({**item.inputs, **here}).outs or {}
            asked = evaluation.one(item.name.replace("-account", "-handle")).inputs
            named = {**asked, **here, "did": account["did"]}
            # No public DNS names an account of this machine, so the record of a member's own domain is not checked.
            outs = {} if asked["external"] else HandleProvider().create(named).outs or {}
            later = f"; {handle} waits for a DNS record, and none can name it" if asked["external"] else ""
            detail = f"{outs.get('live_handle') or account['live_handle']} is {account['did']}{later}"
            ok = "pending" not in f"{account['state']} {outs.get('state', '')}"
            detail = detail if ok else f"{account['state']}; {outs.get('state', '')}"
        except ServiceError as error:
            ok, detail = False, str(error)
        yield Step(name=f"member {handle}", ok=ok, detail=detail, seconds=time.monotonic() - begun)


class KeptSecrets:
    """Random hex secrets that are the same at the next run; in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        self._lock = threading.Lock()  # the engine's mocks answer from several threads

    def __call__(self, name: str, digits: int) -> str:
        """Return the secret of the resource `name`: `digits` lower-case hex digits."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = secrets.token_hex(digits // 2)
                write_private(self._path, json.dumps(self._kept).encode())
            return self._kept[name]


def task_environment(evaluation: Evaluation) -> tuple[dict[str, str], frozenset[str]]:
    """Return the PDS task's environment as Nomad would set it, and which of its names are secret.

    The plain part comes from the rendered job, the secret part from the Nomad variable whose items the job's template
    turns into lines of the same names.
    """
    (plain,) = task_of(only_job(evaluation.one("pds-server-job").inputs["jobspec"]), "pds")["env"]
    items: dict[str, str] = evaluation.one("pds-secrets-variable").inputs["items"]
    return plain | items, frozenset(items)
