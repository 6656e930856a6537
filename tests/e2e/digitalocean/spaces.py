"""Keys for Spaces. Buckets and what is in them belong to an S3 server, which this API never asks.

A secret is in the answer to the key's creation and nowhere else.
"""

import secrets

from .calls import PAGING, Answer, Call, Fields, Route, listed, read_fields
from .errors import ApiError, not_found
from .world import Json

_KEY: Fields = {"name": str, "grants": list}
_GRANT: Fields = {"bucket": str, "permission": str}
_PERMISSIONS = ("read", "readwrite", "fullaccess")
_KEYS = "/v2/spaces/keys"


def _wish(call: Call) -> Json:
    """Raises ApiError; what is wrong is a 400 here, not a 422 (specification/resources/spaces)."""
    wish = call.fields(_KEY, ("name", "grants"))
    grants = [read_fields(grant, _GRANT, ("permission",), where="grants.") for grant in wish["grants"]]
    for grant in grants:
        if grant["permission"] not in _PERMISSIONS:
            raise _bad(f"grants.permission has to be one of {', '.join(_PERMISSIONS)}")
        if bool(grant.get("bucket")) == (grant["permission"] == "fullaccess"):
            raise _bad("a grant names a bucket, unless it is for full access")
    if not grants:
        raise _bad("a key without grants opens nothing")
    return {"name": wish["name"], "grants": [{"bucket": "", **grant} for grant in grants]}


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def _create(call: Call) -> Answer:
    identity = f"DO00{secrets.token_hex(8).upper()}"
    key = {**_wish(call), "access_key": identity, "created_at": call.world.now()}
    call.world.spaces_keys[identity] = key
    return Answer(201, {"key": {**key, "secret_key": secrets.token_urlsafe(32)}})


def _find(call: Call) -> Json:
    found: Json | None = call.world.spaces_keys.get(call.path["key"])
    if found is None:
        raise not_found()
    return found


def _update(call: Call) -> Answer:
    key, wish = _find(call), _wish(call)
    if wish["grants"] != key["grants"]:
        raise _bad("of a key only the name can be changed")
    key["name"] = wish["name"]
    return Answer(200, {"key": key})


def _delete(call: Call) -> Answer:
    del call.world.spaces_keys[_find(call)["access_key"]]
    return Answer(204)


ROUTES = (
    Route("GET", _KEYS, lambda call: listed(call, "keys", list(call.world.spaces_keys.values())), PAGING),
    Route("POST", _KEYS, _create),
    Route("GET", f"{_KEYS}/{{key}}", lambda call: Answer(200, {"key": _find(call)})),
    Route("PUT", f"{_KEYS}/{{key}}", _update),
    Route("PATCH", f"{_KEYS}/{{key}}", _update),
    Route("DELETE", f"{_KEYS}/{{key}}", _delete),
)
