"""The API's keys for Spaces."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.api_client import Client, served

KEY: Mapping[str, Any] = {"name": "pds-test", "grants": [{"bucket": "a-bucket", "permission": "readwrite"}]}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path) as made:
        yield made


def test_a_key_s_secret_is_told_once(client: Client) -> None:
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
        ([], "opens nothing"),
        ([{"bucket": "a-bucket", "permission": "write"}], "one of read, readwrite, fullaccess"),
        ([{"bucket": "", "permission": "read"}], "names a bucket"),
        ([{"bucket": "a-bucket", "permission": "fullaccess"}], "unless it is for full access"),
    ],
)
def test_what_a_key_may_not_be(client: Client, grants: list[dict[str, str]], message: str) -> None:
    assert message in client.ask("POST", "/spaces/keys", {**KEY, "grants": grants}, 400)["message"]


def test_a_key_is_for_what_it_was_made_for(client: Client) -> None:
    made = client.ask("POST", "/spaces/keys", KEY, 201)["key"]
    other = {**KEY, "grants": [{"bucket": "", "permission": "fullaccess"}]}
    assert "only the name" in client.ask("PUT", f"/spaces/keys/{made['access_key']}", other, 400)["message"]
