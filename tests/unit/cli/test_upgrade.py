"""`./pds upgrade`: a version that fails the trial changes nothing, and the command says how to go back."""

from pathlib import Path
from typing import Any

import pytest

from cli.check.run import CheckResult
from cli.lib import preflight
from cli.lib.stack import Stack, StackError
from cli.stacks import upgrade
from cli.stacks.stack_files import known_stacks
from components.render.jobs.upgrade_trial import upgrade_trial_job
from offline.hcl_reader import job_of, task_of
from tests.support.programs import BACKUP, settings_of
from tests.unit.cli.test_nomad_jobs import TOKEN, allocations
from tests.unit.cli.test_restore import UP, Owner
from tests.unit.cli.test_restore import alice as alice

NOW, NEXT = "ghcr.io/bluesky-social/pds:0.4.5037", "ghcr.io/bluesky-social/pds:0.4.5038"

PASSED, FAILED = CheckResult("certificate", True, "good"), CheckResult("certificate", False, "no answer")
INVITES = CheckResult("invites", False, "every visitor can sign up")


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[list[CheckResult]]:
    """The results of the checks at each call; the last ones stay. Preflight always passes."""
    results = [[PASSED, INVITES]]
    monkeypatch.setattr(upgrade, "subject_of", lambda *_, **__: None)
    monkeypatch.setattr(
        upgrade, "run_checks", lambda _subject: iter(results.pop(0) if len(results) > 1 else results[0])
    )
    monkeypatch.setattr(preflight, "run", lambda *_: 0)
    return results


def _up(alice: Owner, to: str = "0.4.5038", package: str | None = None) -> int:
    return upgrade.upgrade(alice.stack, to, package, yes=True)


def _posted(alice: Owner) -> list[str]:
    return [path for method, path, token in alice.nomad.asked if method == "POST" and token == TOKEN]


BACKED_UP = ["/v1/job/pds-backup/periodic/force", "/v1/job/pds-restore/dispatch"]
"""A backup, and the check whether every account can be restored from it."""


def test_refuses_if_an_account_could_not_be_restored_unless_it_is_named(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.nomad.logs = {("restore", "stdout"): "snapshot 33a97191 saved\n"}
    alice.nomad.runs = [*(5 * [allocations("complete")]), allocations("failed")]  # each run is queried twice
    assert _up(alice) == 1
    assert "Some accounts could not be restored from the backup" in capsys.readouterr().out
    assert alice.pulumi.ran == [], "nothing was changed"
    alice.nomad.runs = [allocations("complete")]
    assert upgrade.upgrade(alice.stack, "0.4.5035", None, yes=True, without=("did:plc:eve",)) == 0
    assert alice.nomad.dispatched[-1]["without"] == "did:plc:eve"


def test_after_a_passed_trial_it_backs_up_and_writes_the_version(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.nomad.logs = {("restore", "stdout"): "4 repositories served\nsnapshot 33a97191 saved\n"}
    assert _up(alice) == 0
    assert [meta.get("image") for meta in alice.nomad.dispatched] == [NEXT, None]
    assert _posted(alice) == ["/v1/job/pds-upgrade-trial/dispatch", *BACKED_UP]
    assert alice.nomad.dispatched[1]["verify"] == "yes"
    assert [command[:5] for command in alice.pulumi.ran] == [
        ["config", "set", "--path", "pds:pds.image", NEXT],
        ["config", "set", "--path", "pds:pds.package_version", "0.5.38"],
        UP,
    ]
    output = capsys.readouterr().out
    assert "The schema of no database changed" in output
    assert f"--path pds.image {NOW}" in output


def test_reports_that_going_back_is_a_restore_if_a_database_schema_changed(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.nomad.logs = {("restore", "stdout"): "MIGRATES account.sqlite 008\nsnapshot 33a97191 saved\n"}
    assert _up(alice) == 0
    output = capsys.readouterr().out
    assert "account.sqlite 008" in output
    assert "Going back is a restore" in output
    assert "./pds restore dev --snapshot 33a97191" in output


def test_a_failed_trial_changes_nothing(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.nomad.runs = [allocations("failed", "restore")]
    alice.nomad.logs = {("restore", "stderr"): "FAULT: repo.createRecord is answered with 500\n"}
    assert _up(alice) == 1
    assert "failed the trial. Nothing was changed." in capsys.readouterr().out
    assert (_posted(alice), alice.pulumi.ran) == (["/v1/job/pds-upgrade-trial/dispatch"], [])


def test_a_failed_backup_changes_nothing(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.nomad.runs = [allocations("complete"), allocations("complete"), allocations("failed", "restore")]
    assert _up(alice) == 1
    assert "The backup failed. Nothing was changed." in capsys.readouterr().out
    assert alice.pulumi.ran == []


def test_a_failed_preflight_stops_it_before_up(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "run", lambda *_: 1)
    assert _up(alice) == 1
    assert UP not in alice.pulumi.ran
    assert (
        "The stack was not updated. Pulumi.dev.yaml has the new version. The schema of no database changed. To go back"
        in (capsys.readouterr().out)
    )


def test_fails_if_a_check_that_passed_before_fails_afterwards(
    alice: Owner, checked: list[list[CheckResult]], capsys: pytest.CaptureFixture[str]
) -> None:
    checked.append([FAILED, INVITES])
    assert _up(alice) == 1
    assert "Upgraded, and these checks passed before and fail now: certificate." in capsys.readouterr().out


# Several stacks.


@pytest.fixture
def several(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """Two further hosts beside `dev`, with the same stack file."""
    for name in ("aster", "beech"):
        alice.write(name, backup=BACKUP)
    monkeypatch.setattr(upgrade, "Stack", lambda name: Stack(name, alice.stack.root))
    return alice


def _all(owner: Owner, canary: str | None, failing: str = "") -> tuple[int, list[str]]:
    updated: list[str] = []

    def up(stack: Any) -> bool:
        updated.append(stack.name)
        return bool(stack.name != failing)

    stacks = known_stacks(owner.stack.root, ["aster", "beech", "dev"])
    return upgrade.upgrade_all(stacks, canary, "0.4.5038", None, up), updated


def _images(root: Path) -> list[str]:
    names = ("aster", "beech", "dev")
    return [name for name in names if NEXT in (root / f"Pulumi.{name}.yaml").read_text()]


def test_upgrade_all_runs_the_trial_on_the_canary_and_backs_up_each_stack(
    several: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    several.nomad.logs = {("restore", "stdout"): "MIGRATES account.sqlite 008\nsnapshot 33a97191 saved\n"}
    assert _all(several, "beech") == (0, ["beech", "aster", "dev"])
    assert _posted(several) == ["/v1/job/pds-upgrade-trial/dispatch", *(3 * BACKED_UP)]
    assert _images(several.pulumi.root) == ["aster", "beech", "dev"]
    output = capsys.readouterr().out
    assert "The canary is beech. Then: aster, dev." in output
    assert output.count("Going back is a restore") == 3, "the version changes the databases of every stack"


def test_upgrade_all_stops_if_the_canary_does_not_come_up(several: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert _all(several, None, failing="aster") == (1, ["aster"])
    assert _images(several.pulumi.root) == ["aster"]
    assert "Left as they were: beech, dev." in capsys.readouterr().out


def test_upgrade_all_stops_if_a_check_of_the_canary_fails_afterwards(
    several: Owner, checked: list[list[CheckResult]]
) -> None:
    checked.append([FAILED])
    assert _all(several, None) == (1, ["aster"])
    assert _images(several.pulumi.root) == ["aster"]


def test_upgrade_all_changes_nothing_if_the_trial_fails(several: Owner) -> None:
    several.nomad.runs = [allocations("failed", "restore")]
    assert _all(several, None) == (1, [])
    assert _images(several.pulumi.root) == []


def test_upgrade_all_refuses_a_stack_without_backups_before_it_starts(several: Owner) -> None:
    several.write("dev")
    with pytest.raises(StackError, match=r"Pulumi\.dev\.yaml has no 'backup'"):
        _all(several, None)
    assert several.nomad.dispatched == []


def test_refuses_a_stack_that_is_being_moved_before_it_starts(several: Owner) -> None:
    """Its `up` would start the server, on the data of an earlier stay or on none."""
    several.move("dev")
    with pytest.raises(StackError, match=r"dev is being moved from house to ground.*Nothing was changed"):
        _up(several)
    with pytest.raises(StackError, match="dev is being moved"):
        _all(several, None)
    assert (several.nomad.dispatched, several.pulumi.ran) == ([], [])
    several.move("dev", opened=True)
    assert _all(several, None)[0] == 0


def test_upgrade_all_skips_stacks_that_have_the_version(several: Owner) -> None:
    several.write("aster", backup=BACKUP, pds={"image": NEXT, "package_version": "0.5.38"})
    assert _all(several, None) == (0, ["beech", "dev"])


def test_does_nothing_if_the_stack_has_the_version(alice: Owner) -> None:
    assert _up(alice, "0.4.5037") == 0
    assert (_posted(alice), alice.pulumi.ran) == ([], [])


@pytest.mark.parametrize(
    ("to", "package", "image"),
    [
        ("sha-abc", "0.5.40", "ghcr.io/bluesky-social/pds:sha-abc"),
        ("my.registry/pds:0.4.5036", None, "my.registry/pds:0.4.5036"),
        (f"{NOW}@sha256:{'a' * 64}", None, f"{NOW}@sha256:{'a' * 64}"),
    ],
)
def test_accepts_another_image_and_an_unusual_tag(alice: Owner, to: str, package: str | None, image: str) -> None:
    assert _up(alice, to, package) == 0
    assert alice.nomad.dispatched[0]["image"] == image


def test_requires_the_package_version_for_a_tag_without_one(alice: Owner) -> None:
    with pytest.raises(StackError, match="--package"):
        _up(alice, "sha-abc")


def test_the_trial_server_has_no_network_no_secret_and_no_mount() -> None:
    job: dict[str, Any] = job_of(upgrade_trial_job(settings_of(backup=BACKUP), "dev"), "pds-upgrade-trial")
    for name in ("candidate", "serve"):
        task = task_of(job, name)
        assert task["config"][0]["network_mode"] == "none"
        assert task["config"][0]["image"] == "${NOMAD_META_image}"
        assert "volume_mount" not in task
        assert "nomadVar" not in str(task)
    assert task_of(job, "fetch")["config"][0]["image"] == settings_of(backup=BACKUP).backup.image  # type: ignore[union-attr]
