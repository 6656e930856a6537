"""Waits for a condition, up to a deadline."""

import time
from collections.abc import Callable

from components.clients.errors import DeadlineError, PendingError


def until(ready: Callable[[], str | None], seconds: float, what: str, pause: float = 2) -> None:
    """Call `ready` until it returns None, for at most `seconds`; else DeadlineError with its last reason."""
    deadline = time.monotonic() + seconds
    reason: str | None = "it was not queried"
    while True:
        try:
            reason = ready()
        except PendingError as error:
            reason = str(error).rstrip(".")
        except OSError as error:
            reason = f"it does not answer ({error})"
        if reason is None:
            return
        if time.monotonic() + pause > deadline:
            raise DeadlineError(f"{what}: {reason}{f', after {seconds:.0f} s' if seconds else ''}.")
        time.sleep(pause)
