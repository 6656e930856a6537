"""Errors that a command reports to the operator in one sentence, with the exit code of each."""


class CommandError(Exception):
    """The command could not start or continue. The text names the cause and the remedy."""

    exit_code = 2


class FailedError(CommandError):
    """The command ran, and its result is a failure."""

    exit_code = 1
