"""The API refuses what DigitalOcean refuses; each rule's source is beside it in `tests/e2e/digitalocean`."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.environment.api_client import DROPLET, FIREWALL, KEY, VOLUME, Client, Json, Unconnected, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        yield made


def rule(**sources: object) -> Json:
    return {"protocol": "tcp", "ports": "443", "sources": sources or {"addresses": ["0.0.0.0/0"]}}


def resized(client: Client, number: int, size: str, status: int = 201) -> Json:
    """The answer to a resize that leaves the disk as it is."""
    found = client.ask("POST", f"/droplets/{number}/actions", {"type": "resize", "size": size, "disk": False}, status)
    action: Json = found.get("action", found)
    return action


def test_key_has_only_its_md5_fingerprint(client: Client) -> None:
    key = client.ask("POST", "/account/keys", {"name": "laptop", "public_key": KEY}, 201)["ssh_key"]
    digest = hashlib.sha256(base64.b64decode(KEY.split()[1])).digest()
    sha256 = f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    for name in (sha256, f"MD5:{key['fingerprint']}", str(key["id"]), "laptop"):
        message = client.refused("POST", "/droplets", {**DROPLET, "ssh_keys": [name]})
        assert message == f"{name} are invalid key identifiers for Droplet creation."
    client.refused("GET", f"/account/keys/{sha256.replace('/', '%2F')}", status=404)


def test_droplet_never_gets_a_size_with_a_smaller_disk(client: Client) -> None:
    number = client.droplet(size="s-2vcpu-4gb")["id"]
    client.finished(client.ask("POST", f"/droplets/{number}/actions", {"type": "power_off"}, 201)["action"])
    message = resized(client, number, "s-1vcpu-2gb", 422)
    assert message["message"] == "Size can not decrease size of Droplet's disk image"
    client.finished(resized(client, number, "s-4vcpu-8gb"))
    assert client.ask("GET", f"/droplets/{number}")["droplet"]["disk"] == 80
    client.finished(resized(client, number, "s-2vcpu-4gb"))


def test_tags_of_a_droplet_are_created_and_keep_their_first_capitals(client: Client) -> None:
    assert client.droplet(tags=["Web"])["tags"] == ["Web"]
    assert client.droplet(tags=["web", "WEB", "db"])["tags"] == ["Web", "db"]
    assert client.ask("POST", "/tags", {"name": "WEB"}, 201)["tag"]["name"] == "Web"
    assert client.ask("GET", "/tags/Web")["tag"]["resources"]["droplets"]["count"] == 2
    client.refused("GET", "/tags/web", None, 404)


def test_firewall_without_its_deleted_tag_is_kept_and_covers_no_droplet(client: Client) -> None:
    assert "does not exist" in client.refused("POST", "/firewalls", {**FIREWALL, "tags": ["web"]})
    number = client.droplet(tags=["web"])["id"]
    body = {**FIREWALL, "tags": ["web"], "inbound_rules": [rule(tags=["web"])]}
    made = client.ask("POST", "/firewalls", body, 202)["firewall"]
    covering = f"/droplets/{number}/firewalls"
    assert [item["id"] for item in client.ask("GET", covering)["firewalls"]] == [made["id"]]
    client.ask("DELETE", "/tags/web", status=204)
    assert client.ask("GET", covering)["firewalls"] == []
    left = client.ask("GET", f"/firewalls/{made['id']}")["firewall"]
    assert (left["tags"], left["inbound_rules"][0]["sources"]) == ([], {"tags": []})
    assert client.ask("GET", f"/droplets/{number}")["droplet"]["tags"] == []
    client.ask("POST", "/tags", {"name": "web"}, 201)
    assert client.ask("GET", covering)["firewalls"] == [], "a new tag of that name must be a different tag"


def test_firewall_waits_until_it_is_applied_to_its_droplets(client: Client) -> None:
    number = client.droplet(tags=["web"])["id"]
    made = client.ask("POST", "/firewalls", {**FIREWALL, "tags": ["web"]}, 202)["firewall"]
    assert (made["status"], made["pending_changes"][0]["droplet_id"]) == ("waiting", number)
    path = f"/firewalls/{made['id']}"
    applied = client.until(lambda: client.ask("GET", path)["firewall"], lambda it: it["status"] == "succeeded")
    assert applied["pending_changes"] == []
    assert client.ask("PUT", path, {**FIREWALL, "tags": ["web"]})["firewall"]["status"] == "waiting"


def test_removing_a_tag_from_a_droplet_removes_its_firewall(client: Client) -> None:
    number = client.droplet(tags=["web"])["id"]
    client.ask("POST", "/firewalls", {**FIREWALL, "tags": ["web"]}, 202)
    body = {"resources": [{"resource_id": str(number), "resource_type": "droplet"}]}
    client.ask("DELETE", "/tags/web/resources", body, 204)
    assert client.ask("GET", f"/droplets/{number}/firewalls")["firewalls"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inbound_rules": [rule(addresses=["192.0.2.1"])] * 50}, "50 rules"),
        ({"inbound_rules": [rule(tags=["unknown"])]}, "tag unknown does not exist"),
        ({"inbound_rules": [rule(addresses=[])]}, "at least one of its sources"),
        ({"inbound_rules": [{"protocol": "tcp", "sources": {"addresses": ["0.0.0.0/0"]}}]}, "invalid ports"),
        ({"inbound_rules": [{"protocol": "esp", "ports": "0", "sources": {"addresses": ["0.0.0.0/0"]}}]}, "protocol"),
        ({"tags": [f"tag-{number}" for number in range(6)]}, "5 tags"),
        ({"droplet_ids": [4711]}, "Droplet 4711 does not exist"),
        ({"name": "-pds"}, "name"),
        ({"inbound_rules": [], "outbound_rules": []}, "at least one rule"),
    ],
)
def test_refuses_an_invalid_firewall(client: Client, change: Json, message: str) -> None:
    assert message in client.refused("POST", "/firewalls", {**FIREWALL, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filesystem_type": "btrfs"}, "filesystem type"),
        ({"filesystem_type": "ext4", "filesystem_label": "x" * 17}, "label"),
        ({"filesystem_type": "xfs", "filesystem_label": "x" * 13}, "label"),
        ({"filesystem_label": "pds"}, "label"),
        ({"size_gigabytes": 0}, "size"),
        ({"size_gigabytes": 16 * 1024 + 1}, "size"),
        ({"region": "moon1"}, "Region"),
    ],
)
def test_refuses_an_invalid_volume(client: Client, change: Json, message: str) -> None:
    assert message in client.refused("POST", "/volumes", {**VOLUME, **change})


def test_volume_is_resized_only_to_a_larger_size(client: Client) -> None:
    path = f"/volumes/{client.volume()['id']}/actions"
    for size in (24, 25):
        assert "only grow" in client.refused("POST", path, {"type": "resize", "size_gigabytes": size})


def test_volume_is_detached_only_from_an_idle_droplet(client: Client) -> None:
    volume = client.volume()["id"]
    number = client.droplet(volumes=[volume])["id"]
    action = client.ask("POST", f"/droplets/{number}/actions", {"type": "reboot"}, 201)["action"]
    detach = {"type": "detach", "droplet_id": number}
    assert "pending event" in client.refused("POST", f"/volumes/{volume}/actions", detach)
    client.finished(action)
    assert "region" in client.refused("POST", f"/volumes/{volume}/actions", {**detach, "region": "ams3"})
    client.finished(client.ask("POST", f"/volumes/{volume}/actions", detach, 201)["action"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"type": "CNAME", "name": "@", "data": "elsewhere.test."}, "CNAME"),
        ({"type": "MX", "name": "@", "data": "mail.test."}, "MX records need a priority"),
        ({"type": "SRV", "name": "_a._tcp", "data": "b.test.", "priority": 1, "port": 1}, "SRV records need a weight"),
        ({"type": "CAA", "name": "@", "data": "a.test.", "flags": 0, "tag": "other"}, "issue, issuewild or iodef"),
        ({"type": "A", "name": "a", "data": "192.0.2.1", "ttl": 0}, "ttl"),
        ({"type": "PTR", "name": "a", "data": "b.test."}, "type"),
        ({"type": "AAAA", "name": "a", "data": "192.0.2.1"}, "IP address"),
        ({"type": "TXT", "name": "a..b", "data": "text"}, "Name"),
    ],
)
def test_refuses_an_invalid_record(client: Client, record: Json, message: str) -> None:
    client.ask("POST", "/domains", {"name": "noted.test"}, 201)
    assert message in client.refused("POST", "/domains/noted.test/records", record)


def test_new_zone_lists_its_soa_and_the_name_servers(client: Client) -> None:
    client.ask("POST", "/domains", {"name": "noted.test"}, 201)
    records = client.ask("GET", "/domains/noted.test/records")["domain_records"]
    assert sorted(item["type"] for item in records) == ["NS", "NS", "NS", "SOA"]


def test_address_of_an_iodef_record_needs_no_final_dot(client: Client) -> None:
    client.ask("POST", "/domains", {"name": "noted.test"}, 201)
    body = {"type": "CAA", "name": "@", "data": "mailto:owner@noted.test", "flags": 0, "tag": "iodef"}
    made = client.ask("POST", "/domains/noted.test/records", body, 201)["domain_record"]
    assert made["data"] == "mailto:owner@noted.test"


def test_address_is_assigned_by_one_action_at_a_time_to_an_idle_droplet(client: Client) -> None:
    ip = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    made = client.ask("POST", "/droplets", DROPLET, 202)
    body = {"type": "assign", "droplet_id": made["droplet"]["id"]}
    assert "pending event" in client.refused("POST", f"/reserved_ips/{ip}/actions", body)
    client.finished(made["links"]["actions"][0])
    action = client.ask("POST", f"/reserved_ips/{ip}/actions", body, 201)["action"]
    assert "pending event" in client.refused("POST", f"/reserved_ips/{ip}/actions", body)
    assert "pending event" in client.refused("DELETE", f"/reserved_ips/{ip}")
    client.finished(action)
    client.refused("POST", f"/reserved_ips/{ip}/actions", {"type": "assign", "droplet_id": 4711}, 404)


def test_address_made_for_a_droplet_shows_it_once_it_is_assigned(client: Client) -> None:
    client.refused("POST", "/reserved_ips", {"droplet_id": 4711}, 404)
    made = client.ask("POST", "/droplets", DROPLET, 202)
    number = made["droplet"]["id"]
    assert "pending event" in client.refused("POST", "/reserved_ips", {"droplet_id": number})
    client.finished(made["links"]["actions"][0])
    assert "either" in client.refused("POST", "/reserved_ips", {"droplet_id": number, "region": "fra1"})
    answer = client.ask("POST", "/reserved_ips", {"droplet_id": number}, 202)
    assert answer["reserved_ip"]["droplet"] is None
    client.finished(answer["links"]["actions"][0])
    address = client.ask("GET", f"/reserved_ips/{answer['reserved_ip']['ip']}")["reserved_ip"]
    assert address["droplet"]["id"] == number
    assert "already has" in client.refused("POST", "/reserved_ips", {"droplet_id": number})


def test_vpc_description_has_a_limit_and_ranges_must_not_overlap(client: Client) -> None:
    body = {"name": "one", "region": "fra1", "ip_range": "10.77.0.0/24"}
    client.ask("POST", "/vpcs", body, 201)
    assert "overlaps" in client.refused("POST", "/vpcs", {**body, "name": "two", "ip_range": "10.77.0.0/25"})
    assert "description" in client.refused("POST", "/vpcs", {**body, "name": "two", "description": "x" * 256})
