"""The engine, by Pulumi's Automation API: the same CLI, state and stack files as by hand.

This module adds what the API lacks. The API would select each stack that it works on, and so change the selection of a
person who uses `pulumi` beside it. Here every command names its stack, and none is selected. The API would also not
manage its engine processes. Here each can be stopped, and is waited for.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pulumi import automation as auto

from cli.lib.stack import StackError
from policy.digest import DigestError

OnOutput = Callable[[str], Any]


class StoppedError(StackError):
    """No further stack is started: a stop was requested."""


class EngineError(auto.CommandError):
    """A command of the engine error; with its output."""

    def __init__(self, result: auto.CommandResult) -> None:
        super().__init__(result)
        self.output, self.error = result.stdout, result.stderr

    def summary(self) -> str:
        """Return one line: the errors among its diagnostics, or its standard error."""
        errors = self.output.partition("Diagnostics:")[2].partition("\nResources:")[0].partition("error:")[2]
        return " ".join((errors or self.error or self.output).split()).removeprefix("error: ") or "it gave no reason"


class Engine(auto.PulumiCommand):
    """The CLI, and its running processes."""

    def __init__(self) -> None:
        try:
            super().__init__()
        except FileNotFoundError:
            raise StackError("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.") from None
        except auto.InvalidVersionError as error:
            # The error's last sentence may advise to skip the check of the version.
            reason = str(error).partition(". If you")[0].removesuffix(".")
            raise StackError(f"The Pulumi CLI on PATH cannot be used: {reason}. Install the newest one.") from None
        except subprocess.CalledProcessError as error:
            raise StackError(f"The Pulumi CLI on PATH cannot be used: {error}") from None
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: OnOutput | None = None,
        on_error: OnOutput | None = None,
    ) -> auto.CommandResult:
        """Run a command like the API's own, as a process that `stop` can reach. Raises FailedError and StoppedError."""
        command = [self.command, "--non-interactive", *args]
        with self._lock:
            # The result of an `up` may still be queried.
            if self.stopped and args[0] in ("preview", "up"):
                raise StoppedError("It was stopped.")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**_environment(), **additional_env, "PULUMI_AUTOMATION_API": "true"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                process_group=0,  # only `stop` passes Ctrl-C on: the engine treats a second one differently
            )
            self._running.add(process)
        try:
            with process:
                error: list[str] = []
                reader = threading.Thread(target=_read, args=(process.stderr, error, on_error), daemon=True)
                reader.start()
                output: list[str] = []
                _read(process.stdout, output, on_output)
                reader.join()  # no deadline: its pipe ends with the engine, like the one read above
        finally:
            with self._lock:
                self._running.discard(process)
        result = auto.CommandResult("\n".join(output), "\n".join(error), process.returncode)
        if process.returncode:
            raise EngineError(result)
        return result

    def stop(self) -> None:
        """Start nothing more, and stop the running engines in order; a second call ends them at once."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PULUMI_ENABLE_STREAMING_JSON_PREVIEW"}


def _read(stream: Any, lines: list[str], say: OnOutput | None) -> None:
    for line in stream:
        lines.append(line.rstrip())
        if say:
            say(lines[-1])


class Workspace(auto.LocalWorkspace):
    """The project's folder."""

    def __init__(self, engine: Engine, root: Path) -> None:
        super().__init__(work_dir=str(root), pulumi_command=engine)
        self.root = root

    def select_stack(self, stack_name: str) -> None:
        """Do nothing: a person's selection stays as it is."""

    def names(self) -> list[str]:
        """Return the project's stacks in the backend. Raises StackError."""
        try:
            # Pulumi Cloud may put an organisation's name first.
            return sorted(summary.name.rpartition("/")[2] for summary in self.list_stacks())
        except EngineError as error:
            raise StackError(f"The stacks cannot be listed: {error.summary()}") from None

    def create(self, stack: str) -> None:
        """Do as `pulumi stack init`. Raises StackError."""
        try:
            self.create_stack(stack)
        except EngineError as error:
            raise StackError(f"The stack {stack} could not be created: {error.summary()}") from None

    def preview(self, stack: str) -> str:
        """Return the engine's preview as JSON, also if the preview failed. Raises DigestError if there is none.

        The API's own preview has only the count of changes.
        """
        try:
            command = ["preview", "--json", "--show-sames", "--stack", stack]
            return str(self.pulumi_command.run(command, str(self.root), {}).stdout)
        except EngineError as error:
            if error.output.strip():
                return error.output
            raise DigestError(f"The engine made no preview: {error.summary()}") from None

    def up(self, stack: str, say: OnOutput) -> Mapping[str, Any]:
        """Update the stack; return its outputs that are not secrets. `say` gets each line of the engine's output.

        Raises StackError with the engine's reasons.
        """
        try:
            result = auto.Stack.select(stack, self).up(
                on_output=say,
                on_error=say,
                color="never",
                show_secrets=False,
                suppress_outputs=True,
                suppress_progress=True,
            )
        except EngineError as error:
            raise StackError(error.summary()) from None
        return {name: output.value for name, output in result.outputs.items() if not output.secret}
