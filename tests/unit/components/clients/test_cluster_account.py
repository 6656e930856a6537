"""The servers of a cluster that `up` refuses to rebuild. tests/e2e/test_digitalocean_cluster.py has the account."""

from typing import Any

import pytest

from components.clients.cluster import account
from components.clients.cluster.account import refuse_rebuilt_servers
from components.clients.errors import ServiceError


def _servers(endpoint: int, *generations: int) -> dict[str, Any]:
    # The engine's numbers are floats.
    return {
        "endpoint": float(endpoint),
        "tag": "pds-fleet-server",
        "names": "pds-fleet-server-",
        "generations": [float(generation) for generation in generations],
    }


@pytest.fixture(autouse=True)
def with_an_address(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the droplets that have a reserved IP."""
    names = {"pds-fleet-server-1", "pds-other-server-2"}
    monkeypatch.setattr(account, "_droplets_with_an_address", lambda: names)
    return names


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The droplets with the servers' tag."""
    made = [{"name": f"pds-fleet-server-{number}"} for number in (1, 2, 3)]
    monkeypatch.setattr(account, "_droplets", lambda tag: made if tag == "pds-fleet-server" else [])
    return made


def test_a_count_that_was_not_applied_can_be_taken_back(
    servers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    del servers[1:]
    refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(1, 1))
    servers.append({"name": "pds-fleet-server-3"})
    with pytest.raises(ServiceError, match=r"Write 'count: 3' back"):
        refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(1, 1))
    del servers[1:]
    monkeypatch.delenv("PDS_NOMAD_SNAPSHOT", raising=False)
    with pytest.raises(ServiceError, match="rebuilds every server"):
        refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(1, 2))


def test_the_address_leads_to_no_server_that_an_earlier_up_did_not_come_to_create(
    servers: list[dict[str, Any]],
) -> None:
    del servers[1:]
    with pytest.raises(ServiceError, match=r"endpoint' names server 2, which does not exist yet.*'endpoint: 1' back"):
        refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(2, 1, 1, 1))


def test_refuses_to_rebuild_the_server_that_the_address_leads_to() -> None:
    with pytest.raises(ServiceError, match=r"generations\.2'.*First write 'cluster\.servers\.endpoint: 1' alone"):
        refuse_rebuilt_servers(_servers(2, 1, 1, 1), _servers(2, 1, 2, 1))


def test_refuses_to_rebuild_the_server_to_which_a_takeover_led_the_address(with_an_address: set[str]) -> None:
    with_an_address |= {"pds-fleet-server-3"}
    with pytest.raises(ServiceError, match=r"generations\.3': a takeover has led.*--refresh.*leads to server 1"):
        refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(1, 1, 1, 2))
    refuse_rebuilt_servers(_servers(1, 1, 1, 1), _servers(1, 1, 2, 1))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (_servers(1, 1, 1, 1), _servers(1, 1, 2, 2), "rebuilds the servers 2, 3"),
        (_servers(1, 1, 1, 1), _servers(2, 1, 2, 1), r"endpoint: 1' alone"),
        (_servers(1, 1, 1, 1), _servers(2, 2, 1, 1), r"endpoint: 2' alone"),
        (_servers(1, 1, 2, 2), _servers(1, 1, 1, 1), r"generations\.2' is 1, and was 2.*older checkout"),
        (_servers(2, 2, 2, 2), _servers(1, 1, 1, 1), r"generations\.1' is 1, and was 2"),
        (_servers(1, 1, 2, 1), _servers(1, 1, 1, 1, 1), r"generations\.2' is 1, and was 2"),
        (_servers(1, 1, 1, 1), _servers(1, 1), r"servers\.count' is 1, and was 3.*Write 'count: 3' back"),
    ],
    ids=[
        "two of three",
        "the new endpoint",
        "the old endpoint",
        "an older file",
        "an older file, all",
        "more servers",
        "fewer servers",
    ],
)
def test_refuses_rebuilds_after_which_nomad_has_no_majority(
    old: dict[str, Any], new: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDS_NOMAD_SNAPSHOT", "/nomad.snap")
    with pytest.raises(ServiceError, match=problem):
        refuse_rebuilt_servers(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, _servers(1, 1, 1, 1)),
        (_servers(1, 1, 1, 1), _servers(1, 1, 2, 1)),
        (_servers(1, 1, 1, 1), _servers(2, 1, 1, 1)),
        (_servers(1, 1), _servers(1, 1, 1, 1)),
    ],
    ids=["new cluster", "another server", "another endpoint", "more servers"],
)
def test_accepts_every_other_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    refuse_rebuilt_servers(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [(_servers(1, 1, 1, 1), _servers(1, 2, 2, 2)), (_servers(1, 1), _servers(1, 2))],
    ids=["all at once", "the only server"],
)
def test_all_servers_are_rebuilt_only_with_a_snapshot_of_their_state(
    old: dict[str, Any], new: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PDS_NOMAD_SNAPSHOT", raising=False)
    with pytest.raises(ServiceError, match=r"every server.*`\./pds restore`"):
        refuse_rebuilt_servers(old, new)
    monkeypatch.setenv("PDS_NOMAD_SNAPSHOT", "/nomad.snap")
    refuse_rebuilt_servers(old, new)
