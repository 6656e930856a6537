"""Block storage volumes and their actions."""

import re

from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.account import make_tag
from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, acted, action_body, listed
from tests.e2e.digitalocean.errors import ApiError, conflict, not_found, pending, refused, unknown_route
from tests.e2e.digitalocean.world import Json, World

_CREATE: Fields = {
    "name": str,
    "region": str,
    "size_gigabytes": int,
    "description": str,
    "snapshot_id": str,
    "filesystem_type": str,
    "filesystem_label": str,
    "tags": list,
}
_ACTION: Fields = {"type": str, "droplet_id": int, "region": str, "size_gigabytes": int, "tags": list}
_LARGEST = 16 * 1024
"""GiB."""
_A_DROPLET = 15
"""Volumes of one droplet (digitalocean/openapi, volumeActions_post.yml)."""
_LABELS = {"ext4": 16, "xfs": 12}
"""File systems, and how long a label may be (digitalocean/openapi, volumes_ext4.yml and volumes_xfs.yml)."""


def shown(volume: Json) -> Json:
    """The volume as the API shows it."""
    return {**volume, "region": catalog.region(volume["region"])}


def find(world: World, identity: str) -> Json:
    """The volume. Raises ApiError if there is none."""
    if identity not in world.volumes:
        raise not_found()
    return world.volumes[identity]


def _acting(world: World, identity: str) -> bool:
    return any(item.volume_id == identity for item in world.running())


def _create(call: Call) -> Answer:
    world = call.world
    requested = call.fields(_CREATE, required=("name", "size_gigabytes", "region"))
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", requested["name"]):
        raise refused("volume name must be lowercase, begin with a letter and have only letters, numbers and '-'")
    if not 1 <= requested["size_gigabytes"] <= _LARGEST:
        raise refused("invalid volume size")
    if requested.get("snapshot_id"):
        raise unknown_route("POST", "/v2/volumes with a snapshot_id")
    system, label = requested.get("filesystem_type") or "", requested.get("filesystem_label") or ""
    if system and system not in _LABELS:
        raise refused("invalid filesystem type: one of ext4, xfs")
    if label and len(label) > _LABELS.get(system, 0):
        raise refused("invalid filesystem label: too long for its filesystem, or without one")
    region = catalog.region(requested["region"])["slug"]
    if any((item["name"], item["region"]) == (requested["name"], region) for item in world.volumes.values()):
        # Seen so in hashicorp/terraform#8023 and ansible/ansible#39655.
        raise conflict("already exists", "already_exists")
    if len(world.volumes) >= world.limits.volumes:
        raise ApiError(403, "forbidden", "failed to create volume: volume/snapshot count limit exceeded")
    tags = list(dict.fromkeys(make_tag(world, tag) for tag in requested.get("tags", [])))
    identity = world.new_uuid()
    world.machines.make_volume(identity, requested["size_gigabytes"])
    world.volumes[identity] = {
        "id": identity,
        "region": region,
        "droplet_ids": [],
        "name": requested["name"],
        "description": requested.get("description", ""),
        "size_gigabytes": requested["size_gigabytes"],
        "created_at": world.now(),
        "filesystem_type": requested.get("filesystem_type", ""),
        "filesystem_label": requested.get("filesystem_label", ""),
        "tags": tags,
    }
    world.place(f"do:volume:{identity}", world.default_project)
    return Answer(201, {"volume": shown(world.volumes[identity])})


def _list(call: Call) -> Answer:
    name, region = call.query.get("name"), call.query.get("region")
    found = [
        shown(item)
        for item in call.world.volumes.values()
        if name in (None, item["name"]) and region in (None, item["region"])
    ]
    return listed(call, "volumes", found)


def _get(call: Call) -> Answer:
    return Answer(200, {"volume": shown(find(call.world, call.path["id"]))})


def _delete(call: Call) -> Answer:
    volume = find(call.world, call.path["id"])
    if volume["droplet_ids"]:
        # Seen so in digitalocean/csi-digitalocean#32.
        raise conflict(
            "A volume that's attached to a Droplet cannot be deleted. Please detach it first before deleting."
        )
    del call.world.volumes[volume["id"]]
    call.world.machines.drop_volume(volume["id"])
    call.world.place(f"do:volume:{volume['id']}", None)
    return Answer(204)


def _act(call: Call) -> Answer:
    world, volume = call.world, find(call.world, call.path["id"])
    requested = call.fields(_ACTION, required=("type",))
    if "region" in requested and requested["region"] != volume["region"]:
        raise refused("region does not match the volume's")
    kind: str = requested["type"]
    number = requested.get("droplet_id", 0)
    here = ("volume", None)
    if kind == "resize":
        if not volume["size_gigabytes"] < requested.get("size_gigabytes", 0) <= _LARGEST:
            raise refused("invalid volume size: volumes can only grow, to 16 TiB at most")

        def grown() -> None:
            volume["size_gigabytes"] = requested["size_gigabytes"]

        def grow() -> None:
            world.machines.grow_volume(volume["id"], requested["size_gigabytes"])

        return acted(world.begin("resize", here, volume["region"], grown, grow, volume_id=volume["id"]))
    if kind == "attach":
        if volume["droplet_ids"]:
            raise refused("Volume is already attached to a Droplet")
        if world.droplets.get(number, {}).get("region") != volume["region"]:
            raise refused("Droplet not found in the volume's region")
        if _acting(world, volume["id"]) or world.busy(number):
            raise pending()
        if sum(number in item["droplet_ids"] for item in world.volumes.values()) >= _A_DROPLET:
            raise refused("Droplet has reached its limit of volumes")

        def added() -> None:
            volume["droplet_ids"] = [number]
            world.follow(number)

        def add() -> None:
            world.machines.attach(number, volume["name"], volume["id"])

        return acted(
            world.begin("attach", here, volume["region"], added, add, volume_id=volume["id"], droplet_id=number)
        )
    if kind == "detach":
        if number not in volume["droplet_ids"]:
            # Seen so in digitalocean/doctl#207.
            raise refused("Attachment not found")
        if world.busy(number):
            raise pending()

        def free() -> None:
            volume["droplet_ids"] = []

        def take() -> None:
            world.machines.detach(number, volume["id"])

        return acted(
            world.begin("detach", here, volume["region"], free, take, volume_id=volume["id"], droplet_id=number)
        )
    raise unknown_route("POST", f"/v2/volumes/ID/actions of type {kind}")


def _actions(call: Call) -> Answer:
    volume = find(call.world, call.path["id"])
    return listed(
        call, "actions", [action_body(item) for item in call.world.actions.values() if item.volume_id == volume["id"]]
    )


def _action(call: Call) -> Answer:
    action = call.world.actions.get(call.number("action"))
    if action is None or action.volume_id != call.path["id"]:
        raise not_found()
    return Answer(200, {"action": action_body(action)})


ROUTES = (
    Route("GET", "/v2/volumes", _list, PAGING | {"name", "region"}),
    Route("POST", "/v2/volumes", _create),
    Route("GET", "/v2/volumes/{id}", _get),
    Route("DELETE", "/v2/volumes/{id}", _delete),
    Route("GET", "/v2/volumes/{id}/actions", _actions, PAGING),
    Route("POST", "/v2/volumes/{id}/actions", _act),
    Route("GET", "/v2/volumes/{id}/actions/{action}", _action),
)
