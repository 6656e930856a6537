"""Blobs in a bucket in the program: the resources of the option, the server's settings, and early refusals."""

from typing import Any

import pytest

from components.render.jobs.pds import SECRETS_PATH, pds_job
from components.settings.checks.pds_env import blob_location, plain_environment
from components.settings.checks.warnings import warnings
from offline.hcl_reader import job_of, task_of
from offline.mock_engine import Evaluation
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open, is_secret
from tests.support.invariants import CHECKS, preflight_check, waits_for
from tests.support.programs import BACKUP, BLOBS, run, settings_of
from tests.unit.components.settings.test_settings import S3, fault

S3_NAMES = {name for name in plain_environment(settings_of(s3=S3)) if name.startswith("PDS_BLOBSTORE_")}


@pytest.fixture(scope="module")
def in_bucket() -> Evaluation:
    """The dev stack with backups, and blobs in a bucket."""
    return run(backup=BACKUP, blobs={"bucket": "club-blobs"})


def test_invariants_hold_with_two_buckets(in_bucket: Evaluation) -> None:
    for name, find in CHECKS.items():
        assert find(in_bucket) == [], f"the invariant {name}"
    assert preflight_check("backup bucket")(in_bucket) == []


def test_one_line_makes_a_versioned_bucket_in_the_region_of_the_droplet_with_a_key_for_it_alone(
    in_bucket: Evaluation,
) -> None:
    bucket, key = in_bucket.one("pds-blobs-bucket"), in_bucket.one("pds-blobs-key")
    assert (bucket.inputs["name"], bucket.inputs["region"]) == ("club-blobs", settings_of().host.region)
    assert (bucket.protected, bucket.options["retainOnDelete"]) == (True, True)
    assert bucket.inputs["versioning"] == {"enabled": True}
    assert bucket.options["replaceOnChanges"] == ["name"]
    assert key.inputs["grants"] == [{"bucket": "club-blobs", "permission": "readwrite"}]
    assert "pds-identity" in waits_for(in_bucket, bucket), "a bucket of another name is refused before it is made"
    assert in_bucket.one("pds-blobs-spaces").inputs["spacesAccessId"] == BACKUP["access_key_id"]


def test_server_gets_the_key_in_its_variable_and_all_other_settings_in_its_job(in_bucket: Evaluation) -> None:
    variable, key = in_bucket.one("pds-secrets-variable"), in_bucket.one("pds-blobs-key").outputs
    assert variable.inputs["path"] == SECRETS_PATH
    assert is_secret(variable.raw["items"])
    assert variable.inputs["items"]["PDS_BLOBSTORE_S3_ACCESS_KEY_ID"] == key["accessKey"]
    assert variable.inputs["items"]["PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY"] == key["secretKey"]["value"]
    job = job_of(in_bucket.jobspec("pds"), "pds")
    env = task_of(job, "pds")["env"][0]
    assert S3_NAMES - {"PDS_BLOBSTORE_S3_FORCE_PATH_STYLE"} <= env.keys()
    assert env["PDS_BLOBSTORE_S3_ENDPOINT"] == "https://fra1.digitaloceanspaces.com"
    assert (env["AWS_REQUEST_CHECKSUM_CALCULATION"], env["AWS_RESPONSE_CHECKSUM_VALIDATION"]) == (
        "WHEN_REQUIRED",
        "WHEN_REQUIRED",
    )
    assert not {name for name in env if name.startswith("PDS_BLOBSTORE_DISK_")}, "the server accepts one of the two"
    assert int(env["PDS_BLOBSTORE_S3_UPLOAD_TIMEOUT_MS"]) > 60_000, "members upload at the speed of their connections"
    assert task_of(job, "volume-check")["env"][0]["PDS_BLOBSTORE_S3_BUCKET"] == "club-blobs"


def test_secrets_of_owner_and_bucket_appear_nowhere_else(in_bucket: Evaluation) -> None:
    given = [*BACKUP.values(), str(in_bucket.one("pds-blobs-key").outputs["secretKey"]["value"])]
    assert find_secrets_in_the_open(in_bucket, given) == []
    assert find_secrets_in_texts(in_bucket, given) == []


def test_server_stays_on_the_disk_until_the_blobs_were_moved() -> None:
    served = settings_of(blobs=BLOBS | {"serve": "disk"})
    assert pds_job(served, "dev") == pds_job(settings_of(), "dev"), "the move changes nothing before its end"
    evaluation = run(blobs=BLOBS | {"serve": "disk"})
    assert evaluation.one("pds-blobs-bucket").protected
    assert not any(name.startswith("PDS_BLOBSTORE_") for name in evaluation.one("pds-secrets-variable").inputs["items"])


def test_place_of_the_blobs_is_a_permanent_property() -> None:
    places = {
        "disk": settings_of(),
        "s3 bucket noted-blobs at fra1.digitaloceanspaces.com": settings_of(s3=S3),
        "bucket club-blobs in fra1": settings_of(blobs=BLOBS),
        "bucket club-blobs in ams3": settings_of(blobs=BLOBS | {"region": "ams3"}),
    }
    assert {expected: blob_location(found) for expected, found in places.items()} == {name: name for name in places}
    assert blob_location(settings_of(blobs=BLOBS | {"serve": "disk"})) == "disk"
    assert run(blobs=BLOBS).one("pds-identity").inputs["blobs"] == "bucket club-blobs in fra1"


def test_keys_of_its_own_create_the_bucket_without_backups() -> None:
    evaluation = run(blobs=BLOBS)
    assert evaluation.one("pds-blobs-spaces").inputs["spacesAccessId"] == BLOBS["access_key_id"]
    assert preflight_check("backup bucket")(evaluation) == []


def test_existing_bucket_is_adopted() -> None:
    assert run(blobs=BLOBS | {"adopt": True}).one("pds-blobs-bucket").options["importId"] == "fra1,club-blobs"


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"blobs": {"bucket": "club-blobs"}}, "blobs.access_key_id", "it creates the bucket"),
        ({"blobs": {"bucket": "b2s", "access_key_id": "DO00"}}, "blobs.secret_access_key", "it creates the bucket"),
        (
            {"blobs": {"bucket": "b2s"}, "backup": {"volume": "second-disk"}},
            "blobs.access_key_id",
            "it creates the bucket",
        ),
        ({"blobs": BLOBS, "s3": S3}, "blobs", "'s3' also names a bucket"),
        ({"blobs": BLOBS, "host": {"region": "nyc1"}}, "blobs.region", "no Spaces in nyc1"),
        ({"blobs": BLOBS | {"region": "eu-1"}}, "blobs.region", ""),
        ({"blobs": BLOBS | {"bucket": "Club.Blobs"}}, "blobs.bucket", ""),
        ({"blobs": BLOBS | {"serve": "both"}}, "blobs.serve", ""),
        ({"blobs": BLOBS, "backup": BACKUP | {"bucket": "club-blobs"}}, "blobs.bucket", "the bucket of 'backup'"),
        ({"blobs": {"region": "fra1"}}, "blobs.bucket", "required"),
        ({"blobs": BLOBS, "host": {"size": "s-1vcpu-1gb"}, "backup": BACKUP}, "host.size", "blobs 256"),
    ],
)
def test_refuses_a_section_that_cannot_work(changes: dict[str, Any], key: str, problem: str) -> None:
    assert problem in fault(key, **changes).problem


def test_a_club_names_the_region_itself() -> None:
    placed = {"on": "dev", "operators": None, "pds": {"port": 3101}}
    assert "droplet's region is not known" in fault("blobs.region", blobs=BLOBS, **placed).problem


@pytest.mark.parametrize(("image", "warned"), [("0.4.208", True), ("0.4.5037", False)])
def test_warns_that_the_older_line_loses_uploads_to_a_bucket(image: str, warned: bool) -> None:
    given = settings_of(blobs=BLOBS, pds={"image": f"ghcr.io/bluesky-social/pds:{image}"})
    assert any("pds:blobs: servers of packages 0.4" in line for line in warnings(given)) is warned
    slow = "PDS_BLOBSTORE_S3_UPLOAD_TIMEOUT_MS" in plain_environment(given)
    assert slow is not warned, "for 0.4 it would be the timeout of every request"
