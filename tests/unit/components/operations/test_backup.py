"""Backups in the program: the resources of the option, the content of the job, and early refusals."""

import re
from typing import Any

import pytest

from components.render.jobs.backup import BACKUP_PATH, backup_job
from components.render.jobs.blobs import BLOBS_PATH, OTHER_PATH, blobs_job
from components.render.jobs.drill import drill_job
from components.render.jobs.restic import bucket_name
from components.render.jobs.restore import META, OTHER_PATHS, RESTORE_PATH, restore_job
from components.settings.checks.warnings import warnings
from offline.hcl_reader import job_of, task_of
from offline.mock_engine import Evaluation
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open, is_secret
from tests.support.invariants import CHECKS, kind, preflight_check, waits_for
from tests.support.programs import BACKUP, run, settings_of
from tests.unit.components.settings.test_settings import fault

ELSEWHERE = BACKUP | {"endpoint": "https://s3.eu-central-1.amazonaws.com", "bucket": "club-copies"}


@pytest.fixture(scope="module")
def backed_up() -> Evaluation:
    """The dev stack with backups."""
    return run(backup=BACKUP)


def _job(**changes: Any) -> dict[str, Any]:
    return job_of(backup_job(settings_of(backup=BACKUP | changes), "dev"), "pds-backup")


def test_invariants_hold_with_backups(backed_up: Evaluation) -> None:
    for name, find in CHECKS.items():
        assert find(backed_up) == [], f"the invariant {name}"
    assert preflight_check("backup bucket")(backed_up) == []


def test_without_the_section_no_backup_is_created_and_the_operator_is_warned(dev: Evaluation) -> None:
    assert [item.name for item in dev.resources if "backup" in item.name] == []
    assert "backup_job" not in dev.outputs["files"]
    assert any("NO BACKUP" in text for _severity, text in dev.messages)


def test_operator_keys_create_the_bucket_and_are_used_nowhere_else(backed_up: Evaluation) -> None:
    given = list(BACKUP.values())
    assert find_secrets_in_the_open(backed_up, given) == []
    assert find_secrets_in_texts(backed_up, given) == []
    holders = {item.name for item in backed_up.resources if BACKUP["secret_access_key"] in str(item.inputs)}
    assert holders == {"pds-backup-spaces"}, "the droplet must not be able to delete other buckets"
    assert is_secret(backed_up.one("pds-backup-spaces").raw["spacesSecretKey"]), "its schema does not mark it as secret"


def test_host_gets_the_bucket_key_and_the_password(backed_up: Evaluation) -> None:
    variable = backed_up.one("pds-backup-variable")
    assert variable.inputs["path"] == BACKUP_PATH == "nomad/jobs/pds-backup", (
        "a job can read its own path without a policy"
    )
    assert is_secret(variable.raw["items"])
    key = backed_up.one("pds-backup-key").outputs
    assert variable.inputs["items"] == {
        "RESTIC_PASSWORD": backed_up.one("pds-backup-password").outputs["result"]["value"],
        "AWS_ACCESS_KEY_ID": key["accessKey"],
        "AWS_SECRET_ACCESS_KEY": key["secretKey"]["value"],
    }


def test_job_depends_on_its_secrets_and_on_the_server_job(backed_up: Evaluation) -> None:
    before = waits_for(backed_up, backed_up.one("pds-backup-job"))
    assert {"pds-backup-variable", "pds-backup-key", "pds-backup-bucket", "pds-server-job"} <= before


def test_restore_and_drill_jobs_have_their_own_variables(backed_up: Evaluation) -> None:
    items = backed_up.one("pds-backup-variable").inputs["items"]
    for role in ("restore", "drill"):
        variable = backed_up.one(f"pds-backup-{role}-variable")
        assert (variable.inputs["path"], variable.inputs["items"]) == (f"nomad/jobs/pds-{role}", items)
        assert is_secret(variable.raw["items"])
        assert variable.name in waits_for(backed_up, backed_up.one(f"pds-backup-{role}-job"))


def test_escrow_output_opens_the_backups(backed_up: Evaluation) -> None:
    assert "escrow" in backed_up.secret_outputs
    assert backed_up.outputs["escrow"]["backup"] == backed_up.one("pds-backup-variable").inputs["items"] | {
        "RESTIC_REPOSITORY": "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
    }, "if state and droplet are lost, this and restic must be enough"


def test_configured_password_is_used_and_the_generated_one_is_kept() -> None:
    evaluation = run(backup=BACKUP | {"password": "of the escrow file"})
    assert evaluation.one("pds-backup-variable").inputs["items"]["RESTIC_PASSWORD"] == "of the escrow file"
    assert evaluation.one("pds-backup-password").protected


def test_other_s3_service_creates_no_spaces_resources() -> None:
    evaluation = run(backup=ELSEWHERE)
    kinds = {kind(item) for item in evaluation.resources}
    assert kinds & {"SpacesBucket", "SpacesKey", "digitalocean"} == set()
    items = evaluation.one("pds-backup-variable").inputs["items"]
    assert items["AWS_ACCESS_KEY_ID"] == BACKUP["access_key_id"]
    assert evaluation.outputs["backup_repository"] == "s3:https://s3.eu-central-1.amazonaws.com/club-copies/noted.at"


def test_backup_to_a_volume_creates_no_bucket_and_no_key() -> None:
    evaluation = run(backup={"volume": "second-disk"})
    assert {kind(item) for item in evaluation.resources} & {"SpacesBucket", "SpacesKey"} == set()
    assert evaluation.one("pds-backup-variable").inputs["items"].keys() == {"RESTIC_PASSWORD"}
    assert evaluation.outputs["backup_repository"] == "/backups/noted.at"
    for task, name in (
        ("send", "pds-backup"),
        ("fetch", "pds-restore"),
        ("fetch", "pds-drill"),
        ("fetch", "pds-upgrade-trial"),
    ):
        found = job_of(evaluation.jobspec(name), name)
        claims = [item["backups"]["source"] for item in found["group"][0][name]["volume"] if "backups" in item]
        assert claims == ["second-disk"]
        mounts = [mount for mount in task_of(found, task)["volume_mount"] if mount["volume"] == "backups"]
        assert [(mount["destination"], mount.get("read_only", False)) for mount in mounts] == [
            ("/backups", task == "fetch")
        ]
        assert task_of(found, task)["env"][0]["RESTIC_REPOSITORY"] == "/backups/noted.at"
        assert ("BACKUP_VOLUME" in task_of(found, task)["env"][0]) is (task == "send"), "each disk has the same path"
    assert any("A bucket in another region" in text for _severity, text in evaluation.messages)


def test_existing_bucket_is_adopted() -> None:
    bucket = run(backup=BACKUP | {"bucket": "club-copies", "adopt": True}).one("pds-backup-bucket")
    assert bucket.options["importId"] == "ams3,club-copies"
    assert bucket.protected


def test_bucket_name_fits_the_limit_and_is_unique_per_stack() -> None:
    long = settings_of(hostname=f"{'a' * 60}.org", backup=BACKUP)
    names = {bucket_name(long, stack) for stack in ("one", "two")}
    assert len(names) == 2
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name) for name in names)


def test_runs_never_overlap_and_a_failed_run_is_not_rescheduled() -> None:
    job = _job()
    assert (job["type"], job["periodic"]) == ("batch", [{"crons": ["*/15 * * * *"], "prohibit_overlap": True}])
    group = job["group"][0]["pds-backup"]
    assert group["reschedule"] == [{"attempts": 0, "unlimited": False}], "only the next run tries again"


@pytest.mark.parametrize(
    ("minutes", "cron"), [(5, "*/5 * * * *"), (60, "7 */1 * * *"), (360, "7 */6 * * *"), (1440, "7 3 * * *")]
)
def test_interval_becomes_a_cron_expression(minutes: int, cron: str) -> None:
    assert _job(interval_minutes=minutes)["periodic"][0]["crons"] == [cron]


def test_snapshot_task_has_the_image_and_user_of_the_server_and_no_secret() -> None:
    snapshot = task_of(_job(), "snapshot")
    assert snapshot["config"][0]["image"] == settings_of().pds.image, "its SQLite library is the server's"
    assert snapshot["user"] == "1000:1000", "it reads files that only the server's user can read"
    assert "nomadVar" not in str(snapshot), "a task that reads members' data needs no key of the bucket"
    assert snapshot["lifecycle"] == [{"hook": "prestart", "sidecar": False}]


def test_snapshot_task_knows_the_accounts_that_are_listed_for_deletion() -> None:
    """They are no findings if account.sqlite lacks them."""
    assert "ACCOUNTS_DELETED" not in task_of(_job(), "snapshot")["env"][0]
    settings = settings_of(backup=BACKUP, delete={"eve.noted.at": "did:plc:qo2urk437ss36eyefp5jgoyw"})
    snapshot = task_of(job_of(backup_job(settings, "dev"), "pds-backup"), "snapshot")
    assert snapshot["env"][0]["ACCOUNTS_DELETED"] == "did:plc:qo2urk437ss36eyefp5jgoyw"


def test_send_task_has_a_fixed_host_name() -> None:
    """It identifies the lock of a killed run, and distinguishes it from another stack's."""
    assert task_of(_job(), "send")["config"][0]["hostname"] == "pds-backup-dev"


def test_send_task_cannot_change_the_data() -> None:
    send = task_of(_job(keep_days=90), "send")
    assert send["volume_mount"] == [{"volume": "pds", "destination": "/pds", "read_only": True}]
    assert send["env"][0]["KEEP_DAYS"] == "90"
    assert send["config"][0]["entrypoint"] == ["/bin/sh", "/local/send.sh"]


def test_restore_runs_only_when_dispatched_with_meta() -> None:
    job = job_of(restore_job(settings_of(backup=BACKUP), "dev"), "pds-restore")
    assert job["parameterized"] == [{"payload": "forbidden", "meta_optional": list(META)}]
    assert "nomadVar" not in str(task_of(job, "restore")), (
        "a task that works on members' data needs no key of the bucket"
    )
    for name, path in OTHER_PATHS.items():
        (opened,) = [item["data"] for item in task_of(job, name)["template"] if "env" in item]
        assert opened.index(RESTORE_PATH) < opened.index(path), "another stack's lent backups take precedence"
    blobs = job_of(blobs_job(settings_of(backup=BACKUP, blobs={"bucket": "club-blobs"}), "dev"), "pds-blobs")
    (opened,) = [item["data"] for item in task_of(blobs, "blobs")["template"] if "env" in item]
    assert opened.index(BLOBS_PATH) < opened.index(OTHER_PATH), "and for their copies of blobs"
    assert task_of(job, "fetch-older")["lifecycle"] == [{"hook": "poststart", "sidecar": True}], (
        "it ends with the restore"
    )


def test_server_of_a_drill_has_no_network_and_no_secret() -> None:
    job = job_of(drill_job(settings_of(backup=BACKUP), "dev"), "pds-drill")
    assert job["periodic"] == [{"crons": ["41 4 * * 0"], "prohibit_overlap": True}]
    serve = task_of(job, "serve")
    assert serve["config"][0]["network_mode"] == "none", "it can neither reach a relay nor change an identity"
    assert serve["lifecycle"] == [{"hook": "poststop", "sidecar": False}]
    assert "nomadVar" not in str(serve)
    assert not {"PDS_CRAWLERS", "PDS_BSKY_APP_VIEW_URL"} & serve["env"][0].keys()
    assert "volume_mount" not in task_of(job, "verify"), "it reads a copy and never the live data"


@pytest.mark.parametrize(
    ("section", "key", "problem"),
    [
        ({"access_key_id": "DO00"}, "backup.secret_access_key", "required"),
        ({"secret_access_key": "x"}, "backup.access_key_id", "required"),
        ({"volume": "disk", "bucket": "club-copies"}, "backup.bucket", "there is no bucket"),
        ({"volume": "disk", "access_key_id": "DO00"}, "backup.access_key_id", "there is no bucket"),
        (BACKUP | {"interval_minutes": 1}, "backup.interval_minutes", ""),
        (BACKUP | {"keep_days": 1}, "backup.keep_days", ""),
        (BACKUP | {"endpoint": "https://s3.my-club.org"}, "backup.bucket", "no bucket is created"),
        (ELSEWHERE | {"adopt": True}, "backup.adopt", "always exists already"),
        (BACKUP | {"adopt": True}, "backup.adopt", "the bucket's name is missing"),
        (BACKUP | {"image": "restic/restic"}, "backup.image", ""),
    ],
)
def test_refuses_a_section_that_cannot_work(section: dict[str, Any], key: str, problem: str) -> None:
    assert problem in fault(key, backup=section).problem


def test_refuses_moved_data_files_with_backups() -> None:
    moved = {"PDS_ACCOUNT_DB_LOCATION": "/pds/db/account.sqlite"}
    found = fault("pds.extra_env.PDS_ACCOUNT_DB_LOCATION", backup=BACKUP, pds={"extra_env": moved})
    assert "at their default paths" in found.problem


def test_warns_about_backups_in_the_droplet_region_and_blobs_in_s3() -> None:
    same = "\n".join(warnings(settings_of(backup=BACKUP | {"region": "fra1"})))
    assert "fra1 is the droplet's region too" in same
    assert "NO BACKUP" not in same
    assert "no alert reports a failed backup or drill" in same
    s3 = {
        "bucket": "blobs", "region": "fra1", "endpoint": "https://fra1.digitaloceanspaces.com",
        "access_key_id": "a", "secret_access_key": "b",
    }  # fmt: skip
    both = "\n".join(warnings(settings_of(backup=BACKUP | {"region": "fra1"}, s3=s3)))
    assert "no backup of this program copies them" in both
    assert "the droplet's region too" in both


def test_refuses_a_droplet_without_memory_for_the_backup() -> None:
    assert "backup 384" in fault("host.size", backup=BACKUP, host={"size": "s-1vcpu-1gb"}).problem
