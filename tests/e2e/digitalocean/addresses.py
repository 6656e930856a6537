"""Reserved IPs and their assignment."""

from tests.e2e.digitalocean import catalog, droplets
from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Route, acted, action_body, listed
from tests.e2e.digitalocean.errors import not_found, pending, refused
from tests.e2e.digitalocean.world import Action, Json, World


def shown(world: World, address: Json) -> Json:
    """The reserved IP as the API shows it: with its whole droplet, or null."""
    droplet = world.droplets.get(address["droplet_id"] or 0)
    return {
        "ip": address["ip"],
        "region": catalog.region(address["region"]),
        "droplet": droplets.shown(world, droplet) if droplet else None,
        "locked": _busy(world, address["ip"]),
        "project_id": world.project_of(_urn(address)),
    }


def _urn(address: Json) -> str:
    """As a project shows it; see `projects`."""
    return f"do:floatingip:{address['ip']}"


def _busy(world: World, ip: str) -> bool:
    return any(item.address == ip for item in world.running())


def _find(call: Call) -> Json:
    if call.path["ip"] not in call.world.reserved_ips:
        raise not_found()
    return call.world.reserved_ips[call.path["ip"]]


def _create(call: Call) -> Answer:
    world = call.world
    requested = call.fields({"region": str, "project_id": str, "droplet_id": int})
    if ("droplet_id" in requested) == ("region" in requested):
        raise refused("either a region or a droplet_id is needed")
    droplet = droplets.find(world, requested["droplet_id"]) if "droplet_id" in requested else None
    if droplet and world.busy(droplet["id"]):
        raise pending()
    if droplet and any(item["droplet_id"] == droplet["id"] for item in world.reserved_ips.values()):
        raise refused("The Droplet already has a reserved IP.")
    region = droplet["region"] if droplet else catalog.region(requested["region"])["slug"]
    if len(world.reserved_ips) >= world.limits.reserved_ips:
        raise refused("reserved IP limit reached: you have used all of your account's reserved IPs")
    project = world.projects.get(requested.get("project_id", world.default_project))
    if project is None:
        raise refused("project not found")
    ip = world.new_address()
    world.reserved_ips[ip] = {"ip": ip, "region": region, "droplet_id": None}
    world.place(f"do:floatingip:{ip}", project["id"])
    if droplet is None:
        return Answer(202, {"reserved_ip": shown(world, world.reserved_ips[ip]), "links": {}})
    # Until the action is over it is shown without its droplet (reserved_ips/responses/examples.yml).
    action = _assign(world, world.reserved_ips[ip], droplet["id"])
    base = "https://api.digitalocean.com/v2"
    links = {
        "droplets": [{"id": droplet["id"], "rel": "droplet", "href": f"{base}/droplets/{droplet['id']}"}],
        "actions": [{"id": action.id, "rel": "assign_ip", "href": f"{base}/actions/{action.id}"}],
    }
    return Answer(202, {"reserved_ip": shown(world, world.reserved_ips[ip]), "links": links})


def _assign(world: World, address: Json, number: int) -> Action:
    """Begin the action that assigns the address to this droplet."""
    ip, before = address["ip"], address["droplet_id"]

    def moved() -> None:
        address["droplet_id"] = number
        world.follow(number)

    def move() -> None:
        if before and before != number:
            world.machines.assign(before, None)
        world.machines.assign(number, ip)

    here = ("reserved_ip", _as_number(ip))
    return world.begin("assign_ip", here, address["region"], moved, move, address=ip, droplet_id=number)


def _as_number(ip: str) -> int:
    """The API shows an address as one number in an action."""
    return int.from_bytes(bytes(map(int, ip.split("."))), "big")


def _list(call: Call) -> Answer:
    return listed(call, "reserved_ips", [shown(call.world, item) for item in call.world.reserved_ips.values()])


def _get(call: Call) -> Answer:
    return Answer(200, {"reserved_ip": shown(call.world, _find(call))})


def _delete(call: Call) -> Answer:
    address = _find(call)
    if _busy(call.world, address["ip"]):
        raise refused("The reserved IP already has a pending event.")
    if address["droplet_id"]:
        raise refused("The reserved IP is assigned to a Droplet; unassign it first.")
    del call.world.reserved_ips[address["ip"]]
    call.world.place(_urn(address), None)
    return Answer(204)


def _act(call: Call) -> Answer:
    world, address = call.world, _find(call)
    requested = call.fields({"type": str, "droplet_id": int}, required=("type",))
    ip: str = address["ip"]
    if _busy(world, ip):
        raise refused("The reserved IP already has a pending event.")
    here = ("reserved_ip", _as_number(ip))
    before: int | None = address["droplet_id"]
    if requested["type"] == "assign":
        if "droplet_id" not in requested:
            raise refused("droplet_id is missing")
        droplet = world.droplets.get(requested["droplet_id"])
        if droplet is None:
            raise not_found()
        if droplet["region"] != address["region"]:
            raise refused("The Droplet and the reserved IP are in different regions.")
        number: int = droplet["id"]
        if world.busy(number):
            raise pending()
        if any(item["droplet_id"] == number and item["ip"] != ip for item in world.reserved_ips.values()):
            raise refused("The Droplet already has a reserved IP.")
        return acted(_assign(world, address, number))
    if requested["type"] == "unassign":
        if not before:
            raise refused("The reserved IP is not assigned to a Droplet.")

        def freed() -> None:
            address["droplet_id"] = None

        return acted(
            world.begin(
                "unassign_ip",
                here,
                address["region"],
                freed,
                lambda: world.machines.assign(before, None),
                address=ip,
                droplet_id=before,
            )
        )
    raise refused("type has to be 'assign' or 'unassign'")


def _actions(call: Call) -> Answer:
    address = _find(call)
    found = [action_body(item) for item in call.world.actions.values() if item.address == address["ip"]]
    return listed(call, "actions", found)


def _action(call: Call) -> Answer:
    action = call.world.actions.get(call.number("action"))
    if action is None or action.address != _find(call)["ip"]:
        raise not_found()
    return Answer(200, {"action": action_body(action)})


ROUTES = (
    Route("GET", "/v2/reserved_ips", _list, PAGING),
    Route("POST", "/v2/reserved_ips", _create),
    Route("GET", "/v2/reserved_ips/{ip}", _get),
    Route("DELETE", "/v2/reserved_ips/{ip}", _delete),
    Route("GET", "/v2/reserved_ips/{ip}/actions", _actions, PAGING),
    Route("POST", "/v2/reserved_ips/{ip}/actions", _act),
    Route("GET", "/v2/reserved_ips/{ip}/actions/{action}", _action),
)
