"""Cloud firewalls and VPCs. A firewall is kept and shown; this e2e environment filters no packets by it."""

import ipaddress
import re
from dataclasses import replace
from typing import Any

from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.account import find_tag
from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, listed, read_fields
from tests.e2e.digitalocean.errors import ApiError, conflict, not_found, refused
from tests.e2e.digitalocean.world import Json, World

_FIREWALL: Fields = {"name": str, "inbound_rules": list, "outbound_rules": list, "droplet_ids": list, "tags": list}
_RULE: Fields = {"protocol": str, "ports": str}
_PEERS: Fields = {
    "addresses": list,
    "tags": list,
    "droplet_ids": list,
    "load_balancer_uids": list,
    "kubernetes_ids": list,
}
_VPC: Fields = {"name": str, "region": str, "description": str, "ip_range": str}


def _rules(rules: list[Any], side: str, world: World) -> list[Json]:
    return [_rule(item, side, world) for item in rules]


def _rule(rule: Any, side: str, world: World) -> Json:
    requested = read_fields(rule, {**_RULE, side: dict}, ("protocol", side), where="rule.")
    protocol, ports = requested["protocol"], requested.get("ports", "")
    if protocol not in ("tcp", "udp", "icmp"):
        raise refused("invalid protocol: one of tcp, udp, icmp")
    if protocol == "icmp":
        # "If protocol is icmp the API returns 0": flattenFirewallInboundRules in terraform-provider-digitalocean.
        ports = "0"
    elif ports in ("all", "0"):
        ports = "0"
    else:
        found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", ports)
        if not found or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
            raise refused(f"invalid ports: {ports!r}")
    peers = read_fields(requested[side], _PEERS, where=f"rule.{side}.")
    for address in peers.get("addresses", []):
        try:
            ipaddress.ip_network(address)
        except ValueError:
            raise refused(f"invalid address: {address!r}") from None
    for tag in peers.get("tags", []):
        if find_tag(world, tag) is None:
            raise refused(f"tag {tag} does not exist")
    if not any(peers.values()):
        raise refused(f"a rule has to name at least one of its {side}")
    return {"protocol": protocol, "ports": ports, side: {name: value for name, value in peers.items() if value}}


def _firewall(call: Call, old: Json | None) -> Json:
    world = call.world
    requested = call.fields(_FIREWALL, required=("name",))
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9.-]+", requested["name"]):
        raise refused("invalid firewall name")
    if any(item["name"] == requested["name"] and item is not old for item in world.firewalls.values()):
        raise conflict("duplicate name")
    if not requested.get("inbound_rules") and not requested.get("outbound_rules"):
        raise refused("must have at least one rule")
    # Limits: docs.digitalocean.com/products/networking/firewalls/details/limits.
    if len(requested.get("droplet_ids", [])) > 10 or len(requested.get("tags", [])) > 5:
        raise refused("a firewall has 10 Droplets and 5 tags at most")
    if len(requested.get("inbound_rules", [])) + len(requested.get("outbound_rules", [])) > 50:
        raise refused("a firewall has 50 rules at most")
    for tag in requested.get("tags", []):
        # A droplet's tags are created implicitly; a firewall's must exist
        # (shared/attributes/existing_tags_array.yml).
        if find_tag(world, tag) is None:
            raise refused(f"tag {tag} does not exist")
    for number in requested.get("droplet_ids", []):
        if number not in world.droplets:
            raise refused(f"Droplet {number} does not exist")
    return {
        "name": requested["name"],
        "inbound_rules": _rules(requested.get("inbound_rules", []), "sources", world),
        "outbound_rules": _rules(requested.get("outbound_rules", []), "destinations", world),
        "droplet_ids": list(requested.get("droplet_ids", [])),
        "tags": [tag["name"] for name in requested.get("tags", []) if (tag := find_tag(world, name))],
    }


def covers(firewall: Json, droplet: Json) -> bool:
    """Whether it applies to the droplet; one without droplets and tags applies to nothing."""
    return droplet["id"] in firewall["droplet_ids"] or bool(set(firewall["tags"]) & set(droplet["tags"]))


def _find_firewall(call: Call) -> Json:
    if call.path["id"] not in call.world.firewalls:
        raise not_found()
    return call.world.firewalls[call.path["id"]]


def _applied(world: World, firewall: Json) -> Answer:
    """The response to a change, which takes time if the firewall covers droplets: until then it is `waiting`
    (digitalocean/openapi, firewalls/models/firewall.yml)."""
    covered = [number for number, droplet in world.droplets.items() if covers(firewall, droplet)]
    if covered:
        changes = [{"droplet_id": number, "removing": False, "status": "waiting"} for number in covered]
        firewall.update(status="waiting", pending_changes=changes)
        done = {"status": "succeeded", "pending_changes": []}
        world.begin("apply_firewall", ("firewall", None), "", lambda: firewall.update(done))
    return Answer(200, {"firewall": dict(firewall)})


def _create_firewall(call: Call) -> Answer:
    made = _firewall(call, None)
    identity = call.world.new_uuid()
    about = {"id": identity, "status": "succeeded", "created_at": call.world.now(), "pending_changes": []}
    call.world.firewalls[identity] = {**about, **made}
    return replace(_applied(call.world, call.world.firewalls[identity]), status=202)


def _update_firewall(call: Call) -> Answer:
    firewall = _find_firewall(call)
    firewall.update(_firewall(call, firewall))
    return _applied(call.world, firewall)


def _get_firewall(call: Call) -> Answer:
    return Answer(200, {"firewall": _find_firewall(call)})


def _list_firewalls(call: Call) -> Answer:
    return listed(call, "firewalls", list(call.world.firewalls.values()))


def _delete_firewall(call: Call) -> Answer:
    del call.world.firewalls[_find_firewall(call)["id"]]
    return Answer(204)


def default_vpc(world: World, region: str) -> str:
    """The id of the region's default VPC, which is created with the region's first droplet."""
    for identity, vpc in world.vpcs.items():
        if vpc["region"] == region and vpc["default"]:
            return identity
    made = _add_vpc(world, {"name": f"default-{region}", "ip_range": "10.135.0.0/16"}, region, default=True)
    return str(made["id"])


def _add_vpc(world: World, requested: Json, region: str, default: bool) -> Json:
    identity = world.new_uuid()
    world.vpcs[identity] = {
        "id": identity,
        "urn": f"do:vpc:{identity}",
        "name": requested["name"],
        "description": requested.get("description", ""),
        "region": region,
        "ip_range": requested["ip_range"],
        "default": default,
        "created_at": world.now(),
    }
    return world.vpcs[identity]


def _create_vpc(call: Call) -> Answer:
    world = call.world
    requested = call.fields(_VPC, required=("name", "region"))
    if len(requested.get("description", "")) > 255:
        raise refused("description is too long")
    region = catalog.region(requested["region"])["slug"]
    if not re.fullmatch(r"[a-zA-Z0-9.-]+", requested["name"]):
        raise refused("name may only contain alphanumeric characters, dashes, and periods")
    if any(item["name"] == requested["name"] for item in world.vpcs.values()):
        raise refused("a VPC with this name already exists in your account")
    taken = [ipaddress.ip_network(item["ip_range"]) for item in world.vpcs.values()]
    if "ip_range" not in requested:
        free = (item for item in ipaddress.ip_network("10.0.0.0/8").subnets(new_prefix=20))
        requested["ip_range"] = str(next(item for item in free if not any(item.overlaps(other) for other in taken)))
    try:
        network = ipaddress.IPv4Network(requested["ip_range"])
    except ValueError:
        raise refused("ip_range is not a network") from None
    if not network.is_private or not 16 <= network.prefixlen <= 28:
        raise refused("ip_range has to be private, between /16 and /28")
    if any(network.overlaps(other) for other in taken):
        raise refused("This range/size overlaps with another VPC network in your account")
    return Answer(201, {"vpc": _add_vpc(world, requested, region, default=False)})


def _find_vpc(call: Call) -> Json:
    if call.path["id"] not in call.world.vpcs:
        raise not_found()
    return call.world.vpcs[call.path["id"]]


def _get_vpc(call: Call) -> Answer:
    return Answer(200, {"vpc": _find_vpc(call)})


def _list_vpcs(call: Call) -> Answer:
    return listed(call, "vpcs", list(call.world.vpcs.values()))


def _update_vpc(call: Call) -> Answer:
    vpc = _find_vpc(call)
    requested = call.fields({"name": str, "description": str, "default": bool}, required=("name",))
    vpc.update(requested)
    return Answer(200, {"vpc": vpc})


def _delete_vpc(call: Call) -> Answer:
    vpc = _find_vpc(call)
    if vpc["default"]:
        raise ApiError(403, "forbidden", "Can not delete the default VPC for a region")
    if any(item["vpc_uuid"] == vpc["id"] for item in call.world.droplets.values()):
        raise ApiError(403, "forbidden", "Can not delete VPC with members")
    del call.world.vpcs[vpc["id"]]
    return Answer(204)


ROUTES = (
    Route("GET", "/v2/firewalls", _list_firewalls, PAGING),
    Route("POST", "/v2/firewalls", _create_firewall),
    Route("GET", "/v2/firewalls/{id}", _get_firewall),
    Route("PUT", "/v2/firewalls/{id}", _update_firewall),
    Route("DELETE", "/v2/firewalls/{id}", _delete_firewall),
    Route("GET", "/v2/vpcs", _list_vpcs, PAGING),
    Route("POST", "/v2/vpcs", _create_vpc),
    Route("GET", "/v2/vpcs/{id}", _get_vpc),
    Route("PUT", "/v2/vpcs/{id}", _update_vpc),
    Route("DELETE", "/v2/vpcs/{id}", _delete_vpc),
)
