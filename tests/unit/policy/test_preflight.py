"""Preflight checks of the engine's preview: what they refuse, what they allow, and what they cannot check."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack
from offline.mock_engine import ROOT, Evaluation
from offline.stackfile import StackFileError
from policy.changes import Change, find_lost_state, unknown_disks
from policy.checks import findings
from policy.digest import DigestError, read_digest
from policy.preflight import assess, of_digest, of_program
from policy.view import of_evaluation
from tests.support.engine_json import Step, deleted, preview_of, replaced, same
from tests.support.fake_project import FakeProject, host
from tests.support.fake_project import club as club_file
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import CLUBS, SOURCES, run, settings_of


def findings_of(text: str, *allowed: str) -> list[str]:
    """The findings in a preview of the dev stack."""
    return of_digest(read_digest(text, "dev"), allowed)


def test_passes_if_nothing_changes(dev: Evaluation, club: Evaluation) -> None:
    assert findings_of(preview_of(dev)) == []
    assert findings_of(preview_of(club)) == [], "with members"


def test_the_offline_view_and_the_engine_s_view_agree(dev: Evaluation) -> None:
    offline, engine = of_evaluation(dev), read_digest(preview_of(dev), "dev").view
    for ours, theirs in zip(offline.items, engine.items, strict=True):
        assert (ours.urn, ours.id, ours.protected, ours.retained) == (
            theirs.urn,
            theirs.id,
            theirs.protected,
            theirs.retained,
        )
        shown = {key: value for key, value in ours.shown.items() if not key.startswith("__")}
        assert shown == theirs.shown


def test_fails_if_the_volume_is_replaced_unless_its_name_is_allowed(dev: Evaluation) -> None:
    volume = replaced(dev.one("pds-host-data-volume"), region="ams3")
    assert findings_of(preview_of(dev, volume)) == [
        "lost state: Volume pds-host-data-volume would be replaced (region)"
    ]
    assert findings_of(preview_of(dev, volume), "pds-host-data-volume") == [], "it is allowed by its name"
    assert findings_of(preview_of(dev, volume), "pds-host-network", "Volume") != [], "only the complete name allows it"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "pds-host-network-ip",
            "pds-secrets-plc-rotation-key",
            "pds-host-certificates-ca-key",
            "pds-host-certificates-ca",
        ),
        *("pds-host-certificates-server-key", "pds-host-nomad-management-token", "pds-host-droplet"),
    ],
)
def test_fails_if_a_resource_that_holds_state_is_deleted(name: str, dev: Evaluation) -> None:
    [finding] = find_lost_state(read_digest(preview_of(dev, deleted(dev.one(name))), "dev").changes)
    assert finding.endswith(f" {name} would be deleted")


def test_a_club_is_removed_only_if_its_namespace_is_allowed_by_name() -> None:
    host = run(**CLUBS)
    preview = preview_of(
        host, deleted(host.one("pds-host-clubs-chess-namespace")), deleted(host.one("pds-host-clubs-chess-token"))
    )
    assert findings_of(preview) == ["lost state: ClubNamespace pds-host-clubs-chess-namespace would be deleted"]
    assert findings_of(preview, "pds-host-clubs-chess-namespace") == []


def test_passes_if_only_recreatable_resources_are_replaced(club: Evaluation) -> None:
    names = ["pds-host-certificates-client-key", "pds-server-job", "pds-secrets-variable"]
    names += [
        item.name for item in club.resources if re.fullmatch(r"pds-people-member-.*-(password|account)", item.name)
    ]
    assert len(names) > 4, "two members at least"
    assert findings_of(preview_of(club, *(replaced(club.one(name), version="other") for name in names))) == []


@pytest.mark.parametrize("op", ["delete", "replace", "create-replacement", "delete-replaced", "an-op-of-next-year"])
def test_counts_every_unknown_operation_as_a_loss(op: str) -> None:
    change = Change(type="digitalocean:index/volume:Volume", name="pds-host-data-volume", op=op)
    assert len(find_lost_state([change])) == 1, "the engine may add operations"


@pytest.mark.parametrize("op", ["create", "update", "import", "read", "refresh"])
def test_operations_that_keep_a_resource_are_no_loss(op: str) -> None:
    assert find_lost_state([Change(type="a:b/volume:Volume", name="pds-host-data-volume", op=op)]) == []


def test_fails_if_the_volume_loses_its_protection(dev: Evaluation) -> None:
    step = same(dev.one("pds-host-data-volume"))
    step["newState"] = {key: value for key, value in step["newState"].items() if key != "protect"}
    assert findings_of(preview_of(dev, step)) == ["protected state: Volume pds-host-data-volume is not protected"], (
        "the engine calls it 'same', and a later change could replace it"
    )


def test_a_failed_preview_fails_with_the_engine_s_errors(dev: Evaluation) -> None:
    diagnostics = (("error", "error: unable to replace\nas it is protected\n"), ("error", "error: preview failed\n"))
    volume = replaced(dev.one("pds-host-data-volume"), region="ams3")
    assert findings_of(preview_of(dev, volume, diagnostics=diagnostics)) == [
        "lost state: Volume pds-host-data-volume would be replaced (region)",
        "failed preview: unable to replace as it is protected",
        "failed preview: preview failed",
    ]
    late = (("error", "error: Detected that /bin/pulumi-resource-nomad exited prematurely. \n  This is *always* …"),)
    assert findings_of(preview_of(dev, diagnostics=late)) == [], (
        "the engine ended that plugin itself, after the last step"
    )


def test_counts_the_steps_of_one_replacement_once(dev: Evaluation) -> None:
    complete = replaced(dev.one("pds-host-data-volume"), region="ams3")
    parts: list[Step] = [complete | {"op": "create-replacement"}, deleted(dev.one("pds-host-data-volume"))]
    parts[1]["op"] = "delete-replaced"
    assert len(findings_of(preview_of(dev, parts[0], complete, parts[1]))) == 1
    assert len(findings_of(preview_of(dev, *parts))) == 2, "without the `replace` step each part counts"


def test_a_change_hides_secret_inputs(dev: Evaluation) -> None:
    step = replaced(dev.one("pds-host-droplet"), userData="[secret]", region="ams3")
    [change] = read_digest(preview_of(dev, step), "dev").changes
    assert change.inputs == {"region": "'fra1' -> 'ams3'", "userData": "[secret]"}


def _resized(evaluation: Evaluation, size: str, disk: int) -> Step:
    """The droplet with another size; its present disk has `disk` GB."""
    step = replaced(evaluation.one("pds-host-droplet"), size=size)
    step["oldState"]["outputs"]["disk"] = disk
    return step | {"op": "update", "replaceReasons": []}


def test_fails_if_the_new_size_has_a_smaller_disk_than_the_droplet(dev: Evaluation) -> None:
    [finding] = findings_of(preview_of(dev, _resized(dev, "s-1vcpu-1gb", 50)))
    assert finding.startswith("disk: Droplet pds-host-droplet has a disk of 50 GB, and size s-1vcpu-1gb has 25 GB.")
    assert "raise 'host.generation' too" in finding
    for size, disk in (("s-2vcpu-4gb", 50), ("s-1vcpu-1gb", 25), ("s-1vcpu-2gb-70gb-intel", 70)):
        assert findings_of(preview_of(dev, _resized(dev, size, disk))) == [], (
            "the droplet was created with 25 GB; a resize of CPU and memory keeps the disk"
        )
    rebuilt = _resized(dev, "s-1vcpu-1gb", 50) | {"op": "replace"}
    assert findings_of(preview_of(dev, rebuilt), "pds-host-droplet") == [], "a new droplet has a new disk"


def test_reports_a_size_with_an_unknown_disk_and_how_to_look_it_up(dev: Evaluation) -> None:
    digest = read_digest(preview_of(dev, _resized(dev, "c-4-8gb", 50)), "dev")
    assert of_digest(digest, ()) == []
    [warning] = unknown_disks(digest.changes)
    assert "c-4-8gb" in warning
    assert "doctl compute size list" in warning


def _without(text: str, op: str) -> str:
    document = json.loads(text)
    document["steps"] = [step for step in document["steps"] if step["op"] != op]
    return json.dumps(document)


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "empty input": (lambda text: "", "is not JSON"),
    "human-readable output": (lambda text: "Previewing update (dev):", "is not JSON"),
    "a stack export": (lambda text: json.dumps({"version": 3, "deployment": {}}), "is not a preview"),
    "a list": (lambda text: "[]", "is not a preview"),
    "streamed events": (lambda text: '{"sequence": 1}\n{"sequence": 2}', "is not JSON"),
    "a stack without resources": (lambda text: json.dumps({"steps": [], "changeSummary": {}}), "names no resource"),
    "a preview of another stack": (lambda text: text.replace("urn:pulumi:dev::", "urn:pulumi:club::"), "not of stack"),
    "a preview of the changes only": (lambda text: _without(text, "same"), "--show-sames"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_input_that_is_not_a_complete_preview_of_the_stack(case: str, dev: Evaluation) -> None:
    make, error = REFUSED[case]
    text = preview_of(dev, replaced(dev.one("pds-server-job"), jobspec="other"))
    with pytest.raises(DigestError, match=error):
        read_digest(make(text), "dev")


def test_refuses_a_preview_that_lacks_a_resource(dev: Evaluation) -> None:
    document = json.loads(preview_of(dev))
    document["steps"] = [step for step in document["steps"] if not step["urn"].endswith("-server-job")]
    document["changeSummary"]["same"] -= 1
    with pytest.raises(LookupError, match="pds-server-job"):
        findings_of(json.dumps(document))


def test_accepts_access_that_the_stack_file_opens_explicitly() -> None:
    evaluation = run(operators={"nomad_anywhere": True}, pds={"invite_required": False, "open_registration": True})
    texts_by_check = findings(of_evaluation(evaluation, nomad_anywhere=True, open_registration=True))
    assert {name: texts for name, texts in texts_by_check.items() if texts} == {}
    texts_by_check = findings(of_evaluation(evaluation))
    assert sorted(name for name, texts in texts_by_check.items() if texts) == ["operator ports", "registration"]


def test_checks_the_server_but_not_the_firewall_of_a_club(dev: Evaluation) -> None:
    """A club's server is checked like any other; it needs no firewall of its own."""
    host = ("pds-host-network-", "pds-host-", "pds-host-nomad-", "pds-host-certificates-")
    club = replace(dev, resources=[item for item in dev.resources if not item.name.startswith(host)])
    assert of_program(club, settings_of()) == []
    assert findings_of(preview_of(club)) == []
    key = club.one("pds-secrets-jwt-secret")
    spec = club.one("pds-server-job").inputs["jobspec"] + f"# {key.outputs['result']['value']}\n"
    leaking = [
        replace(item, inputs={"jobspec": spec}, raw={"jobspec": spec}) if item.name == "pds-server-job" else item
        for item in club.resources
    ]
    leaks = of_program(replace(club, resources=leaking), settings_of())
    assert "secrets in texts: pds-server-job: the job's text holds pds-secrets-jwt-secret.result" in leaks


# The command.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePulumi:
    """A project with the dev stack, and a stand-in for the engine."""
    fake = FakePulumi(tmp_path, monkeypatch)
    for name in SOURCES:
        (fake.root / name).symlink_to(ROOT / name)
    for name in ("__main__.py", "Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, fake.root / name)
    monkeypatch.setattr("cli.commands.preflight.Stack", lambda name: Stack(name, fake.root))
    return fake


def test_command_requests_a_preview_with_every_resource(
    project: FakePulumi, dev: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    project.answers("preview", (0, preview_of(dev)))
    assert app.main(["preflight", "dev"]) == 0
    assert project.ran == [["preview", "--json", "--show-sames", "--stack", "dev", "--non-interactive"]]
    assert capsys.readouterr().out == "Nothing would change.\nPreflight passed.\n"


def test_command_prints_the_changes_and_the_findings(
    project: FakePulumi, dev: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "preview.json"
    diagnostics = (("warning", "warning: pds:backup: NO BACKUP.\n"),)
    file.write_text(preview_of(dev, replaced(dev.one("pds-host-data-volume"), region="ams3"), diagnostics=diagnostics))
    assert app.main(["preflight", "dev", "--preview", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "warning: pds:backup: NO BACKUP.",
        "~ Volume pds-host-data-volume",
        "    region: 'fra1' -> 'ams3'  REPLACES",
        "preflight: lost state: Volume pds-host-data-volume would be replaced (region)",
        "To replace or delete it on purpose, allow its name: `--allow NAME` (docs/guide/ci.md#preflight-checks).",
        "Preflight failed.",
    ]
    assert project.ran == [], "the engine was not called"
    arguments = ["--allow", "pds-host-data-volume pds-host-network-ip", "--allow", ""]
    assert app.main(["preflight", "dev", "--preview", str(file), *arguments]) == 0
    assert "allowed, and not replaced or deleted: pds-host-network-ip" in capsys.readouterr().out


def test_command_also_checks_the_offline_evaluation(
    project: FakePulumi, dev: Evaluation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine hides user_data; only the offline evaluation has it."""
    project.answers("preview", (0, preview_of(dev)))
    monkeypatch.setattr("policy.checks.MAX_BYTES", 30_000)
    assert app.main(["preflight", "dev"]) == 1
    assert "preflight: user_data: user_data has up to" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 255])
def test_command_fails_without_a_preview(code: int, project: FakePulumi, capsys: pytest.CaptureFixture[str]) -> None:
    project.answers("preview", (code, ""))
    assert app.main(["preflight", "dev"]) == 2
    assert "open" not in capsys.readouterr().out


def test_command_reads_a_preview_from_standard_input(
    project: FakePulumi, dev: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        def read(self) -> str:
            return preview_of(dev)

    monkeypatch.setattr("sys.stdin", Input())
    assert app.main(["preflight", "dev", "--preview", "-"]) == 0


def test_command_refuses_a_missing_preview_file(
    project: FakePulumi, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    assert app.main(["preflight", "dev", "--preview", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_reading_another_stack_s_outputs_is_no_change(dev: Evaluation) -> None:
    item = dev.one("pds-host-network-tag")
    assert read_digest(preview_of(dev, {**same(item), "op": "read"}), "dev").changes == ()


def test_reports_a_stack_file_that_the_program_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = FakeProject(tmp_path, monkeypatch)
    project.stack("dev", host())
    project.stack("chess", club_file("chess", 3101))
    with pytest.raises(StackFileError, match="Stack dev does not list chess as a club"):
        assess("chess", "{}", (), root=project.root)
