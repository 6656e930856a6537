"""The resources of one run on the account: made, acted on, and removed. Nothing else of the account is changed.

The run's name, which has 48 random bits, is the tag of the droplets and of the volume, and the name of the volume and
the firewall. So they are found even if the answer to their creation was lost. A reserved IP has neither name nor tag:
it is made for a droplet of the run, and known by that. Until it is known no droplet is deleted. The record file has the
run's name before anything is made, for `--remove` after the program was killed.

Sources: digitalocean/openapi (volumes, volume_actions, droplets, reserved_ips, firewalls, tags, actions).
"""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from components.takeover.services import Http, Refused, Unavailable
from tools.measure_account.droplet_agent import PORTS

Json = dict[str, Any]

NAME = "pds-measure-"
"""How each run's name begins."""
GIB = 1
_IMAGE = "debian-13-x64"
_ALL = {"addresses": ["0.0.0.0/0", "::/0"]}


class MeasureError(Exception):
    """The measurement cannot go on; the text says why. What was made is removed all the same."""


@dataclass(frozen=True)
class Pace:
    """Seconds between questions, and the longest waits. DigitalOcean allows 250 requests a minute."""

    pause: float = 0.7
    """After one or two requests."""
    boot: float = 600
    action: float = 900
    """For a detach, an attach, an assignment and a change of power."""
    fence: float = 60
    """For the I/O error of a writer, after the detach."""
    removal: float = 1200
    late: float = 60
    """How long a resource is looked for whose creation had no answer."""


@dataclass
class Record:
    """What is known of a run outside the account. `write` keeps it in `file`."""

    file: Path
    name: str
    address: str | None = None
    """Its reserved IP."""
    addresses_before: list[str] = field(default_factory=list)
    is_address_requested: bool = False

    @classmethod
    def new(cls, folder: Path) -> "Record":
        """Return the record of a new run, which is not written yet."""
        name = NAME + secrets.token_hex(6)
        return cls(folder / f"{name}.json", name)

    @classmethod
    def read(cls, folder: Path, name: str) -> "Record":
        """Return the record of an earlier run. Raises MeasureError."""
        file = folder / f"{name}.json"
        if not name.startswith(NAME) or not file.exists():
            raise MeasureError(f"There is no run '{name}': {folder} has no such file. `ls {folder}` shows the runs.")
        return cls(file=file, **json.loads(file.read_text()))

    def write(self) -> None:
        """Write the file in one rename."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({key: value for key, value in asdict(self).items() if key != "file"}))
        part.rename(self.file)


@dataclass(frozen=True)
class Worker:
    """A droplet of the run."""

    name: str
    """'a' or 'b'."""
    number: int
    public: str
    private: str


class Account:
    """One run on the account of `http`."""

    def __init__(self, http: Http, record: Record, pace: Pace | None = None) -> None:
        self._http, self.record, self.pace = http, record, pace or Pace()
        self.run = record.name
        self._is_unanswered = record.file.exists()
        """Whether a creation may still show up. It may after a run that was killed."""

    def hourly(self, region: str, size: str) -> float:
        """Return the price of a droplet an hour, in USD. Raises MeasureError for an unknown size or region."""
        known = {str(item["slug"]): item for item in self._get("/v2/sizes?per_page=200")["sizes"]}
        if size not in known or region not in known[size]["regions"]:
            raise MeasureError(f"DigitalOcean has no size '{size}' in region '{region}'. Name others.")
        return float(known[size]["price_hourly"])

    def make_volume(self, region: str) -> str:
        """Make the volume. Returns its ID."""
        body = {"name": self.run, "region": region, "size_gigabytes": GIB, "filesystem_type": "ext4"}
        return str(self._make("/v2/volumes", {**body, "tags": [self.run]})["volume"]["id"])

    def make_droplet(self, name: str, region: str, size: str, user_data: str) -> int:
        """Request a droplet. Returns its number."""
        body = {"name": f"{self.run}-{name}", "region": region, "size": size, "image": _IMAGE, "tags": [self.run]}
        return int(self._make("/v2/droplets", {**body, "user_data": user_data})["droplet"]["id"])

    def worker(self, name: str, number: int) -> Worker | None:
        """Return a droplet with its addresses, None until it has booted."""
        droplet = self._get(f"/v2/droplets/{number}")["droplet"]
        kinds = {item["type"]: str(item["ip_address"]) for item in droplet["networks"]["v4"]}
        is_up = droplet["status"] == "active" and {"public", "private"} <= kinds.keys()
        return Worker(name, number, kinds["public"], kinds["private"]) if is_up else None

    def make_address(self, droplet: int) -> str | None:
        """Request a reserved IP for a droplet, to which it leads a little later. Returns None while the droplet has an
        action."""
        self.record.addresses_before = self._addresses_of(None)
        self.record.is_address_requested = True
        self.record.write()
        try:
            made = self._make("/v2/reserved_ips", {"droplet_id": droplet})["reserved_ip"]
        except Refused as error:
            self.record.is_address_requested = False
            if error.status != 422 or "pending" not in str(error):
                raise
            return None
        except Unavailable as error:
            # Asked again, it might be made twice.
            raise MeasureError(f"Whether DigitalOcean made a reserved IP is unknown: {error}.") from None
        self.record.address = str(made["ip"])
        self.record.write()
        return self.record.address

    def make_firewall(self) -> str:
        """Make the firewall: HTTP from all, the second port from the run's droplets, the third from none. Returns its
        ID."""
        rules = [
            {"protocol": "tcp", "ports": str(PORTS[0]), "sources": _ALL},
            {"protocol": "tcp", "ports": str(PORTS[1]), "sources": {"tags": [self.run]}},
        ]
        out = [{"protocol": kind, "ports": "0", "destinations": _ALL} for kind in ("tcp", "udp")]
        body = {"name": self.run, "tags": [self.run], "inbound_rules": rules, "outbound_rules": out}
        return str(self._make("/v2/firewalls", body)["firewall"]["id"])

    def is_firewall_applied(self, firewall: str) -> bool:
        """Return whether DigitalOcean has applied it to its droplets."""
        return bool(self._get(f"/v2/firewalls/{quote(firewall)}")["firewall"]["status"] == "succeeded")

    def act(self, path: str, kind: str, droplet: int | None = None) -> int | None:
        """Request an action of `volumes/ID`, `droplets/NUMBER` or `reserved_ips/ADDRESS`. Returns its number, or None
        if DigitalOcean refuses it now (422), as during another action. Raises MeasureError without an answer."""
        body: Json = {"type": kind} | ({} if droplet is None else {"droplet_id": droplet})
        try:
            return int(self._post(f"/v2/{path}/actions", body)["action"]["id"])
        except Refused as error:
            if error.status != 422:
                raise
            return None
        except Unavailable as error:
            raise MeasureError(f"Whether DigitalOcean began the {kind} is unknown: {error}.") from None

    def is_over(self, action: int) -> bool:
        """Return whether an action is completed. Raises MeasureError if it failed."""
        status = self._get(f"/v2/actions/{action}")["action"]["status"]
        if status == "errored":
            raise MeasureError(f"DigitalOcean reports that action {action} failed.")
        return bool(status == "completed")

    def carrier(self, volume: str) -> int | None:
        """Return the droplet that has the volume."""
        droplets = self._get(f"/v2/volumes/{quote(volume)}")["volume"]["droplet_ids"] or []
        return int(droplets[0]) if droplets else None

    def delete_droplet(self, number: int) -> None:
        """Request the deletion of a droplet of the run."""
        self._http.call("DELETE", f"/v2/droplets/{number}")

    def remove(self) -> list[str]:
        """Remove everything of this run. Returns what is left, in words; it never raises for an API that fails."""
        left = self._find_address()
        late = self.pace.late if self._is_unanswered else 0.0
        end, quiet_since = time.monotonic() + self.pace.removal, time.monotonic()
        remaining: list[str] = []
        while time.monotonic() < end:
            try:
                remaining = list(self._remove_once())
            except (Unavailable, Refused) as error:
                remaining = [f"unknown: {error}"]
            if remaining:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= late:
                if not left:
                    self.record.file.unlink(missing_ok=True)
                return left
            time.sleep(self.pace.pause)
        return [*left, *remaining]

    def _find_address(self) -> list[str]:
        """Find the reserved IP whose creation had no answer. Returns those that appeared and may be the operator's."""
        if self.record.address or not self.record.is_address_requested:
            return []
        end, unknown = time.monotonic() + self.pace.late, set[str]()
        while True:
            try:
                own = self._addresses_of([item["id"] for item in self._droplets()])
                if own:
                    self.record.address = own[0]
                    self.record.write()
                    return []
                unknown = set(self._addresses_of(None)) - set(self.record.addresses_before)
                is_known = True
            except (Unavailable, Refused):
                is_known = False
            if time.monotonic() > end and (is_known or time.monotonic() > end + self.pace.removal):
                break
            time.sleep(self.pace.pause)
        return [f"perhaps the reserved IP {ip}, which appeared meanwhile on no droplet" for ip in sorted(unknown)]

    def _remove_once(self) -> Iterator[str]:
        """Request what can be removed now. Yields what is still there, in words."""
        for droplet in self._droplets():
            yield f"droplet {droplet['id']} (`doctl compute droplet delete {droplet['id']}`)"
            self._try(f"/v2/droplets/{droplet['id']}")
        volumes = self._get(f"/v2/volumes?{urlencode({'name': self.run, 'per_page': 200})}")["volumes"]
        for volume in (item for item in volumes if item["name"] == self.run):
            yield f"volume {volume['id']} (`doctl compute volume delete {volume['id']}`)"
            if not volume["droplet_ids"]:
                self._try(f"/v2/volumes/{volume['id']}")
        address = self.record.address
        if address and (found := self._http.call("GET", f"/v2/reserved_ips/{address}")):
            yield f"reserved IP {address} (`doctl compute reserved-ip delete {address}`)"
            if not found["reserved_ip"]["droplet"]:
                self._try(f"/v2/reserved_ips/{address}")
        firewalls = self._get("/v2/firewalls?per_page=200")["firewalls"]
        for firewall in (item for item in firewalls if item["name"] == self.run):
            yield f"firewall {firewall['id']} (`doctl compute firewall delete {firewall['id']}`)"
            self._try(f"/v2/firewalls/{firewall['id']}")
        # Last: it is what the droplets are found by.
        if not self._droplets() and self._http.call("GET", f"/v2/tags/{self.run}"):
            yield f"tag {self.run} (`doctl compute tag delete {self.run}`)"
            self._try(f"/v2/tags/{self.run}")

    def _droplets(self) -> list[Json]:
        found = self._get(f"/v2/droplets?{urlencode({'tag_name': self.run, 'per_page': 200})}")["droplets"]
        return [item for item in found if self.run in item["tags"] and item["name"].startswith(self.run)]

    def _addresses_of(self, droplets: list[int] | None) -> list[str]:
        """Return the reserved IPs that lead to these droplets; all of the account if None."""
        found = self._get("/v2/reserved_ips?per_page=200")["reserved_ips"]
        return [
            str(item["ip"])
            for item in found
            if droplets is None or (item["droplet"] and item["droplet"]["id"] in droplets)
        ]

    def _try(self, path: str) -> None:
        """Request a deletion. It may be refused for now, as during another action."""
        try:
            self._http.call("DELETE", path)
        except Refused as error:
            if error.status in (401, 403):
                raise

    def _get(self, path: str) -> Json:
        found: Json | None = self._http.call("GET", path)
        if found is None:
            raise MeasureError(f"DigitalOcean does not find {path.partition('?')[0]} any more.")
        return found

    def _make(self, path: str, body: Mapping[str, Any]) -> Json:
        self._is_unanswered = True
        try:
            found = self._post(path, body)
        except Refused:
            self._is_unanswered = False
            raise
        self._is_unanswered = False
        return found

    def _post(self, path: str, body: Mapping[str, Any]) -> Json:
        found: Json | None = self._http.call("POST", path, dict(body))
        if found is None:
            raise MeasureError(f"DigitalOcean does not find {path} any more.")
        return found
