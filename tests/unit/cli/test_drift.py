"""Changes behind the program's back: which line of `./pds check` turns red, and what `rescue` does. A plain `up` sees
none of these (docs/guide/monitoring.md lists them).

The account is the bench's API, the name server a real one on loopback; Nomad and the server's container are configured.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.check.host import HostStatus
from cli.check.run import CHECKS_BY_NAME, run_check
from cli.check.site import Site
from cli.check.subject import Subject
from cli.drift import repair
from offline.mock_engine import ROOT
from tests.e2e.environment.api_client import FIREWALL
from tests.support import fake_dns
from tests.support.certificates import Authority, server_context
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.ingress_stand_in import Ingress
from tests.support.leftover_account import ZONE, Owner, owner
from tests.support.programs import BACKUP, settings_of

MANAGEMENT, PROGRAM = "06b05181-6ba5-a269-ae00-373e61ed46eb", "3c5d0ea0-8a1f-4a1c-9d0e-0d8d2f8f4a11"
JOB = 'job "pds" {}'
OPEN_RULE = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}


def ago(**time: float) -> str:
    """As `run_status.cjs` writes it."""
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seen() -> dict[str, Any]:
    """A healthy server's container."""
    run_status = {name: {"first": ago(days=9), "good": ago(minutes=20)} for name in ("backup", "drill")}
    files = {"files_used": 10, "files_free": 90}
    return {"used": 30, "free": 70, **files, "metadata": False, "identified": 1, "run_status": run_status}


@dataclass
class World:
    """A stack that is all green, and every way to remove something from it."""

    alice: Owner
    nomad: FakeNomad
    records: dict[str, list[str]]
    subject: Subject
    inside: dict[str, Any]

    def line(self, name: str) -> tuple[bool | None, str]:
        """The present remark of the line."""
        host = HostStatus(self.subject.outputs)
        vars(host)["seen"] = self.inside
        result = run_check(name, replace(self.subject, host=host, state=self.alice.stack.state()))
        return result.ok, result.remark

    def droplet(self) -> str:
        """Its id."""
        return self.alice.made["pds-host-droplet"][2]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with (
        serve(FakeNomad(tokens={MANAGEMENT: "accessor-1", PROGRAM: "accessor-2"}, jobs={"pds": 40})) as nomad,
        owner(tmp_path, monkeypatch) as alice,
    ):
        ip = alice.made["pds-host-network-ip"][2]
        job = ("pds-server-job", "nomad:index/job:Job", "pds", {"modifyIndex": "40", "jobspec": JOB})
        alice.made["pds-server-job"] = job
        alice.remember()
        records = {ZONE: [ip], "*": [ip]}
        with fake_dns.serve(_Wildcard(records)) as server, alice.account() as account:
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
                settings=settings_of(backup=BACKUP),
                resolves={"zone": ZONE, "issuer": "letsencrypt.org"},
                account=account,
            )
            yield World(alice, nomad, records, subject, seen())


class _Wildcard(dict[str, list[str]]):
    """Records, of which `*` covers every name without one."""

    def __init__(self, records: dict[str, list[str]]) -> None:
        super().__init__()
        self.records = records

    def get(self, key: str, default: Any = None) -> Any:
        found = self.records.get(key)
        covered = key.endswith(f".{ZONE}") and " " not in key
        return found if found or not covered else self.records.get("*", default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)


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


def _edit(world: World) -> None:
    world.nomad.jobs["pds"] = 41
    memory = {"Type": "Edited", "Name": "MemoryMB", "Old": "64", "New": "512"}
    resources = {"Type": "Edited", "Name": "Resources", "Fields": [memory]}
    task = {"Type": "Edited", "Name": "pds", "Objects": [resources]}
    group = {"Type": "Edited", "Name": "pds", "Tasks": [task]}
    world.nomad.plans["pds"] = {"Type": "Edited", "TaskGroups": [group]}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss, its line, a part of the remark, and the resource that `rescue` refreshes (None: not its task)."""

    take: Callable[[World], Any]
    line: str
    said: str
    rescued: set[str] | None = None


LOSSES: dict[str, Loss] = {
    "the tag of the droplet": Loss(
        take=_untag,
        line="firewall",
        said="lacks the tag pds-dev",
        rescued={"pds-host-droplet", "pds-host-network-firewall"},
    ),
    "a firewall rule": Loss(take=_rule, line="firewall", said="tcp port 22", rescued={"pds-host-network-firewall"}),
    "the firewall": Loss(
        take=lambda world: world.alice.delete("pds-host-network-firewall"),
        line="firewall",
        said="every port",
        rescued={"pds-host-network-firewall"},
    ),
    "the droplet": Loss(
        take=lambda world: world.alice.delete("pds-host-droplet"),
        line="account",
        said="(pds-host-droplet) does not exist",
        rescued={"pds-host-droplet", "pds-host-address"},
    ),
    "the assignment of the address": Loss(
        take=_unassign, line="account", said="(pds-host-address) does not exist", rescued={"pds-host-address"}
    ),
    "the record at DigitalOcean": Loss(
        take=_record, line="account", said="(pds-dns-a) does not exist", rescued={"pds-dns-a"}
    ),
    "the name": Loss(take=lambda world: world.records.pop(ZONE), line="DNS", said="answers nothing for noted.at"),
    "the name's only address": Loss(
        take=lambda world: world.records[ZONE].append("198.51.100.1"), line="DNS", said="198.51.100.1 for noted.at, not"
    ),
    "IPv4 only": Loss(
        take=lambda world: world.records.update({f"AAAA {ZONE}": ["2001:db8::1"]}), line="DNS", said="Delete that"
    ),
    "the authority's permission": Loss(
        take=lambda world: world.records.update({f"CAA {ZONE}": ['0 issue "digicert.com"']}), line="DNS", said="CAA"
    ),
    "the wildcard": Loss(take=lambda world: world.records.pop("*"), line="records", said="*.noted.at has no A"),
    "the program's token": Loss(
        take=lambda world: world.nomad.tokens.pop(PROGRAM),
        line="Nomad",
        said="does not know the program's token",
        rescued={"pds-host-nomad-token"},
    ),
    "Nomad's state": Loss(
        take=lambda world: world.nomad.empty(),
        line="Nomad",
        said="the management",
        rescued={"pds-host-nomad-bootstrap"},
    ),
    "the job's text": Loss(
        take=_edit,
        line="jobs",
        said="pds: pds.pds.Resources.MemoryMB is '64', not '512'",
        rescued={"pds-server-job"},
    ),
    "the job": Loss(
        take=lambda world: (world.nomad.jobs.pop("pds"), world.nomad.plans.update(pds={"Type": "Added"})),
        line="jobs",
        said="pds: it is not there",
        rescued={"pds-server-job"},
    ),
    "room on the volume": Loss(
        take=lambda world: world.inside.update(used=80, free=20), line="disk", said="80 % full. Raise 'volume.size_gib'"
    ),
    "files on the volume": Loss(
        take=lambda world: world.inside.update(files_used=99, files_free=1), line="disk", said="99 % of the volume's"
    ),
    "backups since yesterday": Loss(
        take=lambda world: world.inside["run_status"]["backup"].update(good=ago(days=1)),
        line="backup",
        said="more than 2 hours ago",
    ),
    "every backup": Loss(
        take=lambda world: world.inside["run_status"].pop("backup"), line="backup", said="none has succeeded yet"
    ),
    "the newest backup": Loss(
        take=lambda world: world.inside["run_status"]["backup"].update(
            failed=ago(minutes=1), why="the bucket says 403"
        ),
        line="backup",
        said="failed: the bucket says 403. `./pds backup dev`",
    ),
    "records, blobs or keys of single accounts": Loss(
        take=lambda world: world.inside["run_status"]["backup"].update(
            findings={
                "did:plc:eve": {"state": "not restorable", "what": "run `./pds restore STACK --only did:plc:eve`"}
            }
        ),
        line="accounts",
        said="`./pds restore dev --only did:plc:eve`",
    ),
    "a drill that was killed": Loss(
        take=lambda world: world.inside["run_status"]["drill"].update(good=ago(days=9), began=ago(hours=7)),
        line="drill",
        said="never ended: it was killed",
    ),
    "drills": Loss(
        take=lambda world: world.inside["run_status"]["drill"].update(good=ago(days=9)),
        line="drill",
        said="192 hours ago",
    ),
    "the rule about user_data": Loss(
        take=lambda world: world.inside.update(metadata=True), line="metadata", said="169.254.169.254 answers"
    ),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_what_goes_behind_the_programs_back_turns_its_line_red_and_rescue_looks_at_it(world: World, lost: str) -> None:
    loss = LOSSES[lost]
    ok, remark = world.line(loss.line)
    assert ok, f"it is green with all that it asks for: {remark}"
    loss.take(world)
    ok, remark = world.line(loss.line)
    assert ok is False, remark
    assert loss.said in remark
    repair.repair(world.alice.stack, world.subject.account, yes=True)  # type: ignore[arg-type]
    refresh = world.alice.pulumi.ran[0]
    looked_at = {part.removeprefix("**::") for flag, part in pairwise(refresh) if flag == "--target"}
    assert looked_at == (loss.rescued or {"pds-dev"}), "the stack's own resource alone: nothing of it is to be mended"
    assert [command[0] for command in world.alice.pulumi.ran[1:]] == (["up"] if loss.rescued else [])


def test_a_certificate_that_is_gone_turns_its_line_red(world: World, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)

    def line(days: float) -> bool | None:
        with Ingress(1, server_context(authority.issue(ZONE, days=days), tmp_path)) as ingress:
            site = Site.at(ZONE, ingress.url, str(tmp_path / "ca.pem"))
            return run_check("certificate", replace(world.subject, site=site)).ok

    assert (line(60), line(-1)) == (True, False)


def test_without_a_backup_in_the_stack_file_the_line_is_red(world: World) -> None:
    world.subject = replace(world.subject, settings=settings_of())
    ok, remark = world.line("backup")
    assert (ok, "Add 'backup'" in remark) == (False, True), "it says so although no option asks for it"
    assert world.line("drill")[0] is None


@pytest.mark.parametrize("line", ["backup", "drill"])
def test_a_time_says_of_which_zone_it_is(world: World, line: str) -> None:
    assert re.search(r" at \d{4}-\d\d-\d\d \d\d:\d\d UTC$", world.line(line)[1])


def test_a_nomad_that_is_silent_is_one_sentence(world: World) -> None:
    outputs = {**world.subject.outputs, "nomad_address": "http://127.0.0.1:1"}
    world.subject = replace(world.subject, outputs=outputs)
    ok, remark = world.line("Nomad")
    assert ok is False
    assert "http://127.0.0.1:1 does not answer" in remark


def test_an_edit_that_a_refresh_took_over_is_still_found(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(world)
    world.nomad.jobs["pds"] = 40  # as a refresh leaves it, if the edit came without its text
    assert world.line("jobs")[0] is False
    assert repair.repair(world.alice.stack, world.subject.account, yes=True) == 1  # type: ignore[arg-type]
    assert "--replace '**::pds-server-job'" in capsys.readouterr().out
    assert world.alice.pulumi.ran == [], "it stops the server for a moment: its owner says when"


def test_without_a_token_of_the_account_its_lines_are_not_green(world: World) -> None:
    world.subject = replace(world.subject, account=None)
    for name in ("firewall", "account"):
        ok, remark = world.line(name)
        assert ok is None
        assert "DIGITALOCEAN_TOKEN" in remark


def test_a_stack_on_anothers_host_has_no_firewall_of_its_own(world: World) -> None:
    club = settings_of(on="ground", operators=None, pds={"port": 3101, "new": True}, dns={"provider": "manual"})
    world.subject = replace(world.subject, settings=club)
    assert world.line("firewall")[0] is None
    assert world.line("account")[0], "its records are looked for all the same"
    world.inside.update(used=95, free=5)
    assert "'disk_gib'" in world.line("disk")[1]


def _documented() -> Mapping[str, str]:
    text = (ROOT / "docs/guide/monitoring.md").read_text()
    table = text.partition("## What `up` does not see")[2].partition("\n## ")[0]
    return {line: what for what, line in re.findall(r"^\| (.+?) \| (.+?) \|", table, re.MULTILINE)}


def test_the_docs_say_of_each_line_that_up_does_not_see_it() -> None:
    lines = {line for cell in _documented() for line in cell.split(", ")}
    assert {loss.line for loss in LOSSES.values()} | {"certificate"} <= lines


def test_every_line_of_the_check_has_a_test_that_turns_it_red() -> None:
    here = {loss.line for loss in LOSSES.values()}
    files = ("tests/contract/test_check.py", "tests/contract/test_check_faults.py")
    contract = "".join((ROOT / file).read_text() for file in files)
    assert [name for name in CHECKS_BY_NAME if name not in here and f'"{name}"' not in contract] == []
