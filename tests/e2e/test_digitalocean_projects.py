"""The API's projects: their resources, moves, and resources that follow their droplet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.environment.api_client import Client, Json, Unconnected, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        yield made


@pytest.fixture
def project(client: Client) -> str:
    """The path of a project that is not the default one."""
    body = {"name": "club", "purpose": "Bluesky", "environment": "Production"}
    made = client.ask("POST", "/projects", body, 201)["project"]
    assert made["purpose"] == "Other: Bluesky"
    return f"/projects/{made['id']}"


def resource_kinds(client: Client, path: str) -> list[str]:
    """The kinds of the resources in a project."""
    return sorted(item["urn"].split(":")[1] for item in client.ask("GET", f"{path}/resources")["resources"])


def assign(client: Client, path: str, *urns: str, status: int = 200) -> Json:
    return client.ask("POST", f"{path}/resources", {"resources": list(urns)}, status)


def statuses(answer: Json) -> list[str]:
    return [item["status"] for item in answer["resources"]]


def droplet_with_all(client: Client) -> tuple[int, str, str]:
    """A droplet with a volume and an address; return their names in URNs."""
    volume = client.volume()["id"]
    number = client.droplet(volumes=[volume])["id"]
    ip = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    body = {"type": "assign", "droplet_id": number}
    client.finished(client.ask("POST", f"/reserved_ips/{ip}/actions", body, 201)["action"])
    return number, volume, ip


def test_missing_resource_has_a_status_and_is_not_an_error(client: Client, project: str) -> None:
    volume = client.volume()["id"]
    assert resource_kinds(client, "/projects/default") == ["volume"]
    answer = assign(client, project, f"do:volume:{volume}", "do:droplet:4711")
    assert statuses(answer) == ["assigned", "not_found"]
    assert statuses(assign(client, project, f"do:volume:{volume}")) == ["already_assigned"]
    assert (resource_kinds(client, project), resource_kinds(client, "/projects/default")) == (["volume"], [])
    assert "with resources" in client.refused("DELETE", project, status=412)
    client.ask("DELETE", f"/volumes/{volume}", status=204)
    client.ask("DELETE", project, status=204)
    client.refused("POST", f"{project}/resources", {"resources": []}, 404)


def test_firewall_belongs_to_no_project(client: Client, project: str) -> None:
    assert "no URN" in client.refused("POST", f"{project}/resources", {"resources": ["do:firewall:1"]})


def test_volume_and_address_follow_their_droplet(client: Client, project: str) -> None:
    number, _, _ = droplet_with_all(client)
    assert resource_kinds(client, "/projects/default") == ["droplet", "floatingip", "volume"]
    assign(client, project, f"do:droplet:{number}")
    assert (resource_kinds(client, project), resource_kinds(client, "/projects/default")) == (
        ["droplet", "floatingip", "volume"],
        [],
    )
    client.ask("DELETE", f"/droplets/{number}", status=204)
    client.until(lambda: {"left": resource_kinds(client, project)}, lambda it: it["left"] == ["floatingip", "volume"])


def test_refuses_to_move_an_address_or_volume_without_its_droplet(client: Client, project: str) -> None:
    number, volume, ip = droplet_with_all(client)
    for urn in (f"do:reservedip:{ip}", f"do:floatingip:{ip}", f"do:volume:{volume}"):
        body = {"resources": [f"do:droplet:{number}", urn]}
        assert "with an associated Droplet" in client.refused("POST", f"{project}/resources", body, 412)
    assert resource_kinds(client, project) == [], "such a request must change nothing"


def test_address_is_shown_as_a_floating_ip_whatever_its_urn(client: Client, project: str) -> None:
    ip = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    answer = assign(client, project, f"do:reservedip:{ip}")
    assert answer["resources"][0]["urn"] == f"do:floatingip:{ip}"
    shown = client.ask("GET", f"{project}/resources")["resources"]
    assert [item["urn"] for item in shown] == [f"do:floatingip:{ip}"]
    assert client.ask("GET", f"/reserved_ips/{ip}")["reserved_ip"]["project_id"] == project.rpartition("/")[2]
