"""Checks of a cluster's stack, which has no PDS: Nomad, hosts, spares, snapshots and the account. Changes nothing."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from cli.check import digitalocean
from cli.check.project import escrow_of
from cli.check.run import CheckResult
from cli.check.subject import CheckVerdict, failed, passed, skipped
from cli.cluster.hosts import Cluster
from cli.errors import CommandError
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.nomad_exec import certificate_end, nomad_access, nomad_api
from cli.lib.stack import Stack, State
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.render.cluster.agents import SERVERS_POOL
from components.render.cluster.snapshots import JOB as SNAPSHOTS_JOB
from components.render.cluster.snapshots import RECORD
from components.render.cluster.takeover import JOB as TAKEOVER_JOB
from components.render.cluster.takeover import VARIABLE
from components.render.cluster.user_data import server_hash, worker_hash
from components.render.jobs.alerts import VOLUME_PERCENT
from components.settings.fields.nomad_version import version_numbers
from components.settings.host_contract import ingress_namespace
from components.settings.sections import ClusterOptions
from components.settings.sections.settings import Settings
from components.takeover.decide import HostView, spares_of
from components.takeover.passes import LEASE_SECONDS, LONGEST_LEASE_SECONDS, Passes
from components.takeover.program import pause
from components.takeover.services import STATE, DigitalOcean, Refused, Unavailable
from offline.stackfile import read_settings

_VOLUME = "/srv/nomad"
_FAILED = {"notify_failed": "cluster.takeover.notify_url", "ping_failed": "cluster.takeover.ping_url"}
"""Items of the takeover's variable: its last failures to reach a person."""
_CERTIFICATE_DAYS = 30  # it is renewed by an `up` in its last two months (components/host/certificates.py)
_UNHEALTHY = 429
"""Nomad's status if a server is unhealthy; the body has the whole answer (command/agent/operator_endpoint.go)."""


@dataclass(frozen=True)
class ClusterSubject:
    """The cluster of a stack, and the ways to its servers and its account."""

    settings: Settings
    cluster: Cluster
    state: State
    """The engine's."""

    @classmethod
    def of(cls, stack: Stack) -> "ClusterSubject":
        """Read it. Raises StackError, StackFileError and ClusterError."""
        return cls(read_settings(stack.name, stack.root), Cluster.of(stack), stack.state())

    @cached_property
    def account(self) -> DigitalOceanAccount:
        """The account, with the operator's token."""
        return DigitalOceanAccount(self.cluster.token)

    @property
    def apply(self) -> str:
        """The command that applies the stack file."""
        return f"`pulumi up --stack {self.cluster.stack}`"

    @property
    def options(self) -> ClusterOptions:
        """The section of the stack file."""
        assert self.settings.cluster
        return self.settings.cluster

    @cached_property
    def api(self) -> NomadApi:
        """Nomad, with the management token."""
        outputs = self.cluster.outputs
        return nomad_api(nomad_access({**outputs, "nomad_token": outputs["nomad_management_token"]}))

    @cached_property
    def passes(self) -> Passes:
        """The takeover's own view of the hosts, with the operator's token."""
        return self.cluster.passes()

    def host(self, name: str) -> HostView | None:
        """The host as it is; None if no `up` has made it yet. Raises Unavailable and Refused."""
        place = next((place for place in self.passes.places if place.name == name), None)
        return self.passes.view(place) if place else None


def run_checks(subject: ClusterSubject) -> Iterator[CheckResult]:
    """Run every check; raises nothing that a service could cause."""
    for name, ask in _checks(subject):
        try:
            verdict = ask()
        except (CommandError, ServiceError, DigitalOceanError, Unavailable, Refused) as error:
            verdict = failed(f"{str(error).rstrip('.')}.")
        except (OSError, KeyError, ValueError, TypeError) as error:
            verdict = failed(f"no answer of the expected form ({type(error).__name__}: {error}).")
        yield CheckResult(name, verdict.ok, verdict.remark)


def _checks(subject: ClusterSubject) -> Iterator[tuple[str, Callable[[], CheckVerdict]]]:
    stack = subject.cluster.stack
    if subject.options.servers.count > 1:
        yield "servers' address", lambda: address(subject)
    yield "servers", lambda: servers(subject)
    for host in subject.options.hosts:
        yield f"host {host}", lambda host=host: carried(subject, host)  # type: ignore[misc]
        yield f"disk {host}", lambda host=host: disk(subject, host)  # type: ignore[misc]
        yield f"ingress {host}", lambda host=host: ingress(subject, host)  # type: ignore[misc]
    yield "spares", lambda: spares(subject)
    yield "takeover", lambda: takeover(subject)
    yield "takeover's token", lambda: token(subject)
    yield "snapshots", lambda: snapshots(subject)
    yield "machines", lambda: machines(subject)
    yield "firewall", lambda: digitalocean.cluster_firewalls(stack, subject.state, subject.account)
    yield "account", lambda: digitalocean.cluster_resources(stack, subject.state, subject.account)
    yield "escrow", lambda: escrow(subject)
    yield "clubs", lambda: clubs(subject)
    yield "client certificate", lambda: certificate(subject)


def address(subject: ClusterSubject) -> CheckVerdict:
    """Check that the address leads to a server that answers, the one in the file."""
    found, wanted = subject.cluster.servers_address, subject.options.servers.endpoint
    if lost := found.lost():
        return failed(f"{lost} `./pds repair {subject.cluster.stack}` assigns it to one of these, as a takeover does.")
    at, leads = found.at(), found.leads_to()
    if at is not None and at != wanted:
        return failed(f"{leads}, and the stack file names server {wanted}. {found.to_write(at)}")
    return (
        passed(leads) if at else failed(f"{leads}. `pulumi up --stack {subject.cluster.stack} --refresh` assigns it.")
    )


def servers(subject: ClusterSubject) -> CheckVerdict:
    """Check that autopilot calls every server healthy, and that there are as many as the file says."""
    status, answer = subject.api.request("GET", "/v1/operator/autopilot/health")
    if status not in (200, _UNHEALTHY):
        return failed(
            f"autopilot answers {status}. Is there a leader? `./pds nomad {subject.cluster.stack} -- server members`"
        )
    found = answer["Servers"]
    voters = sum(bool(server["Voter"]) for server in found)
    bad = [server["Name"] for server in found if not server["Healthy"]]
    wanted = subject.options.servers.count
    if bad or not answer["Healthy"]:
        return failed(
            f"not healthy: {', '.join(bad) or 'the cluster as a whole'}. Rebuild a lost one: raise its generation "
            "in 'cluster.servers.generations', one at a time."
        )
    if voters != wanted:
        return failed(
            f"{voters} of {wanted} servers are voters. A new server needs some minutes: repeat the check. If it still "
            "fails, open that server's console."
        )
    return passed(f"{voters} of {wanted} are healthy, and {answer['FailureTolerance']} may be lost")


def carried(subject: ClusterSubject, host: str) -> CheckVerdict:
    """Check that a worker has the volume and the address, and that the node is ready there."""
    view, command = subject.host(host), f"`./pds repair {subject.cluster.stack}`"
    repair = f"{command} moves it to a spare."
    if view is None:
        return failed(f"no `up` has made it yet. Run {subject.apply}.")
    if view.carrier is None:
        return failed(f"no droplet has its volume. {repair}")
    where = subject.cluster.worker(view.carrier)
    if view.carrier not in subject.passes.cloud.workers(subject.passes.tag):
        return failed(f"droplet {view.carrier} has its volume, and is no worker. Detach it there, then {repair}")
    if not view.is_serving:
        return failed(f"its volume is on {where}, and its node is not ready. {repair}")
    if view.address_at != view.carrier:
        return failed(f"it is on {where}, and {view.address} leads elsewhere. {command} assigns it to that droplet.")
    return passed(f"on {where}, with its volume and {view.address}; {subject.cluster.clubs_on(host)}")


def disk(subject: ClusterSubject, host: str) -> CheckVerdict:
    """Check the free space on the host's volume, as its Nomad client measures it."""
    nodes = [node for node in subject.api.get("/v1/nodes") if node["Datacenter"] == host and node["Status"] == "ready"]
    if not nodes:
        return skipped("its node is not ready")
    found = subject.api.get(f"/v1/client/stats?node_id={nodes[0]['ID']}").get("DiskStats") or []
    volume = next((item for item in found if item["Mountpoint"] == _VOLUME), None)
    if volume is None:
        return skipped("its Nomad does not report the volume")
    used = float(volume["UsedPercent"])
    if used >= VOLUME_PERCENT:
        return failed(f"{used:.0f} % of the volume is full. Raise 'cluster.hosts.{host}.volume_gib', or move a club.")
    return passed(f"{used:.0f} % of {int(volume['Size']) / 1024**3:.0f} GiB")


def ingress(subject: ClusterSubject, host: str) -> CheckVerdict:
    """Check that the host's ingress runs."""
    kind = subject.settings.ingress.kind
    if kind == "none":
        return skipped("'ingress.kind' is none")
    return _runs(subject, kind, ingress_namespace(host))


def _running(subject: ClusterSubject, job: str, namespace: str) -> list[str]:
    """The job's allocations that run."""
    allocations = subject.api.get(f"/v1/job/{job}/allocations?namespace={namespace}") or []
    return [item["ID"] for item in allocations if item["ClientStatus"] == "running"]


def _runs(subject: ClusterSubject, job: str, namespace: str) -> CheckVerdict:
    if _running(subject, job, namespace):
        return passed("it runs")
    status = f"./pds nomad {subject.cluster.stack} -- job status -namespace {namespace} {job}"
    return failed(f"job {job} does not run: `{status}`.")


def spares(subject: ClusterSubject) -> CheckVerdict:
    """Check that as many workers wait for a host as the file says, and that each worker has the memory that the file
    counts on."""
    wanted, memory = subject.options.workers.spares, subject.options.workers.memory_mib
    droplets = subject.passes.cloud.workers(subject.passes.tag)
    retired = subject.passes.retired()
    ready = spares_of(droplets, retired)
    if small := [number for number, droplet in sorted(droplets.items()) if 0 < droplet.memory_mib < memory]:
        sizes = ", ".join(f"{subject.cluster.worker(number)}: {droplets[number].memory_mib} MiB" for number in small)
        return failed(
            f"smaller than 'cluster.workers.size', which has {memory} MiB: {sizes}. A host there has too little memory "
            f"for its clubs. Rebuild them: `./pds upgrade {subject.cluster.stack}`, or raise their generations."
        )
    if len(ready) >= wanted:
        return passed(", ".join(map(subject.cluster.worker, ready)) or "none, as in the stack file")
    reasons = [
        f"{subject.cluster.worker(number)} lost host {retired[number]}: raise its generation in "
        "'cluster.workers.generations'"
        for number in sorted(set(retired) & set(droplets))
        if not droplets[number].volumes
    ]
    reasons += [
        f"{subject.cluster.worker(number)} is off"
        for number, droplet in sorted(droplets.items())
        if not droplet.is_active and not droplet.volumes and number not in retired
    ]
    return failed(f"{len(ready)} of {wanted} are ready. {'; '.join(reasons) or 'Run `pulumi up`'}.")


def takeover(subject: ClusterSubject) -> CheckVerdict:
    """Check that the job runs and has checked the hosts lately."""
    if subject.options.takeover is None:
        return skipped("the file has no 'cluster.takeover': a dead host waits for `./pds repair`")
    if not (runs := _runs(subject, TAKEOVER_JOB, "default")).ok:
        return runs
    items = (subject.api.get(f"/v1/var/{STATE}") or {"Items": {}})["Items"]
    lease = json.loads(items.get("lease", "{}"))
    left = float(lease.get("until", 0)) - time.time()
    if left > LONGEST_LEASE_SECONDS:
        return failed(
            f"{lease['holder']} wrote a lease that ends in {left:.0f} s. Its clock is ahead, or that of this machine "
            "is behind: correct it, then repeat the check."
        )
    if left > 0 and lease["holder"] not in _running(subject, TAKEOVER_JOB, "default"):
        return failed(
            f"it runs, and waits for {lease['holder']}, which holds the lease for {left:.0f} s: `./pds repair` or "
            "`drain` at work, or a program that was cut short. Repeat the check in a minute."
        )
    age = LEASE_SECONDS - left
    if age > LEASE_SECONDS + pause(len(subject.options.hosts), moving=False):
        return failed(
            "it runs, and has not checked the hosts lately: "
            f"`./pds nomad {subject.cluster.stack} -- alloc logs -namespace default -job {TAKEOVER_JOB}`."
        )
    if mute := [_mute(subject, option, items[item]) for item, option in _FAILED.items() if items.get(item)]:
        return failed(f"it runs, and {' '.join(mute)}")
    return passed(f"it runs, and checked the hosts {max(0, age):.0f} s ago")


def _mute(subject: ClusterSubject, option: str, item: str) -> str:
    known = json.loads(item)
    return (
        f"the last request to '{option}' failed at {_shown(known['at'])} ({known['why']}). If the service is faulty, "
        f"wait: the job repeats the request each minute. {_another(subject, option)}"
    )


def _another(subject: ClusterSubject, option: str) -> str:
    command = f"pulumi config set --secret --path {option} --stack {subject.cluster.stack}"
    return f"If the service no longer has this URL, write another one: `{command}`, then run {subject.apply}."


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def snapshots(subject: ClusterSubject) -> CheckVerdict:
    """Check that the last snapshot of Nomad's state is recent, and that its ping arrived. Its job writes a variable."""
    section, nomad = subject.options.snapshots, f"./pds nomad {subject.cluster.stack} --"
    if section is None:
        return failed(
            "none are configured. If all servers are lost, every secret in Nomad's variables is lost. Add "
            "'cluster.snapshots'."
        )
    job, hours = subject.api.find(f"/v1/job/{SNAPSHOTS_JOB}?namespace=default"), section.interval_hours
    if job is None:
        return failed(f"Nomad has no job that takes them. Run {subject.apply}.")
    record = subject.api.find(f"/v1/var/{RECORD}?namespace=default")
    changed = float((record or {"ModifyTime": job["SubmitTime"]})["ModifyTime"]) / 1e9
    age, shown = time.time() - changed, _shown(changed)
    look = f"`{nomad} job status {SNAPSHOTS_JOB}` lists the runs; `{nomad} alloc logs ALLOC` has the reason."
    if record is None:
        if age <= hours * 3600:
            return skipped(f"the first one is due within {hours} h after {shown}, when the job was made")
        return failed(f"none has succeeded since the job was made at {shown}. {look}")
    if age > 3 * hours * 3600:
        return failed(f"the last one is of {shown}, and one is due every {hours} h. {look}")
    if why := record.get("Items", {}).get("ping_failed"):
        return failed(
            f"the last one is of {shown}, and the dead man's switch could not be pinged ({why}). If the service is "
            f"faulty, wait for the next snapshot. {_another(subject, 'cluster.snapshots.ping_url')}"
        )
    return passed(f"the last one is of {shown}")


def machines(subject: ClusterSubject) -> CheckVerdict:
    """Check that the droplets were built from the user data that the program renders now. An older one is no fault,
    unless it installed an older Nomad."""
    settings, stack, older = subject.settings, subject.cluster.stack, list[str]()
    for stub in subject.api.get("/v1/nodes"):
        if stub["Status"] != "ready":
            continue
        number = stub["Name"].removeprefix(f"{stack}-server-")
        is_server = stub["NodePool"] == SERVERS_POOL and number.isdigit()
        wanted = server_hash(settings, stack, int(number)) if is_server else worker_hash(settings, stack)
        if subject.api.get(f"/v1/node/{stub['ID']}")["Meta"].get("pds_configuration") == wanted:
            continue
        name = f"server {number}" if is_server else f"the worker of host {stub['Datacenter']}"
        if version_numbers(stub["Version"]) < version_numbers(settings.nomad.version):
            return failed(
                f"{name} runs Nomad {stub['Version']}, and the stack file names {settings.nomad.version}. "
                f"`./pds upgrade {stack}` rebuilds all droplets."
            )
        older.append(name)
    if older:
        return skipped(
            f"built from older user data: {', '.join(sorted(older))}. No action is needed. `./pds upgrade {stack}` "
            "rebuilds all droplets"
        )
    return passed("built from the current user data")


def escrow(subject: ClusterSubject) -> CheckVerdict:
    """Check that there is a second copy of what only the state holds."""
    cluster = subject.cluster
    return escrow_of(cluster.stack, subject.options.escrow, cluster.outputs.get("escrow"), "cluster.escrow")


def token(subject: ClusterSubject) -> CheckVerdict:
    """Check that DigitalOcean lets the takeover's own token read all that a takeover reads."""
    if subject.options.takeover is None:
        return skipped("the file has no 'cluster.takeover'")
    variable = subject.api.get(f"/v1/var/{VARIABLE}?namespace=default")
    if not variable:
        return failed(f"its variable is gone. Run {subject.apply}.")
    cloud = DigitalOcean(variable["Items"]["TAKEOVER_TOKEN"], subject.options.takeover.api_url)
    try:
        cloud.workers(subject.passes.tag)
        for place in subject.passes.places:
            cloud.carrier(place.volume)
            cloud.actions(place.volume)
            cloud.address_at(place.address)
    except Refused as error:
        return failed(
            f"{error}. Create another token with the scopes in docs/guide/cluster.md: `pulumi config set --secret "
            f"--path cluster.takeover.token --stack {subject.cluster.stack}`, then `pulumi up`."
        )
    return passed("accepted for all that a takeover reads. `pulumi up` tried its other rights when it was set")


def certificate(subject: ClusterSubject) -> CheckVerdict:
    """Check when the client certificate ends: `up` and every command of the cluster need it."""
    end = certificate_end(str(subject.cluster.outputs["nomad_client_cert_pem"]))
    if end is None or (end - datetime.now(UTC)).days >= _CERTIFICATE_DAYS:
        return passed(f"ends on {end:%Y-%m-%d}" if end else "Nomad has no TLS")
    return failed(f"ends on {end:%Y-%m-%d}. After that no command reaches Nomad. {subject.apply} renews it.")


def clubs(subject: ClusterSubject) -> CheckVerdict:
    """Check that the last `up` placed every club where the file says, and that none is in the middle of a move."""
    placed = subject.cluster.outputs.get("clubs") or {}
    wanted = subject.settings.clubs
    other = sorted(name for name, club in wanted.items() if (placed.get(name) or {}).get("datacenter") != club.host)
    if other:
        return failed(f"{', '.join(other)}: not applied. Run {subject.apply}.")
    moving = [
        f"{name} is being moved to host {club.host}: `./pds move {name} --to {subject.cluster.stack}` continues"
        for name, club in wanted.items()
        if club.leaving
    ]
    if moving:
        return failed(f"{'; '.join(moving)}.")
    return passed(f"{len(wanted)}, each on its host. `./pds check CLUB` checks its PDS")
