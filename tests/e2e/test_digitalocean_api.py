"""The e2e environment's DigitalOcean API: forms, limits, and refusals. No engine, loopback only."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.digitalocean.errors import ApiError
from tests.e2e.digitalocean.limits import BURST, HOURLY, RateLimit
from tests.e2e.digitalocean.server import ROUTES
from tests.e2e.environment.api_client import DROPLET, FIREWALL, KEY, TOKEN, VOLUME, Client, Json, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path) as made:
        yield made


def test_requires_a_token(client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}):
        answer = httpx.get(f"{client.api.url}/v2/account", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["id"]) == (401, "unauthorized")
    assert client.ask("GET", "/account")["account"]["reserved_ip_limit"] == 3


def test_token_with_scopes_allows_only_those(client: Client) -> None:
    client.api.world.scopes = frozenset({"tag:read", "tag:create"})
    client.ask("POST", "/tags", {"name": "a"}, 201)
    client.ask("GET", "/tags/a")
    for method, path in (("DELETE", "/tags/a"), ("GET", "/account"), ("GET", "/account/keys"), ("POST", "/droplets")):
        assert "not authorized" in client.refused(method, path, {}, 403)


def test_every_response_has_the_rate_limit_and_what_remains_of_it(client: Client) -> None:
    seen = [client.http.get("/account").headers for _ in range(2)]
    assert {headers["ratelimit-limit"] for headers in seen} == {"5000"}
    assert [int(headers["ratelimit-remaining"]) for headers in seen] == [4999, 4998]


@pytest.mark.parametrize(("limit", "window"), [(BURST, 60), (HOURLY, 3600)])
def test_one_request_too_many_is_refused_until_the_oldest_one_expires(limit: int, window: int) -> None:
    limited = RateLimit()
    for number in range(limit):
        limited.count(number * window / limit)
    with pytest.raises(ApiError) as refused:
        limited.count(window - 0.01)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    limited.count(2 * window + 1)


def test_request_past_the_limit_changes_nothing(client: Client) -> None:
    for _ in range(BURST):
        client.api.rate_limit.count(time.monotonic())
    answer = client.http.post("/tags", json={"name": "a"})
    assert (answer.status_code, answer.json()["id"]) == (429, "too_many_requests")
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert client.api.dump()["tags"] == {}


def test_unknown_request_is_an_error(client: Client) -> None:
    assert "does not know GET /v2/apps" in client.refused("GET", "/apps", status=501)
    assert "does not know PUT" in client.refused("PUT", "/volumes", {}, status=501)
    assert "colour" in client.refused("POST", "/tags", {"name": "a", "colour": "red"})
    assert "colour" in client.refused("GET", "/droplets?colour=red")
    assert "snapshot" in client.refused(
        "POST", f"/droplets/{client.droplet()['id']}/actions", {"type": "snapshot"}, 501
    )


@pytest.mark.parametrize(
    "path", [route.path for route in ROUTES if route.method == "GET" and "{" in route.path], ids=str
)
def test_missing_resource_is_404(client: Client, path: str) -> None:
    for name in ("id", "ip", "key", "name", "domain", "record", "action", "alert"):
        path = path.replace(f"{{{name}}}", "4711")
    assert client.refused("GET", path.removeprefix("/v2"), status=404)


def test_refuses_a_field_of_the_wrong_type(client: Client) -> None:
    assert "size_gigabytes" in client.refused("POST", "/volumes", {**VOLUME, "size_gigabytes": "25"})
    assert "monitoring" in client.refused("POST", "/droplets", {**DROPLET, "monitoring": "yes"})
    assert "droplet_id" in client.refused("POST", "/reserved_ips", {"droplet_id": True})
    assert "no JSON object" in client.refused("POST", "/tags", ["a"])


def test_droplet_boots_with_its_user_data_and_volume(client: Client) -> None:
    volume = client.volume()
    droplet = client.droplet(volumes=[{"id": volume["id"]}])
    assert ("boot", "#cloud-config\n", {"pds-test": volume["id"]}) in client.machines.calls
    assert droplet["status"] == "active"
    assert not droplet["locked"]
    # The provider replaces a droplet whose response lacks a requested feature.
    assert "monitoring" in droplet["features"]
    assert "droplet_agent" not in droplet["features"]
    assert {item["type"] for item in droplet["networks"]["v4"]} == {"public", "private"}
    assert droplet["volume_ids"] == [volume["id"]]
    assert client.ask("GET", f"/volumes/{volume['id']}")["volume"]["droplet_ids"] == [droplet["id"]]
    assert [item["type"] for item in client.ask("GET", f"/droplets/{droplet['id']}/actions")["actions"]] == ["create"]
    assert client.ask("GET", "/tags/pds-test")["tag"]["resources"]["droplets"]["count"] == 1


def test_droplet_runs_one_action_at_a_time(client: Client) -> None:
    number = client.droplet()["id"]
    action = client.ask("POST", f"/droplets/{number}/actions", {"type": "shutdown"}, 201)["action"]
    assert action["status"] == "in-progress"
    assert client.ask("GET", f"/droplets/{number}")["droplet"]["locked"]
    assert client.refused("DELETE", f"/droplets/{number}") == "Droplet already has a pending event."
    client.finished(action)
    assert client.ask("GET", f"/droplets/{number}")["droplet"]["status"] == "off"
    assert ("stop", True) in client.machines.calls
    assert "already powered off" in client.refused("POST", f"/droplets/{number}/actions", {"type": "power_off"})


def test_deleted_droplet_leaves_volume_and_address(client: Client) -> None:
    volume = client.volume()
    number = client.droplet(volumes=[{"id": volume["id"]}])["id"]
    ip = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    client.finished(
        client.ask("POST", f"/reserved_ips/{ip}/actions", {"type": "assign", "droplet_id": number}, 201)["action"]
    )
    client.ask("DELETE", f"/droplets/{number}", status=204)
    client.gone(f"/droplets/{number}")
    assert client.ask("GET", f"/volumes/{volume['id']}")["volume"]["droplet_ids"] == []
    assert client.ask("GET", f"/reserved_ips/{ip}")["reserved_ip"]["droplet"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_data": "x" * (64 * 1024 + 1)}, "64 KiB"),
        ({"size": "s-0vcpu"}, "invalid size"),
        ({"image": "debian-1"}, "invalid image"),
        ({"region": "moon1"}, "Region"),
        ({"name": "pds_test"}, "hostname characters"),
        ({"ssh_keys": ["aa:bb"]}, "aa:bb are invalid key identifiers"),
        ({"volumes": ["nothing"]}, "Volume not found"),
        ({"vpc_uuid": "nothing"}, "VPC"),
        ({"tags": ["a b"]}, "tag names"),
    ],
)
def test_refuses_an_invalid_droplet(client: Client, change: Json, message: str) -> None:
    assert message in client.refused("POST", "/droplets", {**DROPLET, **change})
    assert client.ask("GET", "/droplets")["droplets"] == []


def test_accepts_user_data_of_64_kib(client: Client) -> None:
    client.droplet(user_data="x" * (64 * 1024))


def test_volume_has_a_unique_name_in_its_region_and_one_droplet(client: Client) -> None:
    volume = client.volume()
    assert client.refused("POST", "/volumes", VOLUME, 409) == "already exists"
    client.volume(region="ams3")
    assert len(client.ask("GET", "/volumes?name=pds-test&region=fra1")["volumes"]) == 1
    number = client.droplet(volumes=[volume["id"]])["id"]
    assert "already attached" in client.refused("POST", "/droplets", {**DROPLET, "volumes": [volume["id"]]})
    assert "cannot be deleted" in client.refused("DELETE", f"/volumes/{volume['id']}", status=409)
    detach = {"type": "detach", "droplet_id": number}
    client.finished(client.ask("POST", f"/volumes/{volume['id']}/actions", detach, 201)["action"])
    assert client.refused("POST", f"/volumes/{volume['id']}/actions", detach) == "Attachment not found"
    client.ask("DELETE", f"/volumes/{volume['id']}", status=204)
    assert ("drop_volume",) in client.machines.calls


@pytest.mark.parametrize("name", ["Pds", "1pds", "pds_1", "p" * 65, "-pds", ""])
def test_refuses_an_invalid_volume_name(client: Client, name: str) -> None:
    assert "name" in client.refused("POST", "/volumes", {**VOLUME, "name": name})


def test_volume_can_only_grow(client: Client) -> None:
    path = f"/volumes/{client.volume()['id']}"
    assert "only grow" in client.refused("POST", f"{path}/actions", {"type": "resize", "size_gigabytes": 24})
    larger = {"type": "resize", "size_gigabytes": 30, "region": "fra1"}
    client.finished(client.ask("POST", f"{path}/actions", larger, 201)["action"])
    assert client.ask("GET", path)["volume"]["size_gigabytes"] == 30
    assert ("make_volume", 25) in client.machines.calls
    assert ("grow_volume", 30) in client.machines.calls


def test_account_has_three_reserved_ips(client: Client) -> None:
    made = [client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"] for _ in range(3)]
    assert made == ["127.0.10.1", "127.0.10.2", "127.0.10.3"]
    assert "limit" in client.refused("POST", "/reserved_ips", {"region": "fra1"})
    client.ask("DELETE", f"/reserved_ips/{made[0]}", status=204)
    # A released address may belong to another account now.
    assert client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"] == "127.0.10.4"


def test_reserved_ip_is_assigned_by_an_action_that_takes_time(client: Client) -> None:
    number = client.droplet()["id"]
    path = f"/reserved_ips/{client.ask('POST', '/reserved_ips', {'region': 'fra1'}, 202)['reserved_ip']['ip']}"
    action = client.ask("POST", f"{path}/actions", {"type": "assign", "droplet_id": number}, 201)["action"]
    assert (action["type"], action["status"]) == ("assign_ip", "in-progress")
    # By the provider's path and the general one; a droplet lists its action in progress.
    assert client.ask("GET", f"{path}/actions/{action['id']}")["action"]["id"] == action["id"]
    busy = client.ask("GET", f"/droplets/{number}/actions")["actions"]
    assert [item["status"] for item in busy] == ["in-progress", "completed"]
    client.finished(action)
    assert client.ask("GET", path)["reserved_ip"]["droplet"]["id"] == number
    assert ("assign", "127.0.10.1") in client.machines.calls
    assert "assigned" in client.refused("DELETE", path)
    client.finished(client.ask("POST", f"{path}/actions", {"type": "unassign"}, 201)["action"])
    assert client.machines.calls[-1] == ("assign", None)
    client.ask("DELETE", path, status=204)


def test_refuses_a_second_copy_of_a_public_key(client: Client) -> None:
    key = client.ask("POST", "/account/keys", {"name": "laptop", "public_key": KEY}, 201)["ssh_key"]
    again = {"name": "other", "public_key": KEY.replace("someone", "another")}
    assert client.refused("POST", "/account/keys", again) == "SSH Key is already in use on your account"
    assert "invalid" in client.refused("POST", "/account/keys", {"name": "x", "public_key": "ssh-ed25519 no"})
    for name in (key["id"], key["fingerprint"]):
        assert client.ask("GET", f"/account/keys/{name}")["ssh_key"] == key
    client.droplet(ssh_keys=[key["fingerprint"], key["id"]])


def test_firewall_is_created_and_invalid_changes_are_refused(client: Client) -> None:
    made = client.ask("POST", "/firewalls", FIREWALL, 202)["firewall"]
    # As in the API: "no ports" of icmp and "all ports" of other protocols are both shown as 0.
    assert made["outbound_rules"][0]["ports"] == "0"
    assert client.refused("POST", "/firewalls", FIREWALL, 409) == "duplicate name"
    assert "tag unknown" in client.refused("PUT", f"/firewalls/{made['id']}", {**FIREWALL, "tags": ["unknown"]})
    assert "at least one rule" in client.refused("PUT", f"/firewalls/{made['id']}", {"name": "pds-test"})
    bad = [{"protocol": "tcp", "ports": "0-70000", "sources": {"addresses": ["0.0.0.0/0"]}}]
    assert "ports" in client.refused("PUT", f"/firewalls/{made['id']}", {**FIREWALL, "inbound_rules": bad})
    client.ask("DELETE", f"/firewalls/{made['id']}", status=204)


def test_records_follow_the_rules_of_the_api(client: Client) -> None:
    client.ask("POST", "/domains", {"name": "noted.test"}, 201)
    assert client.refused("POST", "/domains", {"name": "noted.test"}) == "Name already exists"
    path = "/domains/noted.test/records"
    record_a = {"type": "A", "name": "@", "data": "127.0.10.1", "ttl": 300}
    record = client.ask("POST", path, record_a, 201)["domain_record"]
    assert (record["priority"], record["flags"], record["tag"]) == (None, None, None)
    assert "ttl" in client.refused("POST", path, {**record_a, "ttl": 29})
    assert "IP address" in client.refused("POST", path, {**record_a, "data": "::1"})
    caa = {"type": "CAA", "name": "@", "data": "letsencrypt.org", "flags": 0, "tag": "issue"}
    assert "dot" in client.refused("POST", path, caa)
    # The dot is required and not returned; the provider adds it again.
    caa["data"] = "letsencrypt.org."
    assert client.ask("POST", path, caa, 201)["domain_record"]["data"] == "letsencrypt.org"
    # Records of one name and type share a TTL.
    client.ask("POST", path, {**record_a, "data": "127.0.10.2", "ttl": 60}, 201)
    assert client.ask("GET", f"{path}/{record['id']}")["domain_record"]["ttl"] == 60
    assert len(client.ask("GET", f"{path}?type=A&name=noted.test")["domain_records"]) == 2


def test_lists_are_paginated(client: Client) -> None:
    for number in range(5):
        client.ask("POST", "/tags", {"name": f"tag-{number}"}, 201)
    page = client.ask("GET", "/tags?per_page=2&page=2")
    assert [item["name"] for item in page["tags"]] == ["tag-2", "tag-3"]
    assert set(page["links"]["pages"]) == {"first", "prev", "next", "last"}
    assert page["meta"]["total"] == 5
