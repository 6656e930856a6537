"""Repairs a stack after a lost droplet, an emptied Nomad, a lost token or a killed engine; `./pds repair`."""

import os
import re
import shlex
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.drift import job_drift, orphans
from cli.drift.claims import Claims
from cli.drift.missing_resources import PATHS, refresh
from cli.drift.missing_variables import missing_variables
from cli.drift.orphans import OrphanReport
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import EngineResult, Stack, State, UnreadableStateError
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings

_LOCKED = "is currently locked"
_HOLDER = re.compile(r"created by \S+@(?P<host>\S+) \(pid (?P<pid>[0-9]+)\)")
"""The engine's message about the holder of a state in files or in a bucket (pulumi, pkg/backend/diy/lock.go)."""

_NEEDED = ("nomad_address", "nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem", "nomad_management_token")


@dataclass
class RepairPlan:
    """The findings, and the commands that follow from them."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Findings that need nothing."""
    first: list[str] = field(default_factory=list)
    """What the operator has to do or to decide before anything is run."""
    targets: list[str] = field(default_factory=list)
    """Names of the resources to refresh."""
    clear_creates: bool = False
    """Whether the state has interrupted creations."""
    replacing: list[str] = field(default_factory=list)
    """URNs that the engine has begun to replace with a lost host."""


def repair(stack: Stack, account: DigitalOceanAccount, *, yes: bool) -> int:
    """Inspect, report, repair. Returns 0 if all is well in the end, 1 if something is left to do.

    Raises StackError, StackFileError and DigitalOceanError.
    """
    settings = read_settings(stack.name, stack.root)
    if settings.on:
        host, address = settings.on.stack, settings.on.nomad_address
        whose = f"stack {host}: `./pds repair {host}`" if host else f"the operator of {address}"
        print(f"note: the host belongs to {whose}. This command covers only the stack's own resources.")
    state = readable(stack)
    report = orphans.find_orphans(stack, account)
    plan = RepairPlan()
    _interrupted(plan, state)
    _in_the_way(plan, report)
    _missing(plan, stack, report, settings)
    _uncovered(plan, report)
    _half_replaced(plan, state, report)
    if not _adopted(plan, stack, state, settings, account):
        _running(plan, stack, state, account)

    for sentence in plan.findings:
        print(f"found: {sentence}")
    for sentence in plan.notes:
        print(f"note: {sentence}")
    if plan.first:
        print("\nNothing was run. First:")
        for sentence in plan.first:
            print(f"  - {sentence}")
        print(f"Then `./pds repair {stack.name}` again.")
        return 1
    return _act(plan, stack, state, yes=yes)


def after_killed_engine(stack: Stack, *, yes: bool) -> int:
    """Finish what a killed engine had begun in a state of any kind of stack, a cluster's too; return the exit code.

    Raises StackError.
    """
    state, plan = readable(stack), RepairPlan()
    _interrupted(plan, state)
    for sentence in plan.findings:
        print(f"found: {sentence}")
    return _act(plan, stack, state, yes=yes) if plan.findings else 0


def readable(stack: Stack) -> State:
    """Return the state, even if a killed engine left a side file of it empty."""
    try:
        return stack.state()
    except UnreadableStateError:
        for file in stack.truncated_files():
            print("found: the engine was killed while it wrote a metadata file (.attrs). The state itself is complete.")
            print(f"\n$ rm {file}")
            file.unlink()
        return stack.state()


def _interrupted(plan: RepairPlan, state: State) -> None:
    for doing, item in state.pending:
        plan.findings.append(f"the engine was stopped while {doing} {item.name}.")
        if doing == "creating":
            plan.clear_creates = True
        elif state.named(item.name):
            plan.targets.append(item.name)


def _in_the_way(plan: RepairPlan, report: OrphanReport) -> None:
    for item in report.orphans:
        if not item.blocks:
            plan.notes.append(f"{item.kind} {item.id} is in the account and not in the state; see `./pds orphans`.")
            continue
        plan.findings.append(f"{item.kind} {item.id} is in the account and not in the state. {item.about}")
        commands = [item.adopt] if item.adopt else list(item.delete)
        plan.first.append(item.instead or " && ".join(shlex.join(command) for command in commands))


def _missing(plan: RepairPlan, stack: Stack, report: OrphanReport, settings: Settings) -> None:
    gone = {item.kind for item in report.missing}
    for item in report.missing:
        plan.findings.append(f"{item.kind} {item.id} ({item.name}) of the state {item.fault}. {item.about}")
        plan.targets.append(item.name)
        if item.kind == "Volume":
            plan.first += _without_volume(item.id, settings, stack.name)
        elif item.kind == "ReservedIp" and str(settings.host.reserved_ip_adopt) == item.id:
            plan.first.append(f"remove 'reserved_ip_adopt: {item.id}' from Pulumi.{stack.name}.yaml: it is gone.")
    # The volume is mounted at boot, and the address is in the host's certificate: both need a new host.
    if gone & {"Volume", "ReservedIp"} and "Droplet" not in gone:
        plan.first.append(
            f"a new {'volume' if 'Volume' in gone else 'address'} needs a new host. Delete the old one: "
            f"`doctl compute droplet delete pds-{stack.name}`."
        )


def _uncovered(plan: RepairPlan, report: OrphanReport) -> None:
    """Return the firewall's differences; the owner decides about those that `up` cannot repair."""
    for gap in report.gaps:
        if gap.targets:
            plan.findings.append(gap.text)
            plan.targets += gap.targets
        else:
            plan.notes.append(gap.text)


def _half_replaced(plan: RepairPlan, state: State, report: OrphanReport) -> None:
    """A rebuild that ended between the old host and the new one.

    The engine (3.260) leaves resources that it marked as being replaced out of every refresh, and deletes the old
    host's resources again at each `up`, which fails ("unknown provider"; github.com/pulumi/pulumi/issues/24561).
    Without the marks the host is lost like any other.
    """
    host = state.named("pds-host-droplet")
    if host is None or not host.replacing or "Droplet" not in {item.kind for item in report.missing}:
        return
    plan.findings.append("the host was being replaced. The old one is gone, and there is no new one yet.")
    plan.replacing = [
        item.urn
        for item in state.resources
        if item.replacing and (item.deleted_with == host.urn or item.name in ("pds-host-droplet", "pds-host-address"))
    ]


def _without_volume(volume: str, settings: Settings, stack: str) -> list[str]:
    """Return the decision if the data are gone. The keys are not: they are in the state and the escrow file."""
    file = f"Pulumi.{stack}.yaml"
    if settings.volume.adopt == volume:
        return [f"remove 'adopt: {volume}' from 'pds:volume' in {file}: that volume is gone."]
    if settings.volume.adopt or settings.pds.new or settings.pds.paused:
        return []
    return [
        "decide what becomes of the data. The keys are in the state and in the escrow file: the members' identities "
        "are not lost. With backups: run `pulumi config set --path pds.paused true --stack "
        f"{stack}`, repeat this command, then run `./pds restore {stack}`. With a snapshot of the volume: create a "
        f"volume from it, and set 'volume.adopt' to its ID in {file}. "
        "If there is neither, start an empty PDS with the same keys: "
        f"`pulumi config set --path pds.new true --stack {stack}`. Every account is gone then, and its "
        "members have to move back from copies of their own."
    ]


def _adopted(plan: RepairPlan, stack: Stack, state: State, settings: Settings, account: DigitalOceanAccount) -> bool:
    """Whether `./pds adopt` has shut the droplet down, which has to stay off. Nothing is asked of it then."""
    droplet, volume = state.named("pds-host-droplet"), state.named("pds-host-data-volume")
    present = account.get(f"droplets/{droplet.id}") if droplet else None
    if droplet is None or (present and present["status"] != "off"):
        return False
    if settings.on and present:
        plan.notes.append(f"droplet {droplet.id} is off since `./pds adopt`, whose `up` of this stack deletes it.")
        return True
    adopting = Claims(stack).adopting_host(volume.id) if volume else None
    if settings.on or not (adopting or (present and volume is None)):
        return False
    plan.findings.append(f"droplet {droplet.id} is off, and `./pds adopt` of {stack.name} has begun.")
    if adopting:
        cluster, host = adopting
        first = (
            f"complete it: `./pds adopt {cluster} {host} --from {stack.name}`. Leave the droplet off. Only to give the "
            f"adoption up: remove host {host} and its clubs from Pulumi.{cluster}.yaml."
        )
    else:
        first = (
            f"get the newer files: the state has no volume, so Pulumi.{stack.name}.yaml is that of an older checkout. "
            "Leave the droplet off, and run no `pulumi up` with this file."
        )
    plan.first = [first]  # whatever else the state seems to lack, the adoption has
    return True


def _running(plan: RepairPlan, stack: Stack, state: State, account: DigitalOceanAccount) -> None:
    """Return whether the existing host is on, and its Nomad matches the state."""
    droplet = state.named("pds-host-droplet")
    if droplet is None or {"pds-host-droplet", "pds-host-address"} & set(plan.targets):
        # There is no Nomad to query about its contents.
        plan.targets = [name for name in plan.targets if _in_account(state, name)]
        return
    present = account.get(f"droplets/{droplet.id}")
    if present and present["status"] == "off":
        plan.findings.append(f"droplet {droplet.id} is switched off.")
        plan.first.append(f"doctl compute droplet-action power-on {droplet.id} --wait")
        return
    outputs = stack.outputs()
    if not all(outputs.get(name) for name in _NEEDED):
        plan.notes.append("no `up` of this stack has succeeded yet; Nomad was not queried.")
        return
    try:
        _nomad(plan, stack.name, state, NomadApi(*(outputs[name] for name in _NEEDED)), outputs)
    except (ServiceError, OSError) as error:
        plan.findings.append(f"Nomad cannot be queried: {error}")
        plan.first.append(
            "find out why Nomad does not answer. Your address may have changed: `curl -4s https://ifconfig.co`, then "
            f"`operators.cidrs` and `pulumi up --stack {stack.name} --target '**::pds-host-network-firewall'`. Or "
            "inspect the host: `systemctl status nomad stunnel@nomad srv-nomad.mount`. To rebuild a lost host from the "
            "volume, raise `host.generation` and run `pulumi up`."
        )


def _nomad(plan: RepairPlan, stack: str, state: State, api: NomadApi, outputs: Mapping[str, str]) -> None:
    """Raises ServiceError or OSError if it does not answer."""
    if api.accessor(outputs["nomad_management_token"]) is None:
        plan.findings.append("Nomad answers and does not know this stack's token: it has lost its state.")
        plan.targets = ["pds-host-nomad-bootstrap", *(name for name in plan.targets if _in_account(state, name))]
        return
    if outputs.get("nomad_token") and api.accessor(outputs["nomad_token"]) is None:
        plan.findings.append("Nomad knows the management token and not the program's own, which was deleted.")
        plan.targets.append("pds-host-nomad-token")
    for item in missing_variables(api, state):
        plan.findings.append(f"variable {item.outputs['path']} is in the state and not in Nomad.")
        plan.targets.append(item.name)
    for item in state.of("Job"):
        # An index that the state does not have makes the next change of the job fail ("modify index has changed").
        if job_drift.changed_outside(api, item):
            plan.findings.append(
                f"job {item.id} differs from the state: it was changed outside, or a response was lost."
            )
            plan.targets.append(item.name)
        elif differences := job_drift.job_differences(api, item):
            # After a refresh of a change that came without its text, index and text are equal: `up` sees nothing to do.
            plan.findings.append(
                f"job {item.id} differs from the job that the stack registered: {'; '.join(differences)}."
            )
            plan.first.append(
                f"`pulumi up --stack {stack} --replace '**::{item.name}'` registers it anew. If it is the server's, "
                "the PDS is down for about a minute."
            )


def _in_account(state: State, name: str) -> bool:
    item = state.named(name)
    return item is not None and item.type in PATHS


def _act(plan: RepairPlan, stack: Stack, state: State, *, yes: bool) -> int:
    root = next((item.name for item in state.resources if item.type == "Stack"), None)
    # If nothing has to be refreshed, this shows whether the state is unlocked; it changes nothing.
    targets = list(dict.fromkeys(plan.targets)) or ([root] if root else [])
    more = ["--clear-pending-creates"] if plan.clear_creates else []
    if plan.replacing:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.json"
            stack.export_without_replacements(plan.replacing, file)
            print("\nThe state, without `pendingReplacement` for resources that were lost with the host:")
            if not _run(plan, stack, ["stack", "import", "--file", str(file)]):
                return 1
    if not _run(plan, stack, refresh(targets, *more)):
        return 1
    if not plan.findings:
        print("\nNothing to repair: state, account and Nomad agree. `pulumi up` works as usual.")
        return 0
    return min(stack.run_interactively("up", *(["--yes"] if yes else [])), 1)


def _run(plan: RepairPlan, stack: Stack, command: Sequence[str]) -> bool:
    """Run the commands before `up`, again if a dead engine's lock blocked them; return whether they succeeded."""
    ran = stack.run(*command)
    if ran.code and _LOCKED in ran.output:
        plan.findings.append("the lock of an engine that was killed.")
        if not _unlock(stack, ran):
            return False
        ran = stack.run(*command)
    if ran.code:
        print(f"\n`pulumi {command[0]}` failed; `pulumi up` was not run.")
    return ran.code == 0


def _unlock(stack: Stack, ran: EngineResult) -> bool:
    """Remove the lock of a process that is gone. The operator decides about any other."""
    holders = [(match["host"], int(match["pid"])) for match in _HOLDER.finditer(ran.output)]
    if not holders or any(host != socket.gethostname() or _alive(pid) for host, pid in holders):
        print(
            f"\nAnother run holds the lock of the state. If that run is over: `pulumi cancel --stack {stack.name}`, "
            f"then `./pds repair {stack.name}` again."
        )
        return False
    print("\nThe process that held the lock of the state is gone.")
    return stack.run("cancel", "--yes").code == 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
