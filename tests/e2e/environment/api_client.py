"""A client of the e2e environment's API for its own tests, and machines that only record their calls."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.digitalocean import Api, World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0kGrUKdvQZwJvHcMpdDCHRyNQGbtBNVdGBo8GBqfLh someone"
TOKEN = "token-of-the-account"
VOLUME = {"name": "pds-test", "region": "fra1", "size_gigabytes": 25}
DROPLET: Mapping[str, Any] = {
    "name": "pds-test",
    "region": "fra1",
    "size": "s-1vcpu-2gb",
    "image": "debian-13-x64",
    "monitoring": True,
    "with_droplet_agent": False,
    "tags": ["pds-test"],
    "user_data": "#cloud-config\n",
}
FIREWALL: Mapping[str, Any] = {
    "name": "pds-test",
    "inbound_rules": [{"protocol": "tcp", "ports": "443", "sources": {"addresses": ["0.0.0.0/0", "::/0"]}}],
    "outbound_rules": [{"protocol": "icmp", "destinations": {"addresses": ["0.0.0.0/0"]}}],
    "tags": [],
}

Json = dict[str, Any]


class Machines:
    """Records the calls for droplets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        self.calls.append(("boot", user_data, dict(volumes)))

    def start(self, droplet_id: int) -> None:
        self.calls.append(("start",))

    def stop(self, droplet_id: int, graceful: bool) -> None:
        self.calls.append(("stop", graceful))

    def destroy(self, droplet_id: int) -> None:
        self.calls.append(("destroy",))

    def assign(self, droplet_id: int, address: str | None) -> None:
        self.calls.append(("assign", address))

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        self.calls.append(("attach", name))

    def detach(self, droplet_id: int, volume_id: str) -> None:
        self.calls.append(("detach",))

    def make_volume(self, volume_id: str, gib: int) -> None:
        self.calls.append(("make_volume", gib))

    def grow_volume(self, volume_id: str, gib: int) -> None:
        self.calls.append(("grow_volume", gib))

    def drop_volume(self, volume_id: str) -> None:
        self.calls.append(("drop_volume",))


class Client:
    """A client with the account's token."""

    def __init__(self, api: Api, machines: Machines) -> None:
        self.api, self.machines = api, machines
        self.http = httpx.Client(
            base_url=f"{api.url}/v2", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=5
        )

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Status and decoded body of the response."""
        answer = self.http.request(method, path, json=body)
        return answer.status_code, answer.json() if answer.content else {}

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Json:
        """The decoded response; asserts its status."""
        found, answer = self.send(method, path, body)
        assert found == status, f"{method} {path}: {found} {answer}"
        return answer

    def refused(self, method: str, path: str, body: Any = None, status: int = 422) -> str:
        """The message of an error response, in the API's form of errors."""
        answer = self.ask(method, path, body, status)
        assert set(answer) == {"id", "message", "request_id"}
        return str(answer["message"])

    def finished(self, action: Json) -> Json:
        """The action, polled until it is over."""
        return self.until(lambda: self.ask("GET", f"/actions/{action['id']}")["action"], lambda it: it["completed_at"])

    def gone(self, path: str) -> None:
        """Wait until there is no such resource."""
        self.until(lambda: {"status": self.send("GET", path)[0]}, lambda it: it["status"] == 404)

    def until(self, ask: Callable[[], Json], good: Callable[[Json], Any]) -> Json:
        """Repeat the request until the response is good, for twenty seconds at most."""
        end = time.monotonic() + 600
        while not good(found := ask()):
            assert time.monotonic() < end, found
            time.sleep(0.02)
        return found

    def droplet(self, **more: Any) -> Json:
        """A droplet that is up."""
        made = self.ask("POST", "/droplets", {**DROPLET, **more}, 202)
        assert made["droplet"]["status"] == "new"
        self.finished(made["links"]["actions"][0])
        found: Json = self.ask("GET", f"/droplets/{made['droplet']['id']}")["droplet"]
        return found

    def volume(self, **more: Any) -> Json:
        """A volume."""
        made: Json = self.ask("POST", "/volumes", {**VOLUME, **more}, 201)["volume"]
        return made


class Unconnected(Client):
    """A client that makes its requests without connections, for tests of what the API does."""

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Status and decoded body of the response."""
        answer = self.api.ask(method, f"/v2{path}", json.loads(json.dumps(body)))
        return answer.status, answer.body or {}


@contextmanager
def served(state: Path, action_seconds: float = 0.15, client: type[Client] = Client) -> Iterator[Client]:
    """A new account's API, and a client of it. An action is over after `action_seconds`, at the next request at the
    earliest."""
    machines = Machines()
    with Api(World(machines=machines, action_seconds=action_seconds, token=TOKEN), state) as api:
        yield client(api, machines)
