"""DigitalOcean and Nomad, as far as a takeover uses them.

DigitalOcean takes 5,000 requests an hour and 250 a minute of a token. Each request counts for an hour, so there is no
moment at which all are free again. Requests beyond are answered with 429 and the time of the next, and none is sent
before that.

Sources: digitalocean/openapi (volumes, volume_actions, reserved_ip_actions, droplets), developer.hashicorp.com/nomad
api-docs (nodes, variables).
"""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from calendar import timegm
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from components.takeover.decide import Action, Droplet, Node
from components.takeover.rate_limit import Headers, seconds_until_next, service_time

Json = Any

API = "https://api.digitalocean.com"
STATE = "takeover/state"
"""The Nomad variable with the retired droplets and the lease."""
SERVERS_POOL = "servers"
"""Node pool of the servers' own clients, which run the takeover."""
_SECONDS = 20
_MISSED = frozenset({"down", "disconnected"})
"""The states of a node whose heartbeat Nomad has missed."""
_SILENT_SECONDS = 20.0
"""Nomad's leader waits for a heartbeat for its TTL, at least `min_heartbeat_ttl`, and `heartbeat_grace`: 10 s each
(nomad/heartbeat.go, 2.0.5). A new leader waits for `failover_heartbeat_ttl`, which is longer."""
_LONGEST_PAUSE = 60.0
"""Seconds without a request at most, whatever a refusal asks for: a host may be on no droplet meanwhile. The limit of a
minute asks for less, that of an hour for more, whose requests expire one by one."""
_SHORTEST_PAUSE = 1.0


class Unavailable(Exception):  # noqa: N818 (not a fault: the caller waits)
    """No answer, or a temporary refusal: wait, and look again. The message says of what."""


class Limited(Unavailable):
    """The service takes no request of this token before so many seconds."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class Refused(Exception):  # noqa: N818 (the service's answer)
    """The service answered and will not do it. The message holds its status and answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Http:
    """JSON over HTTP to one service. After a 429 with a time nothing is sent before it."""

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base, self._headers = base.rstrip("/"), dict(headers)
        self._clock, self._next = clock, float("-inf")
        self._ahead = 0.0
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=tls)] if tls else []
        if urlsplit(base).hostname in ("127.0.0.1", "localhost"):
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy stands between this machine and itself
        self._opener = urllib.request.build_opener(*handlers)

    def now(self) -> float:
        """The service's clock, in Unix time; this machine's until the first answer with a date."""
        return time.time() + self._ahead

    def _hear(self, headers: Headers) -> None:
        if (told := service_time(headers)) is not None:
            self._ahead = told - time.time()

    def call(self, method: str, path: str, body: Json = None) -> Json:
        """The decoded answer; None if there is nothing to read (404). Raises Unavailable, Limited and Refused."""
        if (left := self._next - self._clock()) > 0:
            raise self._limited(left)
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._base}{path}", data, headers, method=method)  # noqa: S310 (our URLs)
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                self._hear(answer.headers)
                text = answer.read()
        except urllib.error.HTTPError as error:
            self._hear(error.headers)
            said = _said(error)
            if error.code == 404 and method == "GET":
                return None
            message = f"{method} {self._base}{path.partition('?')[0]} returned {error.code}: {said[:200]}"
            raise self._refusal(error, message) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"{self._base} does not answer ({error or type(error).__name__})") from None
        try:
            return json.loads(text) if text else {}
        except ValueError:
            raise Unavailable(f"{self._base}{path} did not return JSON") from None

    def _refusal(self, error: urllib.error.HTTPError, message: str) -> Exception:
        if error.code != 429:
            return Unavailable(message) if error.code >= 500 else Refused(error.code, message)
        asked = seconds_until_next(error.headers, time.time())
        if asked is None:
            return Unavailable(message)
        seconds = min(max(asked, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        self._next = self._clock() + seconds
        return self._limited(seconds)

    def _limited(self, seconds: float) -> Limited:
        # The text is the same for each request: it is told once.
        return Limited(f"{self._base} takes no more requests of this token for now (429)", seconds)


class DigitalOcean:
    """The account's volumes, addresses and workers."""

    def __init__(self, token: str, url: str = API, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = Http(url, {"Authorization": f"Bearer {token}"}, clock=clock)

    def now(self) -> float:
        """DigitalOcean's clock, in Unix time, as of its last answer."""
        return self._http.now()

    def workers(self, tag: str) -> dict[int, Droplet]:
        """The droplets with this tag, by number. At most 200: the API's largest page."""
        query = urlencode({"tag_name": tag, "per_page": 200})
        found = self._http.call("GET", f"/v2/droplets?{query}") or {"droplets": []}
        return {
            int(item["id"]): Droplet(
                int(item["id"]),
                item["status"] == "active",
                frozenset(item["volume_ids"]),
                name=item["name"],
                memory_mib=int(item["memory"]),
            )
            for item in found["droplets"]
        }

    def carrier(self, volume: str) -> int | None:
        """The droplet that has the volume. Raises Refused if there is no such volume."""
        answer = self._http.call("GET", f"/v2/volumes/{quote(volume)}")
        if answer is None:
            raise Refused(404, f"volume {volume} does not exist")
        droplets = answer["volume"]["droplet_ids"] or []
        return int(droplets[0]) if droplets else None

    def actions(self, volume: str) -> tuple[Action, ...]:
        """The newest actions on the volume. Raises Refused if there is no such volume."""
        answer = self._http.call("GET", f"/v2/volumes/{quote(volume)}/actions?per_page=200")
        if answer is None:
            raise Refused(404, f"volume {volume} does not exist")
        return tuple(
            # 'attach_volume' in the API's examples, 'attach' in requests.
            Action(str(item["type"]).partition("_")[0], item["status"], _unix(item["started_at"]))
            for item in answer["actions"]
        )

    def address_at(self, address: str) -> int | None:
        """The droplet that has the reserved IP."""
        answer = self._http.call("GET", f"/v2/reserved_ips/{quote(address)}")
        if answer is None:
            raise Refused(404, f"reserved IP {address} does not exist")
        droplet = answer["reserved_ip"]["droplet"]
        return int(droplet["id"]) if droplet else None

    def assigned_at(self, address: str) -> float | None:
        """When the newest completed assignment of the reserved IP was completed; of its last 200 actions. Raises
        Refused if there is no such address."""
        answer = self._http.call("GET", f"/v2/reserved_ips/{quote(address)}/actions?per_page=200")
        if answer is None:
            raise Refused(404, f"reserved IP {address} does not exist")
        completed = [
            _unix(item["completed_at"])
            for item in answer["actions"]
            # 'assign_ip' in the API's examples, 'assign' in requests.
            if str(item["type"]).partition("_")[0] == "assign" and item["status"] == "completed"
        ]
        return max(completed, default=None)

    def address_of(self, droplet: int) -> str | None:
        """The reserved IP that the droplet has; of the account's first 200."""
        found = self._http.call("GET", "/v2/reserved_ips?per_page=200") or {"reserved_ips": []}
        owners = {int(item["droplet"]["id"]): str(item["ip"]) for item in found["reserved_ips"] if item["droplet"]}
        return owners.get(droplet)

    def detach(self, volume: str, droplet: int) -> None:
        """Request the detach from this droplet, and from no other."""
        self._http.call("POST", f"/v2/volumes/{quote(volume)}/actions", {"type": "detach", "droplet_id": droplet})

    def attach(self, volume: str, droplet: int) -> None:
        """Request the attach. DigitalOcean refuses it while a droplet has the volume."""
        self._http.call("POST", f"/v2/volumes/{quote(volume)}/actions", {"type": "attach", "droplet_id": droplet})

    def assign(self, address: str, droplet: int) -> None:
        """Request the assignment of the reserved IP."""
        self._http.call("POST", f"/v2/reserved_ips/{quote(address)}/actions", {"type": "assign", "droplet_id": droplet})

    def unassign(self, address: str) -> None:
        """Request that no droplet has the reserved IP."""
        self._http.call("POST", f"/v2/reserved_ips/{quote(address)}/actions", {"type": "unassign"})


class NomadServers:
    """Nodes, and the one variable of a takeover."""

    def __init__(self, address: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._http = Http(address, {"X-Nomad-Token": token}, tls)

    def node(self, datacenter: str) -> Node | None:
        """The node of a host: a ready one, else the one that changed last."""
        stubs = [item for item in self._list("/v1/nodes") if item["Datacenter"] == datacenter]
        return self._newest(stubs) if stubs else None

    def server_nodes(self) -> dict[str, Node]:
        """The nodes of the servers themselves, by name; of those with one name as `node`."""
        found: dict[str, list[Json]] = {}
        for item in self._list("/v1/nodes"):
            if item["NodePool"] == SERVERS_POOL:
                found.setdefault(item["Name"], []).append(item)
        return {name: node for name, stubs in found.items() if (node := self._newest(stubs))}

    def _newest(self, stubs: list[Json]) -> Node | None:
        newest = max(stubs, key=lambda item: (item["Status"] == "ready", int(item["ModifyIndex"])))
        # Only the node itself has the time.
        node = self._http.call("GET", f"/v1/node/{newest['ID']}")
        if node is None:
            return None
        droplet = str((node.get("Meta") or {}).get("pds_droplet", ""))
        since = float(node["StatusUpdatedAt"])
        silent = _SILENT_SECONDS if node["Status"] in _MISSED else 0.0
        return Node(node["Status"] == "ready", since, silent, int(droplet) if droplet.isdigit() else None)

    def _list(self, path: str) -> list[Json]:
        found = self._http.call("GET", path)
        return list(found or [])

    def state(self) -> tuple[dict[str, str], int]:
        """The items of the variable, and its index for `write`; 0 if there is none."""
        variable = self._http.call("GET", f"/v1/var/{STATE}")
        return (dict(variable["Items"]), int(variable["ModifyIndex"])) if variable else ({}, 0)

    def write(self, items: Mapping[str, str], index: int) -> bool:
        """Write the variable if it is still the one of `index`. Returns whether it was."""
        body = {"Namespace": "default", "Path": STATE, "Items": dict(items)}
        try:
            self._http.call("PUT", f"/v1/var/{STATE}?cas={index}", body)
        except Refused as error:
            if error.status == 409:
                return False
            raise
        return True


def _said(error: urllib.error.HTTPError) -> str:
    """The beginning of a refusal's answer, as far as it arrives."""
    with error:
        try:
            return error.read(300).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            return ""


def _unix(text: str) -> float:
    return float(timegm(time.strptime(text.partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")))
