"""Messages to the operator from a provider during a preview or an `up`, and answers in their shell's environment."""

import os
import sys


def show(text: str) -> None:
    """Print to the operator: the engine shows the output of its host of dynamic providers."""
    print(text, file=sys.stderr, flush=True)


def shell_variable(name: str) -> str:
    """The operator's shell variable `name`, for a confirmation that must not stay in a file; empty if unset."""
    return os.environ.get(name, "")
