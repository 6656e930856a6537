"""A stack of the engine: its state, outputs and configuration, read through the Pulumi CLI."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.errors import CommandError
from cli.lib.private_files import write_private
from offline import ROOT


class StackError(CommandError):
    """The CLI is missing, or has no such stack. The text names which."""


class UnreadableStateError(StackError):
    """The state exists and the CLI cannot read it: an engine was killed while it wrote."""


class UnknownStackError(StackError):
    """The backend has no such stack, so it has no state either."""


CLUSTER_OUTPUT = "worker_tag"
"""An output that only a cluster's stack has."""

_DEADLINE = 300  # seconds; for commands without a prompt
_CUT_SHORT = "failed to load checkpoint: EOF"


@dataclass(frozen=True)
class Resource:
    """One resource of the state. Secrets in `outputs` are encrypted, as stored."""

    urn: str
    type: str
    """The last part of its type, for example 'Droplet'."""
    id: str
    outputs: dict[str, Any]
    deleted_with: str = ""
    """URN of the resource whose deletion also deletes it."""
    replacing: bool = False
    """Whether the engine has deleted it, or that resource, and has not created its replacement."""

    @property
    def name(self) -> str:
        """Return the program's name for it, for example 'pds-host-droplet'."""
        return self.urn.rpartition("::")[2]


@dataclass(frozen=True)
class State:
    """The engine's state."""

    resources: tuple[Resource, ...]
    pending: tuple[tuple[str, Resource], ...] = ()
    """Operations that a killed engine had begun: 'creating', 'updating' or 'deleting', and the resource."""

    def of(self, kind: str) -> list[Resource]:
        """Return the resources whose type ends with it."""
        return [item for item in self.resources if item.type == kind]

    def ids(self, kind: str) -> set[str]:
        """Their ids at the provider."""
        return {item.id for item in self.of(kind)}

    def named(self, name: str) -> Resource | None:
        """Return the resource of this name."""
        return next((item for item in self.resources if item.name == name), None)


@dataclass(frozen=True)
class EngineResult:
    """How a command ended, and its output."""

    code: int
    output: str


@dataclass(frozen=True)
class Stack:
    """`name` is the stack's; `root` is the folder of Pulumi.yaml."""

    name: str
    root: Path = field(default=ROOT)

    def state(self) -> State:
        """Return the state, without its secrets. Raises StackError."""
        deployment = json.loads(self._ask("stack", "export")).get("deployment") or {}
        return State(
            tuple(_resource(item) for item in deployment.get("resources") or []),
            tuple((item["type"], _resource(item["resource"])) for item in deployment.get("pending_operations") or []),
        )

    def truncated_files(self) -> list[Path]:
        """Return side files of a file-based state that a killed engine left empty.

        The engine's file store writes a state by a rename and its content type, in NAME.attrs, in place (gocloud.dev,
        blob/fileblob). An empty one makes every command fail with "EOF"; a missing one is not a fault.
        """
        url = urlsplit(json.loads(self._answer(["pulumi", "whoami", "--verbose", "--json"]))["url"])
        if url.scheme != "file":
            return []
        folder = Path(url.netloc + url.path).expanduser() / ".pulumi"  # file://~ is that of `pulumi login --local`
        return sorted(file for file in folder.rglob("*.attrs") if not file.stat().st_size)

    def outputs(self) -> dict[str, Any]:
        """Return all outputs, secrets in clear text: for use, not for display. Raises StackError."""
        outputs: dict[str, Any] = json.loads(self._ask("stack", "output", "--json", "--show-secrets") or "{}")
        return outputs

    def required_outputs(self, *names: str) -> dict[str, Any]:
        """Return all outputs. Raises StackError, also if the stack lacks one of `names`, as before its first `up`."""
        outputs = self.outputs()
        if missing := [name for name in names if not outputs.get(name)]:
            if outputs.get(CLUSTER_OUTPUT):
                raise StackError(f"Stack {self.name} is a cluster, and has no PDS. Name the stack of a club on it.")
            raise StackError(f"Stack {self.name} has no {missing[0]} yet. Run `pulumi up --stack {self.name}` first.")
        return outputs

    def output(self, name: str) -> Any:
        """Return one output, in clear text. Raises StackError."""
        return json.loads(self._ask("stack", "output", name, "--json", "--show-secrets"))

    def config(self, key: str) -> str | None:
        """Return a configured value, in clear text; None if there is none."""
        try:
            return self._ask("config", "get", key).rstrip("\n")
        except StackError:
            return None

    def set_secret(self, key: str, value: str) -> None:
        """Write a value into the stack file, encrypted; it goes to the CLI by its standard input. Raises StackError."""
        command = self._shown("config", "set", "--secret", "--path", key, "--non-interactive")
        completed = subprocess.run(
            command, cwd=self.root, input=value, capture_output=True, text=True, timeout=_DEADLINE
        )
        if completed.returncode:
            raise StackError(f"`{shlex.join(command)}` failed: {completed.stderr.strip()}")

    def run(self, *arguments: str) -> EngineResult:
        """Run a command that changes something: shown before it runs, with its output as it arrives.

        Never prompts; see `run_interactively`.
        """
        command = self._shown(*arguments, "--non-interactive")
        lines: list[str] = []
        with subprocess.Popen(  # no deadline: an `up` may take long, and Ctrl-C stops it
            command,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                sys.stdout.write(line)
                sys.stdout.flush()
        return EngineResult(process.returncode, "".join(lines))

    def configure(self, file: Path, *arguments: str) -> None:
        """Run `pulumi config` on a copy of the stack file. Raises StackError."""
        self._ask("config", *arguments, "--path", "--config-file", str(file))

    def export(self) -> dict[str, Any]:
        """Return the engine's state, with its encrypted secrets. Raises StackError."""
        state: dict[str, Any] = json.loads(self._ask("stack", "export"))
        return state

    def export_without_replacements(self, urns: Collection[str], file: Path) -> None:
        """Write the state to `file`, with its encrypted secrets and without `pendingReplacement` on `urns`. Raises
        StackError."""
        state = self.export()
        for item in state["deployment"]["resources"]:
            if item["urn"] in urns:
                item.pop("pendingReplacement", None)
        write_private(file, json.dumps(state).encode())

    def run_interactively(self, *arguments: str, env: Mapping[str, str] | None = None) -> int:
        """Run a command that may prompt for confirmation; return its exit code. `env` is additional environment."""
        shell = os.environ | env if env else None
        completed = subprocess.run(self._shown(*arguments), cwd=self.root, env=shell)  # no deadline: it may prompt
        return completed.returncode

    def _shown(self, *arguments: str) -> list[str]:
        command = self._command(*arguments)
        print(f"\n$ {shlex.join(command)}", flush=True)
        return command

    def _command(self, *arguments: str) -> list[str]:
        if not shutil.which("pulumi"):
            raise StackError("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.")
        return ["pulumi", *arguments, "--stack", self.name]

    def _ask(self, *arguments: str) -> str:
        return self._answer(self._command(*arguments))

    def _answer(self, command: list[str]) -> str:
        # Without a terminal the CLI would prompt for a passphrase and wait; with one it may.
        quiet = [] if sys.stdin is not None and sys.stdin.isatty() else ["--non-interactive"]
        line = [*command, *quiet]
        completed = subprocess.run(line, cwd=self.root, capture_output=True, text=True)  # no deadline: for a passphrase
        if completed.returncode and _CUT_SHORT in completed.stderr:
            raise UnreadableStateError(
                f"The state of stack {self.name} cannot be read ({_CUT_SHORT}): an engine was killed while it wrote. "
                f"`./pds repair {self.name}` repairs it; see docs/guide/troubleshooting.md#an-interrupted-up."
            )
        if completed.returncode and f"no stack named '{self.name}' found" in completed.stderr:
            raise UnknownStackError(
                f"Stack {self.name} does not exist in this backend. Run `pulumi stack init {self.name}` and `pulumi up "
                f"--stack {self.name}`, or log in to the right backend (`pulumi whoami --verbose` prints this one)."
            )
        if completed.returncode:
            raise StackError(f"`{shlex.join(command)}` failed: {completed.stderr.strip()}")
        return completed.stdout


def _resource(item: dict[str, Any]) -> Resource:
    return Resource(
        item["urn"],
        item["type"].rpartition(":")[2],
        str(item.get("id") or ""),
        item.get("outputs") or {},
        item.get("deletedWith") or "",
        bool(item.get("pendingReplacement")),
    )


def digitalocean_token(stack: Stack) -> str | None:
    """Return the token that the provider would use: from the environment, else from the stack's configuration."""
    from_environment = os.environ.get("DIGITALOCEAN_TOKEN") or os.environ.get("DIGITALOCEAN_ACCESS_TOKEN")
    return from_environment or stack.config("digitalocean:token")
