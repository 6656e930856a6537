"""Projects and their resources.

A droplet has a project of its own; resources attached or assigned to it are in the droplet's, and follow it
(docs.digitalocean.com/glossary/droplet-based-resource). A project shows a reserved IP as `do:floatingip:…`, though it
accepts `do:reservedip:…` as well, and refuses to move one that leads to a droplet: both as reported in
digitalocean/terraform-provider-digitalocean#1264 and #1031.
"""

import re

from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, listed
from tests.e2e.digitalocean.errors import ApiError, not_found, refused, unknown_route
from tests.e2e.digitalocean.world import Json, World

_PROJECT: Fields = {"name": str, "description": str, "purpose": str, "environment": str, "is_default": bool}
_URN = re.compile(r"do:(droplet|volume|domain|floatingip|reservedip):([^:]+)")
"""Those kinds of digitalocean/openapi, shared/attributes/urn.yml, that this API has."""


def _project(call: Call) -> Json:
    wanted = call.world.default_project if call.path["id"] == "default" else call.path["id"]
    if wanted not in call.world.projects:
        raise not_found()
    return call.world.projects[wanted]


def _shown_project(project: Json) -> Json:
    return {name: value for name, value in project.items() if name != "resources"}


_PURPOSES = (
    "Just trying out DigitalOcean",
    "Class project / Educational purposes",
    "Website or blog",
    "Web Application",
    "Service or API",
    "Mobile Application",
    "Machine learning / AI / Data processing",
    "IoT",
    "Operational / Developer tooling",
)


def _project_fields(call: Call, old: Json | None, required: tuple[str, ...]) -> Json:
    requested = call.fields(_PROJECT, required)
    for name, longest in (("name", 175), ("purpose", 255), ("description", 255)):
        if len(requested.get(name, "")) > longest:
            raise refused(f"{name} is too long")
    if requested.get("environment") not in (None, "", "Development", "Staging", "Production"):
        raise refused("environment has to be Development, Staging or Production")
    if any(item["name"] == requested.get("name") and item is not old for item in call.world.projects.values()):
        raise ApiError(409, "conflict", "name is already in use")
    purpose = requested.get("purpose")
    if purpose and purpose not in _PURPOSES and not purpose.startswith("Other: "):
        requested["purpose"] = f"Other: {purpose}"
    return requested


def _create_project(call: Call) -> Answer:
    world = call.world
    requested = _project_fields(call, None, ("name", "purpose"))
    identity = world.new_uuid()
    about = {"owner_uuid": world.account_uuid, "owner_id": 258992, "created_at": world.now(), "updated_at": world.now()}
    defaults = {"description": "", "environment": "", "is_default": False}
    world.projects[identity] = {"id": identity, **about, **defaults, **requested, "resources": []}
    return Answer(201, {"project": _shown_project(world.projects[identity])})


def _update_project(call: Call) -> Answer:
    project = _project(call)
    requested = _project_fields(call, project, ())
    if requested.pop("is_default", project["is_default"]) != project["is_default"]:
        raise unknown_route("PATCH", "/v2/projects/ID with another is_default")
    project.update(requested, updated_at=call.world.now())
    return Answer(200, {"project": _shown_project(project)})


def _get_project(call: Call) -> Answer:
    return Answer(200, {"project": _shown_project(_project(call))})


def _delete_project(call: Call) -> Answer:
    project = _project(call)
    if project["resources"] or project["is_default"]:
        message = "cannot delete a project with resources. move or remove the resources first"
        raise ApiError(412, "precondition_failed", message)
    del call.world.projects[project["id"]]
    return Answer(204)


def _list_projects(call: Call) -> Answer:
    return listed(call, "projects", [_shown_project(item) for item in call.world.projects.values()])


def _spelled(urn: str) -> str:
    """The URN as a project shows it. Raises ApiError for an invalid one."""
    found = _URN.fullmatch(urn) if isinstance(urn, str) else None
    if not found:
        raise refused(f"{urn!r} is no URN of a thing that a project can hold")
    return urn.replace("do:reservedip:", "do:floatingip:")


def _droplet_of(world: World, urn: str) -> int | None:
    """The droplet by which a volume or an address belongs to a project."""
    kind, name = urn.split(":", 2)[1:]
    if kind == "volume":
        return next(iter(world.volumes[name]["droplet_ids"]), None)
    if kind == "floatingip":
        found: int | None = world.reserved_ips[name]["droplet_id"]
        return found
    return None


def _in_project(urn: str, status: str, world: World) -> Json:
    kind, name = urn.split(":", 2)[1:]
    path = {"droplet": "droplets", "volume": "volumes", "floatingip": "floating_ips", "domain": "domains"}[kind]
    self_link = f"https://api.digitalocean.com/v2/{path}/{name}"
    return {"urn": urn, "assigned_at": world.now(), "links": {"self": self_link}, "status": status}


def _project_resources(call: Call) -> Answer:
    return listed(call, "resources", [_in_project(urn, "ok", call.world) for urn in _project(call)["resources"]])


def _assign(call: Call) -> Answer:
    """Each resource has its own status, and an unknown one is `not_found` in a success response: the one 404 here is
    the project's (digitalocean/openapi: projects/models/resource.yml, projects_assign_resources)."""
    world, project = call.world, _project(call)
    urns = [_spelled(urn) for urn in call.fields({"resources": list}, required=("resources",))["resources"]]
    for urn in urns:
        current_project = world.project_of(urn)
        if current_project in (None, project["id"]) or _droplet_of(world, urn) is None:
            continue
        # For an attached volume nothing is published; it is treated like an address, the safe reading.
        kind = "Reserved IP" if ":floatingip:" in urn else "Volume"
        raise ApiError(412, "precondition_failed", f"Cannot move a {kind} with an associated Droplet")
    answers = []
    for urn in urns:
        current_project = world.project_of(urn)
        status = {None: "not_found", project["id"]: "already_assigned"}.get(current_project, "assigned")
        answers.append(_in_project(urn, status, world))
        if status == "assigned":
            world.place(urn, project["id"])
    return Answer(200, {"resources": answers})


ROUTES = (
    Route("GET", "/v2/projects", _list_projects, PAGING),
    Route("POST", "/v2/projects", _create_project),
    Route("GET", "/v2/projects/{id}", _get_project),
    Route("PATCH", "/v2/projects/{id}", _update_project),
    Route("DELETE", "/v2/projects/{id}", _delete_project),
    Route("GET", "/v2/projects/{id}/resources", _project_resources, PAGING),
    Route("POST", "/v2/projects/{id}/resources", _assign),
)
