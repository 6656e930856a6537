"""The weekly job that removes unreferenced blobs: off by default, and how it is rendered."""

from typing import Any

import pytest

from components.render.jobs.unreferenced_blobs import JOB, RUN_STATUS, unreferenced_blobs_job
from components.render.scripts import script
from components.settings.fields.errors import SettingsError
from offline.hcl_reader import job_of, task_of
from tests.support.programs import BLOBS, run, settings_of

S3 = {
    "bucket": "my-club-blobs",
    "region": "fra1",
    "endpoint": "https://fra1.digitaloceanspaces.com",
    "access_key_id": "DO00",
    "secret_access_key": "secret",
}


def _job(**changes: Any) -> dict[str, Any]:
    settings = settings_of(pds={"unreferenced_blob_days": 30}, **changes)
    return job_of(unreferenced_blobs_job(settings, "dev"), JOB)


def _environment(**changes: Any) -> dict[str, str]:
    environment: dict[str, str] = task_of(_job(**changes), "unreferenced-blobs")["env"][0]
    return environment


def test_is_off_by_default_and_registered_after_the_server_if_the_operator_says_so() -> None:
    name = "pds-server-unreferenced-blobs-job"
    assert name not in {item.name for item in run().resources}
    assert run(pds={"unreferenced_blob_days": 30}).one(name).inputs["detach"] is True


def test_runs_once_a_week_without_overlap_in_the_server_s_image() -> None:
    job = _job()
    assert job["periodic"] == [{"crons": ["23 5 * * 1"], "prohibit_overlap": True}]
    task = task_of(job, "unreferenced-blobs")
    assert task["config"][0]["image"] == settings_of().pds.image
    assert (task["user"], task["config"][0]["cap_drop"]) == ("1000:1000", ["all"])


def test_knows_the_days_and_the_folder_of_uploads_but_no_folder_of_blobs_in_a_bucket() -> None:
    assert _environment() == {
        "PDS_DATA_DIRECTORY": "/pds",
        "PDS_BLOBSTORE_DISK_TMP_LOCATION": "/pds/temp",
        "UNREFERENCED_BLOB_DAYS": "30",
    }
    assert _environment(s3=S3) == {"PDS_DATA_DIRECTORY": "/pds", "UNREFERENCED_BLOB_DAYS": "30"}


def test_job_exists_for_a_bucket_and_has_its_key_in_a_variable_of_its_own() -> None:
    job = job_of(unreferenced_blobs_job(settings_of(blobs=BLOBS), "dev"), JOB)
    task = task_of(job, "unreferenced-blobs")
    assert task["config"][0]["args"] == ["/local/unreferenced_in_bucket.cjs"]
    assert task["env"][0]["PDS_BLOBSTORE_S3_BUCKET"] == "club-blobs"
    assert "UNREFERENCED_BLOB_DAYS" not in task["env"][0], "uploads stay unless the operator says so"
    found = run(blobs=BLOBS)
    assert found.one("pds-server-unreferenced-blobs-variable").inputs["path"] == f"nomad/jobs/{JOB}"
    names = {item.name for item in run(blobs=BLOBS | {"serve": "disk"}).resources}
    assert "pds-server-unreferenced-blobs-job" not in names


@pytest.mark.parametrize("days", [0, 6, 3651, "30"])
def test_refuses_a_time_in_which_a_draft_may_still_become_a_record(days: Any) -> None:
    with pytest.raises(SettingsError, match=r"pds\.unreferenced_blob_days"):
        settings_of(pds={"unreferenced_blob_days": days})


def test_counts_for_the_memory_of_the_host() -> None:
    small = {"host": {"size": "s-1vcpu-1gb"}, "ingress": {"memory_mib": 192}}
    settings_of(**small, pds={"memory_mib": 256})
    with pytest.raises(SettingsError, match="pds 384"):
        settings_of(**small, pds={"memory_mib": 256, "unreferenced_blob_days": 30})


def test_script_and_check_use_one_name_of_the_run_s_status() -> None:
    for name in ("unreferenced_blobs.cjs", "unreferenced_in_bucket.cjs"):
        assert f'const NAME = "{RUN_STATUS}";' in script(name)
