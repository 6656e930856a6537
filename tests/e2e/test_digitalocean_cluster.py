"""What a cluster refuses before anything is created, against the API of the tests: sizes, and a token's rights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.clients.cluster.account import (
    refuse_missing_sizes,
    refuse_rebuilt_carriers,
    refuse_rebuilt_servers,
    refuse_wrong_rights,
)
from components.clients.errors import PendingError, ServiceError
from components.dynamic.cluster import ClusterAccountProvider
from components.takeover.services import DigitalOcean
from tests.e2e.digitalocean import catalog
from tests.e2e.digitalocean.scopes import TAKEOVER
from tests.e2e.environment.api_client import TOKEN, Client, Unconnected, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        yield made


@pytest.fixture
def _shell(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    monkeypatch.setenv("DIGITALOCEAN_API_URL", client.api.url)


def test_accepts_a_token_with_the_rights_of_a_takeover_and_changes_nothing(client: Client) -> None:
    client.api.world.scopes = TAKEOVER
    before = client.api.dump()
    refuse_wrong_rights(TOKEN, client.api.url)
    after = client.api.dump()
    assert {key: after[key] for key in ("volumes", "droplets", "reserved_ips", "actions")} == {
        key: before[key] for key in ("volumes", "droplets", "reserved_ips", "actions")
    }


@pytest.mark.parametrize("scope", sorted(TAKEOVER))
def test_names_the_right_that_a_token_lacks(client: Client, scope: str) -> None:
    client.api.world.scopes = TAKEOVER - {scope}
    with pytest.raises(ServiceError, match=f"'cluster.takeover.token' lacks {scope}. Create a token with"):
        refuse_wrong_rights(TOKEN, client.api.url)


@pytest.mark.parametrize(
    ("scopes", "named"),
    [(None, "domain:read, firewall:read, spaces_key:read, uptime:read"), (TAKEOVER | {"domain:read"}, "domain:read")],
    ids=["full access", "one more"],
)
def test_names_rights_that_a_token_has_too_many(client: Client, scopes: frozenset[str] | None, named: str) -> None:
    client.api.world.scopes = scopes
    with pytest.raises(ServiceError, match=f"may do more than a takeover needs, such as {named}\\. Create"):
        refuse_wrong_rights(TOKEN, client.api.url)


def test_refuses_a_token_that_is_no_token_of_the_account(client: Client) -> None:
    with pytest.raises(ServiceError, match=r"expired, deleted or misspelt \(401\)"):
        refuse_wrong_rights("another", client.api.url)


def test_an_api_that_does_not_answer_is_no_verdict_on_the_token(client: Client) -> None:
    client.api.fail("GET", "/v2/droplets", "500")
    with pytest.raises(PendingError, match=r"are not known\. Try again"):
        refuse_wrong_rights(TOKEN, client.api.url)


@pytest.mark.usefixtures("_shell")
def test_names_the_regions_that_have_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    every: list[dict[str, Any]] = catalog.sizes()
    monkeypatch.setattr(catalog, "sizes", lambda: [{**size, "regions": ["ams3", "nyc3"]} for size in every])
    refuse_missing_sizes("nyc3", {"cluster.servers.size": "s-1vcpu-1gb"})
    with pytest.raises(
        ServiceError,
        match=r"'cluster\.workers\.size': region 'fra1' has no size 's-2vcpu-4gb', which is in: ams3, nyc3",
    ):
        refuse_missing_sizes("fra1", {"cluster.workers.size": "s-2vcpu-4gb"})


@pytest.mark.usefixtures("_shell")
def test_refuses_a_size_that_does_not_exist() -> None:
    with pytest.raises(ServiceError, match=r"'cluster\.servers\.size': DigitalOcean has no size 's-1vcpu-3gb'"):
        refuse_missing_sizes("fra1", {"cluster.servers.size": "s-1vcpu-3gb", "cluster.workers.size": "s-2vcpu-4gb"})


def test_requires_the_operators_token_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServiceError, match="set DIGITALOCEAN_TOKEN"):
        refuse_missing_sizes("fra1", {})


_PROPS: dict[str, Any] = {
    "region": "fra1",
    "sizes": {},
    "servers": {
        "endpoint": 1.0,
        "tag": "pds-fleet-server",
        "names": "pds-fleet-server-",
        "generations": [1.0, 1.0, 1.0],
    },
    "takeover_token": "",
    "api_url": "",
}


def _workers(*generations: int) -> dict[str, Any]:
    # The engine's numbers are floats.
    return {"tag": "pds-fleet-worker", "names": "pds-fleet-worker-", "generations": list(map(float, generations))}


@pytest.fixture
def carrier(client: Client) -> int:
    """Workers 1 to 3 of a cluster; the third carries a host."""
    made = [
        client.droplet(name=f"pds-fleet-worker-{number}", tags=["pds-fleet-worker"], volumes=volumes)["id"]
        for number, volumes in ((1, []), (2, []), (3, [client.volume()["id"]]))
    ]
    return int(made[2])


@pytest.mark.usefixtures("_shell")
@pytest.mark.parametrize(
    ("new", "cause"),
    [(_workers(1, 1, 3), "a new generation rebuilds it: worker 3"), (_workers(1, 1), "delete it: worker 3")],
    ids=["rebuilt", "deleted"],
)
def test_refuses_to_rebuild_or_delete_a_worker_that_carries_a_host(
    carrier: int, new: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ServiceError, match=rf"Droplet {carrier} runs a host, and .*{cause}"):
        refuse_rebuilt_carriers(_workers(1, 1, 2), new)


@pytest.mark.usefixtures("_shell")
def test_refuses_to_rebuild_the_server_to_which_a_takeover_led_the_address(client: Client) -> None:
    server = client.droplet(name="pds-fleet-server-3")["id"]
    client.droplet(name="pds-fleet-server-2")
    address = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)
    action = client.ask("POST", f"/reserved_ips/{address}/actions", {"type": "assign", "droplet_id": server}, 201)
    client.finished(action["action"])
    before = {
        "endpoint": 1.0,
        "tag": "pds-fleet-server",
        "names": "pds-fleet-server-",
        "generations": [1.0, 1.0, 1.0],
    }
    with pytest.raises(ServiceError, match=r"generations\.3': a takeover has led the cluster's address to this server"):
        refuse_rebuilt_servers(before, {**before, "generations": [1.0, 1.0, 2.0]})
    refuse_rebuilt_servers(before, {**before, "generations": [1.0, 2.0, 1.0]})


@pytest.mark.usefixtures("_shell")
def test_servers_that_were_never_created_are_no_servers(client: Client) -> None:
    client.droplet(name="pds-fleet-server-1", tags=["pds-fleet-server"])
    client.droplet(name="pds-other-server-2", tags=["pds-other-server"])
    three = _PROPS["servers"]
    refuse_rebuilt_servers(three, {**three, "generations": [1.0]})
    with pytest.raises(ServiceError, match="server 2, which does not exist yet"):
        refuse_rebuilt_servers(three, {**three, "endpoint": 2.0})
    client.droplet(name="pds-fleet-server-2", tags=["pds-fleet-server"])
    refuse_rebuilt_servers(three, {**three, "endpoint": 2.0})
    with pytest.raises(ServiceError, match="'count: 3' back"):
        refuse_rebuilt_servers(three, {**three, "generations": [1.0]})


def test_refuses_a_lower_number_without_a_look_at_the_account() -> None:
    with pytest.raises(ServiceError, match=r"workers\.generations\.3' is 1, and was 2.*older checkout"):
        refuse_rebuilt_carriers(_workers(1, 1, 2), _workers(1, 1, 1))


@pytest.mark.usefixtures("_shell", "carrier")
@pytest.mark.parametrize(
    "new", [_workers(2, 1, 2), _workers(1, 1, 2, 1)], ids=["a worker without a host", "one more worker"]
)
def test_accepts_other_changes_of_workers(new: dict[str, Any]) -> None:
    refuse_rebuilt_carriers(_workers(1, 1, 2), new)


@pytest.mark.usefixtures("_shell")
def test_an_update_that_ended_early_rebuilds_no_worker_that_a_takeover_has_chosen_since(client: Client) -> None:
    provider, before = ClusterAccountProvider(), {**_PROPS, "workers": _workers(1, 1)}
    spare = int(client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"])["id"])
    after = {**_PROPS, "workers": _workers(1, 2)}
    written = provider.update("id", before, after).outs
    assert written is not None
    assert written["pending_workers"] == {str(spare): 1.0}
    assert not provider.diff("id", written, after).changes, "the rebuild is the droplet's own"
    # The `up` ended here. The takeover attaches a volume.
    volume = client.volume()["id"]
    cloud = DigitalOcean(TOKEN, client.api.url)
    cloud.attach(volume, spare)
    client.until(lambda: {"carrier": cloud.carrier(volume)}, lambda found: found["carrier"] == spare)
    assert provider.diff("id", written, after).changes
    with pytest.raises(ServiceError, match=rf"Droplet {spare} runs a host, and a new generation rebuilds it: worker 2"):
        provider.update("id", written, after)
    # Once the host is elsewhere, the next `up` rebuilds the worker, which has another number then.
    cloud.detach(volume, spare)
    client.until(lambda: {"carrier": cloud.carrier(volume)}, lambda found: found["carrier"] is None)
    assert not provider.diff("id", written, after).changes
    rebuilt = int(client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"])["id"])
    client.ask("DELETE", f"/droplets/{spare}", status=204)
    cloud.attach(volume, rebuilt)
    client.until(lambda: {"carrier": cloud.carrier(volume)}, lambda found: found["carrier"] == rebuilt)
    assert not provider.diff("id", written, after).changes


def _moved_to_a_spare_that_an_update_did_not_come_to_rebuild(client: Client, *generations: int) -> dict[str, Any]:
    """What was written by updates that ended early, each with one of these generations for the spare, worker 2. Worker
    1 died, and a takeover moved its host to the spare."""
    provider, written = ClusterAccountProvider(), {**_PROPS, "workers": _workers(1, 1)}
    client.droplet(name="pds-fleet-worker-1", tags=["pds-fleet-worker"])
    spare = int(client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"])["id"])
    for generation in generations:
        outs = provider.update("id", written, {**_PROPS, "workers": _workers(1, generation)}).outs
        assert outs is not None
        written = outs
    volume, cloud = client.volume()["id"], DigitalOcean(TOKEN, client.api.url)
    cloud.attach(volume, spare)
    client.until(lambda: {"carrier": cloud.carrier(volume)}, lambda found: found["carrier"] == spare)
    return written


@pytest.mark.usefixtures("_shell")
@pytest.mark.parametrize("early", [(2,), (2, 3)], ids=["one update ended early", "two updates ended early"])
@pytest.mark.parametrize(
    "more", [(1, 1), (2, 1), (1, 1, 1)], ids=["alone", "with the lost worker's", "with one more spare"]
)
def test_a_generation_that_was_not_applied_can_be_taken_back_once_its_worker_runs_a_host(
    client: Client, early: tuple[int, ...], more: tuple[int, ...]
) -> None:
    provider, written = (
        ClusterAccountProvider(),
        _moved_to_a_spare_that_an_update_did_not_come_to_rebuild(client, *early),
    )
    wanted = {**_PROPS, "workers": written["workers"]}
    with pytest.raises(ServiceError, match=r"worker 2.*Or write 'cluster\.workers\.generations\.2: 1' back"):
        provider.update("id", written, wanted)
    back = {**_PROPS, "workers": _workers(*more)}
    outs = provider.update("id", written, back).outs
    assert outs is not None
    assert not provider.diff("id", outs, back).changes, (
        "the droplet has that generation: the engine does not rebuild it"
    )
    with pytest.raises(ServiceError, match="worker 2"):
        provider.update("id", outs, {**_PROPS, "workers": _workers(more[0], 2)})


@pytest.mark.usefixtures("_shell")
def test_a_worker_that_was_not_deleted_is_kept_with_its_generation_and_not_rebuilt(client: Client) -> None:
    provider, before = ClusterAccountProvider(), {**_PROPS, "workers": _workers(1, 2)}
    spare = client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"], volumes=[])["id"]
    written = provider.update("id", before, {**_PROPS, "workers": _workers(1)}).outs
    assert written is not None
    volume, cloud = client.volume()["id"], DigitalOcean(TOKEN, client.api.url)
    cloud.attach(volume, int(spare))
    client.until(lambda: {"carrier": cloud.carrier(volume)}, lambda found: found["carrier"] == int(spare))
    provider.update("id", written, {**_PROPS, "workers": _workers(1, 2)})
    with pytest.raises(ServiceError, match=r"a new generation rebuilds it: worker 2.*generations\.2: 2' back"):
        provider.update("id", written, {**_PROPS, "workers": _workers(1, 3)})


@pytest.mark.usefixtures("_shell")
@pytest.mark.parametrize("silent", ["no token", "no answer"])
def test_a_preview_shows_no_change_if_it_cannot_ask_and_an_up_runs_to_say_why(
    client: Client, silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provider, after = ClusterAccountProvider(), {**_PROPS, "workers": _workers(1, 2)}
    client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"])
    written = provider.update("id", {**_PROPS, "workers": _workers(1, 1)}, {**after, "is_preview": False}).outs
    assert written is not None
    if silent == "no token":
        monkeypatch.delenv("DIGITALOCEAN_TOKEN")
        monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN", raising=False)
    else:
        for number in range(1, 5):
            client.api.fail("GET", "/v2/droplets", "500", nth=number)
    up, preview = {**after, "is_preview": False}, {**after, "is_preview": True}
    assert not provider.diff("id", written, preview).changes, "`./pds upgrade` reads it"
    assert (
        "Whether a worker that the last `up` was to rebuild runs a host by now is unknown." in capsys.readouterr().err
    )
    assert provider.diff("id", written, {**preview, "region": "nyc3"}).changes
    assert provider.diff("id", written, up).changes, "it may rebuild a worker that runs a host"
    with pytest.raises(ServiceError, match=r"set DIGITALOCEAN_TOKEN|Try again"):
        provider.update("id", written, up)


@pytest.mark.usefixtures("_shell")
def test_workers_that_are_rebuilt_are_no_change(client: Client) -> None:
    provider, after = ClusterAccountProvider(), {**_PROPS, "workers": _workers(1, 2), "is_preview": False}
    spare = client.droplet(name="pds-fleet-worker-2", tags=["pds-fleet-worker"])["id"]
    written = provider.update("id", {**_PROPS, "workers": _workers(1, 1)}, after).outs
    assert written is not None
    client.ask("DELETE", f"/droplets/{spare}", status=204)
    client.gone(f"/droplets/{spare}")
    for is_preview in (True, False):
        assert not provider.diff("id", written, {**after, "is_preview": is_preview}).changes


@pytest.mark.usefixtures("_shell")
def test_accepts_to_replace_a_carrier_that_is_gone(client: Client, carrier: int) -> None:
    client.ask("DELETE", f"/droplets/{carrier}", status=204)
    client.gone(f"/droplets/{carrier}")
    refuse_rebuilt_carriers(_workers(1, 1, 2), _workers(1, 1, 3))
