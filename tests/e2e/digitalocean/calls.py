"""A request and its response, and the allowed content of a body.

A field that is not in the specification is refused, though the real API accepts it, so that a test detects a misspelt
field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.errors import refused
from tests.e2e.digitalocean.world import Action, Json, World

Fields = Mapping[str, type | tuple[type, ...]]
"""Field names and their types; null is 'not given' everywhere, as in the API."""


@dataclass(frozen=True)
class Call:
    """A request to a route that exists."""

    world: World
    path: Mapping[str, str]
    """The variable parts of the path."""
    query: Mapping[str, str]
    body: Any

    def fields(self, known: Fields, required: Sequence[str] = ()) -> Json:
        """The body, whose fields are all known and of their type. Raises ApiError."""
        return read_fields(self.body, known, required)

    def number(self, name: str) -> int:
        """A part of the path as a number; -1, which no resource has, if it is not a number."""
        return int(self.path[name]) if self.path[name].isdigit() else -1


@dataclass(frozen=True)
class Answer:
    """Status and body."""

    status: int = 200
    body: Json | None = None


Handler = Callable[[Call], Answer]


@dataclass(frozen=True)
class Route:
    """`path` has `{name}` where it varies."""

    method: str
    path: str
    handler: Handler
    query: frozenset[str] = field(default_factory=frozenset)


def read_fields(body: Any, known: Fields, required: Sequence[str] = (), where: str = "") -> Json:
    """`body`, a JSON object with known fields only. Raises ApiError."""
    if not isinstance(body, dict):
        raise refused(f"{where or 'the body'} is no JSON object")
    for name, value in body.items():
        if name not in known:
            raise refused(f"{where}{name} is no field that this API knows")
        kinds = known[name] if isinstance(known[name], tuple) else (known[name],)
        assert isinstance(kinds, tuple)
        wrong_bool = isinstance(value, bool) and bool not in kinds
        if value is not None and (wrong_bool or not isinstance(value, kinds)):
            raise refused(f"{where}{name} has the wrong type: {type(value).__name__}")
    given = {name: value for name, value in body.items() if value is not None}
    for name in required:
        if name not in given:
            raise refused(f"{where}{name} is missing")
    return given


def listed(call: Call, key: str, items: Sequence[Json]) -> Answer:
    """One page of a list, with links and count as the API has them."""
    per_page = max(1, min(200, int(call.query.get("per_page", 20))))
    page = max(1, int(call.query.get("page", 1)))
    last = max(1, -(-len(items) // per_page))
    base = "https://api.digitalocean.com/v2/?"
    pages: Json = {}
    if page < last:
        pages = {name: f"{base}page={n}&per_page={per_page}" for name, n in (("next", page + 1), ("last", last))}
    if page > 1:
        pages |= {name: f"{base}page={n}&per_page={per_page}" for name, n in (("first", 1), ("prev", page - 1))}
    shown = list(items[(page - 1) * per_page : page * per_page])
    return Answer(200, {key: shown, "links": {"pages": pages} if pages else {}, "meta": {"total": len(items)}})


PAGING = frozenset({"page", "per_page"})


def action_body(action: Action) -> Json:
    """An action as the API shows it."""
    return {
        "id": action.id,
        "status": action.status,
        "type": action.type,
        "started_at": action.started_at,
        "completed_at": action.completed_at,
        "resource_id": action.resource_id,
        "resource_type": action.resource_type,
        "region": catalog.region(action.region),
        "region_slug": action.region,
    }


def acted(action: Action) -> Answer:
    """The response to a request that started an action."""
    return Answer(201, {"action": action_body(action)})
