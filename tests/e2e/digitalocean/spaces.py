"""Keys for Spaces, and their buckets.

Buckets and their contents belong to an S3 service, to which the world's `spaces` leads. A secret is in the response to
the key's creation and nowhere else.
"""

import secrets

from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, listed, read_fields
from tests.e2e.digitalocean.errors import ApiError, not_found, refused
from tests.e2e.digitalocean.world import Json

_KEY: Fields = {"name": str, "grants": list}
_GRANT: Fields = {"bucket": str, "permission": str}
_PERMISSIONS = ("read", "readwrite", "fullaccess")
_KEYS = "/v2/spaces/keys"
_LIMIT = 200
"""Keys of an account (docs.digitalocean.com/products/spaces/how-to/manage-access)."""


def _request(call: Call) -> Json:
    """Raises ApiError; a fault is a 400 here, not a 422 (specification/resources/spaces).

    A key without grants is allowed, and gives no access (key_create.yml, "No Grant Key").
    """
    requested = call.fields(_KEY, ("name",))
    grants = [read_fields(grant, _GRANT, ("permission",), where="grants.") for grant in requested.get("grants", [])]
    full = [grant for grant in grants if grant["permission"] == "fullaccess"]
    for grant in grants:
        if grant["permission"] not in _PERMISSIONS:
            raise _bad(f"grants.permission has to be one of {', '.join(_PERMISSIONS)}")
        if bool(grant.get("bucket")) == (grant["permission"] == "fullaccess"):
            raise _bad("a grant names a bucket, unless it is for full access")
        if grant.get("bucket") and grant["bucket"] not in call.world.spaces.buckets():
            raise _bad(f"bucket {grant['bucket']} does not exist")
    if full and len(full) < len(grants):
        # The wording of responses/bad_request.yml.
        raise _bad("cannot mix fullaccess permission with scoped permissions.")
    return {"name": requested["name"], "grants": [{"bucket": "", **grant} for grant in grants]}


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def _create(call: Call) -> Answer:
    if len(call.world.spaces_keys) >= _LIMIT:
        raise refused(f"an account has {_LIMIT} Spaces keys at most")
    identity = f"DO00{secrets.token_hex(8).upper()}"
    key = {**_request(call), "access_key": identity, "created_at": call.world.now()}
    call.world.spaces_keys[identity] = key
    secret = secrets.token_urlsafe(32)
    call.world.spaces.add_key(identity, secret, key["grants"])
    return Answer(201, {"key": {**key, "secret_key": secret}})


def _list(call: Call) -> Answer:
    found = list(call.world.spaces_keys.values())
    for name in ("bucket", "permission"):
        if name in call.query:
            found = [key for key in found if any(grant[name] == call.query[name] for grant in key["grants"])]
    return listed(call, "keys", [key for key in found if call.query.get("name") in (None, key["name"])])


def _find(call: Call) -> Json:
    found: Json | None = call.world.spaces_keys.get(call.path["key"])
    if found is None:
        raise not_found()
    return found


def _update(call: Call) -> Answer:
    key, requested = _find(call), _request(call)
    if requested["grants"] != key["grants"]:
        # key_update.yml: "You can only update the name of the key."
        raise _bad("of a key only the name can be changed")
    key["name"] = requested["name"]
    return Answer(200, {"key": key})


def _delete(call: Call) -> Answer:
    identity = _find(call)["access_key"]
    del call.world.spaces_keys[identity]
    call.world.spaces.drop_key(identity)
    return Answer(204)


ROUTES = (
    Route("GET", _KEYS, _list, PAGING | {"name", "bucket", "permission"}),
    Route("POST", _KEYS, _create),
    Route("GET", f"{_KEYS}/{{key}}", lambda call: Answer(200, {"key": _find(call)})),
    Route("PUT", f"{_KEYS}/{{key}}", _update),
    Route("PATCH", f"{_KEYS}/{{key}}", _update),
    Route("DELETE", f"{_KEYS}/{{key}}", _delete),
)
