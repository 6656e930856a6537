"""Volumes of the e2e environment's DigitalOcean API that are attached and detached, and the takeover's client of it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from components.takeover.services import DigitalOcean, Refused, Unavailable
from tests.e2e.environment.api_client import TOKEN, Client, Unconnected, served


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(tmp_path, client=Unconnected) as made:
        yield made


@pytest.fixture
def cloud(client: Client) -> DigitalOcean:
    return DigitalOcean(TOKEN, client.api.url)


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_volume_moves_from_droplet_to_droplet(client: Client, cloud: DigitalOcean) -> None:
    volume = client.volume()["id"]
    first, second = client.droplet(name="one")["id"], client.droplet(name="two")["id"]
    assert cloud.carrier(volume) is None
    cloud.attach(volume, first)
    _until(lambda: cloud.carrier(volume) == first)
    with pytest.raises(Refused, match="already attached"):
        cloud.attach(volume, second)
    with pytest.raises(Refused, match="Attachment not found"):
        cloud.detach(volume, second)
    client.api.world.stuck.add(first)
    cloud.detach(volume, first)
    with pytest.raises(Refused):
        cloud.attach(volume, second)
    client.api.world.stuck.remove(first)
    _until(lambda: cloud.carrier(volume) is None)
    assert ("detach",) in client.machines.calls
    cloud.attach(volume, second)
    _until(lambda: cloud.carrier(volume) == second)
    assert sorted(action.kind for action in cloud.actions(volume)) == ["attach", "attach", "detach"]
    assert all(abs(action.started - time.time()) < 3600 for action in cloud.actions(volume)), "Unix time, UTC"


def test_a_volume_is_not_attached_before_the_action_is_over(client: Client, cloud: DigitalOcean) -> None:
    volume, droplet = client.volume()["id"], client.droplet()["id"]
    client.api.world.action_seconds = 3600
    cloud.attach(volume, droplet)
    assert [(action.kind, action.status) for action in cloud.actions(volume)] == [("attach", "in-progress")]
    assert cloud.carrier(volume) is None


def test_actions_can_be_made_older(client: Client, cloud: DigitalOcean) -> None:
    volume, droplet = client.volume()["id"], client.droplet()["id"]
    cloud.attach(volume, droplet)
    _until(lambda: cloud.carrier(volume) == droplet)
    (before,) = cloud.actions(volume)
    client.api.age(900)
    (after,) = cloud.actions(volume)
    assert after.started == before.started - 900


def test_a_detach_that_does_not_end_ends_with_the_droplet(client: Client, cloud: DigitalOcean) -> None:
    volume, first, second = client.volume()["id"], client.droplet(name="one")["id"], client.droplet(name="two")["id"]
    cloud.attach(volume, first)
    _until(lambda: cloud.carrier(volume) == first)
    client.api.world.stuck.add(first)
    cloud.detach(volume, first)
    time.sleep(0.5)
    assert [action.status for action in cloud.actions(volume) if action.kind == "detach"] == ["in-progress"]
    with pytest.raises(Refused):
        cloud.attach(volume, second)
    client.ask("DELETE", f"/droplets/{first}", status=204)
    _until(lambda: cloud.carrier(volume) is None)
    cloud.attach(volume, second)
    _until(lambda: cloud.carrier(volume) == second)


def test_what_does_not_exist_is_refused_and_not_done(client: Client, cloud: DigitalOcean) -> None:
    gone, droplet = "00000000-0000-4000-8000-000000000000", client.droplet(name="one")["id"]
    for ask in (
        lambda: cloud.actions(gone),
        lambda: cloud.attach(gone, droplet),
        lambda: cloud.detach(gone, droplet),
        lambda: cloud.assign("192.0.2.1", droplet),
    ):
        with pytest.raises(Refused) as refusal:
            ask()
        assert refusal.value.status == 404


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"nonsense\r\n\r\n", b""],
    ids=["cut off", "no HTTP", "nothing"],
)
def test_an_answer_that_is_cut_off_is_no_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        cloud = DigitalOcean(TOKEN, f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(Unavailable, match="does not answer"):
            cloud.carrier("a")
        thread.join(10)


def test_workers_are_found_by_their_tag(client: Client, cloud: DigitalOcean) -> None:
    worker = client.droplet(name="one", tags=["pds-fleet-worker"])["id"]
    client.droplet(name="two")
    volume = client.volume()["id"]
    cloud.attach(volume, worker)
    _until(lambda: cloud.carrier(volume) == worker)
    found = cloud.workers("pds-fleet-worker")
    assert list(found) == [worker]
    assert found[worker].is_active
    assert (found[worker].name, found[worker].memory_mib) == ("one", 2048)
    assert found[worker].volumes == {volume}


def test_an_address_is_assigned(client: Client, cloud: DigitalOcean) -> None:
    address = client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"]
    assert cloud.address_at(address) is None
    worker = client.droplet()["id"]
    cloud.assign(address, worker)
    assert cloud.assigned_at(address) is None
    _until(lambda: cloud.address_at(address) == worker)
    other = client.droplet()["id"]
    cloud.assign(address, other)
    _until(lambda: cloud.address_at(address) == other)
    actions = client.ask("GET", f"/reserved_ips/{address}/actions")["actions"]
    newest = max(datetime.fromisoformat(item["completed_at"]).timestamp() for item in actions)
    assert cloud.assigned_at(address) == newest
    cloud.unassign(address)
    _until(lambda: cloud.address_at(address) is None)
    assert cloud.assigned_at(address) == newest, "an unassignment leads the address nowhere"
    with pytest.raises(Refused, match=r"reserved IP 192\.0\.2\.1 does not exist"):
        cloud.assigned_at("192.0.2.1")


def test_an_address_that_is_in_the_way_is_found_and_unassigned(client: Client, cloud: DigitalOcean) -> None:
    first, second = (client.ask("POST", "/reserved_ips", {"region": "fra1"}, 202)["reserved_ip"]["ip"] for _ in "12")
    worker = client.droplet()["id"]
    cloud.assign(first, worker)
    _until(lambda: cloud.address_at(first) == worker)
    with pytest.raises(Refused, match="already has a reserved IP") as refusal:
        cloud.assign(second, worker)
    assert refusal.value.status == 422
    assert cloud.address_of(worker) == first
    cloud.unassign(first)
    _until(lambda: cloud.address_at(first) is None)
    assert cloud.address_of(worker) is None
    cloud.assign(second, worker)
    _until(lambda: cloud.address_of(worker) == second)


def test_what_does_not_exist_or_is_not_allowed_is_refused_and_silence_means_wait(client: Client) -> None:
    with pytest.raises(Refused, match="does not exist"):
        DigitalOcean(TOKEN, client.api.url).carrier("nothing")
    with pytest.raises(Refused) as refused:
        DigitalOcean("another", client.api.url).workers("any")
    assert refused.value.status == 401
    with pytest.raises(Unavailable, match="does not answer"):
        DigitalOcean(TOKEN, "http://127.0.0.1:9").workers("any")
