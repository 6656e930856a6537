"""Domains and their records. They do not answer DNS queries: this is only the API's side."""

import ipaddress
import re

from tests.e2e.digitalocean.calls import PAGING, Answer, Call, Fields, Route, listed
from tests.e2e.digitalocean.errors import not_found, refused
from tests.e2e.digitalocean.world import Json, World

_RECORD: Fields = {
    "type": str,
    "name": str,
    "data": str,
    "priority": int,
    "port": int,
    "ttl": int,
    "weight": int,
    "flags": int,
    "tag": str,
}
_TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT")
_POINTS_AT_A_NAME = ("CAA", "CNAME", "MX", "NS", "SRV")
_LEAST_TTL = 30
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?"
_NAME = re.compile(rf"@|\*|(\*\.)?{_LABEL}(\.{_LABEL})*")


def add_domain(world: World, name: str) -> Json:
    """A zone with its SOA record and DigitalOcean's name servers in it. Raises ApiError."""
    if not re.fullmatch(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]+", name):
        raise refused("Domain name is invalid")
    if name in world.domains:
        raise refused("Name already exists")
    world.domains[name] = {"name": name, "ttl": 1800}
    world.records[name] = {}
    # A zone lists its SOA record, which is the service's own (DNSControl/dnscontrol#485).
    _add(world, name, {"type": "SOA", "name": "@", "data": "1800", "ttl": 1800})
    for server in ("ns1", "ns2", "ns3"):
        _add(world, name, {"type": "NS", "name": "@", "data": f"{server}.digitalocean.com", "ttl": 1800})
    world.place(f"do:domain:{name}", world.default_project)
    return world.domains[name]


def _shown(world: World, domain: Json, fresh: bool = False) -> Json:
    name = domain["name"]
    lines = [f"$ORIGIN {name}.", "$TTL 1800"]
    for item in world.records[name].values():
        owner = f"{name}." if item["name"] == "@" else f"{item['name']}.{name}."
        lines.append(f"{owner} IN {item['type']} {item['data']}")
    # A new zone has no zone file yet (digitalocean/openapi, create_domain_response.yml).
    return {**domain, "ttl": None if fresh else domain["ttl"], "zone_file": None if fresh else "\n".join(lines) + "\n"}


def _find(call: Call) -> Json:
    if call.path["domain"] not in call.world.domains:
        raise not_found()
    return call.world.domains[call.path["domain"]]


def _record(call: Call) -> Json:
    records = call.world.records[_find(call)["name"]]
    if call.number("record") not in records:
        raise not_found()
    return records[call.number("record")]


def _add(world: World, domain: str, requested: Json) -> Json:
    number = world.number(1_700_000_000)
    record: Json = {name: requested.get(name) for name in ("type", "name", "data", "priority", "port", "ttl")}
    record |= {"weight": requested.get("weight"), "flags": requested.get("flags"), "tag": requested.get("tag") or None}
    world.records[domain][number] = {"id": number, **_normal(record)}
    return world.records[domain][number]


def _normal(record: Json) -> Json:
    """Fields that a type does not use are null (digitalocean/openapi, all_domain_records_response.yml)."""
    kind = record["type"]
    if kind not in ("SRV",):
        record |= {"port": None, "weight": None}
    if kind not in ("SRV", "MX"):
        record["priority"] = None
    if kind != "CAA":
        record |= {"flags": None, "tag": None}
    return record


def _checked(call: Call, old: Json | None) -> Json:
    domain = _find(call)["name"]
    given = call.fields(_RECORD, required=() if old else ("type", "name", "data"))
    requested = {**(old or {}), **given}
    requested.setdefault("ttl", 1800)
    if requested["type"] not in _TYPES:
        raise refused("Record type is invalid")
    if requested["ttl"] < _LEAST_TTL:
        # Seen so in Pelado-Nerdworks/peladonerd#44.
        raise refused("record ttl must be greater than 30")
    if not _NAME.fullmatch(requested["name"]):
        raise refused("Name is invalid")
    if requested["type"] in ("A", "AAAA"):
        try:
            (ipaddress.IPv4Address if requested["type"] == "A" else ipaddress.IPv6Address)(requested["data"])
        except ValueError:
            raise refused("IP address did not match IPv4 or IPv6 format") from None
    # An iodef is a mail address or a URL; the provider puts no dot on it either (resource_record.go).
    name = requested["type"] in _POINTS_AT_A_NAME and requested.get("tag") != "iodef"
    if name and "data" in given and requested["data"] != "@":
        if not requested["data"].endswith("."):
            raise refused("Data needs to end with a dot (.)")
        requested["data"] = requested["data"].removesuffix(".")
    if requested["type"] == "CAA" and (
        requested.get("tag") not in ("issue", "issuewild", "iodef") or "flags" not in requested
    ):
        raise refused("CAA records need flags and a tag of issue, issuewild or iodef")
    for kind, field in (("MX", "priority"), ("SRV", "priority"), ("SRV", "port"), ("SRV", "weight")):
        if requested["type"] == kind and requested.get(field) is None:
            raise refused(f"{kind} records need a {field}")
    same = [
        item for item in call.world.records[domain].values() if item["name"] == requested["name"] and item is not old
    ]
    if any("CNAME" in (item["type"], requested["type"]) for item in same):
        raise refused("CNAME records cannot share a name with other records")
    # DNS requires one TTL for all records of a name; the API changes the others (provider's resource_record.go).
    for item in same:
        if item["type"] == requested["type"]:
            item["ttl"] = requested["ttl"]
    return requested


def _create_domain(call: Call) -> Answer:
    requested = call.fields({"name": str, "ip_address": str}, required=("name",))
    domain = add_domain(call.world, requested["name"])
    if requested.get("ip_address"):
        _add(call.world, requested["name"], {"type": "A", "name": "@", "data": requested["ip_address"], "ttl": 1800})
    return Answer(201, {"domain": _shown(call.world, domain, fresh=True)})


def _list_domains(call: Call) -> Answer:
    return listed(call, "domains", [_shown(call.world, item) for item in call.world.domains.values()])


def _delete_domain(call: Call) -> Answer:
    name = _find(call)["name"]
    del call.world.domains[name], call.world.records[name]
    call.world.place(f"do:domain:{name}", None)
    return Answer(204)


def _list_records(call: Call) -> Answer:
    domain = _find(call)["name"]
    kind, full = call.query.get("type"), call.query.get("name")
    found = [
        item
        for item in call.world.records[domain].values()
        if kind in (None, item["type"])
        and full in (None, domain if item["name"] == "@" else f"{item['name']}.{domain}")
    ]
    return listed(call, "domain_records", found)


def _create_record(call: Call) -> Answer:
    return Answer(201, {"domain_record": _add(call.world, _find(call)["name"], _checked(call, None))})


def _update_record(call: Call) -> Answer:
    record = _record(call)
    record.update(_normal(_checked(call, record)))
    return Answer(200, {"domain_record": record})


def _delete_record(call: Call) -> Answer:
    del call.world.records[_find(call)["name"]][_record(call)["id"]]
    return Answer(204)


ROUTES = (
    Route("GET", "/v2/domains", _list_domains, PAGING),
    Route("POST", "/v2/domains", _create_domain),
    Route("GET", "/v2/domains/{domain}", lambda call: Answer(200, {"domain": _shown(call.world, _find(call))})),
    Route("DELETE", "/v2/domains/{domain}", _delete_domain),
    Route("GET", "/v2/domains/{domain}/records", _list_records, PAGING | {"type", "name"}),
    Route("POST", "/v2/domains/{domain}/records", _create_record),
    Route("GET", "/v2/domains/{domain}/records/{record}", lambda call: Answer(200, {"domain_record": _record(call)})),
    Route("PUT", "/v2/domains/{domain}/records/{record}", _update_record),
    Route("PATCH", "/v2/domains/{domain}/records/{record}", _update_record),
    Route("DELETE", "/v2/domains/{domain}/records/{record}", _delete_record),
)
