"""`./pds restore`: the order of calls to engine, host and relays, their parameters, and where it stops."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import app
from cli.backups import restore
from cli.backups.restore import RestoreRequest
from cli.lib import nomad_jobs
from cli.lib.stack import Stack, StackError
from tests.conftest import Clock
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import BACKUP, document
from tests.unit.cli.test_nomad_jobs import TOKEN, look

KEY = "3174f736d554cb2d30e32120227fa8cc722bc378d18dd42bac32a47794f4af1f"
ITEMS = {"RESTIC_REPOSITORY": "s3:https://ams3.digitaloceanspaces.com/old/noted.at", "RESTIC_PASSWORD": "a password"}


@dataclass
class Owner:
    """An owner of a stack, an engine and a Nomad."""

    pulumi: FakePulumi
    nomad: FakeNomad
    stack: Stack

    def write(self, name: str = "dev", **changes: Any) -> None:
        """The stack file."""
        options = {f"pds:{key}": value for key, value in document(**changes).items()}
        (self.pulumi.root / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump({"config": options}))


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Owner]:
    with serve(FakeNomad(tokens={TOKEN: "accessor"}, runs=[look("complete")])) as nomad:
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
        found = Owner(pulumi, nomad, Stack("dev", pulumi.root))
        found.write(backup=BACKUP)
        yield found


def _set(value: str) -> list[str]:
    return ["config", "set", "--path", "pds:pds.paused", value, "--non-interactive", "--stack", "dev"]


UP = ["up", "--yes", "--skip-preview", "--stack", "dev"]


def test_it_pauses_restores_and_lets_run_again_all_through_the_engine(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.nomad.logs = {("restore", "stdout"): "ready                        3 accounts in use\n"}
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert alice.pulumi.ran == [_set("true"), UP, _set("false"), UP]
    (meta,) = alice.nomad.dispatched
    assert meta["rotation_public_key"][:2] in ("02", "03")
    assert KEY not in json.dumps(alice.nomad.dispatched), "every client that may read jobs reads a run's meta"
    said = capsys.readouterr().out
    assert "3 accounts in use" in said
    assert "http://localhost:1: does not answer" in said
    assert "ok    everything" in said
    assert "--forget-old" in said


def test_after_a_refusal_the_pds_stays_paused_and_the_owner_is_told(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.nomad.runs = [look("failed", "fetch")]
    alice.nomad.logs = {("fetch", "stderr"): "FAILED: there is no snapshot 1a2b\n"}
    assert restore.restore(alice.stack, RestoreRequest(snapshot="1a2b", yes=True)) == 1
    assert alice.pulumi.ran == [_set("true"), UP]
    said = capsys.readouterr().out
    assert "FAILED: there is no snapshot 1a2b" in said
    assert "still paused" in said


def test_an_up_that_fails_ends_it_before_the_host_is_asked(alice: Owner) -> None:
    alice.pulumi.answers("up", (1, "error"))
    with pytest.raises(StackError, match="repeat the command"):
        restore.restore(alice.stack, RestoreRequest(yes=True))
    assert alice.nomad.dispatched == []


def test_a_pds_that_is_paused_already_stays_so(alice: Owner) -> None:
    alice.write(backup=BACKUP, pds={"paused": True})
    restore.restore(alice.stack, RestoreRequest())
    assert alice.pulumi.ran == [["up", "--stack", "dev"], _set("false"), ["up", "--stack", "dev"]]


def test_who_was_removed_by_the_stack_file_is_told_to_the_host(alice: Owner) -> None:
    eve, mallory = "did:plc:qo2urk437ss36eyefp5jgoyw", "did:plc:ar7c4by46qjdydhdevvrndac"
    alice.write(backup=BACKUP, delete={"eve.noted.at": eve}, takedown=["mallory.noted.at", "new.noted.at"])
    taken = {"mallory.noted.at": mallory}
    alice.pulumi.state(("pds-people-removals", "pulumi-python:dynamic/pds:AccountRemovals", "1", {"taken_down": taken}))
    restore.restore(alice.stack, RestoreRequest(yes=True, bring_back=("did:plc:ann",), sequence=7))
    (meta,) = alice.nomad.dispatched
    assert (meta["delete"], meta["takedown"]) == (eve, mallory), "a handle without a DID is the next up's"
    assert (meta["bring_back"], meta["sequence"]) == ("did:plc:ann", "7")


def test_the_last_snapshot_on_the_volume_needs_no_bucket(alice: Owner) -> None:
    restore.restore(alice.stack, RestoreRequest(snapshot="volume", yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["from"] == "volume"
    assert "snapshot" not in meta


def test_another_stack_s_backups_are_opened_for_the_run_alone(alice: Owner) -> None:
    alice.write("old", backup=BACKUP | {"region": "nyc3"})
    alice.nomad.runs = [look("failed", "fetch")]
    restore.restore(alice.stack, RestoreRequest(source=Stack("old", alice.stack.root), yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["lent"] == "nomad/jobs/pds-restore/pds-restore/fetch nomad/jobs/pds-restore/pds-restore/fetch-older"
    assert "a password" not in json.dumps(meta)
    assert alice.nomad.variables == {}, "also after a run that failed"


def test_what_a_killed_restore_had_lent_is_taken_back_by_the_next_one(alice: Owner) -> None:
    alice.nomad.variables = {"nomad/jobs/pds-restore/pds-restore/fetch": ITEMS}
    restore.restore(alice.stack, RestoreRequest(yes=True))
    (meta,) = alice.nomad.dispatched
    assert meta["lent"] == "", "else it would restore another stack's backups"


def test_a_restore_that_a_killed_verb_left_comes_to_its_end_before_another_begins(
    alice: Owner, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    alice.nomad.children = [["running"], ["running"], ["dead"]]
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert "Another run of pds-restore is active" in capsys.readouterr().out
    paths = [path for _, path, _ in alice.nomad.asked]
    looks = [number for number, path in enumerate(paths) if path.startswith("/v1/jobs?prefix=pds-restore")]
    assert len(looks) == 4, "once more after the pause"
    lent = paths.index("/v1/var/nomad/jobs/pds-restore/pds-restore/fetch")
    assert looks[-1] < lent < paths.index("/v1/job/pds-restore/dispatch"), "what opens another stack's is still needed"
    assert clock.now > 0


def test_another_operator_s_restore_is_waited_for_before_anything_is_paused(alice: Owner, clock: Clock) -> None:
    ran: list[int] = []
    alice.nomad.children = [["running"], ["running"], ["dead"]]
    looked = alice.nomad.answer

    def answer(method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if path.startswith("/v1/jobs?prefix=pds-restore"):
            ran.append(len(alice.pulumi.ran))
        return looked(method, path, body, token)

    alice.nomad.answer = answer  # type: ignore[method-assign]
    assert restore.restore(alice.stack, RestoreRequest(yes=True)) == 0
    assert ran[:3] == [0, 0, 0], "the other one lets the PDS run again at its end, through the engine"


def test_old_data_are_not_removed_and_nothing_is_verified_during_a_restore(alice: Owner, clock: Clock) -> None:
    alice.nomad.children = [["running"], ["dead"]]
    assert restore.forget_old(alice.stack) == 0
    assert alice.nomad.children == [], "it was waited for"
    alice.nomad.children = [["running"], ["dead"]]
    assert restore.last_backup_is_restorable(nomad_jobs.stack_nomad_api(alice.stack))
    assert alice.nomad.children == []
    alice.nomad.children = [["running"]]
    assert restore.list_snapshots(alice.stack) == 0
    assert alice.nomad.children == [["running"]], "a list touches no files"


def test_another_pds_s_backups_are_refused_before_anything_is_paused(alice: Owner) -> None:
    alice.write("old", backup=BACKUP, hostname="chess.at", dns={"zone": "chess.at"})
    with pytest.raises(StackError, match="is for life"):
        restore.restore(alice.stack, RestoreRequest(source=Stack("old", alice.stack.root), yes=True))
    assert alice.pulumi.ran == []


def test_a_stack_without_backups_is_refused(alice: Owner) -> None:
    alice.write()
    with pytest.raises(StackError, match="has no 'backup'"):
        restore.restore(alice.stack, RestoreRequest())


def test_snapshots_are_listed_and_old_data_removed_without_a_pause(alice: Owner) -> None:
    assert (restore.list_snapshots(alice.stack), restore.forget_old(alice.stack)) == (0, 0)
    assert [meta.get("show") or meta.get("forget") for meta in alice.nomad.dispatched] == ["yes", "yes"]
    assert alice.pulumi.ran == []


@pytest.mark.parametrize(("verb", "job"), [("backup", "pds-backup"), ("drill", "pds-drill")])
def test_a_backup_or_a_drill_is_run_now(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, verb: str, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"cli.commands.{verb}.Stack", lambda name: Stack(name, alice.stack.root))
    alice.nomad.logs = {("restore", "stdout"): "recovery point  now\n"}
    assert app.main([verb, "dev"]) == 0
    assert "recovery point" in capsys.readouterr().out
    assert ("POST", f"/v1/job/{job}/periodic/force", TOKEN) in alice.nomad.asked
    alice.nomad.runs = [look("failed", "restore")]
    assert app.main([verb, "dev"]) == 1


def test_the_verb_says_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Stack, RestoreRequest]] = []

    def tell(stack: Stack, wish: RestoreRequest) -> int:
        told.append((stack, wish))
        return 0

    monkeypatch.setattr(restore, "restore", tell)
    bring_back = ["--bring-back", "did:plc:ann", "--bring-back", "did:plc:bob"]
    assert app.main(["restore", "dev", "--to", "new", *bring_back, "--yes"]) == 0
    [(stack, wish)] = told
    assert (stack.name, wish.bring_back, wish.yes) == ("new", ("did:plc:ann", "did:plc:bob"), True)
    assert wish.source
    assert wish.source.name == "dev"
