"""Rebuilds every droplet of a cluster, one at a time; `./pds upgrade` of a cluster.

The droplets to rebuild are in the Nomad variable `takeover/upgrade` from the beginning to the end, by DigitalOcean's
numbers. A rebuilt droplet has another number. So a run that was interrupted anywhere is continued by the next one.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from cli.cluster import drain, hosts
from cli.cluster.edit_value import set_number
from cli.cluster.hosts import Cluster, ClusterError
from cli.cluster.rolling import Droplets, Task, next_task
from cli.lib.apply import up
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.nomad_exec import nomad_access, nomad_api
from cli.lib.preflight import preview_of_engine
from cli.lib.stack import Stack
from components.clients.errors import PendingError
from components.clients.nomad import NomadApi
from components.settings.sections import ClusterOptions
from components.settings.sections.cluster import generation_of
from components.takeover.decide import HostView, spares_of
from offline.stackfile import parse_settings, read_settings, read_text
from policy.digest import DigestError, read_digest

_VARIABLE = "takeover/upgrade"
_HEALTH_SECONDS = 900.0
_CLUBS_SECONDS = 900.0
_OFF_SECONDS = 180.0
_PAUSE = 3.0


@dataclass
class Upgrade:
    """A rolling upgrade of one cluster."""

    stack: Stack
    yes: bool
    settle_seconds: float
    api: NomadApi
    cluster: Cluster
    left: frozenset[int] = field(default_factory=frozenset)

    @property
    def options(self) -> ClusterOptions:
        """The section of the stack file. Raises StackFileError."""
        options = read_settings(self.stack.name, self.stack.root).cluster
        assert options, "the command is for clusters"
        return options

    def droplets(self) -> Droplets:
        """What there is now. Raises ClusterError, also if a worker has a volume of no host."""
        if strays := self.strays():
            raise ClusterError(f"{strays[0]} It was not rebuilt.")
        outputs = self.cluster.outputs
        return Droplets(
            servers=tuple(map(int, outputs["servers"])),
            workers=tuple(map(int, outputs["workers"])),
            endpoint=self.options.servers.endpoint,
            carriers={name: host.carrier for name, host in self.views().items() if host.carrier is not None},
            left=self.left,
        )

    def views(self) -> dict[str, HostView]:
        """The hosts. Raises ClusterError."""
        return hosts.views(self.cluster.passes())

    def strays(self) -> list[str]:
        """The workers with a volume of no host, a sentence each: a host that `./pds release` removed from the outputs
        runs until its worker is shut down. Raises ClusterError."""
        passes = self.cluster.passes()
        known, mine = {place.volume for place in passes.places}, set(map(int, self.cluster.outputs["workers"]))
        workers = hosts.answered(lambda: passes.cloud.workers(passes.tag))
        return [
            f"{self.cluster.worker(number).capitalize()}, has volume {', '.join(sorted(others))} of no host of "
            f"{self.stack.name}. If a `./pds release` or an `up` was interrupted, PDSes may run there: complete it "
            "first. Detach any other volume."
            for number, droplet in sorted(workers.items())
            if number in mine and (others := droplet.volumes - known)
        ]

    def voters(self) -> frozenset[str] | None:
        """Raft's names of the voters, if autopilot calls all servers healthy and each of them votes; else None."""
        try:
            status, health = self.api.request("GET", "/v1/operator/autopilot/health")
        except OSError:
            return None
        # 429 is the answer of an unhealthy cluster.
        if status != 200 or not health["Healthy"] or not all(server["Voter"] for server in health["Servers"]):
            return None
        found = frozenset(server["ID"] for server in health["Servers"])
        return found if len(found) == self.options.servers.count else None

    def running(self, host: str) -> int:
        """How many services run on the host's node, which has the host's name. Raises ServiceError."""
        return sum(
            (item["NodeName"], item["JobType"], item["ClientStatus"]) == (host, "service", "running")
            for item in self.api.get("/v1/allocations?namespace=*")
        )

    def unready(self) -> list[str]:
        """Why hosts are not ready on their workers, a sentence each. Raises ClusterError."""
        return [fault for host in self.views().values() if (fault := _unready(host, self.stack.name))]

    def set(self, *path: str, value: int) -> None:
        """Write a number of the section `cluster` into the stack file, and `up`. Raises StackError, StackFileError."""
        text = read_text(self.stack.name, self.stack.root)
        file = f"Pulumi.{self.stack.name}.yaml"
        after = set_number(file, text, ("cluster", *path), value)
        parse_settings(self.stack.name, after)
        print(f"{file}: cluster.{'.'.join(path)}: {value}")
        StackFileEdit(self.stack.root / file, text, after).write()
        self.update()

    def update(self) -> None:
        """`up`, and read the outputs again. Raises StackError."""
        up(self.stack, yes=self.yes)
        self.cluster = Cluster.of(self.stack)


def upgrade(stack: Stack, *, yes: bool, settle_seconds: float) -> int:
    """Rebuild the workers, and the servers if there are three. Returns 0 if all are rebuilt, 1 if something is left.

    Raises ClusterError, StackError, StackFileError, ServiceError.
    """
    cluster = Cluster.of(stack)
    outputs = {**cluster.outputs, "nomad_token": cluster.outputs["nomad_management_token"]}
    run = Upgrade(stack, yes, settle_seconds, nomad_api(nomad_access(outputs)), cluster)
    left = _remembered(run.api)
    if left is None:
        if faults := _faults(run):
            raise ClusterError("\n".join((*faults, "Nothing was changed.")))
        run.left = _all(run)
        _announce(run)
        if not yes and not click.confirm("Rebuild them?"):
            return 1
        _remember(run.api, run.left)
    else:
        run.left = left
        print(f"An upgrade was interrupted. {len(left & _all(run))} of its droplets are left.")
        _finish_last(run)
    while task := next_task(run.droplets()):
        if not _do(run, task):
            print(f"\nRepeat `./pds upgrade {stack.name}` to continue.")
            return 1
    run.api.request("DELETE", f"/v1/var/{_VARIABLE}")
    servers = f" and all {run.options.servers.count} servers" if run.options.servers.count > 1 else ""
    print(f"\nAll workers{servers} are rebuilt, and every host is ready.")
    return 0


def _finish_last(run: Upgrade) -> None:
    """Apply what the interrupted run wrote into the stack file. Raises ClusterError, StackError."""
    if not run.options.takeover and (unready := run.unready()):
        raise ClusterError(unready[0])
    with DigitalOceanAccount(run.cluster.token) as account:
        lost = [number for number in _all(run) if account.get(f"droplets/{number}") is None]
    # A droplet that is gone was being replaced. If all are there, `up` may begin with a server.
    if not lost and _wait(run.voters, _HEALTH_SECONDS, "The servers are not healthy") is None:
        raise ClusterError("Nothing was changed.")
    rebuilt = _rebuilt_by_up(run.stack)
    _refuse_carriers(run, rebuilt)
    if len(rebuilt) > 1:
        raise ClusterError(
            f"`up` would change more than one droplet: {', '.join(rebuilt)}. Nothing was changed. An interrupted "
            f"upgrade changes at most one. Is Pulumi.{run.stack.name}.yaml from another checkout? Correct its "
            f"generations until the preview changes at most one droplet (`pulumi preview --stack {run.stack.name}`). "
            "Then repeat the command."
        )
    run.update()


def _refuse_carriers(run: Upgrade, rebuilt: Sequence[str]) -> None:
    """Refuse an `up` that rebuilds the worker of a host, by the names of the droplets. Raises ClusterError."""
    names = {int(worker): f"worker-{number}" for number, worker in enumerate(run.cluster.outputs["workers"], 1)}
    for host, droplet in run.droplets().carriers.items():
        if droplet in names and any(name.endswith(names[droplet]) for name in rebuilt):
            raise ClusterError(
                f"`up` would rebuild {run.cluster.worker(droplet)}, which runs host {host}. Nothing was changed. Is "
                f"Pulumi.{run.stack.name}.yaml that of another checkout? The interrupted upgrade wrote its numbers "
                "into 'cluster.workers.generations' there."
            )


def _rebuilt_by_up(stack: Stack) -> list[str]:
    """The droplets that `up` would create, delete or replace. Raises ClusterError."""
    try:
        digest = read_digest(preview_of_engine(stack), stack.name)
    except DigestError as error:
        raise ClusterError(f"{error} Nothing was changed.") from None
    if digest.errors:
        raise ClusterError("\n".join(("The preview failed:", *digest.errors, "Nothing was changed.")))
    return [item.name for item in digest.changes if item.type.endswith(":Droplet") and item.op != "update"]


def _all(run: Upgrade) -> frozenset[int]:
    outputs = run.cluster.outputs
    servers = outputs["servers"] if len(outputs["servers"]) > 1 else []
    return frozenset(map(int, [*servers, *outputs["workers"]]))


def _announce(run: Upgrade) -> None:
    servers, workers = run.cluster.outputs["servers"], run.cluster.outputs["workers"]
    if len(servers) == 1:
        print("This command keeps the only server, because it has Nomad's state.")
    else:
        print(f"This command rebuilds {len(servers)} servers, one at a time. PDSes keep serving.")
    print(f"It rebuilds {len(workers)} workers, those without a host first. Then it drains each host", end=" ")
    print(f"({', '.join(run.cluster.outputs['hosts'])}) to a rebuilt worker.")
    print("The clubs on a host are down while it is drained.")


def _faults(run: Upgrade) -> list[str]:
    """What forbids to begin. Changes nothing."""
    faults = []
    if run.voters() is None:
        faults.append(
            f"The servers are not healthy: `./pds nomad {run.stack.name} -- operator autopilot health` shows why."
        )
    faults += run.unready() + run.strays()
    address, wanted = run.cluster.servers_address, run.options.servers.endpoint
    at = hosts.answered(address.at) if address.is_movable else None
    if at is not None and at != wanted:
        # A takeover moved it, so that the file calls the wrong server free to rebuild.
        leads = hosts.answered(address.leads_to)
        faults.append(f"{leads}, and the stack file names server {wanted}. {address.to_write(at)}")
    passes = run.cluster.passes()
    if not spares_of(passes.cloud.workers(passes.tag), passes.retired()):
        faults.append(
            "There is no spare worker to drain a host to. Raise 'cluster.workers.spares', or raise the generation of a "
            "worker that lost a host ('cluster.workers.generations'), then `up`."
        )
    if not faults and run.stack.run("preview", "--expect-no-changes").code:
        faults.append(
            f"The stack file has changes that are not applied. Run `pulumi up --stack {run.stack.name}` first."
        )
    return faults


def _do(run: Upgrade, task: Task) -> bool:
    """One task, with waits before and after it. Returns whether it succeeded."""
    voters = _wait(run.voters, _HEALTH_SECONDS, "The servers are not healthy")
    if voters is None or _wait(lambda: _ready(run), _HEALTH_SECONDS, "Not every host is ready") is None:
        return False
    servers, workers = run.options.servers, run.options.workers
    if task.kind == "name":
        print(f"\nMoving the cluster's address to server {task.number}.")
        run.set("servers", "endpoint", value=task.number)
        return True
    if task.kind == "server":
        print(f"\nRebuilding server {task.number}.")
        run.set("servers", "generations", str(task.number), value=generation_of(servers, task.number) + 1)
        return _wait(lambda: _joined(run, voters), _HEALTH_SECONDS, f"Server {task.number} has not joined") is not None
    if task.kind == "worker":
        return _rebuild_worker(run, task.number, generation_of(workers, task.number))
    print(f"\nDraining host {task.host}.")
    before = run.running(task.host)
    if drain.drain(run.stack, task.host, yes=True):
        return False
    fault = f"Not all of the {before} services of host {task.host} run again"
    return _wait(lambda: run.running(task.host) >= before or None, _CLUBS_SECONDS, fault) is not None


def _ready(run: Upgrade) -> bool | None:
    return None if run.unready() else True


def _unready(host: HostView, stack: str) -> str:
    """Why the host is not ready on its worker, with the remedy; empty if it is."""
    if host.is_busy:
        return f"Host {host.name}: an action on its volume is in progress. Repeat the command when it is over."
    if not host.is_serving:
        return f"Host {host.name}: its node is not ready. Run `./pds repair {stack}` first."
    if host.address_at != host.carrier:
        return f"Host {host.name}: {host.address} does not lead to its droplet. Run `./pds repair {stack}` first."
    return ""


def _joined(run: Upgrade, before: frozenset[str]) -> frozenset[str] | None:
    """The voters, once a new server is one. Until its loss is noticed the old one still counts as healthy."""
    voters = run.voters()
    return voters if voters is not None and len(voters - before) == 1 else None


def _rebuild_worker(run: Upgrade, number: int, generation: int) -> bool:
    droplet = int(run.cluster.outputs["workers"][number - 1])
    print(f"\nRebuilding worker {number}. It runs no host, and takes none meanwhile.")
    passes = run.cluster.passes()
    # A takeover chooses no retired droplet. One that chose it a moment ago shows in the second look.
    passes.retire(droplet)
    time.sleep(_PAUSE)
    if _wait(lambda: _ready(run), _HEALTH_SECONDS, "Not every host is ready") is None:
        return False
    if droplet in run.droplets().carriers.values():
        print(f"Worker {number} now runs a host. It is drained later.")
        return True
    # A refresh while it had a host wrote the host's volume into the state. The provider would detach that one first,
    # and fail, because the volume is on another droplet (digitalocean/droplet/resource_droplet.go).
    if run.stack.run("refresh", "--yes", "--skip-preview", "--target", f"**-worker-{number}").code:
        print(f"The engine's state of worker {number} could not be refreshed.")
        return False
    if not _is_powered_off(run, droplet):
        return False
    run.set("workers", "generations", str(number), value=generation + 1)
    if run.settle_seconds:
        # Nothing reports when a worker without a host is set up: it has no Nomad yet.
        print(f"{run.settle_seconds:.0f} s for its setup.", flush=True)
        time.sleep(run.settle_seconds)
    return True


def _is_powered_off(run: Upgrade, droplet: int) -> bool:
    """Whether a worker without a host is off, by its power. The provider's own shutdown before a deletion would wait in
    vain for a droplet that lost its host because it hangs (digitalocean/droplet/resource_droplet.go).

    A droplet that has a volume keeps its power. After a detach DigitalOcean may list the volume for a moment.
    """

    def seen() -> dict[str, Any]:
        return account.get(f"droplets/{droplet}") or {"status": "off", "volume_ids": []}

    with DigitalOceanAccount(run.cluster.token) as account:
        fault = f"Droplet {droplet} still has a volume, and was not rebuilt"
        found = _wait(lambda: None if (now := seen())["volume_ids"] else now, _OFF_SECONDS, fault)
        if found is None:
            return False
        if found["status"] != "off":
            account.create(f"droplets/{droplet}/actions", {"type": "power_off"})
        fault = f"Droplet {droplet} is not off"
        return _wait(lambda: True if seen()["status"] == "off" else None, _OFF_SECONDS, fault) is not None


def _wait(ask: Callable[[], Any], seconds: float, fault: str) -> Any:
    """The first answer that is not None; None, with a message, if there is none in time."""
    end = time.monotonic() + seconds
    while True:
        cause = ""
        try:
            if (answer := ask()) is not None:
                return answer
        except (PendingError, ClusterError) as error:
            cause = f" ({error})"
        if time.monotonic() > end:
            print(f"{fault} after {seconds:.0f} s{cause}.")
            return None
        time.sleep(_PAUSE)


def _remembered(api: NomadApi) -> frozenset[int] | None:
    status, variable = _asked(api, "GET", None)
    return frozenset(json.loads(variable["Items"]["droplets"])) if status == 200 else None


def _remember(api: NomadApi, droplets: frozenset[int]) -> None:
    body = {"Path": _VARIABLE, "Items": {"droplets": json.dumps(sorted(droplets))}}
    status, answer = _asked(api, "PUT", body)
    if status != 200:
        raise ClusterError(f"Nomad refuses the variable {_VARIABLE} ({status}: {answer}). Nothing was changed.")


def _asked(api: NomadApi, method: str, body: Any) -> tuple[int, Any]:
    try:
        return api.request(method, f"/v1/var/{_VARIABLE}", body)
    except OSError as error:
        raise PendingError(f"Nomad at {api.address} does not answer ({error}).") from error
