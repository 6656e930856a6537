"""The e2e environment's DigitalOcean API: faults on demand, the request log and the dump. No engine, loopback
only."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.digitalocean import Api, World
from tests.e2e.digitalocean.account import add_key
from tests.e2e.digitalocean.errors import ApiError
from tests.e2e.environment.api_client import KEY, TOKEN, Client, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path) as made:
        yield made


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("429", 429)])
def test_nth_call_fails_and_changes_nothing(client: Client, kind: str, status: int) -> None:
    client.api.fail("POST", "/v2/tags", kind, nth=2)
    client.ask("POST", "/tags", {"name": "first"}, 201)
    answer = client.http.post("/tags", json={"name": "second"})
    assert answer.status_code == status
    assert ("Retry-After" in answer.headers) == (kind == "429")
    assert len(client.ask("GET", "/tags")["tags"]) == 1
    client.ask("POST", "/tags", {"name": "second"}, 201)
    assert client.api.fault_rules()[0]["struck"]


def test_call_with_a_lost_response_has_acted(client: Client) -> None:
    client.api.fail("POST", "/v2/tags", "lost")
    with pytest.raises(httpx.RemoteProtocolError):
        client.http.post("/tags", json={"name": "made"})
    assert len(client.ask("GET", "/tags")["tags"]) == 1


def test_hanging_call_has_not_acted(client: Client) -> None:
    client.api.fail("POST", "/v2/t.*", "hang")
    with pytest.raises(httpx.ReadTimeout):
        client.http.post("/tags", json={"name": "made"}, timeout=0.3)
    assert client.ask("GET", "/tags")["tags"] == []


def test_refuses_an_unknown_fault(client: Client) -> None:
    with pytest.raises(ApiError, match="kind has to be one of"):
        client.api.fail("POST", "/v2/tags", "explode")


def test_log_contains_bodies_and_no_token(client: Client) -> None:
    client.ask("POST", "/tags", {"name": "kept"}, 201)
    client.refused("POST", "/tags", {"name": "not kept"})
    first, second = client.api.requests()
    assert (first["method"], first["path"], first["body"], first["status"]) == (
        "POST",
        "/v2/tags",
        {"name": "kept"},
        201,
    )
    assert second["status"] == 422
    assert "tag names" in second["error"]
    assert TOKEN not in client.api.log_file.read_text()


def test_account_is_dumped(tmp_path: Path) -> None:
    world = World(token=TOKEN)
    add_key(world, "laptop", KEY)
    with Api(world, tmp_path) as api:
        assert len(api.dump()["keys"]) == 1
    written = json.loads((tmp_path / "account.json").read_text())
    assert [key["name"] for key in written["keys"].values()] == ["laptop"]
    assert TOKEN not in (tmp_path / "account.json").read_text()


def test_call_with_a_held_response_has_acted_meanwhile(client: Client) -> None:
    client.api.fail("POST", "/v2/tags", "held")
    with pytest.raises(httpx.ReadTimeout):
        client.http.post("/tags", json={"name": "made"}, timeout=0.3)
    assert len(client.ask("GET", "/tags")["tags"]) == 1
