"""Variables of a stack's state that Nomad lacks. A running task does not notice, and its next start waits for ever."""

from urllib.parse import quote

from cli.lib.stack import Resource, State
from components.clients.nomad import NomadApi

_NOT_FOUND = 404


def missing_variables(api: NomadApi, state: State) -> list[Resource]:
    """The variables that Nomad lacks. Raises OSError if it does not answer."""
    return [item for item in state.of("Variable") if api.request("GET", _url(item))[0] == _NOT_FOUND]


def _url(item: Resource) -> str:
    # A club's ingress file is in the namespace of its host.
    path, namespace = quote(str(item.outputs["path"])), quote(str(item.outputs.get("namespace") or "default"))
    return f"/v1/var/{path}?namespace={namespace}"
