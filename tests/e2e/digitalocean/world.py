"""The resources of an account, and the actions that change it over time.

Owns: the resources and their numbering, actions that end when their time has passed and their machine is done, and the
dump in JSON. The modules that answer requests own the permitted changes; machines own a droplet's behaviour
(`Machines`).

Nothing here is locked: only the server's one thread changes a world.
"""

import itertools
import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_DUMPED = (
    *("droplets", "volumes", "reserved_ips", "firewalls", "vpcs", "tags", "keys", "domains", "records", "projects"),
    *("uptime_checks", "uptime_alerts", "alert_policies", "spaces_keys", "actions", "failures"),
)
"""The fields of `World` that `dump` has."""


class Machines(Protocol):
    """The implementation of droplets. Calls may take time, but not the time of a boot; each runs in a thread."""

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """Boot for the first time with `user_data` and the volumes of these names and ids."""

    def start(self, droplet_id: int) -> None:
        """Power on again."""

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """Return once it is off."""

    def destroy(self, droplet_id: int) -> None:
        """Remove it, with its disk; volumes stay."""

    def assign(self, droplet_id: int, address: str | None) -> None:
        """Set the reserved address that leads here from now on, or none."""

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """Add a disk to a machine, which may be on or off."""

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """Take a disk from a machine: if it is on, its kernel gets I/O errors from now on."""

    def make_volume(self, volume_id: str, gib: int) -> None:
        """Create an empty disk."""

    def grow_volume(self, volume_id: str, gib: int) -> None:
        """Enlarge the disk, under a running machine."""

    def drop_volume(self, volume_id: str) -> None:
        """Delete its data."""


class NoMachines:
    """Droplets that are only records."""

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """Nothing boots."""

    def start(self, droplet_id: int) -> None:
        """Nothing starts."""

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """Nothing stops."""

    def destroy(self, droplet_id: int) -> None:
        """Nothing is destroyed."""

    def assign(self, droplet_id: int, address: str | None) -> None:
        """No address leads anywhere."""

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """No disk is added."""

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """No disk is taken."""

    def make_volume(self, volume_id: str, gib: int) -> None:
        """No disk is made."""

    def grow_volume(self, volume_id: str, gib: int) -> None:
        """No disk grows."""

    def drop_volume(self, volume_id: str) -> None:
        """No disk is dropped."""


class Spaces(Protocol):
    """The S3 service that the account's Spaces keys are for."""

    def buckets(self) -> Collection[str]:
        """The account's buckets."""

    def add_key(self, access_key: str, secret: str, grants: Sequence[Json]) -> None:
        """Add a key with the access of its grants."""

    def drop_key(self, access_key: str) -> None:
        """Remove the key's access."""


@dataclass
class NoSpaces:
    """Buckets that are only names."""

    names: set[str] = field(default_factory=set)

    def buckets(self) -> Collection[str]:
        """Those names."""
        return self.names

    def add_key(self, access_key: str, secret: str, grants: Sequence[Json]) -> None:
        """Does nothing: keys give no access."""

    def drop_key(self, access_key: str) -> None:
        """Does nothing: keys give no access."""


@dataclass
class Action:
    """An action in progress. `due` is a monotonic time; `work` the machine's part."""

    id: int
    type: str
    resource_type: str
    resource_id: int | None
    region: str
    started_at: str
    due: float
    droplet_id: int | None = None
    """The droplet that is busy with it."""
    status: str = "in-progress"
    completed_at: str | None = None
    volume_id: str | None = None
    address: str | None = None
    finish: Callable[[], None] | None = None
    work: "Future[None] | None" = None


@dataclass
class Limits:
    """An account's limits; the reserved IPs' default is the documented one."""

    droplets: int = 10
    reserved_ips: int = 3
    volumes: int = 100


@dataclass
class World:
    """One account. `action_seconds` is the minimum duration of an asynchronous action."""

    machines: Machines = field(default_factory=NoMachines)
    spaces: Spaces = field(default_factory=NoSpaces)
    action_seconds: float = 1.0
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    """The account's token; if none is set, any is valid."""
    scopes: frozenset[str] | None = None
    """The token's scopes; if none are set, everything."""
    limited_tokens: dict[str, frozenset[str]] = field(default_factory=dict)
    """Further tokens of the account, each with its scopes."""
    verified_emails: tuple[str, ...] = ("owner@bench.test",)
    """Members of the account; the first is its owner."""
    network: str = "127.0.10"
    """The network of reserved addresses: loopback, which is entirely local on Linux."""
    droplets: dict[int, Json] = field(default_factory=dict)
    volumes: dict[str, Json] = field(default_factory=dict)
    reserved_ips: dict[str, Json] = field(default_factory=dict)
    firewalls: dict[str, Json] = field(default_factory=dict)
    vpcs: dict[str, Json] = field(default_factory=dict)
    tags: dict[str, Json] = field(default_factory=dict)
    keys: dict[int, Json] = field(default_factory=dict)
    domains: dict[str, Json] = field(default_factory=dict)
    records: dict[str, dict[int, Json]] = field(default_factory=dict)
    projects: dict[str, Json] = field(default_factory=dict)
    uptime_checks: dict[str, Json] = field(default_factory=dict)
    uptime_alerts: dict[str, dict[str, Json]] = field(default_factory=dict)
    """By check."""
    alert_policies: dict[str, Json] = field(default_factory=dict)
    spaces_keys: dict[str, Json] = field(default_factory=dict)
    actions: dict[int, Action] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    """Droplets from which no volume is detached before they are deleted: a requested detach stays in progress."""
    failures: list[str] = field(default_factory=list)
    """Faults of machines; no API response reports them."""
    pool: Executor = field(default_factory=partial(ThreadPoolExecutor, max_workers=8, thread_name_prefix="machine"))
    """Runs the work of machines beside the requests."""

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._addresses = itertools.count(1)
        self._running: list[Action] = []
        self.account_uuid = uuid.uuid4().hex
        self.default_project = self.new_uuid()
        self.projects[self.default_project] = {
            "id": self.default_project,
            "owner_uuid": self.account_uuid,
            "owner_id": 258992,
            "name": "first-project",
            "description": "Update your project information under Settings",
            "purpose": "Just trying out DigitalOcean",
            "environment": "Development",
            "is_default": True,
            "created_at": self.now(),
            "updated_at": self.now(),
            "resources": [],
        }

    @staticmethod
    def now() -> str:
        """The present time in the API's form."""
        return datetime.now(UTC).strftime(_TIME)

    def age(self, seconds: float) -> None:
        """Let every action be older by so much, as if that time had passed."""
        for action in self.actions.values():
            action.started_at = _earlier(action.started_at, seconds)
            action.completed_at = action.completed_at and _earlier(action.completed_at, seconds)

    @staticmethod
    def new_uuid() -> str:
        """An id for resources that have a UUID."""
        return str(uuid.uuid4())

    def number(self, first: int) -> int:
        """An integer id, above `first` and unique."""
        return first + next(self._numbers)

    def new_address(self) -> str:
        """A reserved address that was not assigned before."""
        return f"{self.network}.{next(self._addresses)}"

    def begin(
        self,
        kind: str,
        resource: tuple[str, int | None],
        region: str,
        finish: Callable[[], None],
        work: Callable[[], None] | None = None,
        **about: Any,
    ) -> Action:
        """Start an action; `finish` applies it when time and `work` are over."""
        action = Action(
            id=self.number(2_000_000_000),
            type=kind,
            resource_type=resource[0],
            resource_id=resource[1],
            region=region,
            started_at=self.now(),
            due=time.monotonic() + self.action_seconds,
            finish=finish,
            work=self.pool.submit(work) if work else None,
            **about,
        )
        self.actions[action.id] = action
        self._running.append(action)
        return action

    def machine(self, work: Callable[[], None]) -> None:
        """Run a machine's work outside any action."""
        self.pool.submit(work).add_done_callback(self._failed)

    def running(self) -> list[Action]:
        """The actions in progress."""
        self._running = [action for action in self._running if action.status == "in-progress"]
        return self._running

    def settle(self) -> None:
        """End the actions whose time has come, oldest first."""
        for action in sorted(self.running(), key=lambda item: item.due):
            if time.monotonic() < action.due or self._is_stuck(action):
                continue
            if action.work is not None:
                if not action.work.done():
                    continue
                self._failed(action.work)
            if action.finish is not None:
                action.finish()
            action.status, action.completed_at = "completed", self.now()

    def _failed(self, work: "Future[None]") -> None:
        error = work.exception()
        if error is not None:
            self.failures.append(f"{type(error).__name__}: {error}")

    def busy(self, droplet_id: int) -> bool:
        """Whether an action on this droplet is in progress that will end."""
        return any(item.droplet_id == droplet_id and not self._is_stuck(item) for item in self.running())

    def give_up(self, droplet_id: int) -> None:
        """The droplet is deleted: its detaches that did not end end with it."""
        for action in self.running():
            if action.droplet_id == droplet_id and self._is_stuck(action):
                action.status, action.completed_at = "errored", self.now()

    def _is_stuck(self, action: Action) -> bool:
        return action.type == "detach" and action.droplet_id in self.stuck

    def project_of(self, urn: str) -> str | None:
        """The project of a resource; every existing one that can be is in one."""
        return next((number for number, item in self.projects.items() if urn in item["resources"]), None)

    def place(self, urn: str, project: str | None) -> None:
        """Put a resource into a project, or out of all; those attached or assigned to a droplet follow it."""
        for item in self.projects.values():
            item["resources"] = [other for other in item["resources"] if other != urn]
        if project is None:
            return
        self.projects[project]["resources"].append(urn)
        if urn.startswith("do:droplet:"):
            self.follow(int(urn.removeprefix("do:droplet:")))

    def follow(self, droplet_id: int) -> None:
        """A droplet's volumes and addresses are in its project; see `projects`."""
        project = self.project_of(f"do:droplet:{droplet_id}")
        for volume in self.volumes.values():
            if droplet_id in volume["droplet_ids"]:
                self.place(f"do:volume:{volume['id']}", project)
        for address in self.reserved_ips.values():
            if address["droplet_id"] == droplet_id:
                self.place(f"do:floatingip:{address['ip']}", project)

    def close(self) -> None:
        """Wait for the machines' work."""
        self.pool.shutdown(wait=True)

    def dump(self, *kinds: str) -> Json:
        """Everything, or these kinds, in a form that can be written to a file."""
        return {kind: getattr(self, kind) if kind != "actions" else self._plain_actions() for kind in kinds or _DUMPED}

    def _plain_actions(self) -> Json:
        return {
            str(number): {key: value for key, value in vars(item).items() if key not in ("finish", "work", "due")}
            for number, item in self.actions.items()
        }

    def write(self, file: Path) -> None:
        """The dump, in one rename."""
        part = file.with_suffix(".part")
        part.write_text(json.dumps(self.dump(), indent=1))
        part.chmod(0o600)
        part.rename(file)


def _earlier(text: str, seconds: float) -> str:
    return (datetime.strptime(text, _TIME) - timedelta(seconds=seconds)).strftime(_TIME)
