"""Changes made outside the program: which check of `./pds check` fails, and what `repair` refreshes. A plain `up`
detects none of these changes (docs/guide/monitoring.md lists them).

The account is the DigitalOcean test double and the name server is a real one on loopback. The responses of Nomad and of
the server's container are set by the tests.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.check.run import run_check
from cli.check.site import Site
from cli.check.subject import HostStatus, Subject
from cli.drift import repair
from tests.e2e.environment.api_client import FIREWALL
from tests.support import fake_dns
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.leftover_account import POLICY, ZONE, Owner, add_alerts, owner
from tests.support.programs import ALERTS, BACKUP, settings_of

MANAGEMENT, PROGRAM = "06b05181-6ba5-a269-ae00-373e61ed46eb", "3c5d0ea0-8a1f-4a1c-9d0e-0d8d2f8f4a11"
JOB = 'job "pds" {}'
SECRETS = "nomad/jobs/pds"
"""Path of the server's variable."""
OPEN_RULE = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}


def ago(**time: float) -> str:
    """A time in the past, in the form that `run_status.cjs` writes."""
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def healthy_container() -> dict[str, Any]:
    """What a healthy server's container reports."""
    run_status = {name: {"first": ago(days=9), "good": ago(minutes=20)} for name in ("backup", "drill", "alerts")}
    files = {"files_used": 10, "files_free": 90}
    uploads = {"uploads": 3, "uploads_kib": 2048}
    seen = {"metadata": False, "identified": 1, "writable": True}
    return {"used": 30, "free": 70, **files, **uploads, **seen, "run_status": run_status}


@dataclass
class World:
    """A stack whose checks all pass, and the means to break each of them."""

    alice: Owner
    nomad: FakeNomad
    records: dict[str, list[str]]
    subject: Subject
    container: dict[str, Any]
    answering: set[str] = field(default_factory=lambda: {"nomad", "host", "pds", "metrics"})
    """The targets that answer the metrics store."""

    def result(self, name: str) -> tuple[bool | None, str]:
        """The present result and remark of a check."""
        host = HostStatus(self.subject.outputs)
        vars(host)["seen"] = self.container
        vars(host)["answering"] = lambda _allocation: frozenset(self.answering)
        check = run_check(name, replace(self.subject, host=host, state=self.alice.stack.state()))
        return check.ok, check.remark

    def droplet(self) -> str:
        """The droplet's id."""
        return self.alice.made["pds-host-droplet"][2]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with (
        serve(
            FakeNomad(
                tokens={MANAGEMENT: "accessor-1", PROGRAM: "accessor-2"},
                jobs={"pds": 40, "pds-backup": 41, "pds-drill": 42},
                variables={SECRETS: {}},
            )
        ) as nomad,
        owner(tmp_path, monkeypatch) as alice,
    ):
        ip = alice.made["pds-host-network-ip"][2]
        job = ("pds-server-job", "nomad:index/job:Job", "pds", {"modifyIndex": "40", "jobspec": JOB})
        alice.made["pds-server-job"] = job
        for role, index in (("backup", "41"), ("drill", "42")):
            name = f"pds-backup-{role}-job"
            alice.made[name] = (name, "nomad:index/job:Job", f"pds-{role}", {"modifyIndex": index})
        variable = {"path": SECRETS, "namespace": "default"}
        alice.made["pds-server-secrets"] = ("pds-server-secrets", "nomad:index/variable:Variable", SECRETS, variable)
        add_alerts(alice)
        nomad.allocations_of["pds-metrics"] = [{"ID": "store", "ClientStatus": "running"}]
        nomad.checks = {"/health": "success"}
        alice.remember()
        records = {ZONE: [ip], "*": [ip]}
        with fake_dns.serve(fake_dns.Wildcard(records, ZONE)) as server, alice.account() as account:
            outputs: dict[str, Any] = {
                "ipv4": ip,
                "nomad_address": nomad.address,
                **dict.fromkeys(("nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem"), "x"),
                "nomad_management_token": MANAGEMENT,
                "nomad_token": PROGRAM,
                "records": [
                    {"zone": ZONE, "name": name, "type": "A", "value": ip, "ttl": "300"} for name in ("@", "*")
                ],
            }
            alice.pulumi.outputs(**outputs)
            subject = Subject(
                stack="dev",
                outputs=outputs,
                site=Site.at(ZONE, "http://127.0.0.1:1"),
                nameservers=(server,),
                settings=settings_of(
                    host={"size": "s-2vcpu-4gb"},
                    alerts=ALERTS,
                    backup=BACKUP,
                    pds={"unreferenced_blob_days": 30},
                    metrics={"store": True},
                ),
                resolves={"zone": ZONE, "issuer": "letsencrypt.org"},
                program={name: outputs.get("jobspec") for name, _kind, _id, outputs in alice.made.values()},
                account=account,
            )
            yield World(alice, nomad, records, subject, healthy_container())


def _untag(world: World) -> None:
    body = {"resources": [{"resource_id": world.droplet(), "resource_type": "droplet"}]}
    world.alice.client.ask("DELETE", "/tags/pds-dev/resources", body, status=204)


def _rule(world: World) -> None:
    body = {**FIREWALL, "name": "pds-dev", "tags": ["pds-dev"], "inbound_rules": [OPEN_RULE]}
    world.alice.client.ask("PUT", f"/firewalls/{world.alice.made['pds-host-network-firewall'][2]}", body)


def _record(world: World) -> None:
    number = world.alice.made["pds-dns-a"][2]
    world.alice.client.ask("DELETE", f"/domains/{ZONE}/records/{number}", status=204)


def _unassign(world: World) -> None:
    ip = world.alice.made["pds-host-network-ip"][2]
    action = world.alice.client.ask("POST", f"/reserved_ips/{ip}/actions", {"type": "unassign"}, 201)["action"]
    world.alice.client.finished(action)


def _silence(world: World) -> None:
    number = world.alice.made["pds-alerts-disk"][2]
    recipients = {"email": ["owner@bench.test"], "slack": []}
    world.alice.client.ask("PUT", f"/monitoring/alerts/{number}", {**POLICY, "alerts": recipients, "enabled": False})


def _raise_threshold(world: World) -> None:
    number = world.alice.made["pds-alerts-disk"][2]
    recipients = {"email": ["owner@bench.test"], "slack": []}
    world.alice.client.ask("PUT", f"/monitoring/alerts/{number}", {**POLICY, "alerts": recipients, "value": 100})


def _deleted(path: str, name: str) -> Callable[[World], Any]:
    """Deletes a resource of the account."""
    return lambda world: world.alice.client.ask("DELETE", f"{path}/{world.alice.made[name][2]}", status=204)


def _edit_file(world: World) -> None:
    program = {**world.subject.program, "pds-server-job": f"{JOB} # newer"}  # type: ignore[dict-item]
    world.subject = replace(world.subject, program=program)


def _never_applied(world: World) -> None:
    del world.alice.made["pds-backup-backup-job"]
    world.alice.remember()


def edit(world: World) -> None:
    world.nomad.jobs["pds"] = 41
    memory = {"Type": "Edited", "Name": "MemoryMB", "Old": "64", "New": "512"}
    resources = {"Type": "Edited", "Name": "Resources", "Fields": [memory]}
    task = {"Type": "Edited", "Name": "pds", "Objects": [resources]}
    group = {"Type": "Edited", "Name": "pds", "Tasks": [task]}
    world.nomad.plans["pds"] = {"Type": "Edited", "TaskGroups": [group]}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss, its check, a part of the remark, and the resources that `repair` refreshes (None: it repairs nothing)."""

    cause: Callable[[World], Any]
    check: str
    remark: str
    repaired: set[str] | None = None


LOSSES: dict[str, Loss] = {
    "the tag of the droplet": Loss(
        cause=_untag,
        check="firewall",
        remark="lacks the tag pds-dev",
        repaired={"pds-host-droplet", "pds-host-network-firewall"},
    ),
    "a firewall rule": Loss(
        cause=_rule, check="firewall", remark="tcp port 22", repaired={"pds-host-network-firewall"}
    ),
    "the firewall": Loss(
        cause=lambda world: world.alice.delete("pds-host-network-firewall"),
        check="firewall",
        remark="every port",
        repaired={"pds-host-network-firewall"},
    ),
    "the droplet": Loss(
        cause=lambda world: world.alice.delete("pds-host-droplet"),
        check="account",
        remark="(pds-host-droplet) does not exist",
        repaired={"pds-host-droplet", "pds-host-address"},
    ),
    "the assignment of the reserved IP": Loss(
        cause=_unassign, check="account", remark="(pds-host-address) does not exist", repaired={"pds-host-address"}
    ),
    "the record at DigitalOcean": Loss(
        cause=_record, check="account", remark="(pds-dns-a) does not exist", repaired={"pds-dns-a"}
    ),
    "the uptime check with its alerts": Loss(
        cause=_deleted("/uptime/checks", "pds-alerts-uptime"),
        check="account",
        remark="(pds-alerts-uptime) does not exist; UptimeAlert",
        repaired={"pds-alerts-uptime", "pds-alerts-down"},
    ),
    "an alert policy": Loss(
        cause=_deleted("/monitoring/alerts", "pds-alerts-disk"),
        check="account",
        remark="(pds-alerts-disk) does not exist",
        repaired={"pds-alerts-disk"},
    ),
    "messages of an alert policy": Loss(
        cause=_silence, check="account", remark="(pds-alerts-disk) is switched off", repaired={"pds-alerts-disk"}
    ),
    "the threshold of an alert policy": Loss(
        cause=_raise_threshold,
        check="account",
        remark="(pds-alerts-disk) was changed: its value is 100, not 80",
        repaired={"pds-alerts-disk"},
    ),
    "the key of the bucket": Loss(
        cause=_deleted("/spaces/keys", "pds-backup-key"),
        check="account",
        remark="(pds-backup-key) does not exist",
        repaired={"pds-backup-key"},
    ),
    "the name": Loss(cause=lambda world: world.records.pop(ZONE), check="DNS", remark="answers nothing for noted.at"),
    "a second address of the name": Loss(
        cause=lambda world: world.records[ZONE].append("198.51.100.1"),
        check="DNS",
        remark="198.51.100.1 for noted.at, not",
    ),
    "no AAAA record": Loss(
        cause=lambda world: world.records.update({f"AAAA {ZONE}": ["2001:db8::1"]}), check="DNS", remark="Delete that"
    ),
    "the CA's permission in CAA": Loss(
        cause=lambda world: world.records.update({f"CAA {ZONE}": ['0 issue "digicert.com"']}), check="DNS", remark="CAA"
    ),
    "the wildcard": Loss(cause=lambda world: world.records.pop("*"), check="records", remark="*.noted.at has no A"),
    "the program's token": Loss(
        cause=lambda world: world.nomad.tokens.pop(PROGRAM),
        check="Nomad",
        remark="does not know the program's token",
        repaired={"pds-host-nomad-token"},
    ),
    "Nomad's state": Loss(
        cause=lambda world: world.nomad.empty(),
        check="Nomad",
        remark="the management",
        repaired={"pds-host-nomad-bootstrap"},
    ),
    "the server's secrets": Loss(
        cause=lambda world: world.nomad.variables.pop(SECRETS),
        check="Nomad",
        remark="it lacks nomad/jobs/pds: tasks",
        repaired={"pds-server-secrets"},
    ),
    "the job's text": Loss(
        cause=edit,
        check="jobs",
        remark="pds: pds.pds.Resources.MemoryMB is '64', not '512'",
        repaired={"pds-server-job"},
    ),
    "the job": Loss(
        cause=lambda world: (world.nomad.jobs.pop("pds"), world.nomad.plans.update(pds={"Type": "Added"})),
        check="jobs",
        remark="pds: it is not there",
        repaired={"pds-server-job"},
    ),
    "an `up` after an edit of the stack file": Loss(
        cause=_edit_file, check="applied", remark="not applied: pds-server-job. Run `pulumi up --stack dev`"
    ),
    "an `up` after 'backup' was added": Loss(
        cause=_never_applied, check="backup", remark="not applied: the state has no job pds-backup"
    ),
    "the volume's answer": Loss(
        cause=lambda world: world.container.update(used=None, free=None), check="disk", remark="does not answer"
    ),
    "space on the volume": Loss(
        cause=lambda world: world.container.update(used=80, free=20),
        check="disk",
        remark="80 % full. Raise 'volume.size_gib'",
    ),
    "files on the volume": Loss(
        cause=lambda world: world.container.update(files_used=99, files_free=1),
        check="disk",
        remark="99 % of the volume's",
    ),
    "a volume that can be written to": Loss(
        cause=lambda world: world.container.update(writable=False),
        check="disk",
        remark="cannot be written to, and 30 % of it is used. Members cannot post, and backups fail. `./pds ssh dev --",
    ),
    "the pings of the alerts job": Loss(
        cause=lambda world: world.container["run_status"]["alerts"].update(
            good=ago(hours=2), failed=ago(minutes=3), why="the switch ignored the ping: not found"
        ),
        check="alerts",
        remark="the switch ignored the ping: not found. If you got no message",
    ),
    "the removal of unreferenced blobs": Loss(
        cause=lambda world: world.container["run_status"].update(
            {"unreferenced-blobs": {"good": ago(days=8), "failed": ago(days=1), "why": "did:plc:x: it is locked."}}
        ),
        check="unreferenced blobs",
        remark="failed: did:plc:x: it is locked. It runs again next week",
    ),
    "backups since yesterday": Loss(
        cause=lambda world: world.container["run_status"]["backup"].update(good=ago(days=1)),
        check="backup",
        remark="more than 2 hours ago",
    ),
    "every backup": Loss(
        cause=lambda world: world.container["run_status"].pop("backup"), check="backup", remark="none has succeeded yet"
    ),
    "the newest backup": Loss(
        cause=lambda world: world.container["run_status"]["backup"].update(
            failed=ago(minutes=1), why="the bucket says 403"
        ),
        check="backup",
        remark="failed: the bucket says 403. `./pds backup dev`",
    ),
    "records, blobs or keys of single accounts": Loss(
        cause=lambda world: world.container["run_status"]["backup"].update(
            findings={
                "did:plc:eve": {"state": "not restorable", "what": "run `./pds restore STACK --only did:plc:eve`"}
            }
        ),
        check="accounts",
        remark="`./pds restore dev --only did:plc:eve`",
    ),
    "a drill that was killed": Loss(
        cause=lambda world: world.container["run_status"]["drill"].update(good=ago(days=9), began=ago(hours=7)),
        check="drill",
        remark="has not ended after 6 hours: it was killed, or it hangs. `./pds nomad dev -- job status pds-drill`",
    ),
    "drills": Loss(
        cause=lambda world: world.container["run_status"]["drill"].update(good=ago(days=9)),
        check="drill",
        remark="192 hours ago",
    ),
    "the metrics store": Loss(
        cause=lambda world: world.nomad.allocations_of["pds-metrics"].clear(),
        check="metrics",
        remark="the store does not run. `./pds nomad dev -- job status pds-metrics`",
    ),
    "the answers of the metrics store": Loss(
        cause=lambda world: world.nomad.checks.update({"/health": "failure"}),
        check="metrics",
        remark="the store does not answer. `./pds logs dev --task metrics`",
    ),
    "metrics of the host": Loss(
        cause=lambda world: world.answering.difference_update({"nomad", "host"}),
        check="metrics",
        remark="no answer from nomad, host",
    ),
    "the block of the metadata service": Loss(
        cause=lambda world: world.container.update(metadata=True), check="metadata", remark="169.254.169.254 answers"
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_fails_its_check_and_repair_refreshes_the_resource(world: World, name: str) -> None:
    loss = LOSSES[name]
    ok, remark = world.result(loss.check)
    assert ok, f"it passes before the loss: {remark}"
    loss.cause(world)
    ok, remark = world.result(loss.check)
    assert ok is False, remark
    assert loss.remark in remark
    repair.repair(world.alice.stack, world.subject.account, yes=True)  # type: ignore[arg-type]
    refresh = world.alice.pulumi.ran[0]
    refreshed = {part.removeprefix("**::") for flag, part in pairwise(refresh) if flag == "--target"}
    assert refreshed == (loss.repaired or {"pds-dev"}), "without a repair, only the stack's own resource is refreshed"
    assert [command[0] for command in world.alice.pulumi.ran[1:]] == (["up"] if loss.repaired else [])
