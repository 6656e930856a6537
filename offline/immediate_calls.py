"""The calls to the mock engine, made without threads: it answers from memory."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ImmediateLoop(asyncio.SelectorEventLoop):
    """Makes the SDK's calls to the monitor at once. The monitor answers from memory: threads, which the SDK uses for
    an engine's answers, would take a tenth of an evaluation's time."""

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Return the result of the call, or its error, as a future."""
        future = self.create_future()
        try:
            future.set_result(func(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that waits for nothing, as of an answer's plain values. The SDK's mocks would
    run the event loop within the call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("an answer of the mock engine has a value that is not known at once")
