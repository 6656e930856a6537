"""`./pds restore`: the order of its calls to engine, Nomad and relays, their parameters, and when it stops."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import app
from cli.backups import move_blobs, restore
from cli.backups.restore import RestoreRequest
from cli.lib import nomad_jobs
from cli.lib.nomad_exec import TruncatedOutputError
from cli.lib.stack import Stack, StackError
from tests.conftest import Clock
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import BACKUP, document
from tests.unit.cli.test_nomad_jobs import TOKEN, allocations

KEY = "3174f736d554cb2d30e32120227fa8cc722bc378d18dd42bac32a47794f4af1f"
ITEMS = {"RESTIC_REPOSITORY": "s3:https://ams3.digitaloceanspaces.com/old/noted.at", "RESTIC_PASSWORD": "a password"}


@dataclass
class Owner:
    """The operator of a stack, with an engine and a Nomad."""

    pulumi: FakePulumi
    nomad: FakeNomad
    stack: Stack

    def write(self, name: str = "dev", **changes: Any) -> None:
        """Write the stack file."""
        options = {f"pds:{key}": value for key, value in document(**changes).items()}
        (self.pulumi.root / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump({"config": options}))

    def move(self, name: str = "dev", **note: Any) -> None:
        """Add the note of a move in progress."""
        file = self.pulumi.root / f"Pulumi.{name}.yaml"
        config = yaml.load(file.read_text(), yaml.CSafeLoader)["config"]
        config["move:note"] = {"from": "house", "to": "ground", **note}
        file.write_text(yaml.safe_dump({"config": config}))


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Owner]:
    with serve(FakeNomad(tokens={TOKEN: "accessor"}, runs=[allocations("complete")])) as nomad:
        pulumi = FakePulumi(tmp_path, monkeypatch)
        pulumi.outputs(
            nomad_address=nomad.address,
            nomad_ca_pem="a",
            nomad_client_cert_pem="b",
            nomad_client_key_pem="c",
            nomad_token=TOKEN,
            pds_env="PDS_CRAWLERS=http://localhost:1\n",
            escrow={"secrets": {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}, "backup": ITEMS},
        )
        monkeypatch.setattr(restore, "subject_of", lambda *_, **__: None)
        monkeypatch.setattr(restore, "run_checks", lambda _subject: iter(["ok    everything"]))
        operator = Owner(pulumi, nomad, Stack("dev", pulumi.root))
        operator.write(backup=BACKUP)
        yield operator


def _set(value: str) -> list[str]:
    return ["config", "set", "--path", "pds:pds.paused", value, "--non-interactive", "--stack", "dev"]


UP = ["up", "--yes", "--skip-preview", "--stack", "dev"]


def test_pauses_restores_and_resumes_through_the_engine(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.nomad.logs = {("restore", "stdout"): "ready                        3 accounts in use\n"}
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert alice.pulumi.ran == [_set("true"), UP, _set("false"), UP]
    (meta,) = alice.nomad.dispatched
    assert meta["rotation_public_key"][:2] in ("02", "03")
    assert KEY not in json.dumps(alice.nomad.dispatched), "clients that may read jobs can read the meta of a run"
    output = capsys.readouterr().out
    assert "3 accounts in use" in output
    assert "http://localhost:1: does not answer" in output
    assert "ok    everything" in output
    assert "--forget-old" in output


def test_the_pds_stays_paused_after_a_failed_restore(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.nomad.runs = [allocations("failed", "fetch")]
    alice.nomad.logs = {("fetch", "stderr"): "FAILED: there is no snapshot 1a2b\n"}
    assert restore.restore(alice.stack, RestoreRequest(snapshot="1a2b", yes=True)) == 1
    assert alice.pulumi.ran == [_set("true"), UP]
    output = capsys.readouterr().out
    assert "FAILED: there is no snapshot 1a2b" in output
    assert "still paused" in output


def test_a_failed_up_stops_it_before_any_job_is_dispatched(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="repeat the command"):
        restore.restore(alice.stack, RestoreRequest(yes=True))
    assert alice.nomad.dispatched == []


def test_does_not_pause_a_paused_pds_again(alice: Owner) -> None:
    alice.write(backup=BACKUP, pds={"paused": True})
    restore.restore(alice.stack, RestoreRequest())
    assert alice.pulumi.ran == [["up", "--stack", "dev"], _set("false"), ["up", "--stack", "dev"]]


def test_passes_deleted_and_taken_down_accounts_to_the_restore_job(alice: Owner) -> None:
    eve, mallory = "did:plc:qo2urk437ss36eyefp5jgoyw", "did:plc:ar7c4by46qjdydhdevvrndac"
    alice.write(backup=BACKUP, delete={"eve.noted.at": eve}, takedown=["mallory.noted.at", "new.noted.at"])
    taken = {"mallory.noted.at": mallory}
    alice.pulumi.state(("pds-people-removals", "pulumi-python:dynamic/pds:AccountRemovals", "1", {"taken_down": taken}))
    restore.restore(alice.stack, RestoreRequest(yes=True, bring_back=("did:plc:ann",), sequence=7))
    (meta,) = alice.nomad.dispatched
    assert (meta["delete"], meta["takedown"]) == (eve, mallory), "a handle without a DID is left to the next `up`"
    assert (meta["bring_back"], meta["sequence"]) == ("did:plc:ann", "7")


def test_restores_without_the_directory_only_if_the_operator_says_so(alice: Owner) -> None:
    restore.restore(alice.stack, RestoreRequest(yes=True))
    restore.restore(alice.stack, RestoreRequest(yes=True, without_directory=True))
    assert [meta.get("without_directory") for meta in alice.nomad.dispatched] == [None, "yes"]
    with pytest.raises(StackError, match="'--only' needs the account's identity"):
        restore.restore(alice.stack, RestoreRequest(only="did:plc:ann", without_directory=True))


def test_restores_without_the_list_of_departures_only_if_the_operator_says_so(alice: Owner) -> None:
    restore.restore(alice.stack, RestoreRequest(yes=True))
    restore.restore(alice.stack, RestoreRequest(yes=True, without_departures=True))
    assert [meta.get("without_departures") for meta in alice.nomad.dispatched] == [None, "yes"]


def test_members_who_are_back_are_deleted_by_no_restore_and_keep_their_keys(alice: Owner) -> None:
    ann, eve = "did:plc:ar7c4by46qjdydhdevvrndac", "did:plc:qo2urk437ss36eyefp5jgoyw"
    alice.write(backup=BACKUP, delete={"ann.noted.at": ann, "eve.noted.at": eve})
    outputs = {"returned": {"ann.noted.at": ann}}
    alice.pulumi.state(("pds-people-removals", "pulumi-python:dynamic/pds:AccountRemovals", "1", outputs))
    restore.restore(alice.stack, RestoreRequest(yes=True))
    restore.forget_old(alice.stack)
    assert [meta["delete"] for meta in alice.nomad.dispatched] == [eve, eve], "`up` keeps Ann, too"


def test_restore_job_knows_which_entries_were_applied(alice: Owner) -> None:
    """A member who came after that is kept. An entry with another DID is a new one."""
    ann, eve = "did:plc:ar7c4by46qjdydhdevvrndac", "did:plc:qo2urk437ss36eyefp5jgoyw"
    alice.write(backup=BACKUP, delete={"ann.noted.at": ann, "eve.noted.at": eve})
    outputs = {"deleted": {"ann.noted.at": ann, "eve.noted.at": "did:plc:other", "bob.noted.at": "did:plc:bob"}}
    alice.pulumi.state(("pds-people-removals", "pulumi-python:dynamic/pds:AccountRemovals", "1", outputs))
    restore.restore(alice.stack, RestoreRequest(yes=True))
    (meta,) = alice.nomad.dispatched
    assert (meta["delete"], meta["applied"]) == (f"{ann} {eve}", ann)


def test_restores_the_last_snapshot_on_the_volume_without_a_bucket(alice: Owner) -> None:
    restore.restore(alice.stack, RestoreRequest(snapshot="volume", yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["from"] == "volume"
    assert "snapshot" not in meta


def test_lends_another_stack_s_backup_credentials_only_for_the_run(alice: Owner) -> None:
    alice.write("old", backup=BACKUP | {"region": "nyc3"})
    alice.nomad.runs = [allocations("failed", "fetch")]
    restore.restore(alice.stack, RestoreRequest(source=Stack("old", alice.stack.root), yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["lent"] == "nomad/jobs/pds-restore/pds-restore/fetch nomad/jobs/pds-restore/pds-restore/fetch-older"
    assert "a password" not in json.dumps(meta)
    assert alice.nomad.variables == {}, "they are removed after a failed run, too"


def test_blobs_come_back_from_the_copies_of_the_other_stack(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bucket may be lost, and this stack's backups have no copy of them."""
    alice.write("old", backup=BACKUP | {"region": "nyc3"})
    alice.write(backup=BACKUP, blobs={"bucket": "club-blobs"})
    request = RestoreRequest(source=Stack("old", alice.stack.root), yes=True)
    assert restore.restore(alice.stack, request) == 0
    data, blobs = alice.nomad.dispatched
    path = "nomad/jobs/pds-blobs/pds-blobs/blobs"
    assert (blobs["step"], blobs["lent"]) == ("repair", path), "the data are fetched, and blobs alone are left"
    assert path not in data["lent"]
    monkeypatch.setattr(restore, "restore_data", lambda *_: True)
    alice.nomad.runs = [allocations("failed", "blobs")]
    assert restore.restore(alice.stack, request) == 1
    assert "./pds blobs dev --repair --from old" in capsys.readouterr().out, "its own backups cannot repair it"
    move_blobs.repair(alice.stack, request.source)
    assert alice.nomad.dispatched[-1]["lent"] == path
    alice.nomad.variables = {path: ITEMS}
    move_blobs.repair(alice.stack)
    assert alice.nomad.dispatched[-1]["lent"] == "", "a killed command had lent them"
    assert alice.nomad.variables == {}


def test_removes_credentials_that_a_killed_restore_had_lent(alice: Owner) -> None:
    alice.nomad.variables = {"nomad/jobs/pds-restore/pds-restore/fetch": ITEMS}
    restore.restore(alice.stack, RestoreRequest(yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["lent"] == "", "otherwise it would restore another stack's backups"


def test_waits_for_the_restore_of_a_killed_command_before_it_dispatches_another(
    alice: Owner, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    alice.nomad.children = [["running"], ["running"], ["dead"]]
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert "Another run of pds-restore is active" in capsys.readouterr().out
    paths = [path for _, path, _ in alice.nomad.asked]
    queries = [number for number, path in enumerate(paths) if path.startswith("/v1/jobs?prefix=pds-restore")]
    assert len(queries) == 4, "once more after the pause"
    lending = paths.index("/v1/var/nomad/jobs/pds-restore/pds-restore/fetch")
    assert queries[-1] < lending < paths.index("/v1/job/pds-restore/dispatch"), (
        "the active run still needs the lent credentials"
    )
    assert clock.now > 0


def test_waits_for_another_operator_s_restore_before_it_pauses(alice: Owner, clock: Clock) -> None:
    engine_commands: list[int] = []
    alice.nomad.children = [["running"], ["running"], ["dead"]]
    original = alice.nomad.answer

    def answer(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.startswith("/v1/jobs?prefix=pds-restore"):
            engine_commands.append(len(alice.pulumi.ran))
        return original(method, path, body, token)

    alice.nomad.answer = answer  # type: ignore[method-assign]
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert engine_commands[:3] == [0, 0, 0], "the other restore resumes the PDS through the engine at its end"


def test_removes_old_data_and_verifies_only_after_a_running_restore(alice: Owner, clock: Clock) -> None:
    alice.nomad.children = [["running"], ["dead"]]
    assert restore.forget_old(alice.stack) == 0
    assert alice.nomad.children == [], "it waited for the run"
    alice.nomad.children = [["running"], ["dead"]]
    assert restore.last_backup_is_restorable(nomad_jobs.stack_nomad_api(alice.stack))
    assert alice.nomad.children == []
    alice.nomad.children = [["running"]]
    assert restore.list_snapshots(alice.stack) == 0
    assert alice.nomad.children == [["running"]], "a list changes no files"


def test_refuses_another_pds_s_backups_before_it_pauses(alice: Owner) -> None:
    alice.write("old", backup=BACKUP, hostname="chess.at", dns={"zone": "chess.at"})
    with pytest.raises(StackError, match="is permanent"):
        restore.restore(alice.stack, RestoreRequest(source=Stack("old", alice.stack.root), yes=True))
    assert alice.pulumi.ran == []


def test_refuses_a_stack_without_backups(alice: Owner) -> None:
    alice.write()
    with pytest.raises(StackError, match="has no 'backup'"):
        restore.restore(alice.stack, RestoreRequest())


def test_lists_snapshots_and_removes_old_data_without_a_pause(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore.list_snapshots(alice.stack) == 0
    assert "Times are UTC." in capsys.readouterr().out
    assert restore.forget_old(alice.stack) == 0
    assert [meta.get("show") or meta.get("forget") for meta in alice.nomad.dispatched] == ["yes", "yes"]
    assert alice.pulumi.ran == []


@pytest.mark.parametrize(("verb", "job"), [("backup", "pds-backup"), ("drill", "pds-drill")])
def test_backup_and_drill_commands_start_their_job_at_once(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, verb: str, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"cli.commands.{verb}.Stack", lambda name: Stack(name, alice.stack.root))
    alice.nomad.logs = {("restore", "stdout"): "recovery point  now\n"}
    assert app.main([verb, "dev"]) == 0
    assert "recovery point" in capsys.readouterr().out
    assert ("POST", f"/v1/job/{job}/periodic/force", TOKEN) in alice.nomad.asked
    alice.nomad.runs = [allocations("failed", "restore")]
    assert app.main([verb, "dev"]) == 1


def test_new_repository_forgets_the_last_one_on_the_host_before_the_backup(
    alice: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run_in_container(_nomad: object, _allocation: str, command: list[str], subject: str) -> dict[str, str]:
        ran.append(command[-1])
        if len(ran) == 1:
            raise TruncatedOutputError(subject)  # Nomad may lose the output of a command that has ended
        return {}

    monkeypatch.setattr("cli.commands.backup.Stack", lambda name: Stack(name, alice.stack.root))
    monkeypatch.setattr(restore, "run_in_container", run_in_container)
    monkeypatch.setattr(restore, "running_allocation", lambda _api: "3f1c")
    assert app.main(["backup", "dev", "--new-repository"]) == 0
    assert ran == ["rm -f /pds/.run-status/repository && echo {}"] * 2
    assert ("POST", "/v1/job/pds-backup/periodic/force", TOKEN) in alice.nomad.asked
    monkeypatch.setattr(restore, "running_allocation", lambda _api: None)
    with pytest.raises(StackError, match="is not running"):
        restore.forget_repository(alice.stack)


def test_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Stack, RestoreRequest]] = []

    def record(stack: Stack, request: RestoreRequest) -> int:
        calls.append((stack, request))
        return 0

    monkeypatch.setattr(restore, "restore", record)
    bring_back = ["--bring-back", "did:plc:ann", "--bring-back", "did:plc:bob"]
    without = ["--without-directory", "--without-departures"]
    assert app.main(["restore", "dev", "--to", "new", *bring_back, *without, "--yes"]) == 0
    [(stack, request)] = calls
    assert request.without_directory
    assert request.without_departures
    assert (stack.name, request.bring_back, request.yes) == ("new", ("did:plc:ann", "did:plc:bob"), True)
    assert request.source
    assert request.source.name == "dev"
