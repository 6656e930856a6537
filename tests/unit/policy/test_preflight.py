"""The gate on the engine's preview: what it refuses, what it allows, and what it cannot judge."""

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


def judged(text: str, *allowed: str) -> list[str]:
    """The findings in a preview of the dev stack."""
    return of_digest(read_digest(text, "dev"), allowed)


def test_a_preview_in_which_nothing_changes_passes(dev: Evaluation, club: Evaluation) -> None:
    assert judged(preview_of(dev)) == []
    assert judged(preview_of(club)) == [], "with members"


def test_both_views_of_one_program_are_alike(dev: Evaluation) -> None:
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


def test_a_planted_replacement_of_the_volume_shuts_the_gate(dev: Evaluation) -> None:
    volume = replaced(dev.one("pds-host-data-volume"), region="ams3")
    assert judged(preview_of(dev, volume)) == ["lost state: Volume pds-host-data-volume would be replaced (region)"]
    assert judged(preview_of(dev, volume), "pds-host-data-volume") == [], "its name allows it"
    assert judged(preview_of(dev, volume), "pds-host-network", "Volume") != [], "nothing but its whole name does"


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
def test_whatever_holds_something_may_not_go(name: str, dev: Evaluation) -> None:
    [finding] = find_lost_state(read_digest(preview_of(dev, deleted(dev.one(name))), "dev").changes)
    assert finding.endswith(f" {name} would be deleted")


def test_a_club_is_removed_from_its_host_if_its_namespace_is_named() -> None:
    host = run(**CLUBS)
    gone = preview_of(
        host, deleted(host.one("pds-host-clubs-chess-namespace")), deleted(host.one("pds-host-clubs-chess-token"))
    )
    assert judged(gone) == ["lost state: ClubNamespace pds-host-clubs-chess-namespace would be deleted"]
    assert judged(gone, "pds-host-clubs-chess-namespace") == []


def test_what_can_be_made_again_may_go(club: Evaluation) -> None:
    names = ["pds-host-certificates-client-key", "pds-server-job", "pds-secrets-variable"]
    names += [
        item.name for item in club.resources if re.fullmatch(r"pds-people-member-.*-(password|account)", item.name)
    ]
    assert len(names) > 4, "two members at least"
    assert judged(preview_of(club, *(replaced(club.one(name), version="other") for name in names))) == []


@pytest.mark.parametrize("op", ["delete", "replace", "create-replacement", "delete-replaced", "an-op-of-next-year"])
def test_only_known_operations_are_taken_for_harmless(op: str) -> None:
    change = Change(type="digitalocean:index/volume:Volume", name="pds-host-data-volume", op=op)
    assert len(find_lost_state([change])) == 1, "what the engine calls it may change"


@pytest.mark.parametrize("op", ["create", "update", "import", "read", "refresh"])
def test_what_stays_is_not_lost(op: str) -> None:
    assert find_lost_state([Change(type="a:b/volume:Volume", name="pds-host-data-volume", op=op)]) == []


def test_a_volume_that_loses_its_protection_shuts_the_gate(dev: Evaluation) -> None:
    step = same(dev.one("pds-host-data-volume"))
    step["newState"] = {key: value for key, value in step["newState"].items() if key != "protect"}
    assert judged(preview_of(dev, step)) == ["protected state: Volume pds-host-data-volume is not protected"], (
        "the engine calls it 'same', and a later change would replace it unasked"
    )


def test_a_preview_that_failed_is_none_and_says_why(dev: Evaluation) -> None:
    said = (("error", "error: unable to replace\nas it is protected\n"), ("error", "error: preview failed\n"))
    volume = replaced(dev.one("pds-host-data-volume"), region="ams3")
    assert judged(preview_of(dev, volume, said=said)) == [
        "lost state: Volume pds-host-data-volume would be replaced (region)",
        "failed preview: unable to replace as it is protected",
        "failed preview: preview failed",
    ]
    late = (("error", "error: Detected that /bin/pulumi-resource-nomad exited prematurely. \n  This is *always* …"),)
    assert judged(preview_of(dev, said=late)) == [], "the engine ended that plugin itself, after the last step"


def test_a_replacement_is_one_change_however_much_of_it_is_shown(dev: Evaluation) -> None:
    whole = replaced(dev.one("pds-host-data-volume"), region="ams3")
    parts: list[Step] = [whole | {"op": "create-replacement"}, deleted(dev.one("pds-host-data-volume"))]
    parts[1]["op"] = "delete-replaced"
    assert len(judged(preview_of(dev, parts[0], whole, parts[1]))) == 1
    assert len(judged(preview_of(dev, *parts))) == 2, "without the whole, each part counts"


def test_a_change_is_shown_without_its_secrets(dev: Evaluation) -> None:
    step = replaced(dev.one("pds-host-droplet"), userData="[secret]", region="ams3")
    [change] = read_digest(preview_of(dev, step), "dev").changes
    assert change.inputs == {"region": "'fra1' -> 'ams3'", "userData": "[secret]"}


def _resized(evaluation: Evaluation, size: str, disk: int) -> Step:
    """The droplet with another size, running with a disk of so many GB."""
    step = replaced(evaluation.one("pds-host-droplet"), size=size)
    step["oldState"]["outputs"]["disk"] = disk
    return step | {"op": "update", "replaceReasons": []}


def test_a_size_with_a_smaller_disk_than_the_droplets_shuts_the_gate_with_what_to_write(dev: Evaluation) -> None:
    [finding] = judged(preview_of(dev, _resized(dev, "s-1vcpu-1gb", 50)))
    assert finding.startswith("disk: Droplet pds-host-droplet has a disk of 50 GB, and size s-1vcpu-1gb has 25 GB.")
    assert "raise 'host.generation' too" in finding
    for size, disk in (("s-2vcpu-4gb", 50), ("s-1vcpu-1gb", 25), ("s-1vcpu-2gb-70gb-intel", 70)):
        assert judged(preview_of(dev, _resized(dev, size, disk))) == [], (
            "25 GB: it was made small, and only grew in memory"
        )
    rebuilt = _resized(dev, "s-1vcpu-1gb", 50) | {"op": "replace"}
    assert judged(preview_of(dev, rebuilt), "pds-host-droplet") == [], "a new droplet has a new disk"


def test_a_size_whose_disk_is_unknown_is_told_with_what_shows_it(dev: Evaluation) -> None:
    digest = read_digest(preview_of(dev, _resized(dev, "c-4-8gb", 50)), "dev")
    assert of_digest(digest, ()) == []
    [told] = unknown_disks(digest.changes)
    assert "c-4-8gb" in told
    assert "doctl compute size list" in told


def _without(text: str, op: str) -> str:
    document = json.loads(text)
    document["steps"] = [step for step in document["steps"] if step["op"] != op]
    return json.dumps(document)


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing": (lambda text: "", "is not JSON"),
    "text for people": (lambda text: "Previewing update (dev):", "is not JSON"),
    "another JSON": (lambda text: json.dumps({"version": 3, "deployment": {}}), "is not a preview"),
    "a list": (lambda text: "[]", "is not a preview"),
    "events as they come": (lambda text: '{"sequence": 1}\n{"sequence": 2}', "is not JSON"),
    "a stack without resources": (lambda text: json.dumps({"steps": [], "changeSummary": {}}), "names no resource"),
    "a preview of another stack": (lambda text: text.replace("urn:pulumi:dev::", "urn:pulumi:club::"), "not of stack"),
    "a preview of what changes only": (lambda text: _without(text, "same"), "--show-sames"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_whole_preview_of_the_stack_is_not_judged(what: str, dev: Evaluation) -> None:
    make, said = REFUSED[what]
    text = preview_of(dev, replaced(dev.one("pds-server-job"), jobspec="other"))
    with pytest.raises(DigestError, match=said):
        read_digest(make(text), "dev")


def test_a_preview_that_lacks_a_resource_is_not_judged_by_the_others(dev: Evaluation) -> None:
    document = json.loads(preview_of(dev))
    document["steps"] = [step for step in document["steps"] if not step["urn"].endswith("-server-job")]
    document["changeSummary"]["same"] -= 1
    with pytest.raises(LookupError, match="pds-server-job"):
        judged(json.dumps(document))


def test_what_a_stack_file_opens_on_purpose_is_open() -> None:
    evaluation = run(operators={"nomad_anywhere": True}, pds={"invite_required": False, "open_registration": True})
    found = findings(of_evaluation(evaluation, nomad_anywhere=True, open_registration=True))
    assert {name: texts for name, texts in found.items() if texts} == {}
    found = findings(of_evaluation(evaluation))
    assert sorted(name for name, texts in found.items() if texts) == ["operator ports", "registration"]


def test_a_stack_without_a_host_of_its_own_is_asked_what_concerns_it(dev: Evaluation) -> None:
    """Its server is checked like any other, and no firewall is required there."""
    host = ("pds-host-network-", "pds-host-", "pds-host-nomad-", "pds-host-certificates-")
    club = replace(dev, resources=[item for item in dev.resources if not item.name.startswith(host)])
    assert of_program(club, settings_of()) == []
    assert judged(preview_of(club)) == []
    key = club.one("pds-secrets-jwt-secret")
    spec = club.one("pds-server-job").inputs["jobspec"] + f"# {key.outputs['result']['value']}\n"
    leaking = [
        replace(item, inputs={"jobspec": spec}, raw={"jobspec": spec}) if item.name == "pds-server-job" else item
        for item in club.resources
    ]
    found = of_program(replace(club, resources=leaking), settings_of())
    assert "secrets in texts: pds-server-job: the job's text holds pds-secrets-jwt-secret.result" in found


# The verb.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePulumi:
    """A project with the dev stack, and an engine with given answers."""
    fake = FakePulumi(tmp_path, monkeypatch)
    for name in SOURCES:
        (fake.root / name).symlink_to(ROOT / name)
    for name in ("__main__.py", "Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, fake.root / name)
    monkeypatch.setattr("cli.commands.preflight.Stack", lambda name: Stack(name, fake.root))
    return fake


def test_the_verb_asks_the_engine_for_every_resource(
    project: FakePulumi, dev: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    project.answers("preview", (0, preview_of(dev)))
    assert app.main(["preflight", "dev"]) == 0
    assert project.ran == [["preview", "--json", "--show-sames", "--stack", "dev", "--non-interactive"]]
    assert capsys.readouterr().out == "Nothing would change.\nPreflight passed.\n"


def test_the_verb_shows_the_change_and_what_shuts_the_gate(
    project: FakePulumi, dev: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "preview.json"
    said = (("warning", "warning: pds:backup: NO BACKUP.\n"),)
    file.write_text(preview_of(dev, replaced(dev.one("pds-host-data-volume"), region="ams3"), said=said))
    assert app.main(["preflight", "dev", "--preview", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "warning: pds:backup: NO BACKUP.",
        "~ Volume pds-host-data-volume",
        "    region: 'fra1' -> 'ams3'  REPLACES",
        "preflight: lost state: Volume pds-host-data-volume would be replaced (region)",
        "To replace or delete it on purpose, allow its name: `--allow NAME` (docs/guide/ci.md#preflight-checks).",
        "Preflight failed.",
    ]
    assert project.ran == [], "no engine was asked"
    arguments = ["--allow", "pds-host-data-volume pds-host-network-ip", "--allow", ""]
    assert app.main(["preflight", "dev", "--preview", str(file), *arguments]) == 0
    assert "allowed, and not replaced or deleted: pds-host-network-ip" in capsys.readouterr().out


def test_the_verb_judges_the_program_as_it_is_evaluated_offline_too(
    project: FakePulumi, dev: Evaluation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine hides user_data, so only the offline evaluation shows it."""
    project.answers("preview", (0, preview_of(dev)))
    monkeypatch.setattr("policy.checks.MAX_BYTES", 30_000)
    assert app.main(["preflight", "dev"]) == 1
    assert "preflight: user_data: user_data has up to" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 255])
def test_no_preview_is_not_an_open_gate(code: int, project: FakePulumi, capsys: pytest.CaptureFixture[str]) -> None:
    project.answers("preview", (code, ""))
    assert app.main(["preflight", "dev"]) == 2
    assert "open" not in capsys.readouterr().out


def test_a_preview_comes_by_standard_input_too(
    project: FakePulumi, dev: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        def read(self) -> str:
            return preview_of(dev)

    monkeypatch.setattr("sys.stdin", Input())
    assert app.main(["preflight", "dev", "--preview", "-"]) == 0


def test_a_preview_file_that_is_not_there_is_said(
    project: FakePulumi, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    assert app.main(["preflight", "dev", "--preview", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_another_stack_s_outputs_are_read_at_each_preview_and_that_is_no_change(dev: Evaluation) -> None:
    item = dev.one("pds-host-network-tag")
    assert read_digest(preview_of(dev, {**same(item), "op": "read"}), "dev").changes == ()


def test_a_program_that_refuses_its_stack_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = FakeProject(tmp_path, monkeypatch)
    project.stack("dev", host())
    project.stack("chess", club_file("chess", 3101))
    with pytest.raises(StackFileError, match="Stack dev grants chess no place"):
        assess("chess", "{}", (), root=project.root)
