"""Droplets and their actions."""

import re
from typing import Any

from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.account import make_tag
from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, acted, action_body, listed, read_fields
from tests.e2e.digitalocean.errors import not_found, pending, refused, unknown_route
from tests.e2e.digitalocean.networks import covers, default_vpc
from tests.e2e.digitalocean.world import Json, World

USER_DATA_LIMIT = 64 * 1024
"""Bytes (digitalocean/openapi, droplet_create.yml)."""

_CREATE: Fields = {
    "name": str,
    "region": str,
    "size": str,
    "image": (str, int),
    "ssh_keys": list,
    "backups": bool,
    "backup_policy": dict,
    "ipv6": bool,
    "monitoring": bool,
    "private_networking": bool,
    "public_networking": bool,
    "tags": list,
    "user_data": str,
    "volumes": list,
    "vpc_uuid": str,
    "with_droplet_agent": bool,
}
_NAME = re.compile(r"[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]")


def find(world: World, number: int) -> Json:
    """The droplet. Raises ApiError if there is none."""
    if number not in world.droplets:
        raise not_found()
    return world.droplets[number]


def shown(world: World, droplet: Json) -> Json:
    """The droplet as the API shows it."""
    size = catalog.size(droplet["size_slug"])
    number = droplet["id"]
    return {
        "id": number,
        "name": droplet["name"],
        "memory": size["memory"],
        "vcpus": size["vcpus"],
        "disk": droplet["disk"],
        "locked": world.busy(number),
        "status": droplet["status"],
        "kernel": None,
        "created_at": droplet["created_at"],
        "features": droplet["features"],
        "backup_ids": [],
        "next_backup_window": None,
        "snapshot_ids": [],
        "image": catalog.image(droplet["image"]),
        "volume_ids": [item["id"] for item in world.volumes.values() if number in item["droplet_ids"]],
        "size": size,
        "size_slug": size["slug"],
        # A droplet has no address before it is placed on a machine.
        "networks": {"v4": [], "v6": []} if droplet["status"] == "new" else _networks(number),
        "region": catalog.region(droplet["region"]),
        "tags": droplet["tags"],
        "vpc_uuid": droplet["vpc_uuid"],
    }


def _networks(number: int) -> Json:
    last = number % 250 + 2
    private = {"ip_address": f"10.135.0.{last}", "netmask": "255.255.0.0", "gateway": "10.135.0.1", "type": "private"}
    # Documentation addresses (RFC 5737): no client can reach a machine by them.
    public = {"ip_address": f"198.51.100.{last}", "netmask": "255.255.255.0", "gateway": "198.51.100.1"}
    return {"v4": [private, {**public, "type": "public"}], "v6": []}


def _create(call: Call) -> Answer:
    world = call.world
    requested = call.fields(_CREATE, required=("name", "size", "image", "region"))
    region, image = catalog.region(requested["region"])["slug"], catalog.image(str(requested["image"]))["slug"]
    size = catalog.size(requested["size"])
    if not _NAME.fullmatch(requested["name"]) or len(requested["name"]) > 255:
        raise refused("Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
    if len(requested.get("user_data", "").encode()) > USER_DATA_LIMIT:
        raise refused("User data is too long (maximum is 64 KiB).")
    if len(world.droplets) >= world.limits.droplets:
        raise refused("creating this/these droplet(s) will exceed your droplet limit")
    _known_keys(world, requested.get("ssh_keys", []))
    volumes = [_free_volume(world, item, region) for item in requested.get("volumes", [])]
    vpc = _vpc(world, requested.get("vpc_uuid"), region)
    tags = list(dict.fromkeys(make_tag(world, tag) for tag in requested.get("tags", [])))
    number = world.number(500_000_000)
    features = [name for name in ("backups", "ipv6", "monitoring") if requested.get(name)]
    droplet: Json = {
        "id": number,
        "name": requested["name"],
        "disk": size["disk"],
        "status": "new",
        "created_at": world.now(),
        "features": [*features, "private_networking"]
        + (["droplet_agent"] if requested.get("with_droplet_agent") else []),
        "image": image,
        "size_slug": size["slug"],
        "region": region,
        "tags": tags,
        "vpc_uuid": vpc,
    }
    world.droplets[number] = droplet
    for volume in volumes:
        volume["droplet_ids"] = [number]
    world.place(f"do:droplet:{number}", world.default_project)
    disks = {volume["name"]: volume["id"] for volume in volumes}
    user_data = requested.get("user_data", "")
    action = world.begin(
        "create",
        ("droplet", number),
        region,
        lambda: droplet.update(status="active"),
        lambda: world.machines.boot(number, user_data, disks),
        droplet_id=number,
    )
    link = {"id": action.id, "rel": "create", "href": f"https://api.digitalocean.com/v2/actions/{action.id}"}
    return Answer(202, {"droplet": shown(world, droplet), "links": {"actions": [link]}})


def _known_keys(world: World, keys: list[Any]) -> None:
    # An id is a number; a fingerprint is the MD5 of the key. SHA256:…, as ssh-keygen prints it, is no identifier here
    # (digitalocean/openapi, droplet_create.yml and ssh_key_fingerprint.yml).
    known = {key for item in world.keys.values() for key in (item["id"], item["fingerprint"])}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise refused(f"{', '.join(map(str, unknown))} are invalid key identifiers for Droplet creation.")


def _free_volume(world: World, item: Any, region: str) -> Json:
    # The specification has ids; the official Go client sends objects with an id.
    number = read_fields(item, {"id": str, "name": str}, where="volumes.").get("id") if isinstance(item, dict) else item
    volume = world.volumes.get(str(number))
    if volume is None:
        raise refused("Volume not found")
    if volume["droplet_ids"]:
        raise refused(f"volume {volume['id']} is already attached to another Droplet")
    if volume["region"] != region:
        raise refused("Volume and Droplet must be in the same region")
    return volume


def _vpc(world: World, requested: str | None, region: str) -> str:
    if requested is None:
        return default_vpc(world, region)
    if world.vpcs.get(requested, {}).get("region") != region:
        raise refused("Failed to resolve VPC")
    return requested


def _delete(call: Call) -> Answer:
    world, droplet = call.world, find(call.world, call.number("id"))
    number: int = droplet["id"]
    if world.busy(number):
        raise pending()

    def gone() -> None:
        world.droplets.pop(number)
        world.give_up(number)
        for volume in world.volumes.values():
            volume["droplet_ids"] = [item for item in volume["droplet_ids"] if item != number]
        for address in world.reserved_ips.values():
            if address["droplet_id"] == number:
                address["droplet_id"] = None
        for firewall in world.firewalls.values():
            firewall["droplet_ids"] = [item for item in firewall["droplet_ids"] if item != number]
        world.place(f"do:droplet:{number}", None)

    where = ("droplet", number)
    world.begin("destroy", where, droplet["region"], gone, lambda: world.machines.destroy(number), droplet_id=number)
    return Answer(204)


def _list(call: Call) -> Answer:
    name, tag = call.query.get("name"), call.query.get("tag_name")
    found = [
        shown(call.world, item)
        for item in call.world.droplets.values()
        if name in (None, item["name"]) and (tag is None or tag in item["tags"])
    ]
    return listed(call, "droplets", found)


def _get(call: Call) -> Answer:
    return Answer(200, {"droplet": shown(call.world, find(call.world, call.number("id")))})


def _actions(call: Call) -> Answer:
    droplet = find(call.world, call.number("id"))
    found = [action_body(item) for item in call.world.actions.values() if item.droplet_id == droplet["id"]]
    return listed(call, "actions", found[::-1])


def _action(call: Call) -> Answer:
    find(call.world, call.number("id"))
    action = call.world.actions.get(call.number("action"))
    if action is None or action.droplet_id != call.number("id"):
        raise not_found()
    return Answer(200, {"action": action_body(action)})


def _act(call: Call) -> Answer:
    world, droplet = call.world, find(call.world, call.number("id"))
    number: int = droplet["id"]
    requested = call.fields({"type": str, "size": str, "disk": bool, "name": str}, required=("type",))
    kind: str = requested["type"]
    if world.busy(number):
        raise pending()

    def turn(status: str) -> None:
        droplet["status"] = status

    def resize() -> None:
        droplet["size_slug"] = requested["size"]
        droplet["disk"] = catalog.size(requested["size"])["disk"] if requested.get("disk") else droplet["disk"]

    machines = world.machines
    here = ("droplet", number)
    if kind in ("shutdown", "power_off"):
        if kind == "power_off" and droplet["status"] == "off":
            raise refused("Droplet is already powered off.")
        stop = kind == "shutdown"
        return acted(
            world.begin(
                kind,
                here,
                droplet["region"],
                lambda: turn("off"),
                lambda: machines.stop(number, stop),
                droplet_id=number,
            )
        )
    if kind == "power_on":
        if droplet["status"] == "active":
            raise refused("Droplet is already powered on.")
        return acted(
            world.begin(
                kind, here, droplet["region"], lambda: turn("active"), lambda: machines.start(number), droplet_id=number
            )
        )
    if kind in ("reboot", "power_cycle"):

        def again() -> None:
            machines.stop(number, kind == "reboot")
            machines.start(number)

        return acted(world.begin(kind, here, droplet["region"], lambda: turn("active"), again, droplet_id=number))
    if kind == "resize":
        size = catalog.size(requested.get("size", ""))
        if droplet["status"] != "off":
            raise refused("Droplet must be powered off before resizing.")
        if size["disk"] < droplet["disk"]:
            # Also if the disk is not resized; reported in hashicorp/terraform#7094.
            raise refused("Size can not decrease size of Droplet's disk image")
        return acted(world.begin(kind, here, droplet["region"], resize, droplet_id=number))
    if kind == "rename":
        droplet["name"] = requested.get("name", droplet["name"])
        return acted(world.begin(kind, here, droplet["region"], lambda: None, droplet_id=number))
    raise unknown_route("POST", f"/v2/droplets/ID/actions of type {kind}")


def _any_action(call: Call) -> Answer:
    action = call.world.actions.get(call.number("action"))
    if action is None:
        raise not_found()
    return Answer(200, {"action": action_body(action)})


def _firewalls(call: Call) -> Answer:
    """All firewalls that apply to a droplet, by its id or by a tag."""
    droplet = find(call.world, call.number("id"))
    return listed(call, "firewalls", [item for item in call.world.firewalls.values() if covers(item, droplet)])


ROUTES = (
    Route("GET", "/v2/droplets/{id}/firewalls", _firewalls, PAGING),
    Route("GET", "/v2/droplets", _list, PAGING | {"name", "tag_name", "type"}),
    Route("POST", "/v2/droplets", _create),
    Route("GET", "/v2/droplets/{id}", _get),
    Route("DELETE", "/v2/droplets/{id}", _delete),
    Route("GET", "/v2/droplets/{id}/actions", _actions, PAGING),
    Route("POST", "/v2/droplets/{id}/actions", _act),
    Route("GET", "/v2/droplets/{id}/actions/{action}", _action),
    Route("GET", "/v2/actions/{action}", _any_action),
)
