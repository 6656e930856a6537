"""The API's keys for Spaces."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.digitalocean.world import NoSpaces
from tests.e2e.environment.api_client import Client, Unconnected, served

KEY: Mapping[str, Any] = {"name": "pds-test", "grants": [{"bucket": "a-bucket", "permission": "readwrite"}]}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        made.api.world.spaces = NoSpaces({"a-bucket", "another"})
        yield made


def test_secret_of_a_key_is_returned_once(client: Client) -> None:
    made = client.ask("POST", "/spaces/keys", KEY, 201)["key"]
    assert made.pop("secret_key")
    assert made == {**KEY, "access_key": made["access_key"], "created_at": made["created_at"]}
    path = f"/spaces/keys/{made['access_key']}"
    assert client.ask("GET", path)["key"] == made
    assert client.ask("GET", "/spaces/keys")["keys"] == [made]
    assert client.ask("PUT", path, {**KEY, "name": "another"})["key"]["name"] == "another"
    client.ask("DELETE", path, status=204)
    client.ask("GET", path, status=404)


@pytest.mark.parametrize(
    ("grants", "message"),
    [
        ([{"bucket": "nothing", "permission": "readwrite"}], "bucket nothing does not exist"),
        ([{"bucket": "a-bucket", "permission": "write"}], "one of read, readwrite, fullaccess"),
        ([{"bucket": "", "permission": "read"}], "names a bucket"),
        ([{"bucket": "a-bucket", "permission": "fullaccess"}], "unless it is for full access"),
        (
            [{"bucket": "a-bucket", "permission": "read"}, {"bucket": "", "permission": "fullaccess"}],
            "cannot mix fullaccess permission with scoped permissions.",
        ),
    ],
)
def test_refuses_an_invalid_key(client: Client, grants: list[dict[str, str]], message: str) -> None:
    assert message in client.ask("POST", "/spaces/keys", {**KEY, "grants": grants}, 400)["message"]


def test_grants_of_a_key_cannot_be_changed(client: Client) -> None:
    made = client.ask("POST", "/spaces/keys", KEY, 201)["key"]
    for grant in ({"bucket": "", "permission": "fullaccess"}, {"bucket": "another", "permission": "readwrite"}):
        other = {**KEY, "grants": [grant]}
        assert "only the name" in client.ask("PUT", f"/spaces/keys/{made['access_key']}", other, 400)["message"]


def test_key_of_a_missing_bucket_cannot_be_renamed(client: Client) -> None:
    made = client.ask("POST", "/spaces/keys", KEY, 201)["key"]
    client.api.world.spaces = NoSpaces()
    renamed = {**KEY, "name": "another"}
    assert "does not exist" in client.ask("PUT", f"/spaces/keys/{made['access_key']}", renamed, 400)["message"]


def test_key_without_grants_is_created_and_keys_are_found_by_bucket(client: Client) -> None:
    client.ask("POST", "/spaces/keys", {"name": "nothing"}, 201)
    client.ask("POST", "/spaces/keys", KEY, 201)
    assert [key["name"] for key in client.ask("GET", "/spaces/keys?bucket=a-bucket")["keys"]] == ["pds-test"]
    assert [key["grants"] for key in client.ask("GET", "/spaces/keys?name=nothing")["keys"]] == [[]]


def test_account_has_at_most_200_keys(client: Client) -> None:
    for number in range(200):
        client.ask("POST", "/spaces/keys", {"name": f"key-{number}"}, 201)
    assert "200" in client.refused("POST", "/spaces/keys", KEY)
