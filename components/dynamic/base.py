"""Base class of the providers, and the rule that an operator sees an error's message without a traceback."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from pulumi.dynamic import CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult

from components.clients.console import show
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi

Props = dict[str, Any]
T = TypeVar("T")

_THE_SDKS_HOST = "pulumi.dynamic.__main__"


def hide_traceback(operation: Callable[..., T]) -> Callable[..., T]:
    """Wraps `operation` so that the engine gets only the message of a ServiceError.

    The SDK's host of dynamic providers sends a formatted traceback (pulumi/dynamic/__main__.py), whose length is
    Python's `tracebacklimit`. That setting is process-wide, so it is changed only in that host.
    """

    @functools.wraps(operation)
    def without_traceback(*arguments: Any) -> T:
        sys.__dict__.pop("tracebacklimit", None)
        try:
            return operation(*arguments)
        except ServiceError:
            if getattr(sys.modules["__main__"].__spec__, "name", "") == _THE_SDKS_HOST:
                sys.tracebacklimit = 0
            raise

    return without_traceback


class PollingProvider(ResourceProvider):
    """A provider whose create and update are the same wait. Outputs are the inputs and the results."""

    VERSION = "1"
    serialize_as_secret_always = False

    def __init_subclass__(cls, *, pickled_as: str | None = None, **options: Any) -> None:
        """`pickled_as` is the provider's permanent name in the state of every stack; None for a base class.

        pickle stores an object's class by `__module__` and `__qualname__`. These two are set to this package and that
        name, so that files and classes can be renamed.
        """
        super().__init_subclass__(**options)
        if pickled_as:
            cls.__module__, cls.__qualname__ = "components.dynamic", pickled_as

    def _run(self, news: Props, olds: Props) -> Props:
        raise NotImplementedError

    def _is_done(self, olds: Props) -> bool:
        """Whether the last run succeeded; if not, the next `up` continues."""
        return True

    @hide_traceback
    def create(self, props: Props) -> CreateResult:
        return CreateResult(id_=type(self).__name__.strip("_"), outs=self._run(props, {}))

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        # Outputs are among the inputs as None, which declares them; they are not requested values.
        requested = {key: value for key, value in _news.items() if key != "__provider" and value is not None}
        changed = any(_olds.get(key) != value for key, value in requested.items())
        is_done = self._is_done(_olds)
        if not is_done and _olds.get("state"):
            # Explains why the preview of an unchanged stack is not empty.
            show(f"{_news.get('handle') or type(self).__name__.removesuffix('Provider')}: {_olds['state']}")
        return DiffResult(changes=changed or not is_done, replaces=[])

    def read(self, id_: str, props: Props) -> ReadResult:
        return ReadResult(id_, props)

    @hide_traceback
    def update(self, _id: str, _olds: Props, _news: Props) -> UpdateResult:
        return UpdateResult(outs=self._run(_news, _olds))

    def delete(self, _id: str, _props: Props) -> None:
        return None


def nomad_api(props: Props) -> NomadApi:
    return NomadApi(
        props["address"],
        props["ca_pem"],
        props["cert_pem"],
        props["key_pem"],
        props.get("token"),
        props.get("namespace") or "default",
    )
