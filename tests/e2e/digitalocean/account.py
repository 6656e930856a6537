"""The account itself, its SSH keys and its tags."""

import base64
import binascii
import hashlib
import re

from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Route, listed, read_fields
from tests.e2e.digitalocean.errors import not_found, refused, unknown_route
from tests.e2e.digitalocean.world import Json, World


def _account(call: Call) -> Answer:
    limits = call.world.limits
    account = {
        "droplet_limit": limits.droplets,
        "floating_ip_limit": limits.reserved_ips,
        "reserved_ip_limit": limits.reserved_ips,
        "volume_limit": limits.volumes,
        "email": call.world.verified_emails[0],
        "name": "The e2e environment",
        "uuid": call.world.account_uuid,
        "email_verified": True,
        "status": "active",
        "status_message": "",
        "team": {"uuid": call.world.account_uuid, "name": "My Team"},
    }
    return Answer(200, {"account": account})


def add_key(world: World, name: str, public_key: str) -> Json:
    """An SSH key of the account. Raises ApiError; each public key exists once."""
    parts = public_key.split()
    try:
        blob = base64.b64decode(parts[1], validate=True) if len(parts) > 1 else b""
    except binascii.Error:
        blob = b""
    if not blob or parts[0].encode() not in blob[:64]:
        raise refused("Key invalid, key should be of the format `type key [comment]`")
    digits = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    fingerprint = ":".join(digits[at : at + 2] for at in range(0, 32, 2))
    if any(item["fingerprint"] == fingerprint for item in world.keys.values()):
        raise refused("SSH Key is already in use on your account")
    number = world.number(40_000_000)
    world.keys[number] = {"id": number, "fingerprint": fingerprint, "public_key": public_key, "name": name}
    return world.keys[number]


def _find_key(call: Call) -> Json:
    for key in call.world.keys.values():
        if call.path["key"] in (str(key["id"]), key["fingerprint"]):
            return key
    raise not_found()


def _create_key(call: Call) -> Answer:
    requested = call.fields({"name": str, "public_key": str}, required=("name", "public_key"))
    return Answer(201, {"ssh_key": add_key(call.world, requested["name"], requested["public_key"])})


def _rename_key(call: Call) -> Answer:
    key = _find_key(call)
    key["name"] = call.fields({"name": str}, required=("name",))["name"]
    return Answer(200, {"ssh_key": key})


def _delete_key(call: Call) -> Answer:
    del call.world.keys[_find_key(call)["id"]]
    return Answer(204)


def make_tag(world: World, name: str) -> str:
    """The tag's name, created if it does not exist. Raises ApiError for an invalid name.

    The first use determines the capitals, and all later uses get those (digitalocean/openapi, tags/models/tags.yml).
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_:-]{1,255}", name):
        raise refused("tag names may only contain letters, numbers, colons, dashes, and underscores")
    tag = find_tag(world, name)
    if tag is None:
        tag = world.tags[name] = {"name": name}
    return str(tag["name"])


def find_tag(world: World, name: str) -> Json | None:
    """The tag, in any capitals."""
    return next((tag for tag in world.tags.values() if tag["name"].casefold() == name.casefold()), None)


def _tag(call: Call) -> Json:
    """The tag of the path, which needs its own capitals (digitalocean/openapi, tags/models/tags.yml)."""
    found = call.world.tags.get(call.path["name"])
    if found is None:
        raise not_found()
    return found


def _shown_tag(world: World, tag: Json) -> Json:
    base = "https://api.digitalocean.com/v2"
    counted: Json = {}
    for kind, things in (("droplets", world.droplets), ("volumes", world.volumes)):
        tagged = [number for number, item in things.items() if tag["name"] in item["tags"]]
        counted[kind] = {"count": len(tagged)}
        if tagged:
            counted[kind]["last_tagged_uri"] = f"{base}/{kind}/{tagged[-1]}"
    for kind in ("images", "volume_snapshots", "databases"):
        counted[kind] = {"count": 0}
    return {"name": tag["name"], "resources": {"count": sum(item["count"] for item in counted.values()), **counted}}


def _create_tag(call: Call) -> Answer:
    requested = call.fields({"name": str}, required=("name",))
    name = make_tag(call.world, requested["name"])
    return Answer(201, {"tag": _shown_tag(call.world, call.world.tags[name])})


def _get_tag(call: Call) -> Answer:
    return Answer(200, {"tag": _shown_tag(call.world, _tag(call))})


def _list_tags(call: Call) -> Answer:
    return listed(call, "tags", [_shown_tag(call.world, item) for item in call.world.tags.values()])


def _tagged(call: Call) -> list[Json]:
    """The resources that a request tags or untags."""
    found = []
    for item in call.fields({"resources": list}, required=("resources",))["resources"]:
        requested = read_fields(item, {"resource_id": str, "resource_type": str}, ("resource_id", "resource_type"))
        number, kind = requested["resource_id"], requested["resource_type"]
        if kind == "droplet":
            thing = call.world.droplets.get(int(number) if number.isdigit() else -1)
        elif kind == "volume":
            thing = call.world.volumes.get(number)
        else:
            raise unknown_route(call.path["name"], f"tagging of a {kind}")
        if thing is None:
            raise not_found()
        found.append(thing)
    return found


def _put_tag(call: Call) -> Answer:
    tag = _tag(call)
    for thing in _tagged(call):
        thing["tags"] = list(dict.fromkeys([*thing["tags"], tag["name"]]))
    return Answer(204)


def _take_tag(call: Call) -> Answer:
    tag = _tag(call)
    for thing in _tagged(call):
        thing["tags"] = [name for name in thing["tags"] if name != tag["name"]]
    return Answer(204)


def _delete_tag(call: Call) -> Answer:
    world, name = call.world, _tag(call)["name"]
    del world.tags[name]
    peers = [
        rule.get(side, {})
        for firewall in world.firewalls.values()
        for rules, side in (("inbound_rules", "sources"), ("outbound_rules", "destinations"))
        for rule in firewall[rules]
    ]
    # A firewall with only this tag applies to nothing from here on.
    for thing in [*world.droplets.values(), *world.volumes.values(), *world.firewalls.values(), *peers]:
        if "tags" in thing:
            thing["tags"] = [item for item in thing["tags"] if item != name]
    return Answer(204)


ROUTES = (
    Route("GET", "/v2/account", _account),
    Route("GET", "/v2/account/keys", lambda call: listed(call, "ssh_keys", list(call.world.keys.values())), PAGING),
    Route("POST", "/v2/account/keys", _create_key),
    Route("GET", "/v2/account/keys/{key}", lambda call: Answer(200, {"ssh_key": _find_key(call)})),
    Route("PUT", "/v2/account/keys/{key}", _rename_key),
    Route("DELETE", "/v2/account/keys/{key}", _delete_key),
    Route("GET", "/v2/sizes", lambda call: listed(call, "sizes", catalog.sizes()), PAGING),
    Route("GET", "/v2/tags", _list_tags, PAGING),
    Route("POST", "/v2/tags", _create_tag),
    Route("GET", "/v2/tags/{name}", _get_tag),
    Route("DELETE", "/v2/tags/{name}", _delete_tag),
    Route("POST", "/v2/tags/{name}/resources", _put_tag),
    Route("DELETE", "/v2/tags/{name}/resources", _take_tag),
)
