"""The token scopes of each request (digitalocean/openapi: `security` of each operation)."""

KINDS = {
    "account": "account",
    "account/keys": "ssh_key",
    "actions": "actions",
    "domains": "domain",
    "droplets": "droplet",
    "firewalls": "firewall",
    "monitoring/alerts": "monitoring",
    "projects": "project",
    "reserved_ips": "reserved_ip",
    "sizes": "sizes",
    "spaces/keys": "spaces_key",
    "tags": "tag",
    "uptime/checks": "uptime",
    "volumes": "block_storage",
    "vpcs": "vpc",
}
"""By how the path begins; the longer one wins."""
TAKEOVER = frozenset(
    {
        "block_storage:read",
        "block_storage_action:create",
        "block_storage_action:read",
        "droplet:read",
        "reserved_ip:read",
        "reserved_ip:update",
    }
)
"""Those that the guide names for a takeover's token. At DigitalOcean `droplet:read` brings some reads more
(docs.digitalocean.com/reference/api/scopes)."""
_VERBS = {"GET": "read", "POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_OWN = {
    ("GET", "/v2/droplets/{id}/firewalls"): ("firewall:read",),
    ("POST", "/v2/droplets/{id}/actions"): ("droplet:update",),
    ("POST", "/v2/reserved_ips/{ip}/actions"): ("reserved_ip:update",),
    ("POST", "/v2/projects/{id}/resources"): ("project:assign_resource", "project:update"),
    ("POST", "/v2/spaces/keys"): ("spaces_key:create_credentials",),
    ("POST", "/v2/domains/{domain}/records"): ("domain:create", "domain:update"),
    ("DELETE", "/v2/domains/{domain}/records/{record}"): ("domain:delete", "domain:update"),
}
"""Those that the rule does not give; one of them is enough."""


def scopes(method: str, path: str) -> tuple[str, ...]:
    """The scopes of a route, of which a token needs one."""
    if (method, path) in _OWN:
        return _OWN[method, path]
    begins = max((item for item in KINDS if f"{path}/".startswith(f"/v2/{item}/")), key=len)
    kind = KINDS[begins]
    if path.startswith("/v2/volumes/{id}/actions"):
        kind = "block_storage_action"
    return (f"{kind}:{_VERBS[method]}",)
