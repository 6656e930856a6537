"""The provider of `StackIdentity`."""

from pulumi.dynamic import DiffResult

from components.clients.console import shell_variable
from components.clients.errors import ServiceError
from components.dynamic.base import PollingProvider, Props, hide_traceback
from components.settings import stack_identity


class StackIdentityProvider(PollingProvider, pickled_as="StackIdentityProvider"):
    """Stores the values that must not change, and refuses another hostname, place, region, volume or location of the
    blobs at the preview."""

    def _run(self, news: Props, olds: Props) -> Props:
        self._refuse(olds, news)
        return dict(news)

    @hide_traceback
    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        self._refuse(_olds, _news)
        return super().diff(_id, _olds, _news)

    @staticmethod
    def _refuse(olds: Props, news: Props) -> None:
        if not olds:
            return
        is_forgotten = shell_variable(stack_identity.FORGET) == olds["hostname"]
        known = {**olds, "hostname": news["hostname"]} if is_forgotten else olds
        if news["blobs"] in map(shell_variable, (stack_identity.BLOBS_MOVED, stack_identity.BLOBS_COPIED)):
            known = {**known, "blobs": news["blobs"]}
        if news["place"] and news["place"] == shell_variable(stack_identity.MOVED_TO):
            known = {**known, "place": news["place"]}
        if fault := stack_identity.fault(known, news):
            raise ServiceError(fault)
